"""``driftwall lint``: policy files checked, every error at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webhook.commands import Subparsers
    from webhook.documents import Problem

HELP = "check policy files, every error at once"
_DESCRIPTION = """\
Checks policy files: that they can be read, that they have the right format, and that what they name exists.
Of a folder, every *.yaml and *.yml below it is read, but no hidden ones and no driftwall-test.yaml.
Every error is printed with its file, line and path; exits with 1 if there is any."""
_EXAMPLES = """\
examples:
  driftwall lint policies
  driftwall lint -o github policies     as annotations in a GitHub Actions workflow"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "lint",
        help=HELP,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a policy file, or a folder of them")
    parser.add_argument(
        "-o", "--output", choices=("text", "json", "github"), default="text", help="how to print errors (default: text)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the files and print what is wrong on stdout, and a closing line on stderr.

    Returns:
        0 if all is well, 1 if there is an error.

    Raises:
        FileNotFoundError: nothing is at a path given.
    """
    from webhook.policy_compiler import check_documents

    paths: list[Path] = args.paths
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError("\n".join(f"{path}: no such file or folder" for path in missing))
    documents, problems = check_documents(paths)
    if args.output == "json":
        print(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            print(_github(problem) if args.output == "github" else problem)
    print(_summary(documents, problems), file=sys.stderr)
    return 1 if problems else 0


def _summary(documents: int, problems: Sequence[Problem]) -> str:
    if problems:
        return f"{_count(len(problems), 'error')} in {_count(len({problem.file for problem in problems}), 'file')}"
    return f"{_count(documents, 'document')}, no errors"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _github(problem: Problem) -> str:
    """A workflow command (https://docs.github.com/actions/reference/workflow-commands-for-github-actions)."""
    message = f"{problem.path}: {problem.message}" if problem.path else problem.message
    file = _data(problem.file).replace(":", "%3A").replace(",", "%2C")
    return f"::error file={file},line={problem.line},title=driftwall::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
