"""``driftwall replay``: what these policies would have done to what was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from webhook.commands import add_policies, from_environment

if TYPE_CHECKING:
    from webhook.commands import Subparsers
    from webhook.replay_report import Report

_DESCRIPTION = """\
Tells what the policies in PATH would have done to recorded writes: of so many, how many would be denied, whose, on
which objects and fields, under which policy; which automation would be hit; which ignore rule would silence what.

A SOURCE is an API server's audit log (audit.k8s.io/v1, level RequestResponse), recorded AdmissionReviews, or
driftwall's own decision log: files, plain or .gz, a line or a document each, a folder of them in the order of their
paths, or - for the standard input. Objects (kubectl get -o json --show-managed-fields) that are given first tell what
was there before the log begins."""
_EXAMPLES = """\
examples:
  driftwall replay --policies policies /var/log/kubernetes/audit
  driftwall replay --policies policies --compare proposed audit.log.gz
  driftwall replay --policies policies -o html decisions.jsonl > report.html"""
_EX_DATAERR: Final = 65  # sysexits.h: something could not be read
# MiB of objects that are remembered: some 50,000 of the usual size. With too little, more cannot be known.
_MEMORY: Final = 256


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "replay",
        help="what these policies would have done to recorded writes",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policies(parser)
    parser.add_argument(
        "--compare",
        type=Path,
        default=from_environment("--compare"),
        metavar="OTHER",
        help="other policies, and what they would change",
    )
    parser.add_argument(
        "--memory",
        type=_mebibytes,
        default=from_environment("--memory") or str(_MEMORY),
        metavar="MIB",
        help=f"MiB of objects to remember from an audit log (default: {_MEMORY})",
    )
    parser.add_argument("--fail-on-deny", action="store_true", help="exit with 1 if any write would be denied")
    parser.add_argument("-o", "--output", choices=("text", "json", "html"), default="text", help="how to tell it")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a recording, a folder of them, or -")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay and print; 0, 1 for a denial under --fail-on-deny, 65 where something could not be read."""
    from webhook import sources, terminal
    from webhook.policy_compiler import load
    from webhook.replay import Replay, Unreadable
    from webhook.replay_report import Report
    from webhook.text import escaped

    snapshot = load(args.policies)
    other = load(args.compare) if args.compare is not None else None
    files = sources.find(args.sources)
    replay = Replay(snapshot, other=other, memory=args.memory)
    report = Report(snapshot, compare=other is not None)
    progress = terminal.Progress(sources.size(files))
    try:
        for text in sources.read(files, progress.at):
            report.lines += 1
            problem = text.problem
            try:
                if not problem:
                    for result in replay.take(text.data):
                        report.add(result)
            except Unreadable as error:
                problem = str(error)
            place = f"{escaped(text.file)}:{text.line}"
            if problem and text.torn:
                report.torn.append(f"{place}: the last line is cut off; it may still be being written")
            elif problem:
                report.problem(f"{place}: {problem}")
    finally:
        progress.clear()
    report.forgotten = replay.objects.forgotten
    _print(report, args.output)
    for problem in (*report.torn, *report.problems):
        print(f"driftwall: {problem}", file=sys.stderr)
    if report.unreadable > len(report.problems):
        print(f"driftwall: … and {report.unreadable - len(report.problems):,} more lines", file=sys.stderr)
    if report.unreadable:
        return _EX_DATAERR
    return 1 if args.fail_on_deny and report.counts["denied"] else 0


def _print(report: Report, output: str) -> None:
    if output == "json":
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    elif output == "html":
        from webhook.replay_html import page

        print(page(report), end="")
    else:
        from webhook.replay_text import lines
        from webhook.terminal import width

        for line in lines(report, width()):
            print(line)


def _mebibytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:7]) <= 1024 * 1024):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB")
    return int(text) * 1024 * 1024
