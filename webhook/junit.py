"""Results of cases as JUnit XML, in the form that CI systems read.

https://github.com/testmoapp/junitxml describes what they have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from webhook.case_results import Result

# What XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(results: Sequence[Result]) -> str:
    """The whole document: a testsuite for each file of cases."""
    root = Element("testsuites", {"name": "driftwall test", **_counts(results)})
    for _, group in groupby(results, key=lambda result: result.suite.file):
        suite = list(group)
        node = SubElement(root, "testsuite", {"name": _text(suite[0].suite.name), **_counts(suite)})
        for result in suite:
            file = str(result.suite.file)
            case = SubElement(
                node,
                "testcase",
                name=_text(result.case.name),
                classname=_text(result.suite.name),
                file=_text(file),
                line=str(result.case.line),
                time=f"{result.seconds:.6f}",
            )
            if result.error:
                SubElement(case, "error", message=_text(result.error))
            elif result.differences:
                message = "; ".join(
                    f"{d.what}: expected {_list(d.expected)}, got {_list(d.got)}" for d in result.differences
                )
                lines = [line for d in result.differences for line in (f"{d.what}:", *d.lines())]
                failure = SubElement(case, "failure", message=_text(message))
                failure.text = _text("\n".join(lines))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _counts(results: Sequence[Result]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(bool(result.differences) for result in results)),
        "errors": str(sum(bool(result.error) for result in results)),
        "time": f"{sum(result.seconds for result in results):.6f}",
    }


def _list(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
