"""The page at ``/`` of the management port: how this replica is, for a person with a browser or curl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Final

from prometheus_client import CollectorRegistry

from webhook.readiness import Readiness

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>driftwall</title>
<h1>driftwall {version}</h1>
<p>{state}
<ul>{reasons}</ul>
<h2>Policies in force</h2>
<table>
<tr><th>policy<th>mode<th>severity
{policies}
</table>
<h2>Since it started</h2>
<table>
{counts}
</table>
<p>Policies loaded: {loaded}. Certificate valid until: {not_after}.
<p><a href="/livez">/livez</a> <a href="/readyz">/readyz</a> <a href="/metrics">/metrics</a>
</html>
"""
# What is counted, and by which label.
_COUNTS: Final = (
    ("reviews", "driftwall_reviews_total", "verdict"),
    ("no verdict", "driftwall_review_errors_total", "reason"),
    ("break-glass", "driftwall_break_glass_total", "action"),
)


def render(readiness: Readiness, registry: CollectorRegistry) -> str:
    """The page, as HTML: what ``/readyz`` says, and a few of the metrics in ``registry``."""
    found = _Samples(registry)
    policies = sorted(found.labels("driftwall_policy_info"), key=lambda labels: labels["policy"])
    return _PAGE.format(
        version=escape(next((labels["version"] for labels in found.labels("driftwall_build_info")), "")),
        state="Ready." if readiness.ready.is_set() else "Not ready:",
        reasons="".join(f"<li>{escape(line)}" for line in (*readiness.reasons(), *readiness.remarks())),
        policies=_rows((labels["policy"], labels["mode"], labels["severity"]) for labels in policies),
        counts=_rows(
            (f"{what}: {value}", f"{count:.0f}")
            for what, name, label in _COUNTS
            for value, count in sorted(found.sums(name, label).items())
        ),
        loaded=found.time("driftwall_policies_loaded_timestamp_seconds"),
        not_after=found.time("driftwall_certificate_not_after_timestamp_seconds"),
    )


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)


class _Samples:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._samples = [sample for family in registry.collect() for sample in family.samples]

    def _named(self, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
        return ((sample.labels, sample.value) for sample in self._samples if sample.name == name)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [labels for labels, _ in self._named(name)]

    def sums(self, name: str, label: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for labels, value in self._named(name):
            sums[labels[label]] = sums.get(labels[label], 0) + value
        return sums

    def time(self, name: str) -> str:
        seconds = next((value for _, value in self._named(name)), 0)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else "never"
