"""The checker's command."""

import argparse
import sys

from . import loss, once, order, owner, report, retained, suback, unsuback, wills
from .events import Malformed
from .history import History

PROMISES = {
    "loss": loss, "once": once, "order": order, "owner": owner,
    "wills": wills, "retained": retained, "suback": suback, "unsuback": unsuback,
}
HOLDS, VIOLATED, MALFORMED, NOT_ENOUGH = 0, 1, 2, 3


def judge(history, without=()):
    """The verdict of each promise; `without`: of these that they were not judged."""
    return [report.NotJudged(name) if name in without else module.check(history) for name, module in PROMISES.items()]


def shortcomings(history, verdicts, min_acked, required):
    """Why this history proves too little: a list of reasons."""
    reasons = []
    if history.acknowledged < max(1, min_acked):
        reasons.append(f"{history.acknowledged} operations were acknowledged, {max(1, min_acked)} are asked for")
    if not history.ended:
        reasons.append("no `end`: the run did not get there")
    elif not history.quiet:
        reasons.append("messages still came at the end of the drain: what is missing may have been on its way")
    undrained = [
        client.id for client in history.client_list
        if client.current is not None and client.current.durable and not client.current.uncertain
        and client.current.ended_t is None and client.current.subscriptions and not client.current.drained(history)
    ]
    if undrained and history.ended:
        reasons.append(f"{len(undrained)} durable sessions were not connected through the drain: {', '.join(undrained[:5])}")
    for verdict in verdicts:
        if verdict.promise in required and verdict.word == "nothing to check":
            reasons.append(f"nothing to check for {verdict.promise}")
    return reasons


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="check", description="Judges histories of MQTT clients by the eight promises (README.md).",
        epilog=f"Exit code {HOLDS}: all hold; {VIOLATED}: one is violated; {MALFORMED}: a history that cannot be read; {NOT_ENOUGH}: "
        "nothing is violated, but the history proves too little.",
    )
    parser.add_argument("history", nargs="+", help="files of JSON lines; several are of one run and are merged by time")
    parser.add_argument("--min-acked", type=int, default=1, metavar="N", help="so many operations must have been acknowledged (1)")
    parser.add_argument("--require", default="", metavar="PROMISE,…", help="these must have had something to check; `all`: all eight")
    parser.add_argument("--without", default="", metavar="PROMISE,…", help="these are not judged; the report says so")
    parser.add_argument("--json", action="store_true", help="the report for programs")
    options = parser.parse_args(arguments)
    required = set(PROMISES) if options.require == "all" else set(filter(None, options.require.split(",")))
    without = set(filter(None, options.without.split(",")))
    if (required | without) - set(PROMISES):
        parser.error(f"no promise {', '.join(sorted((required | without) - set(PROMISES)))}: {', '.join(PROMISES)}")
    if required & without or without >= set(PROMISES):
        parser.error("what is left out cannot be required, and something has to be left to judge")
    try:
        history = History(options.history)
        verdicts = judge(history, without)
    except (Malformed, OSError) as error:
        print(f"check: {error}", file=sys.stderr)
        return MALFORMED
    print((report.as_json if options.json else report.text)(history, verdicts))
    reasons = shortcomings(history, verdicts, options.min_acked, required)
    for reason in reasons:
        print(f"proves too little: {reason}", file=sys.stderr)
    if any(verdict.violated for verdict in verdicts):
        return VIOLATED
    return NOT_ENOUGH if reasons else HOLDS
