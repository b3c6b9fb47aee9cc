"""The logs of pods, also of those that are gone: they are read from the nodes' disks while they are written."""

import glob
import os


class Logs:
    """`patterns`: of the files, as a node has them: …/NAMESPACE_POD_UID/CONTAINER/N.log. All of a pod's name go to one file of the directory."""

    def __init__(self, patterns, directory):
        self.patterns, self.directory = patterns, directory
        # By device and inode: a file keeps them when it is renamed, and is read to its end when it is deleted.
        self.files = {}

    def path(self, pod):
        return os.path.join(self.directory, f"{pod}.log")

    def follow(self):
        """Takes what was written since the last time."""
        for path in (path for pattern in self.patterns for path in sorted(glob.glob(pattern))):
            try:
                status = os.stat(path)
                key = status.st_dev, status.st_ino
                if key not in self.files:
                    _, pod, uid = path.split(os.sep)[-3].split("_")
                    self.files[key] = open(path, "rb"), pod
                    self._write(pod, f"--- pod {uid}, {os.path.basename(path)}\n".encode())
            except OSError:
                # Deleted meanwhile.
                continue
        for key, (file, pod) in list(self.files.items()):
            gone = not os.fstat(file.fileno()).st_nlink
            self._write(pod, file.read())
            if gone:
                file.close()
                del self.files[key]

    def _write(self, pod, data):
        if data:
            with open(self.path(pod), "ab") as to:
                to.write(data)

    def tail(self, pod, lines=15):
        try:
            with open(self.path(pod), encoding="utf-8", errors="replace") as file:
                return "".join(file.readlines()[-lines:]).rstrip()
        except OSError:
            return ""

    def close(self):
        self.follow()
        for file, _ in self.files.values():
            file.close()
        self.files.clear()
