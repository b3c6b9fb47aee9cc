"""The network of a run: a bridge in the driver's own namespace, and a namespace for each node, whose links can be broken.

The driver runs in a network and mount namespace of its own (`enter`), with everything that it starts: when it ends, however it ends, they
go away with all that was in them."""

import os
import subprocess
import sys

SUBNET = "10.77.0"
BRIDGE = "faults"
INSIDE = "RAFTMQ_FAULTS_INSIDE"


def enter():
    """Begins this program again in namespaces of its own, unless it is there."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0:
        sys.exit("tests/faults/run: needs root, for network namespaces and mounts of its own")
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def _run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """`names`: of the nodes. Their addresses are SUBNET.11, .12 and so on; the clients' is SUBNET.1."""

    def __init__(self, names):
        self.names = list(names)
        # Who hears whom not: {(hearer, speaker)}; `clients` is one of them. And the loss of what a node hears, in percent.
        self.deaf, self.loss, self.slow = set(), {}, {}
        os.makedirs("/run/netns", exist_ok=True)
        _run("mount", "-t", "tmpfs", "faults", "/run/netns")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(self.names):
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", f"to-{name}", "master", BRIDGE, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")

    def address(self, name):
        return f"{SUBNET}.1" if name == "clients" else f"{SUBNET}.{11 + self.names.index(name)}"

    def apply(self):
        """Makes the rules of all nodes what `deaf`, `loss` and `slow` say."""
        for name in self.names:
            self._filter(name)
            self._rate(name)

    def heal(self):
        self.deaf.clear()
        self.loss.clear()
        self.slow.clear()
        self.apply()

    def _filter(self, name):
        rules = [f"ip saddr {self.address(speaker)} drop" for hearer, speaker in sorted(self.deaf) if hearer == name]
        # What the clients do not hear, the node does not say.
        said = [f"ip daddr {self.address('clients')} drop" for hearer, speaker in sorted(self.deaf) if hearer == "clients" and speaker == name]
        if name in self.loss:
            rules.append(f"numgen random mod 100 < {self.loss[name]} drop")
        table = (
            "table inet faults {}\ndelete table inet faults\ntable inet faults {\n"
            f" chain hears {{ type filter hook input priority 0;\n  {chr(10).join(rules)}\n }}\n"
            f" chain says {{ type filter hook output priority 0;\n  {chr(10).join(said)}\n }}\n}}\n"
        )
        _run("ip", "netns", "exec", name, "nft", "-f", "-", stdin=table)

    def _rate(self, name):
        # No netem where this was written: what is delayed is delayed by a narrow link.
        rate = self.slow.get(name)
        command = ["ip", "netns", "exec", name, "tc", "qdisc"]
        if rate:
            _run(*command, "replace", "dev", "eth0", "root", "tbf", "rate", f"{rate}kbit", "burst", "4k", "latency", "3s")
        else:
            subprocess.run([*command, "del", "dev", "eth0", "root"], capture_output=True, timeout=30)
