"""Three quarters of a minute of everything at once; `make soak` does the same for ten."""

from pathlib import Path

from .control_plane import ControlPlane
from .soak import GROWTH, WRITES, soak

SECONDS = 45


def test_writes_of_every_verdict_at_full_speed_fail_none_and_leave_memory_where_it_was(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    figures = soak(control_plane, tmp_path, SECONDS)
    assert (figures.failures, figures.errors) == ([], [])
    assert figures.writes.keys() == WRITES.keys()
    assert figures.reviews >= sum(figures.writes.values())
    assert figures.reads > 0
    assert figures.end < figures.warm + GROWTH, figures
