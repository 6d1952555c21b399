"""``driftwall review``: what the policies say to recorded AdmissionReviews, without a cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from webhook import admission, audit
from webhook.commands import add_policies
from webhook.errors import LookupFailed, MalformedReview
from webhook.offline import RecordedObjects, decide_offline, mutate_offline
from webhook.policy_compiler import load
from webhook.text import escaped

if TYPE_CHECKING:
    from webhook.commands import Subparsers

_DESCRIPTION = """\
Decides recorded AdmissionReviews by the policies in PATH, in the order given, and shows the patch that the mutating
webhook would answer with. A folder stands for the *.json files below it in the order of their paths, - for the standard
input. The parent of a scale and the like is looked up among the reviews given before."""
_EXAMPLES = """\
examples:
  driftwall review --policies policies recordings/02-set-image
  driftwall review --policies policies -o json --fail-on-deny review.json"""
_EX_DATAERR: Final = 65  # sysexits.h: a review could not be read or not be decided


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "review",
        help="decide recorded AdmissionReviews offline",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policies(parser)
    parser.add_argument("--fail-on-deny", action="store_true", help="exit with 1 if any review is denied")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: one line for each review"
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="an AdmissionReview, a folder of them, or -")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print; the exit code: 0, 1 for a denial under --fail-on-deny, 65 where there is no verdict."""
    snapshot = load(args.policies)
    recorded = RecordedObjects()
    denied = failed = False
    for file, body in _reviews(args.files):
        started = time.perf_counter()
        now = datetime.now(UTC)
        line: dict[str, Any] = {"file": file}
        try:
            review = admission.parse(body)
            try:
                decision = decide_offline(review, snapshot, recorded, now)
                took = time.perf_counter() - started
                patch = mutate_offline(review, snapshot, recorded, now).patch
            finally:
                recorded.remember(review)
            line |= audit.record(review, decision, time=now, seconds=took) | {"patch": list(patch)}
            denied = denied or not decision.allowed
        except (MalformedReview, LookupFailed) as error:
            # No verdict is no allow.
            line |= {"allowed": False, "error": str(error)}
            failed = True
            print(f"driftwall: {escaped(file)}: {error}", file=sys.stderr)
        print(audit.json_line(line).decode() if args.output == "json" else _text(line))
    if failed:
        return _EX_DATAERR
    return 1 if denied and args.fail_on_deny else 0


def _reviews(names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        if name == "-":
            yield name, sys.stdin.buffer.read()
            continue
        path = Path(name)
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        for file in files:
            yield str(file), file.read_bytes()


def _text(line: dict[str, Any]) -> str:
    if "error" in line:
        return f"ERROR  {escaped(line['file'])}"
    verdict = _verdict(line)
    place = "/".join(part for part in (line["namespace"], line["name"]) if part)
    resource = line["resource"] + (f"/{line['subresource']}" if line["subresource"] else "")
    policies = ",".join(policy["name"] for policy in line["policies"])
    head = f"{verdict:<6} {line['user']} ({line['writer']}) {line['operation']} {resource} {place} {policies}".rstrip()
    details = [line["message"], *line["warnings"]]
    if line["patch"]:
        details.append(f"patch: {json.dumps(line['patch'])}")
    body = [f"       {text}" for detail in details for text in detail.splitlines()]
    return "\n".join([escaped(head), *body])


def _verdict(line: dict[str, Any]) -> str:
    if not line["allowed"]:
        return "DENY"
    return {"warn": "WARN", "tag": "TAG", "dryRun": "DRYRUN"}.get(line["mode"], "ALLOW")
