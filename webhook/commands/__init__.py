"""The subcommands of ``driftwall``: parse arguments, call one function, return its exit code.

Each module has ``add_parser(subparsers)``, which registers the command and sets ``run=`` to a function from the parsed
arguments to the exit code. What such a function raises, :mod:`webhook.cli` turns into a message and an exit code.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from webhook import settings

if TYPE_CHECKING:
    from webhook.policy import Snapshot

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def from_environment(flag: str) -> str | None:
    """What the environment says where ``flag`` is not given: ``DRIFTWALL_CA_FILE`` for ``--ca-file``; None if empty."""
    return os.environ.get("DRIFTWALL_" + flag.removeprefix("--").replace("-", "_").upper()) or None


def add_policies(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the flag ``--policies`` of a command that cannot do without, and takes none from a cluster."""
    named = from_environment("--policies")
    parser.add_argument(
        "--policies",
        type=Path,
        default=named,
        required=named is None,
        metavar="PATH",
        help="the policies: a file or a folder",
    )


def add_policies_or_cluster(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Give ``parser`` the flags ``--policies`` and ``--kubeconfig``, for :func:`policies_of`."""
    for option in (settings.POLICIES, settings.KUBECONFIG):
        named = from_environment(option.flag)
        needed = required and option.required
        parser.add_argument(
            option.flag,
            dest=option.name,
            default=named,
            required=needed and named is None,
            metavar=option.metavar,
            help=option.help,
        )


def policies_of(args: argparse.Namespace) -> Snapshot:
    """The policies that the flags of :func:`add_policies_or_cluster` name.

    Raises:
        PolicyError: with every problem found, one line each.
        SettingsError: there is no way to the cluster.
        LookupFailed: the cluster does not answer.
    """
    if args.policies != settings.CLUSTER:
        from webhook.policy_compiler import load  # only now, as below: not every command needs it

        return load(Path(args.policies))
    from webhook.cluster import connection, policies

    way = connection.connect(Path(args.kubeconfig) if args.kubeconfig else None)
    return policies.load(policies.required(way))
