"""A file system a node, in a file, so that its writes can be made to wait."""

import os
import subprocess
import sys

MEBIBYTES = 512


class Disks:
    """Mounted below a directory, in the driver's mount namespace."""

    def __init__(self, directory, names):
        self.directory = directory
        self.frozen = set()
        self._watch = None
        for name in names:
            image, at = f"{directory}/{name}.img", self.path(name)
            os.makedirs(at, exist_ok=True)
            with open(image, "wb") as file:
                file.truncate(MEBIBYTES << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
            subprocess.run(["mount", "-o", "loop,noatime", image, at], check=True)
        # Whoever ends the driver, what is frozen thaws: a process that writes to it can otherwise not even be killed.
        read, write = os.pipe()
        script = f"cat; for at in {' '.join(self.path(name) for name in names)}; do fsfreeze -u $at; done"
        self._watch = subprocess.Popen(
            ["sh", "-c", script], stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(read)
        os.set_inheritable(write, False)
        self._alive = write

    def path(self, name):
        return f"{self.directory}/disk-{name}"

    def freeze(self, name):
        """From now on every write and fsync of the node waits."""
        subprocess.run(["fsfreeze", "-f", self.path(name)], check=True, timeout=60)
        self.frozen.add(name)

    def thaw(self, name):
        if name in self.frozen:
            self.frozen.discard(name)
            subprocess.run(["fsfreeze", "-u", self.path(name)], check=True, timeout=60)

    def close(self, names):
        for name in list(self.frozen):
            self.thaw(name)
        for name in names:
            done = subprocess.run(["umount", self.path(name)], capture_output=True, text=True, timeout=60)
            if done.returncode:
                print(f"umount {name}: {done.stderr.strip()}", file=sys.stderr)
            os.unlink(f"{self.directory}/{name}.img")
        os.close(self._alive)
        self._watch.wait(timeout=60)
