"""What the decision log says after all other tests: nobody who has to write was ever in anybody's way."""

import json

from .control_plane import ControlPlane
from .driftwall import Driftwall, Line


def lines(server: type[Driftwall] | Driftwall) -> list[Line]:
    """All that was ever decided, by every driftwall that was started, or by one."""
    files = [server.decisions] if isinstance(server, Driftwall) else server.all_decisions
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def hindered(log: list[Line], *classes: str) -> list[Line]:
    """The lines of these classes of writers that were denied, or violated a policy."""
    written = [line for line in log if line["writer"].partition(":")[0] in classes]
    return [line for line in written if not line["allowed"] or line["policies"] or line["warnings"]]


def test_no_write_of_the_control_plane_or_a_gitops_tool_was_hindered(
    control_plane: ControlPlane, driftwall: Driftwall
) -> None:
    # The control plane renews its leases all the time.
    control_plane.wait_for(lambda: driftwall.log(writer="system"), "a line of the control plane")
    assert hindered(lines(Driftwall), "system", "trusted") == []


def test_no_write_of_the_autoscaler_was_hindered(driftwall: Driftwall) -> None:
    assert hindered(lines(driftwall), "automation") == []


def test_every_call_got_a_verdict_and_every_verdict_a_line(driftwall: Driftwall) -> None:
    samples = [line for line in driftwall.metrics().splitlines() if not line.startswith("#")]
    assert [line for line in samples if line.startswith("driftwall_review_errors_total")] == []
    assert "driftwall_log_lines_dropped_total 0.0" in samples


def test_it_ends_when_it_is_told_to(driftwall_server: Driftwall) -> None:
    driftwall_server.stop()
    assert {line["level"] for line in driftwall_server.messages()} == {"info"}
