"""The control plane is started once for all tests; it comes up in seconds, but that is still the slowest part."""

from collections.abc import Iterator

import pytest

from . import binaries
from .control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A real control plane; see ControlPlane. What a test makes in it belongs in a namespace of its own."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():  # a build of minutes must not look like a hang
        using = binaries.find()
    with ControlPlane(using=using) as plane:
        yield plane
