"""What must hold of a whole run: nobody who has to write was ever in anybody's way, whichever test made them write."""

import json

from webhook.replay import DECIDED, Verdict

from .api import Object
from .control_plane import SERVICE_ACCOUNTS, ControlPlane
from .driftwall import CONFIG_SYNC, Driftwall, Line
from .replaying import pairs


def nobody_who_has_to_write_was_hindered(control_plane: ControlPlane) -> None:
    """Assert it of every driftwall that was started, and of what the API server itself has written down.

    Policies of driftwall's own that are not valid are left out: those it takes from nobody.
    """
    log = [json.loads(line) for file in Driftwall.all_decisions for line in file.read_text().splitlines()]
    assert _hindered(log, "system", "trusted") == []
    events = [event for event in control_plane.audit_events() if "impersonatedUser" not in event]
    written = [event for event in events if _has_to_write(event["user"]["username"]) and "responseStatus" in event]
    assert [event for event in written if _refused_or_warned(event)] == []
    # The list above was not empty for want of events.
    assert "system:kube-controller-manager" in {event["user"]["username"] for event in written}


def no_write_of_the_autoscaler_was_hindered(server: Driftwall) -> None:
    """Assert it of one whose policies give the autoscaler what it writes."""
    assert _hindered(server.log(), "automation") == []


def every_call_got_a_verdict_and_every_verdict_a_line(server: Driftwall) -> None:
    """Assert it of a driftwall that runs."""
    samples = [line for line in server.metrics().splitlines() if not line.startswith("#")]
    counted = [
        line for line in samples if line.startswith(("driftwall_review_errors_", "driftwall_log_lines_dropped_"))
    ]
    assert {line.rpartition(" ")[2] for line in counted} == {"0.0"}


def its_verdicts_can_be_had_from_the_audit_log(control_plane: ControlPlane, server: Driftwall) -> None:
    """Assert that replay gives the verdicts that were given."""
    compared = [pair for pair in pairs(control_plane.audit_log, server) if isinstance(pair.result, Verdict)]
    assert [str(pair) for pair in compared if not pair.agrees] == []
    # Of what was carried out every field, too; of what was denied a few are known by the API server alone.
    decided = [pair for pair in compared if isinstance(pair.result, Verdict) and pair.result.known == DECIDED]
    assert [str(pair) for pair in decided if not pair.agrees_in_fields] == []


def it_had_nothing_to_complain_of(server: Driftwall) -> None:
    """Assert it of one that has ended."""
    assert [line for line in server.messages() if line["level"] != "info"] == []


def _hindered(log: list[Line], *classes: str) -> list[Line]:
    written = [line for line in log if line["writer"].partition(":")[0] in classes]
    written = [line for line in written if "(ownObjects)" not in (policy["name"] for policy in line["policies"])]
    return [line for line in written if not line["allowed"] or line["policies"] or line["warnings"]]


def _has_to_write(user: str) -> bool:
    """Whether it is a part of the control plane or a GitOps tool, by its name alone; it may still be a pretender."""
    tools = {
        f"system:serviceaccount:{namespace}:{name}" for namespace, name in (*SERVICE_ACCOUNTS.values(), CONFIG_SYNC)
    }
    parts = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler")
    account = user.startswith("system:serviceaccount:kube-system:") and not user.endswith(":evil")
    return user in tools or user in parts or account or user.startswith("system:node:")


def _refused_or_warned(event: Object) -> bool:
    """Whether driftwall was what the write came to grief on, by what the API server has written down."""
    said = event.get("responseStatus", {}).get("message", "")
    judged = any("driftwall.io/" in key for key in event.get("annotations", {}))
    return judged or ("driftwall.io" in said and "denied the request" in said)
