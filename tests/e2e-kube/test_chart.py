"""The chart: lint, schema of its values, what it renders is what the API server knows."""

import re

import pytest

from kube import CHART, OPERATOR_NAMESPACE, RELEASE, REPO, helm, kubectl, namespace, program, run

RENDERINGS = {
    "defaults": [],
    "listed namespaces": ["--set=namespaces={a,b}"],
    "everything set": [
        "--set=replicas=2,imagePullSecrets[0].name=s,brokerImage=x/y:1,serviceAccount.annotations.a=b,podLabels.team=mqtt",
        "--set=podAnnotations.a=b,nodeSelector.kubernetes\\.io/os=linux,priorityClassName=p,fullnameOverride=other",
        "--set=tolerations[0].operator=Exists,log.format=text,metrics.port=9090",
    ],
    "nothing of its own": ["--set=crds.install=false,rbac.create=false,serviceAccount.create=false,serviceAccount.name=mine"],
}


def test_lint():
    done = helm("lint", "--strict", str(CHART))
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("value, message", [
    ("replica=1", "additional properties 'replica' not allowed"),
    ("replicas=many", "replicas"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("namespaces={Upper_Case}", "namespaces"),
    ("metrics.port=80", "metrics"),
    ("log.filter=inof", "filter"),
    ("log.filter=info\\,kube=loud", "filter"),
    ("serviceAccount.create=false", "serviceAccount.name: needed"),
])
def test_wrong_values_are_refused_by_name(value, message):
    done = helm("template", "x", str(CHART), f"--set={value}", check=False)
    assert done.returncode != 0 and message in done.stderr, done.stderr


@pytest.mark.parametrize("values", ["crds.install=false", "crds.install=false,fullnameOverride=other"])
def test_a_second_release_for_the_same_namespaces_is_refused(operator, values):
    with namespace("second") as where:
        second = helm("install", "second", str(CHART), "-n", where, "--dry-run=server", f"--set={values}", check=False)
        assert second.returncode != 0 and "looks after all namespaces already" in second.stderr, second.stderr
    # What is there is upgraded as ever.
    helm("upgrade", RELEASE, str(CHART), "-n", OPERATOR_NAMESPACE, "--dry-run=server", "--reuse-values")


@pytest.mark.parametrize("what", RENDERINGS)
def test_the_api_server_knows_every_field(kubernetes, what):
    with namespace("chart") as where:
        rendered = helm("template", "chart-check", str(CHART), "-n", where, *RENDERINGS[what]).stdout
        # Namespaces of the list need not exist for a look at the fields.
        rendered = re.sub(r"\n  namespace: [ab]\n", f"\n  namespace: {where}\n", rendered)
        done = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered, check=False)
        assert done.returncode == 0, done.stderr
        assert ("customresourcedefinition" in done.stdout) == ("crds.install=false" not in str(RENDERINGS[what]))
        if what == "listed namespaces":
            # Rights end at these namespaces: what is for the whole cluster is for people, and bound to nobody.
            assert "kind: ClusterRoleBinding" not in rendered


def test_the_lab_has_the_images_that_users_build():
    """Both Dockerfiles end in the same stages; only where the files come from differs."""
    def stages(name):
        text = (REPO / "deploy" / name).read_text()
        return re.sub(r"--from=build /out/", "", text[text.index("FROM scratch AS operator"):])
    assert stages("Dockerfile") == stages("Dockerfile.binary")


@pytest.mark.parametrize("values, where", [([], "default"), (["--set=namespaces={city,factory}"], "city")])
def test_notes_name_a_way_that_works(operator, values, where, tmp_path):
    """What people copy from them, given to a shell."""
    done = helm("install", "notes-check", str(CHART), "-n", OPERATOR_NAMESPACE, "--dry-run=client", "--hide-notes=false", *values)
    notes = done.stdout.partition("NOTES:")[2]
    assert f"looks after MqttClusters in {'city, factory' if values else 'all namespaces'}." in notes
    lines = notes.splitlines()
    start = lines.index("kubectl apply -f - <<EOF")
    end = next(i for i, line in enumerate(lines) if line.startswith("kubectl wait "))
    # kubectl as a function: one that changes nothing, and for what follows only says what it was asked for.
    script = "\n".join([
        f'kubectl() {{ if [ "$1" = apply ]; then {program("kubectl")} "$@" --dry-run=client -o name; else echo "asked: $*"; fi; }}',
        *lines[start:end + 1],
    ])
    said = run("bash", "-euc", script).stdout
    assert "mqttcluster.raftmq.io/raftmq" in said, said
    assert f"asked: wait mqttcluster/raftmq -n {where} --for=condition=Available" in said, said
