"""The README's commands for Kubernetes, as they stand there.

What comes before them, images and the lab, `tests/run kube` has done by the same commands.
"""

import os
import re
import shlex
import subprocess
import time

from kube import OPERATOR_NAMESPACE, RELEASE, REPO, helm, kubectl, needs_lab, program, wait_until

# Images by docker are the other way to what `deploy/images` makes.
BEFORE = ("deploy/images ", "docker build ", "tests/lab/lab up", "tests/lab/lab load-image ", "alias ")


def commands():
    text = (REPO / "README.md").read_text()
    section = text[text.index("\n## On Kubernetes\n"):text.index("\n## Tests\n")]
    return [c for c in re.findall(r"^\$ (.+)$", section, re.MULTILINE) if not c.startswith(BEFORE)]


def a_message(sub, pub):
    """One command waits for messages, the other publishes one."""
    listener = subprocess.Popen([*shlex.split(sub), "-C", "1", "-W", "30"], cwd=REPO, stdout=subprocess.PIPE, text=True)

    def arrived():
        assert subprocess.run(shlex.split(pub), cwd=REPO, timeout=20).returncode == 0
        time.sleep(0.5)
        return listener.poll() is not None
    wait_until("mosquitto_sub's message", arrived, 30)
    assert listener.communicate(timeout=10)[0].strip() == "plant/7/temperature 21.5"


@needs_lab("removes the operator and makes a cluster in the namespace default, which elsewhere might be somebody's")
def test_the_commands_of_the_readme(kubernetes, tmp_path):
    helm("uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait", "--ignore-not-found")
    for name in ("kubectl", "helm"):
        (tmp_path / name).symlink_to(program(name))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    forward, messages, seen = None, [], []
    try:
        for command in commands():
            print(f"$ {command}")
            seen.append(command)
            if "port-forward" in command:
                forward = subprocess.Popen(shlex.split(command), cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True)
                assert "127.0.0.1:1883" in forward.stdout.readline()
                continue
            if "mosquitto_" in command:
                # In the lab's network, as it stands there, also from outside of it.
                messages.append(command)
                if len(messages) == 2:
                    a_message(*messages)
                continue
            done = subprocess.run(command, shell=True, cwd=REPO, env=environment, capture_output=True, text=True, timeout=180)
            print(done.stdout)
            assert done.returncode == 0, done.stderr
            if "ctl members" in command:
                assert [f"raftmq-{i}" in done.stdout for i in range(3)] == [True] * 3 and "leader" in done.stdout
        assert forward is not None and len(messages) == 2, seen
        # Through the forwarded port: the commands of the local cluster, with the port that the README says.
        sub, pub = (re.search(rf"^\$ ({name}.+)$", (REPO / "README.md").read_text(), re.MULTILINE).group(1)
                    for name in ("mosquitto_sub", "mosquitto_pub"))
        a_message(sub, re.sub(r"-p \d+", "-p 1883", pub))
    finally:
        if forward is not None:
            forward.terminate()
            forward.wait(timeout=10)
        kubectl("delete", "mqc", "raftmq", "-n", "default", "--ignore-not-found")
        kubectl("delete", "pvc", "-l", "app.kubernetes.io/instance=raftmq", "-n", "default", "--wait=false")
