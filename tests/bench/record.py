"""The file of raw results: JSON, a line a measurement, appended as soon as it is there, so that a run that is cut off goes on where it ended."""

import json


def key(record):
    return record["work"], record["broker"], record["repetition"]


class Records:
    def __init__(self, path):
        self.path = path
        self.environments = []
        # By key: the last one counts.
        self.measurements = {}
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError) as error:
                    raise SystemExit(f"{path}:{number} is no result of tests/bench/run: {error!r}") from None

    def _take(self, record):
        if "environment" in record:
            self.environments.append(record["environment"])
        else:
            self.measurements[key(record)] = record

    def add(self, record):
        self._take(record)
        with open(self.path, "a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def has(self, work, broker, repetition):
        record = self.measurements.get((work, broker, repetition))
        return record is not None and "failed" not in record

    def of(self, work, broker):
        """What was measured, and why what was not."""
        found = [record for (w, b, _), record in self.measurements.items() if (w, b) == (work, broker)]
        return [r for r in found if "failed" not in r], [r["failed"] for r in found if "failed" in r]
