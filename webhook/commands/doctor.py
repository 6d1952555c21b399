"""``driftwall doctor``: is the installation sound, and who can get past it by RBAC."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from webhook import settings
from webhook.commands import add_policies_or_cluster, from_environment
from webhook.errors import SettingsError
from webhook.installation import OK, PROBLEM, UNKNOWN, WARNING, Check
from webhook.terminal import BOLD, GREEN, RED, YELLOW, coloured, paragraphs, width, wrapped
from webhook.text import escaped

if TYPE_CHECKING:
    from webhook.commands import Subparsers
    from webhook.doctor import Diagnosis
    from webhook.exposure import Exposure

_DESCRIPTION: Final = """\
Looks at a cluster as you may see it: whether driftwall's webhook configurations are there, as its policies need them,
and asked; its certificate, replicas, policies and rights; and every binding of RBAC by which somebody could become an
identity that driftwall trusts, or change what it goes by. It writes nothing but one dry run, which driftwall refuses.
Exits with 0 if all is well, with 1 if there is a problem or a binding that is not accepted."""
_EXAMPLES: Final = """\
examples:
  driftwall doctor
  driftwall doctor --policies policies --service driftwall-system/driftwall -o json
  driftwall doctor --accept 'Group platform-admins' --accept 'ServiceAccount cert-manager/cert-manager-cainjector'"""
_SERVICE: Final = "driftwall-system/driftwall"
_COLOURS: Final = {OK: GREEN, WARNING: YELLOW, PROBLEM: RED, UNKNOWN: BOLD}
#: Characters before what a check says: the longest status has seven, the longest name eleven.
_INDENT: Final = 22
_HEADERS: Final = ("WHO", "CAN", "BY", "WHAT TO DO")


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="is the installation sound, and who can get past it by RBAC",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policies_or_cluster(parser, required=False)
    parser.add_argument(
        "--service",
        default=from_environment("--service") or _SERVICE,
        metavar="NAMESPACE/NAME",
        help=f"driftwall's Service, and the name of its Deployment (default: {_SERVICE})",
    )
    accepted = from_environment("--accept")
    parser.add_argument(
        "--accept",
        action="append",
        default=accepted.split(",") if accepted else [],
        metavar="WHO",
        help="somebody who may: 'User NAME', 'Group NAME' or 'ServiceAccount NAMESPACE/NAME'; repeatable",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine and print; 0 if all is well, else 1."""
    namespace, slash, name = args.service.partition("/")
    if not (namespace and slash and name):
        raise SettingsError(f"--service: {args.service!r} is not NAMESPACE/NAME")
    from webhook.cluster import connection, policies  # only now: the client takes its time
    from webhook.doctor import examine

    way = policies.required(connection.connect(Path(args.kubeconfig) if args.kubeconfig else None))
    service = settings.Service(namespace=namespace, name=name)
    found = examine(way, service, args.policies, datetime.now(UTC))
    opened = [each for each in found.exposures if not _accepted(each, args.accept)]
    sound = not opened and not any(check.status == PROBLEM for check in found.checks)
    if args.output == "json":
        print(json.dumps(_document(found, args.accept, sound=sound), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(found, opened)))
    return 0 if sound else 1


def _accepted(exposure: Exposure, accepted: Collection[str]) -> bool:
    return all(str(subject) in accepted for subject in exposure.subjects)


def _document(found: Diagnosis, accepted: Collection[str], *, sound: bool) -> dict[str, Any]:
    return {
        "sound": sound,
        "checks": [
            {"name": check.name, "status": check.status, "message": check.message, "advice": check.advice}
            for check in found.checks
        ],
        "exposures": [
            {
                "subjects": [str(subject) for subject in each.subjects],
                "can": list(each.does),
                "through": [str(subject) for subject in each.through],
                "binding": each.binding,
                "role": each.role,
                "categories": list(each.categories),
                "accesses": [str(access) for access in each.accesses],
                "remedy": each.remedy,
                "accepted": _accepted(each, accepted),
            }
            for each in found.exposures
        ],
    }


def _text(found: Diagnosis, opened: Sequence[Exposure]) -> list[str]:
    columns = width()
    lines = [line for check in found.checks for line in _check(check, columns)]
    lines.append("")
    accepted = len(found.exposures) - len(opened)
    more = f" ({accepted} accepted)" if accepted else ""
    if not opened:
        return [*lines, coloured(f"Nobody but those who are meant to gets past driftwall by RBAC{more}.", GREEN)]
    bindings = "1 binding lets" if len(opened) == 1 else f"{len(opened)} bindings let"
    lines += [coloured(f"{bindings} somebody past driftwall{more}:", RED), ""]
    return [*lines, *paragraphs(_HEADERS, map(_row, opened), columns)]


def _row(exposure: Exposure) -> tuple[Sequence[str], ...]:
    who = [str(subject) for subject in exposure.subjects]
    become = [f"and so whatever {subject} can" for subject in exposure.through]
    return who, [*exposure.does, *become], (exposure.binding, f"-> {exposure.role}"), (exposure.remedy,)


def _check(check: Check, columns: int) -> list[str]:
    lines = [
        line
        for text in (check.message, check.advice)
        for part in text.splitlines()
        for line in wrapped(escaped(part), columns - _INDENT)
    ]
    head = f"{coloured(check.status.ljust(8), _COLOURS[check.status])} {check.name.ljust(12)} "
    return [head + lines[0], *(" " * _INDENT + line for line in lines[1:])]
