"""What a scan tells Prometheus, by way of a Pushgateway, since a job that ends cannot be scraped.

deploy/MONITORING.md has the table. The one label is the namespace: a series for each that has managed objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from http.client import HTTPException
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway, pushadd_to_gateway

from webhook.drift_model import DriftedObject
from webhook.errors import PushFailed
from webhook.scanning import Totals

#: The label ``job`` of all of them.
JOB: Final = "driftwall-scan"
# A Pushgateway answers within milliseconds; the job that waits for one that does not has done its work.
_SECONDS: Final = 10.0


def collect(
    found: Iterable[DriftedObject], totals: Totals, *, seconds: float, succeeded: datetime | None
) -> CollectorRegistry:
    """The metrics of one scan, which took ``seconds``. ``succeeded``: when it ended, or None if it has not seen all.

    Then they do not tell of drift: fewer objects would look like less of it.
    """
    registry = CollectorRegistry()
    objects = Gauge("driftwall_scan_objects", "Objects that the last scan looked at.", registry=registry)
    objects.set(totals.scanned)
    duration = Gauge("driftwall_scan_duration_seconds", "Seconds that the last scan took.", registry=registry)
    duration.set(seconds)
    if succeeded is None:
        return registry
    last = Gauge(
        "driftwall_scan_last_success_timestamp_seconds",
        "When the last scan that has seen everything ended, in seconds since 1970.",
        registry=registry,
    )
    last.set(succeeded.timestamp())
    drifted = Gauge(
        "driftwall_scan_drifted_objects",
        "Objects that had drifted at the last scan that has seen everything; no namespace: cluster-scoped ones.",
        ("namespace",),
        registry=registry,
    )
    counts = Counter(obj.target.ref.namespace for obj in found)
    for namespace in {*counts, *(namespace for namespace, _ in totals.managed)}:
        drifted.labels(namespace).set(counts[namespace])
    return registry


def push(gateway: str, metrics: CollectorRegistry, *, cluster: str, whole: bool) -> None:
    """Leave ``metrics`` at the Pushgateway with this URL, in the place of those of the scan before.

    ``cluster`` tells clusters apart that push to the same one; empty: there is but one. What is not ``whole`` leaves
    there what it does not tell of.

    Raises:
        PushFailed: the Pushgateway does not have them.
    """
    # PUT takes away whatever was there before, POST only what is told anew.
    send = push_to_gateway if whole else pushadd_to_gateway
    try:
        send(gateway, JOB, metrics, {"cluster": cluster} if cluster else None, _SECONDS)
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise PushFailed(
            f"the Pushgateway {gateway} does not have the metrics of this scan: {why}. What was found holds all the "
            "same; look at --pushgateway, and in a cluster at the NetworkPolicy of the job"
        ) from error
