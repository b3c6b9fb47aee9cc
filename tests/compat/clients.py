"""The clients: which transports and versions each has, how it is built, what it cannot do."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import typing

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(
    os.environ.get("RAFTMQ_TEST_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "raftmq-tests"
) / "compat"
# Longest time for a program's build and for its run on one transport.
BUILD_DEADLINE = 1800
RUN_DEADLINE = 240
EVERYWHERE = ("tcp", "tls", "ws", "wss")


def scenarios():
    """scenarios.txt: name -> where it is run (versions, or transports for what has to do with certificates)."""
    lines = (line.split() for line in (HERE / "scenarios.txt").read_text().splitlines())
    return {words[0]: words[1].split(",") for words in lines if words and not words[0].startswith("#")}


def need(command, package):
    """The tool, or a message that says what to install (`tests/run compat` does that as root)."""
    found = shutil.which(command)
    assert found, f"'{command}' is missing: install the package '{package}' (Debian's name), or run tests/run compat as root"
    return found


def run(arguments, directory, **environment):
    # What the broker is built with is not for these programs.
    inherited = {k: v for k, v in os.environ.items() if k not in ("RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR")}
    done = subprocess.run(
        [*map(str, arguments)], cwd=directory, env={**inherited, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_DEADLINE,
    )
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}:\n{done.stdout[-4000:]}"


def build_node(source, target):
    need("node", "nodejs")
    shutil.copytree(source, target, dirs_exist_ok=True)
    run([need("npm", "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], target)


def build_cargo(source, target):
    cargo = os.environ.get("CARGO") or need("cargo", "cargo")
    # With the directory of the other crates' builds what is built there is found again when the program changes.
    shared = os.environ.get("CARGO_TARGET_DIR")
    build = pathlib.Path(shared).absolute() if shared else target / "build"
    run([cargo, "build", "--quiet", "--locked", "--target-dir", build], source, CARGO_PROFILE_DEV_DEBUG="0")
    shutil.copy(build / "debug" / "raftmq-compat-rumqttc", target / "program")
    if not shared:
        shutil.rmtree(build)


def build_go(source, target):
    run([need("go", "golang-go"), "build", "-mod=readonly", "-trimpath", "-o", target / "program", "."], source, CGO_ENABLED="0")


def build_maven(source, target):
    need("javac", "default-jdk-headless")
    run([need("mvn", "maven"), "--quiet", "--batch-mode", f"-Dcompat.build={target}", "process-classes"], source)


def build_nothing(_source, _target):
    pass


@dataclasses.dataclass
class Client:
    name: str
    directory: str
    versions: tuple
    # How to start it, with {target} for where it was built.
    program: list
    build: typing.Callable = build_nothing
    transports: tuple = EVERYWHERE
    # Scenarios that the client has no way to do, and why.
    cannot: dict = dataclasses.field(default_factory=dict)
    # Scenarios of this client alone.
    extra: tuple = ()

    def command(self, transport):
        """The program, built if its source is not what was built last time."""
        source = HERE / self.directory
        digest = hashlib.sha256()
        for file in sorted(file for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
            digest.update(f"{file.relative_to(source)}\n".encode() + file.read_bytes())
        target = CACHE / f"{self.directory}-{digest.hexdigest()[:16]}"
        if not (target / ".built").exists():
            for old in CACHE.glob(f"{self.directory}-" + "?" * 16):
                shutil.rmtree(old)
            target.mkdir(parents=True)
            self.build(source, target)
            (target / ".built").touch()
        return [part.format(target=target, source=source) for part in self.program] + [transport]

    def expected(self, transport):
        """The names of the lines that the program must print."""
        names = set(self.extra)
        for name, where in scenarios().items():
            if name in self.cannot:
                continue
            if name.startswith("tls-"):
                names |= {name} if transport in where else set()
            else:
                names |= {f"{name}/{version}" for version in where if version in self.versions}
        return names


CLIENTS = [
    Client(
        "paho-python", "paho-python", ("3.1", "3.1.1", "5"), [sys.executable, "{source}/main.py"],
        extra=(
            "tutorial-getting-started", "tutorial-getting-started-callbacks-1", "tutorial-subscriber", "tutorial-publisher",
            "tutorial-whole", "tutorial-whole-callbacks-1", "tutorial-helpers",
        ),
    ),
    Client("mqttjs", "mqttjs", ("3.1", "3.1.1", "5"), ["node", "{target}/main.mjs"], build_node),
    Client("rumqttc", "rumqttc", ("3.1.1", "5"), ["{target}/program"], build_cargo),
    Client(
        "autopaho", "paho-go", ("5",), ["{target}/program", "autopaho"], build_go, extra=("auto-reconnect/5",),
    ),
    # It takes a connection that is there already; WebSocket is something that autopaho brings.
    Client("paho-go", "paho-go", ("5",), ["{target}/program", "paho"], build_go, transports=("tcp", "tls")),
    Client("paho-go-v3", "paho-go-v3", ("3.1", "3.1.1"), ["{target}/program"], build_go),
    Client(
        "hivemq", "hivemq", ("3.1.1", "5"), ["java", "-cp", "{target}/classes:{target}/lib/*", "raftmq.compat.Main"],
        build_maven, cannot={"protocol-error": "refuses to build no local for a shared subscription"},
    ),
    Client(
        "mosquitto", "mosquitto", ("3.1", "3.1.1", "5"), [sys.executable, "{source}/main.py"], transports=("tcp", "tls"),
        cannot={
            "options": "mosquitto_sub 2.0.11 has no option for them",
            "protocol-error": "mosquitto_sub 2.0.11 has no option for no local",
        },
    ),
]

# What Mosquitto 2.0.11 does against the specification: these scenarios may fail when it is the broker.
MOSQUITTO_IS_WRONG = {
    "receive-maximum/5": "sends two messages for one acknowledgement",
    "receive-maximum-qos2/5": "sends two messages for one acknowledgement",
    "protocol-error/5": "accepts no local for a shared subscription",
    "taken-over/5": "closes a connection that is taken over without DISCONNECT",
}
