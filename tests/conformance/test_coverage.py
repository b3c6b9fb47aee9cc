"""The tool that says what of the specifications is covered: on small made-up trees, and on this one."""

import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).with_name("coverage")


def load():
    loader = importlib.machinery.SourceFileLoader("conformance_coverage", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    dont_write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = dont_write
    return module


coverage = load()

FIVE = "# count: 3\n[MQTT-3.1.0-1] both: one\n[MQTT-3.1.0-2] server: two\n[MQTT-3.1.2-20] client: three\n"
THREE = "[MQTT-3.1.0-1] server: one\n"


@pytest.fixture
def tree(tmp_path):
    """A function that writes files into a checkout with the statements above, and gives it."""
    def write(**files):
        statements = "tests/conformance/statements"
        files = {f"{statements}/mqtt5.txt": FIVE, f"{statements}/mqtt311.txt": THREE, **files}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path
    return lambda files=None: write(**(files or {}))


def places(root):
    specifications, errors = coverage.gather(root)
    found = {s.id: (s.code, s.tests) for statements in specifications.values() for s in statements.values()}
    return {number: both for number, both in found.items() if both != ([], [])}, errors


def test_code_and_tests_of_a_rust_file_are_told_apart(tree):
    source = """\
//! [MQTT-3.1.0-1] and "}" in a text.
const TEXT: &str = "{ [MQTT-3.1.0-2";
struct S<'a> {
    #[cfg(test)] // [MQTT311-3.1.0-1]
    only: u8,
    other: &'a u8, // [MQTT-3.1.0-2]
}

#[cfg(test)]
mod tests {
    const OPEN: char = '{';
    // [MQTT-3.1.0-1]
    fn f() {}
}

// [MQTT311-3.1.0-1]
fn after() {}
"""
    found, errors = places(tree({"broker/x/src/lib.rs": source}))
    assert found["MQTT-3.1.0-1"] == (["broker/x/src/lib.rs:1"], ["broker/x/src/lib.rs:12"])
    assert found["MQTT-3.1.0-2"] == (["broker/x/src/lib.rs:6"], [])
    assert found["MQTT311-3.1.0-1"] == (["broker/x/src/lib.rs:16"], ["broker/x/src/lib.rs:4"])
    assert errors == ["broker/x/src/lib.rs:2: not a citation that can be read: [MQTT-3.1.0-2\";"]


@pytest.mark.parametrize("declared, file", [
    ("#[cfg(test)]\nmod cases;\n", "broker/x/src/cases.rs"),
    ("#[cfg(test)]\nmod cases;\n", "broker/x/src/cases/mod.rs"),
    ("#[cfg(test)]\nmod cases;\n", "broker/x/src/cases/more/deep.rs"),
    ('#[cfg(test)]\n#[path = "elsewhere.rs"]\nmod cases;\n', "broker/x/src/elsewhere.rs"),
    ('#[cfg(any(test, feature = "fuzzing"))]\npub mod cases;\n', "broker/x/src/cases.rs"),
    ("", "broker/x/src/a/tests.rs"),
    ("", "broker/x/src/a/tests/b.rs"),
    ("", "broker/x/src/machine_tests.rs"),
    ("", "broker/x/tests/whole.rs"),
    ("", "broker/x/fuzz/fuzz_targets/packet.rs"),
    ("", "tests/e2e/test_a.py"),
    ("", "tests/conformance/scripts/v5/a.mqtt"),
    ("", "tests/compat/go/main.go"),
])
def test_what_counts_as_a_test(tree, declared, file):
    found, errors = places(tree({"broker/x/src/lib.rs": declared, file: "# [MQTT-3.1.0-2]\n"}))
    assert (found, errors) == ({"MQTT-3.1.0-2": ([], [f"{file}:1"])}, [])


@pytest.mark.parametrize("file", [
    "broker/x/src/cases.rs", "broker/x/src/latest.rs", "broker/x/src/a/b/c.rs",
])
def test_what_counts_as_code(tree, file):
    lib = "#[cfg(not(test))]\nmod cases;\nmod latest;\n"
    found, errors = places(tree({"broker/x/src/lib.rs": lib, file: "// [MQTT-3.1.0-2]\n"}))
    assert (found, errors) == ({"MQTT-3.1.0-2": ([f"{file}:1"], [])}, [])


@pytest.mark.parametrize("file", [
    "broker/x/target/x.rs", "tests/conformance/README.md", "tests/conformance/coverage", "docs/a.md",
    "tests/compat/js/node_modules/a.js",
])
def test_what_counts_as_neither(tree, file):
    assert places(tree({file: "[MQTT-3.1.0-2]\n"})) == ({}, [])


@pytest.mark.parametrize("text, cited", [
    ("[MQTT-3.1.0-1]", ["MQTT-3.1.0-1"]),
    ("`[MQTT-3.1.0-1]`: so", ["MQTT-3.1.0-1"]),
    ("[MQTT-3.1.0-1, 3.1.0-2]", ["MQTT-3.1.0-1", "MQTT-3.1.0-2"]),
    ("[MQTT-3.1.0-1, MQTT-3.1.0-2]", ["MQTT-3.1.0-1", "MQTT-3.1.0-2"]),
    ("[MQTT-3.1.0-1,\n    /// 3.1.0-2]", ["MQTT-3.1.0-1", "MQTT-3.1.0-2"]),
    ("[MQTT-3.1.0-1, MQTT311-3.1.0-1]", ["MQTT-3.1.0-1", "MQTT311-3.1.0-1"]),
    ("[MQTT5 4.7] [MQTT-x.y.z-n] [MQTT-…]", []),
])
def test_forms_of_citations(tree, text, cited):
    found, errors = places(tree({"broker/x/src/lib.rs": f"// {text}\n"}))
    assert (sorted(found), errors) == (cited, [])


@pytest.mark.parametrize("text, error", [
    ("[MQTT-3.1.0-3]", "MQTT-3.1.0-3 does not exist"),
    ("[MQTT311-3.1.2-20]", "MQTT311-3.1.2-20 does not exist"),
    ("[MQTT-3.1.0-1, 9.9.9-9]", "MQTT-9.9.9-9 does not exist"),
    ("[MQTT-3.1.0.1]", "not a citation that can be read: [MQTT-3.1.0.1]"),
    ("[MQTT-3.1.0-1 and 2]", "not a citation that can be read: [MQTT-3.1.0-1 and 2]"),
])
def test_wrong_citations_are_errors(tree, text, error):
    root = tree({"broker/x/src/lib.rs": f"\n// {text}\n"})
    assert places(root)[1] == [f"broker/x/src/lib.rs:2: {error}"]
    assert coverage.main(["--root", str(root)]) == 1


@pytest.mark.parametrize("reasons, error", [
    ("MQTT-3.1.0-2 because", None),
    ("# why\n\n[MQTT-3.1.0-2] because", None),
    ("MQTT-3.1.0-1 because", "reasons.txt:1: MQTT-3.1.0-1 is covered and needs no reason"),
    ("MQTT-3.1.2-20 because", "reasons.txt:1: MQTT-3.1.2-20 binds clients only and needs no reason"),
    ("MQTT-3.1.0-9 because", "reasons.txt:1: no such statement: MQTT-3.1.0-9"),
    ("MQTT-3.1.0-2", "reasons.txt:1: no reason for MQTT-3.1.0-2"),
])
def test_reasons(tree, reasons, error):
    root = tree({
        "broker/x/src/lib.rs": "// [MQTT-3.1.0-1]\n", "tests/a.py": "# [MQTT-3.1.0-1]\n",
        "tests/conformance/statements/reasons.txt": reasons,
    })
    specifications, errors = coverage.gather(root)
    assert errors == ([error] if error else [])
    if not error:
        assert specifications["MQTT"]["3.1.0-2"].reason == "because"


@pytest.mark.parametrize("statements, error", [
    ("# count: 2\n" + THREE, "1 statements, and the header says 2"),
    (THREE + THREE, "3.1.0-1 stands twice"),
    (THREE + "[MQTT-3.1.0-3] server: three\n", "section 3.1.0 is not numbered without gaps"),
    ("#   3.1.0 2\n" + THREE, "section 3.1.0 has 1 statements, and the header says 2"),
    ("#   3.1.0 1   3.1.2 1\n" + THREE, "section 3.1.2 has 0 statements, and the header says 1"),
    ("[MQTT-3.1.0-1] broker: one\n", "not a statement"),
])
def test_a_table_that_is_not_complete_is_an_error(tree, statements, error):
    _, errors = places(tree({"tests/conformance/statements/mqtt311.txt": statements}))
    assert len(errors) == 1 and error in errors[0]


def test_what_it_prints(tree, capsys):
    root = tree({
        "broker/x/src/lib.rs": "// [MQTT-3.1.0-1] [MQTT311-3.1.0-1]\n", "tests/a.py": "# [MQTT-3.1.0-1]\n",
        "tests/conformance/statements/reasons.txt": "MQTT-3.1.0-2 for now\n",
    })
    assert coverage.main(["--root", str(root)]) == 0
    assert capsys.readouterr().out == """\
MQTT 5.0: 3 statements, 2 bind a server: 1 implemented, 1 proved, 1 both; 1 missing, 0 of them without a reason
  covered (implemented and proved)
    3.1.0   1
  missing
    [MQTT-3.1.0-2] no code and no test: two
      reason: for now
MQTT 3.1.1: 1 statements, 1 bind a server: 1 implemented, 0 proved, 0 both; 1 missing, 1 of them without a reason
  covered (implemented and proved)
  missing
    [MQTT311-3.1.0-1] no test: one
      reason: -
"""
    assert coverage.main(["--root", str(root), "--missing"]) == 0
    assert "covered (" not in capsys.readouterr().out
    assert coverage.main(["--root", str(root), "--places"]) == 0
    assert "MQTT-3.1.0-1  code: broker/x/src/lib.rs:1" in capsys.readouterr().out
    assert coverage.main(["--root", str(root), "--strict"]) == 1
    assert "1 statements are missing without a reason" in capsys.readouterr().err


def test_json_and_the_command(tree):
    root = tree({"broker/x/src/lib.rs": "// [MQTT-3.1.0-1]\n", "tests/a.py": "# [MQTT-3.1.0-1]\n"})

    def run(*arguments):
        return subprocess.run([sys.executable, "-B", TOOL, *arguments], capture_output=True, text=True, timeout=60)

    done = run("--root", str(root), "--json")
    read = json.loads(done.stdout)
    assert done.returncode == 0 and read["errors"] == []
    five = read["specifications"]["MQTT"]
    assert (five["server"], five["covered"], five["missing_without_reason"]) == (2, 1, 1)
    assert five["by_statement"]["3.1.0-1"] == {
        "who": "both", "words": "one", "code": ["broker/x/src/lib.rs:1"], "tests": ["tests/a.py:1"], "covered": True,
        "reason": None,
    }
    assert "--missing" in run("--help").stdout
    assert run("--no-such-option").returncode == 2
    assert run("--root", str(root / "tests")).returncode == 2


def test_the_statements_of_this_tree_are_complete_and_every_citation_exists():
    specifications, errors = coverage.gather(coverage.ROOT)
    assert errors == []
    assert {prefix: len(statements) for prefix, statements in specifications.items()} == {"MQTT": 251, "MQTT311": 141}
