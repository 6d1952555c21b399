"""The control plane is started once for all tests of a process; it comes up in seconds, but that is still the slowest.

What must hold of all that was written in between, whichever test wrote it, is asserted when the servers end.
"""

from collections.abc import Iterator

import pytest

from . import binaries, whole_run
from .control_plane import ControlPlane
from .driftwall import CONFIG_SYNC, Driftwall


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A real control plane; see ControlPlane. What a test makes in it belongs in a namespace of its own."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():  # a build of minutes must not look like a hang
        using = binaries.find()
    with ControlPlane(using=using) as plane:
        yield plane
        whole_run.nobody_who_has_to_write_was_hindered(plane)


@pytest.fixture(scope="session")
def driftwall_server(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driftwall]:
    """A `driftwall serve` that is ready; its log goes over all tests, whoever had it in the way."""
    control_plane.add_service_account_user("configsync", *CONFIG_SYNC)  # before guardIdentities is in force
    with Driftwall(control_plane, tmp_path_factory.mktemp("driftwall")) as server:
        yield server
        whole_run.no_write_of_the_autoscaler_was_hindered(server)
        whole_run.every_call_got_a_verdict_and_every_verdict_a_line(server)
        whole_run.its_verdicts_can_be_had_from_the_audit_log(control_plane, server)
        server.stop()
        whole_run.it_had_nothing_to_complain_of(server)


@pytest.fixture(scope="module")
def driftwall(driftwall_server: Driftwall) -> Iterator[Driftwall]:
    """The same, in the way of every write while the module's tests run."""
    with driftwall_server.in_the_way():
        yield driftwall_server
