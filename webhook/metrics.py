"""What driftwall counts, for Prometheus. No label has values that a client chooses."""

from __future__ import annotations

import platform
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from webhook.admission import Review
from webhook.decision import Decision

# A decision takes tenths of a millisecond, one with a look-up some milliseconds, and at most the second that a look-up
# may take: the buckets tell these apart.
SECONDS_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
WRITERS: Final = frozenset({"system", "trusted", "automation", "untrusted"})
CERTIFICATE_RESULTS: Final = ("served", "refused")
# A violation's verdict is the mode it was judged by, so a review that was let through has its mode's.
_LET_THROUGH: Final = frozenset({"warn", "tag", "dryRun"})


def verdict(decision: Decision) -> str:
    """What became of the write: ``deny``, ``warn``, ``tag``, ``dryRun`` or ``allow``."""
    if not decision.allowed:
        return "deny"
    return decision.mode if decision.mode in _LET_THROUGH else "allow"


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self._reviews = Counter(
            "driftwall_reviews_total",
            "Reviews decided, by operation, verdict, mode of the strictest policy violated (or none) and writer class.",
            ("operation", "verdict", "mode", "writer"),
            registry=registry,
        )
        self._seconds = Histogram(
            "driftwall_review_seconds",
            "Seconds from the whole review having arrived to its answer being ready, look-ups included.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "driftwall_review_errors_total",
            "Calls that got no verdict, by the HTTP status they were answered with.",
            ("status",),
            registry=registry,
        )
        self._lookups = Counter(
            "driftwall_lookups_total",
            "Look-ups of objects at the API server, by result: hit (cached), found, missing or failed.",
            ("result",),
            registry=registry,
        )
        self._break_glass = Counter(
            "driftwall_break_glass_total",
            "Writes that had to do with break-glass, by action: set, removed, or used where policies were violated.",
            ("action",),
            registry=registry,
        )
        self._mutations = Counter(
            "driftwall_mutations_total",
            "Reviews that the mutating webhook answered, by result: patched or unchanged.",
            ("result",),
            registry=registry,
        )
        self._traces = Counter(
            "driftwall_traces_total",
            "Events and marks that decisions left in the cluster, by kind and result: written, failed or dropped.",
            ("kind", "result"),
            registry=registry,
        )
        self._log_drops = Counter(
            "driftwall_log_lines_dropped_total",
            "Lines of the decision log that could not be written, or not as fast as they came.",
            registry=registry,
        )
        self.policies = Gauge("driftwall_policies", "Policies in force.", registry=registry)
        self._policies_loaded = Gauge(
            "driftwall_policies_loaded_timestamp_seconds",
            "When the policies in force were loaded, in seconds since 1970; 0: none ever were.",
            registry=registry,
        )
        self._policies_well = Gauge(
            "driftwall_policies_last_load_successful",
            "1 if all policies that are there now are in force; 0 if some do not load, or cannot be had.",
            registry=registry,
        )
        self._policy_errors = Counter(
            "driftwall_policy_load_errors_total", "Times that policies were found not to load.", registry=registry
        )
        self.certificate_not_after = Gauge(
            "driftwall_certificate_not_after_seconds",
            "When the certificate that is served expires, in seconds since 1970; 0: there is none yet.",
            registry=registry,
        )
        self._certificates = Counter(
            "driftwall_certificate_rotations_total",
            "Certificates, by result: served in the place of another, or refused while the last good one stays.",
            ("result",),
            registry=registry,
        )
        self.leader = Gauge(
            "driftwall_leader", "1 on the replica that renews the certificates of all, else 0.", registry=registry
        )
        self.workers = Gauge("driftwall_workers_ready", "Processes that answer reviews.", registry=registry)
        self.worker_restarts = Counter(
            "driftwall_worker_restarts_total", "Processes that ended unasked and were replaced.", registry=registry
        )
        for result in CERTIFICATE_RESULTS:
            self._certificates.labels(result)  # so that an alert sees the first one as an increase
        build = Gauge(
            "driftwall_build_info", "Always 1; the version is in the labels.", ("version", "python"), registry=registry
        )
        build.labels(version, platform.python_version()).set(1)
        # labels() validates and locks on each call; the children are as few as the label values are.
        self._review_children: dict[tuple[str, str, str, str], Counter] = {}

    def review(self, review: Review, decision: Decision, seconds: float) -> None:
        """Count one decided review."""
        writer = decision.writer.partition(":")[0]
        key = (
            review.operation,
            verdict(decision),
            decision.mode or "none",
            writer if writer in WRITERS else "other",
        )
        child = self._review_children.get(key)
        if child is None:
            child = self._review_children[key] = self._reviews.labels(*key)
        child.inc()
        self._seconds.observe(seconds)
        if decision.break_glass is not None:
            self._break_glass.labels(decision.break_glass.action).inc()

    def policies_in_force(self, count: int, at: float) -> None:
        """Tell how many policies are in force since ``at``, in seconds since 1970."""
        self.policies.set(count)
        self._policies_loaded.set(at)

    def policies_loaded(self, *, well: bool) -> None:
        """Count one load, and tell whether all of it is in force."""
        self._policies_well.set(well)
        if not well:
            self._policy_errors.inc()

    def mutation(self, *, patched: bool) -> None:
        """Count one review that the mutating webhook answered."""
        self._mutations.labels("patched" if patched else "unchanged").inc()

    def certificate(self, result: str) -> None:
        """Count one certificate: served or refused."""
        self._certificates.labels(result).inc()

    def trace(self, kind: str, result: str) -> None:
        """Count one Event or mark: written, failed or dropped."""
        self._traces.labels(kind, result).inc()

    def error(self, status: int) -> None:
        """Count one call that got no verdict."""
        self._errors.labels(str(status)).inc()

    def lookup(self, result: str) -> None:
        """Count one look-up: hit, found, missing or failed."""
        self._lookups.labels(result).inc()

    def log_drop(self, lines: int) -> None:
        """Count ``lines`` of the decision log as lost."""
        self._log_drops.inc(lines)
