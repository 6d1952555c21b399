"""What the decision log says after all other tests: nobody who has to write was ever in anybody's way."""

import json

from .api import Object
from .control_plane import SERVICE_ACCOUNTS, ControlPlane
from .driftwall import CONFIG_SYNC, Driftwall, Line


def lines(server: type[Driftwall] | Driftwall) -> list[Line]:
    """All that was ever decided, by every driftwall that was started, or by one."""
    files = [server.decisions] if isinstance(server, Driftwall) else server.all_decisions
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def hindered(log: list[Line], *classes: str) -> list[Line]:
    """The lines of these classes of writers that were denied, or violated a policy.

    But for policies of driftwall's own that are not valid, which it takes from nobody.
    """
    written = [line for line in log if line["writer"].partition(":")[0] in classes]
    written = [line for line in written if "(ownObjects)" not in (policy["name"] for policy in line["policies"])]
    return [line for line in written if not line["allowed"] or line["policies"] or line["warnings"]]


def test_no_write_of_the_control_plane_or_a_gitops_tool_was_hindered(
    control_plane: ControlPlane, driftwall: Driftwall
) -> None:
    # The control plane renews its leases all the time.
    control_plane.wait_for(lambda: driftwall.log(writer="system"), "a line of the control plane")
    assert hindered(lines(Driftwall), "system", "trusted") == []


def has_to_write(user: str) -> bool:
    """Whether it is a part of the control plane or a GitOps tool, by its name alone; it may still be a pretender."""
    tools = {
        f"system:serviceaccount:{namespace}:{name}" for namespace, name in (*SERVICE_ACCOUNTS.values(), CONFIG_SYNC)
    }
    parts = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler")
    account = user.startswith("system:serviceaccount:kube-system:") and not user.endswith(":evil")
    return user in tools or user in parts or account or user.startswith("system:node:")


def refused_or_warned(event: Object) -> bool:
    """Whether driftwall was what the write came to grief on, by what the API server has written down."""
    said = event.get("responseStatus", {}).get("message", "")
    judged = any("driftwall.io/" in key for key in event.get("annotations", {}))
    return judged or ("driftwall.io" in said and "denied the request" in said)


def test_the_audit_log_of_the_api_server_says_the_same(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    events = [event for event in control_plane.audit_events() if "impersonatedUser" not in event]
    written = [event for event in events if has_to_write(event["user"]["username"]) and "responseStatus" in event]
    assert [event for event in written if refused_or_warned(event)] == []
    users = {event["user"]["username"] for event in written}
    assert {"system:kube-controller-manager", "system:serviceaccount:flux-system:kustomize-controller"} <= users


def test_no_write_of_the_autoscaler_was_hindered(driftwall: Driftwall) -> None:
    assert hindered(lines(driftwall), "automation") == []


def test_every_call_got_a_verdict_and_every_verdict_a_line(driftwall: Driftwall) -> None:
    samples = [line for line in driftwall.metrics().splitlines() if not line.startswith("#")]
    assert [line for line in samples if line.startswith("driftwall_review_errors_total")] == []
    assert "driftwall_log_lines_dropped_total 0.0" in samples


def test_it_ends_when_it_is_told_to(driftwall_server: Driftwall) -> None:
    driftwall_server.stop()
    assert {line["level"] for line in driftwall_server.messages()} == {"info"}
