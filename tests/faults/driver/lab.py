"""The Kubernetes of a run on pods: a lab (tests/lab) that is made for this run, or one that is up.

The driver runs inside the lab's network (`lab exec`), where pods have their addresses. Outside stays the program that was called: it brings the lab up
and, however it ends, a third one takes the lab down, and with it everything inside."""

import contextlib
import ctypes
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

LAB = str(pathlib.Path(__file__).resolve().parents[2] / "lab" / "lab")
IMAGES = "raftmq", "raftmq-operator"
INSIDE = "RAFTMQ_FAULTS_IN_LAB"
PR_SET_PDEATHSIG = 1
# Seconds in which the driver ends when it is told to.
ENDS = 90


def enter(options):
    """Begins this program again inside a lab, unless it is there."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0:
        sys.exit("tests/faults/run: needs root, for a lab of its own (tests/lab)")
    if importlib.util.find_spec("pytest") is None:
        sys.exit("tests/faults/run: pytest is missing, which tests/e2e-kube/kube.py uses: pip install -r tests/requirements.txt")
    if options.lab:
        sys.exit(_inside({**os.environ, "RAFTMQ_LAB_STATE": os.path.abspath(options.lab)}))
    images = [pathlib.Path(options.images) / f"{name}.tar" for name in IMAGES]
    for image in images:
        if not image.exists():
            sys.exit(f"tests/faults/run: {image} is missing: deploy/images {options.images} builds it")
    sys.exit(_with_lab(images, options.nodes))


def _with_lab(images, nodes):
    """The exit code of this program inside a new lab."""
    parent = tempfile.mkdtemp(prefix="raftmq-faults-lab-")
    environment = {**os.environ, "RAFTMQ_LAB_STATE": f"{parent}/lab"}
    # It waits for the end of this program, whatever that is, in a session of its own: Ctrl-C is not meant for it.
    read, write = os.pipe()
    after = subprocess.Popen(
        ["sh", "-c", 'cat; "$0" down; rmdir "$1"', LAB, parent], stdin=read, stdout=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    os.close(read)
    try:
        for command in (["up", "--nodes", str(nodes)], *(["load-image", str(image)] for image in images)):
            _run([LAB, *command], environment)
        return _inside(environment)
    except subprocess.CalledProcessError as error:
        print(f"tests/faults/run: no lab: {' '.join(error.cmd)} failed", file=sys.stderr)
    except KeyboardInterrupt:
        pass
    finally:
        os.close(write)
        after.wait()
    return 4


def _run(command, environment):
    print(" ".join(command[1:]), flush=True)
    quiet = {"stdout": subprocess.DEVNULL} if command[1] == "load-image" else {}
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL, preexec_fn=_with_parent, **quiet)


def _inside(environment):
    process = subprocess.Popen(
        [LAB, "exec", sys.executable, *sys.argv], env={**environment, INSIDE: "1"}, preexec_fn=_told_with_parent
    )
    told = []

    def tell(number, _frame):
        told.append(number)
        with contextlib.suppress(OSError):
            process.send_signal(number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tell)
    while True:
        try:
            return process.wait(ENDS)
        except subprocess.TimeoutExpired:
            if told:
                process.kill()


def _with_parent():
    """In the child: it ends with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _told_with_parent():
    """In the child: it is told of its parent's end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
