"""``driftwall test``: the cases beside the policies."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhook.case_results import Result
    from webhook.commands import Subparsers

_DESCRIPTION = """\
Runs the cases beside policies: of every driftwall-test.yaml at or below PATH, each write is decided by the policies
that the file names, and the verdict compared with the one that the case expects. Exits with 1 if any differs."""
_EXAMPLES = """\
examples:
  driftwall test policies
  driftwall test -o junit policies > results.xml"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "test",
        help="run the cases beside the policies",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file of cases, or a folder of them")
    parser.add_argument("--fail-only", action="store_true", help="list the cases that failed, and no others")
    parser.add_argument("-o", "--output", choices=("text", "json", "junit"), default="text", help="how to tell it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the cases and print what became of them; 0 if all passed, else 1.

    Raises:
        FileNotFoundError: there is no file of cases.
        PolicyError: one cannot be used, with every problem of all of them.
    """
    from webhook.case_results import run_suite
    from webhook.cases import find_suites
    from webhook.documents import TEST_FILE

    suites = find_suites(*args.paths)
    if not suites:
        raise FileNotFoundError(f"{', '.join(map(str, args.paths))}: no {TEST_FILE} is here")
    results = [result for suite in suites for result in run_suite(suite)]
    failed = [result for result in results if not result.passed]
    shown = failed if args.fail_only else results
    if args.output == "json":
        print(json.dumps([_json(result) for result in shown], indent=2, ensure_ascii=False))
    elif args.output == "junit":
        from webhook import junit

        print(junit.document(results), end="")
    else:
        for line in _text(shown):
            print(line)
    summary = f"Test Summary: {_count(len(results) - len(failed))} passed and {_count(len(failed))} failed"
    print(summary, file=sys.stdout if args.output == "text" else sys.stderr)
    return 1 if failed else 0


def _json(result: Result) -> dict[str, Any]:
    decision = result.decision
    return {
        "file": str(result.suite.file),
        "line": result.case.line,
        "suite": result.suite.name,
        "case": result.case.name,
        "passed": result.passed,
        "error": result.error or None,
        "allowed": decision.allowed if decision is not None else None,
        "mode": decision.mode if decision is not None else None,
        "policies": [violation.name for violation in decision.violations] if decision is not None else [],
        "fields": _fields(result),
        "message": decision.message if decision is not None else "",
        "differences": [{"what": d.what, "expected": list(d.expected), "got": list(d.got)} for d in result.differences],
        "seconds": round(result.seconds, 6),
    }


def _fields(result: Result) -> list[str]:
    violations = result.decision.violations if result.decision is not None else ()
    return sorted({change.path for violation in violations for change in violation.fields})


def _text(results: Sequence[Result]) -> Iterator[str]:
    from webhook import terminal
    from webhook.text import escaped

    columns = terminal.width()
    by_file: dict[Path, list[Result]] = {}
    for result in results:
        by_file.setdefault(result.suite.file, []).append(result)
    for file, suite in by_file.items():
        yield terminal.coloured(f"{escaped(str(file))}: {escaped(suite[0].suite.name)}", terminal.BOLD)
        rows = [(number, result.case.name, _verdict(result), _result(result)) for number, result in enumerate(suite, 1)]
        head, *lines = terminal.table(("ID", "CASE", "VERDICT", "RESULT"), rows, columns, "  ")
        yield head
        for line, result in zip(lines, suite, strict=True):
            yield terminal.coloured(line, terminal.GREEN if result.passed else terminal.RED)
            yield from (f"       {escaped(detail)}" for detail in _details(result))
        yield ""


def _verdict(result: Result) -> str:
    if result.decision is None:
        return "none"
    return "deny" if not result.decision.allowed else result.decision.mode or "allow"


def _result(result: Result) -> str:
    return "error" if result.error else "pass" if result.passed else "fail"


def _details(result: Result) -> Iterator[str]:
    if result.passed:
        return
    yield f"at line {result.case.line}"
    if result.error:
        yield result.error
    for difference in result.differences:
        yield f"{difference.what}:"
        yield from (f"  {line}" for line in difference.lines())


def _count(number: int) -> str:
    return f"{number} case" if number == 1 else f"{number} cases"
