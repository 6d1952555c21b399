"""driftwall's own pod, and what it tells the cluster about itself by Events on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from webhook.breakglass import write_time
from webhook.cluster.traces import Traces
from webhook.text import cut, escaped

#: Set in the Deployment from the pod's own fields (the downward API).
POD_NAMESPACE: Final = "POD_NAMESPACE"
POD_NAME: Final = "POD_NAME"
# Where Kubernetes puts the namespace beside the service account's token.
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Characters of an Event's message, as k8s.io/kubernetes validates it.
_MAX_MESSAGE: Final = 1024


class OwnPod(NamedTuple):
    """Where this process runs."""

    namespace: str
    name: str


def find(environ: Mapping[str, str], namespace_file: Path = _NAMESPACE_FILE) -> OwnPod | None:
    """The pod that this process runs in, or None outside of a cluster. A pod's host name is its name."""
    namespace = environ.get(POD_NAMESPACE, "")
    if not namespace:
        try:
            namespace = namespace_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    name = environ.get(POD_NAME, "") or environ.get("HOSTNAME", "")
    return OwnPod(namespace, name) if namespace and name else None


def teller(traces: Traces, environ: Mapping[str, str]) -> Callable[[Sequence[str]], None] | None:
    """What writes an Event on our own pod about policies that do not load; None outside of a cluster."""
    if (pod := find(environ)) is None:
        return None

    def tell(problems: Sequence[str]) -> None:
        traces.event(event(pod, problems, datetime.now(UTC)))

    return tell


def event(pod: OwnPod, problems: Sequence[str], now: datetime) -> dict[str, object]:
    """The Event on ``pod`` about ``problems``.

    Its name comes from what it says: worker processes of one pod that see the same write one Event.
    """
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    digest = hashlib.sha256("\n".join((*problems, write_time(now)[:13])).encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod.name[:200]}.{digest}", "namespace": pod.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name},
        "reason": "PoliciesNotLoaded",
        "message": cut(escaped(problems[0]), _MAX_MESSAGE - len(more)) + more,
        "type": "Warning",
        "count": 1,
        "firstTimestamp": write_time(now),
        "lastTimestamp": write_time(now),
        "source": {"component": "driftwall"},
        "reportingComponent": "driftwall.io/webhook",
        "reportingInstance": pod.name,
    }
