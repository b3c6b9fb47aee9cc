"""The tool that picks cited places to break: on a small made-up tree, and on this one."""

import importlib.machinery
import importlib.util
import io
import pathlib
import re
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).with_name("mutants")


def load():
    loader = importlib.machinery.SourceFileLoader("conformance_mutants", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    dont_write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = dont_write
    return module


mutants = load()

FILES = {
    "tests/conformance/statements/mqtt5.txt":
        "# count: 3\n[MQTT-3.1.0-1] both: one\n[MQTT-3.1.0-2] server: two\n[MQTT-3.1.2-20] client: three\n",
    "tests/conformance/statements/mqtt311.txt": "[MQTT-3.1.0-1] server: one\n",
    "broker/a/src/lib.rs": "// [MQTT-3.1.0-1, 3.1.0-2]\n\n// [MQTT-3.1.2-20]\n#[cfg(test)]\nmod tests { /* [MQTT-3.1.0-2] */ }\n",
    "broker/b/src/lib.rs": "// [MQTT-3.1.0-1]\n// [MQTT311-3.1.0-1]\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(*arguments):
    out = io.StringIO()
    status = mutants.main([str(argument) for argument in arguments], out)
    return status, out.getvalue()


def places(text):
    return re.findall(r"^ *\d+ \[(\S+)\] (\S+)$", text, re.MULTILINE)


def test_places_are_those_of_code_that_bind_a_server(tree):
    status, text = run("--root", tree, "--seed", 1)
    assert status == 0
    assert sorted(places(text)) == [
        ("MQTT-3.1.0-1", "broker/a/src/lib.rs:1"), ("MQTT-3.1.0-1", "broker/b/src/lib.rs:1"),
        ("MQTT-3.1.0-2", "broker/a/src/lib.rs:1"), ("MQTT311-3.1.0-1", "broker/b/src/lib.rs:2"),
    ]
    assert "proved by broker/a/src/lib.rs:5" in text and "proved by nothing" in text
    assert {file for _, file in places(run("--root", tree, "--under", "broker/b/")[1])} == {
        "broker/b/src/lib.rs:1", "broker/b/src/lib.rs:2",
    }


def test_a_seed_gives_the_same_places_again_and_another_one_others():
    first, again, other = (run("--seed", seed, "-n", 30)[1] for seed in (7, 7, 8))
    assert first == again
    assert len(set(places(first))) == 30
    assert places(first) != places(other)
    seed = re.match(r"seed (\d+):", new := run("-n", 5)[1])[1]
    assert run("--seed", seed, "-n", 5)[1] == new


def test_wrong_usage_and_wrong_citations(tree):
    for wrong in (["-n", "0"], ["--root", str(tree / "broker")]):
        result = subprocess.run([TOOL, *wrong], capture_output=True, text=True)
        assert result.returncode == 2 and "mutants: error" in result.stderr
    (tree / "broker/a/src/lib.rs").write_text("// [MQTT-9.9.9-9]\n")
    assert run("--root", tree)[0] == 1
