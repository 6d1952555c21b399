"""The subcommands of ``driftwall``: parse arguments, call one function, return its exit code.

Each module has ``add_parser(subparsers)``, which registers the command and sets ``run=`` to a function from the parsed
arguments to the exit code. What such a function raises, :mod:`webhook.cli` turns into a message and an exit code.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def from_environment(flag: str) -> str | None:
    """What the environment says where ``flag`` is not given: ``DRIFTWALL_CA_FILE`` for ``--ca-file``; None if empty."""
    return os.environ.get("DRIFTWALL_" + flag.removeprefix("--").replace("-", "_").upper()) or None


def add_policies(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the flag ``--policies`` of a command that cannot do without."""
    named = from_environment("--policies")
    parser.add_argument(
        "--policies",
        type=Path,
        default=named,
        required=named is None,
        metavar="PATH",
        help="the policies: a file or a folder",
    )
