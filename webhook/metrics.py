"""What driftwall counts, for Prometheus; deploy/MONITORING.md has the table.

No label has values that a client chooses: policies and modes are those in force, all else is a fixed set.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics

from webhook.admission import OPERATIONS, Review
from webhook.counting import Distribution, Tally
from webhook.decision import Decision, Violation
from webhook.policy import Snapshot

# A decision takes tenths of a millisecond, one with a look-up some milliseconds, and at most the second that a look-up
# may take: the buckets tell these apart.
SECONDS_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
# From a small ConfigMap's review to the most that is read (MAX_BODY in webhook.replies).
BYTES_BUCKETS: Final = tuple(2**power for power in (10, 12, 14, 16, 18, 20, 22, 24, 25))
WRITERS: Final = frozenset({"system", "trusted", "automation", "untrusted"})
WEBHOOKS: Final = ("validate", "mutate")
CERTIFICATE_RESULTS: Final = ("served", "refused")
LOOKUP_RESULTS: Final = ("hit", "found", "missing", "failed")
GLASS_ACTIONS: Final = ("set", "removed", "used")
TRACE_KINDS: Final = ("event", "mark")
TRACE_RESULTS: Final = ("written", "gone", "failed", "limited", "dropped")
#: As :func:`webhook.reviewing.log_outputs` names them.
LOG_OUTPUTS: Final = ("stdout", "file")
#: Why a call gets no verdict: a look-up failed, there is no memory or are no policies to decide by, a mistake of
#: driftwall's, or one of the caller's; and what it is answered with.
ERROR_REASONS: Final = {"lookup": 500, "internal": 500, "memory": 503, "policies": 503, "request": 400}
# A violation's verdict is the mode it was judged by, so a review that was let through has its mode's.
_LET_THROUGH: Final = frozenset({"warn", "tag", "dryRun"})
_VIOLATION_LABELS: Final = ("policy", "operation", "verdict", "mode", "writer")
#: The verdict on what would have been violated, had the glass not been broken.
_GLASS: Final = "breakGlass"
#: Policies of driftwall's own have names in brackets, and are there whatever is loaded.
_BUILT_IN: Final = "("


def verdict(decision: Decision) -> str:
    """What became of the write: ``deny``, ``warn``, ``tag``, ``dryRun`` or ``allow``."""
    if not decision.allowed:
        return "deny"
    return decision.mode if decision.mode in _LET_THROUGH else "allow"


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, version: str) -> None:
        # A series of its own for when each counter began: twice as many, of which nobody asks.
        disable_created_metrics()
        self.registry = CollectorRegistry(auto_describe=True)
        registry = self.registry
        ProcessCollector(registry=registry)
        self._reviews = Tally(
            "driftwall_reviews_total",
            "Reviews decided, by operation, verdict, mode of the strictest policy violated (or none) and writer class.",
            ("operation", "verdict", "mode", "writer"),
            registry=registry,
        )
        self._violations = Tally(
            "driftwall_policy_violations_total",
            "Policies that a review violated, one for each; verdict breakGlass: it would have, but for break-glass.",
            _VIOLATION_LABELS,
            registry=registry,
        )
        self._seconds = Distribution(
            "driftwall_review_duration_seconds",
            "Seconds from the whole review having arrived to its answer being ready, look-ups included.",
            ("webhook", WEBHOOKS),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._bytes = Distribution(
            "driftwall_review_size_bytes",
            "Bytes of the reviews decided.",
            ("webhook", WEBHOOKS),
            buckets=BYTES_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "driftwall_reviews_in_flight", "Calls that are being read or answered now.", registry=registry
        )
        self._memory = Gauge(
            "driftwall_review_memory_bytes", "Memory that the decisions under way may take.", registry=registry
        )
        self._memory_limit = Gauge(
            "driftwall_review_memory_limit_bytes",
            "Memory that all decisions may take at once; beyond it a call is answered with 503.",
            registry=registry,
        )
        self._errors = Counter(
            "driftwall_review_errors_total",
            "Calls that got no verdict, by the HTTP status they were answered with, and why: lookup, internal, memory, "
            "policies or request.",
            ("status", "reason"),
            registry=registry,
        )
        self._lookups = Tally(
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
        self._mutations = Tally(
            "driftwall_mutations_total",
            "Reviews that the mutating webhook answered, by result: patched or unchanged.",
            ("result",),
            registry=registry,
        )
        self._traces = Counter(
            "driftwall_cluster_writes_total",
            "Events and marks that decisions ask for in the cluster, by kind and result: written, gone (with its "
            "namespace), failed, limited (there were too many Events) or dropped (too many wait).",
            ("kind", "result"),
            registry=registry,
        )
        self._log_drops = Counter(
            "driftwall_log_lines_dropped_total",
            "Lines of the decision log that could not be written, or not as fast as they came, by output.",
            ("output",),
            registry=registry,
        )
        self._policies = Gauge("driftwall_policies", "Policies in force.", registry=registry)
        self._policy_info = Gauge(
            "driftwall_policy_info",
            "Always 1; the policies in force are in the labels.",
            ("policy", "mode", "severity"),
            registry=registry,
        )
        self._policies_hash = Gauge(
            "driftwall_policies_hash",
            "A hash of the policies and the configuration in force: the same on all replicas; 0: none ever were.",
            registry=registry,
        )
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
        self._not_before = Gauge(
            "driftwall_certificate_not_before_timestamp_seconds",
            "Since when the certificate that is served is valid, in seconds since 1970; 0: there is none yet.",
            registry=registry,
        )
        self._not_after = Gauge(
            "driftwall_certificate_not_after_timestamp_seconds",
            "When the certificate that is served expires, in seconds since 1970; 0: there is none yet.",
            registry=registry,
        )
        self._certificates = Counter(
            "driftwall_certificate_rotations_total",
            "Certificates, by result: served in the place of another, or refused while the last good one stays.",
            ("result",),
            registry=registry,
        )
        self.ready = Gauge(
            "driftwall_ready", "1 while reviews should be sent here, as /readyz says.", registry=registry
        )
        self.leader = Gauge(
            "driftwall_leader", "1 on the replica that renews the certificates of all, else 0.", registry=registry
        )
        self.workers = Gauge("driftwall_workers_ready", "Processes that answer reviews.", registry=registry)
        self.worker_restarts = Counter(
            "driftwall_worker_restarts_total", "Processes that ended unasked and were replaced.", registry=registry
        )
        build = Gauge(
            "driftwall_build_info", "Always 1; the version is in the labels.", ("version", "python"), registry=registry
        )
        build.labels(version, platform.python_version()).set(1)
        self._begin()
        # labels() validates and locks on each call, and of denials there may be very many.
        self._traces_of = {
            (kind, result): self._traces.labels(kind, result) for kind in TRACE_KINDS for result in TRACE_RESULTS
        }

    def _begin(self) -> None:
        """Have what an alert asks for there from the start: the first of its kind is an increase, too."""
        for operation in OPERATIONS:
            for writer in ("automation", "untrusted"):
                self._reviews.begin(operation, "deny", "enforce", writer)
        for counter, values in (
            (self._break_glass, GLASS_ACTIONS),
            (self._log_drops, LOG_OUTPUTS),
            (self._certificates, CERTIFICATE_RESULTS),
        ):
            for value in values:
                counter.labels(value)
        for tally, results in ((self._lookups, LOOKUP_RESULTS), (self._mutations, ("patched", "unchanged"))):
            for result in results:
                tally.begin(result)
        for reason, status in ERROR_REASONS.items():
            self._errors.labels(str(status), reason)

    def at_scrapes(self, *, in_flight: Callable[[], int], memory: Callable[[], int], memory_limit: int) -> None:
        """Have it asked at each scrape how many calls there are, and how many bytes they may take of how many."""
        self._in_flight.set_function(in_flight)
        self._memory.set_function(memory)
        self._memory_limit.set(memory_limit)

    def review(self, review: Review, decision: Decision, *, seconds: float, size: int) -> None:
        """Count one decided review of ``size`` bytes; for the event loop's thread, as :meth:`mutation` is."""
        writer = _class_of(decision.writer)
        self._reviews.counts[review.operation, verdict(decision), decision.mode or "none", writer] += 1
        self._arrived("validate", seconds, size)
        self._violated(review, decision.violations, writer)
        if decision.break_glass is not None:
            self._break_glass.labels(decision.break_glass.action).inc()
            self._violated(review, decision.break_glass.violations, writer, _GLASS)

    def _violated(self, review: Review, violations: Iterable[Violation], writer: str, verdict: str = "") -> None:
        for each in violations:
            self._violations.counts[each.name, review.operation, verdict or each.verdict, each.mode, writer] += 1

    def mutation(self, *, patched: bool, seconds: float, size: int) -> None:
        """Count one review of ``size`` bytes that the mutating webhook answered."""
        self._mutations.counts[("patched" if patched else "unchanged",)] += 1
        self._arrived("mutate", seconds, size)

    def _arrived(self, webhook: str, seconds: float, size: int) -> None:
        self._seconds.observe(webhook, seconds)
        self._bytes.observe(webhook, size)

    def policies_in_force(self, snapshot: Snapshot, at: float) -> None:
        """Tell which policies are in force since ``at``, in seconds since 1970, and no more of those that were."""
        names = {policy.name for policy in snapshot.policies}
        for values in list(self._violations.counts):
            if not is_current(dict(zip(_VIOLATION_LABELS, values, strict=True)), names):
                del self._violations.counts[values]
        self._policy_info.clear()
        for policy in snapshot.policies:
            self._policy_info.labels(policy.name, policy.mode, policy.severity).set(1)
        self._policies.set(len(snapshot.policies))
        # As many bits as a float has room for.
        self._policies_hash.set(int.from_bytes(snapshot.digest[:6]))
        self._policies_loaded.set(at)

    def policies_loaded(self, *, well: bool) -> None:
        """Count one load, and tell whether all of it is in force."""
        self._policies_well.set(well)
        if not well:
            self._policy_errors.inc()

    def certificate_served(self, *, not_before: float, not_after: float) -> None:
        """Tell how long the certificate is valid that is served from now on, in seconds since 1970."""
        self._not_before.set(not_before)
        self._not_after.set(not_after)

    def certificate(self, result: str) -> None:
        """Count one certificate: served or refused."""
        self._certificates.labels(result).inc()

    def trace(self, kind: str, result: str, count: int = 1) -> None:
        """Count Events or marks: written, failed, limited or dropped."""
        self._traces_of[kind, result].inc(count)

    def error(self, status: int, reason: str) -> None:
        """Count one call that got no verdict, for one of ERROR_REASONS."""
        self._errors.labels(str(status), reason).inc()

    def lookup(self, result: str) -> None:
        """Count one look-up: hit, found, missing or failed; for the event loop's thread."""
        self._lookups.counts[(result,)] += 1

    def log_drop(self, output: str, lines: int) -> None:
        """Count ``lines`` of the decision log as lost to stdout or file."""
        self._log_drops.labels(output).inc(lines)


def is_current(labels: Mapping[str, str], policies: Container[str]) -> bool:
    """Whether a series with these labels is about no policy, one of driftwall's own, or one of ``policies``."""
    policy = labels.get("policy")
    return policy is None or policy in policies or policy.startswith(_BUILT_IN)


def _class_of(writer: str) -> str:
    """The class of a writer, without its name."""
    found = writer.partition(":")[0]
    return found if found in WRITERS else "other"
