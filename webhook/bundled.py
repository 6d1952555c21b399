"""The policies that come with driftwall."""

from __future__ import annotations

from pathlib import Path


def policies() -> Path:
    """The folder of the policies: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "policies"
    return installed if installed.is_dir() else package.parent / "policies"
