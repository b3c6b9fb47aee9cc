"""What a promise's module answers, and how it is printed."""

import json

from . import events

# So many violations of a promise are kept with their events; all are counted.
KEPT = 5


class Verdict:
    """Of one promise: what was looked at, what was left out and why, what is wrong."""

    def __init__(self, promise, title):
        self.promise, self.title = promise, title
        # {what: number}: what was held against the rule. The first is the measure of whether anything was.
        self.checked = {}
        # {why: number}: what could not be held against it.
        self.left_out = {}
        self.violated = 0
        self.violations = []

    def count(self, what, number=1):
        self.checked[what] = self.checked.get(what, 0) + number

    def leave_out(self, why, number=1):
        self.left_out[why] = self.left_out.get(why, 0) + number

    def violation(self, text, *places, times=1):
        """`places`: where the events stand that show it; None is skipped."""
        self.violated += times
        if len(self.violations) < KEPT:
            self.violations.append((text, [place for place in places if place is not None and place >= 0]))

    @property
    def word(self):
        if self.violated:
            return "VIOLATED"
        return "holds" if any(self.checked.values()) else "nothing to check"


class NotJudged(Verdict):
    """Of a promise that is left out."""

    word = "not judged"

    def __init__(self, promise):
        super().__init__(promise, "")


def text(history, verdicts):
    """The whole report, as people read it."""
    out = [_summary(history)]
    shown = events.lines(
        history.paths, [place for verdict in verdicts for _, places in verdict.violations for place in places]
    )
    for number, verdict in enumerate(verdicts, 1):
        out.append(f"{number} {verdict.promise:<10} {verdict.word:<17} {_counts(verdict.checked)}")
        if verdict.left_out:
            out.append(f"{'':31}left out: {_counts(verdict.left_out)}")
    for verdict in verdicts:
        if not verdict.violated:
            continue
        out.append(f"\n{verdict.promise}: {verdict.title}\n{verdict.violated} violations, the first:")
        for what, places in verdict.violations:
            out.append(f"  {what}")
            for place in places:
                path, line = _where(history, place)
                out.append(f"    {path.rpartition('/')[2]}:{line}  {shown.get(place, '')}")
    return "\n".join(out)


def as_json(history, verdicts):
    """The same for programs."""
    return json.dumps({
        "events": history.events,
        "acknowledged": history.acknowledged,
        "faults": history.faults,
        "promises": {
            verdict.promise: {
                "verdict": verdict.word, "violations": verdict.violated, "checked": verdict.checked,
                "leftOut": verdict.left_out, "first": [what for what, _ in verdict.violations],
                "places": [[_where(history, place) for place in places] for _, places in verdict.violations],
            }
            for verdict in verdicts
        },
    })


def _where(history, place):
    """(path, line) of an event."""
    return history.paths[place >> 40], place & ((1 << 40) - 1)


def _summary(history):
    answered = history.answered
    operations = ", ".join(f"{answered[kind]} of {number} {kind}" for kind, number in history.invoked.items() if number)
    lines = [
        f"{history.events} events; answered: {operations or 'nothing'}; {len(history.deliveries)} deliveries to "
        f"{len(history.sessions)} sessions of {len(history.clients)} clients",
    ]
    if history.faults:
        lines.append(f"faults: {_counts(history.faults)}")
    if history.strays:
        lines.append(f"answers to nothing that was asked: {history.strays}")
    return "\n".join(lines)


def _counts(counts):
    return ", ".join(f"{number} {what}" for what, number in counts.items())
