"""The control plane is started once for all tests of a process; it comes up in seconds, but that is still the slowest.

What must hold of all that was written in between, whichever test wrote it, is asserted when the servers end.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from . import binaries, whole_run
from .control_plane import ControlPlane
from .driftwall import CONFIG_SYNC, Driftwall
from .servers import Options


@pytest.fixture(scope="session")
def shown(pytestconfig: pytest.Config) -> Callable[[], AbstractContextManager[None]]:
    """Shows what is printed inside of it at once: a build of minutes must not look like a hang."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    disabled: Callable[[], AbstractContextManager[None]] = capture.global_and_fixture_disabled
    return disabled


@pytest.fixture(scope="module")
def own_plane(shown: Callable[[], AbstractContextManager[None]]) -> Iterator[ControlPlane]:
    """A control plane of the module's own.

    Its API server asks for a Service's endpoints, of which there are none, and never calls an address in vain.
    """
    with shown():
        plane = ControlPlane(Options(api_server_flags=["--enable-aggregator-routing=true"]))
        plane.start()
    try:
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def control_plane(shown: Callable[[], AbstractContextManager[None]]) -> Iterator[ControlPlane]:
    """A real control plane; see ControlPlane. What a test makes in it belongs in a namespace of its own."""
    with shown():
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
