"""``driftwall explain``: the configuration in force, a field set, or a tool."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from webhook.breakglass import BreakGlass
from webhook.commands import add_policies_or_cluster, explain_write, policies_of
from webhook.errors import SettingsError
from webhook.fieldsets import DESCRIPTIONS, FIELD_SETS
from webhook.identity import Writer
from webhook.policy import Config, Policy, Snapshot
from webhook.policy_compiler import default_config
from webhook.tools import MARKERS, TITLES, Marker

if TYPE_CHECKING:
    from webhook.commands import Subparsers

_EXAMPLES: Final = """\
examples:
  driftwall explain config
  driftwall explain config --policies policies
  driftwall explain config --policies cluster
  driftwall explain fieldset openedPorts
  driftwall explain tool flux
  driftwall explain write deployment/web -n shop --as alice --field spec.replicas --policies policies"""

Document = dict[str, Any]


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "explain",
        help="show the configuration in force, a field set, a tool, or why a write is refused",
        description="Shows what driftwall goes by.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    topics = parser.add_subparsers(metavar="TOPIC", required=True)
    config = topics.add_parser("config", help="writers, exempt namespaces, break-glass and policies in force")
    add_policies_or_cluster(config, required=False)
    config.set_defaults(run=lambda args: _print(_config(args), args))
    fieldset = topics.add_parser("fieldset", help="the fields of a set, per kind; without a NAME, the sets")
    fieldset.add_argument("name", nargs="?", metavar="NAME")
    fieldset.set_defaults(run=lambda args: _print(_fieldset(args.name), args))
    tool = topics.add_parser("tool", help="how a tool marks what it manages; without a NAME, the tools")
    tool.add_argument("name", nargs="?", metavar="NAME")
    tool.set_defaults(run=lambda args: _print(_tool(args.name), args))
    write = topics.add_parser("write", help="may this user write this object's field, and why")
    explain_write.add_topic(write)
    for topic in (config, fieldset, tool, write):
        topic.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _print(document: Document, args: argparse.Namespace) -> int:
    print(json.dumps(document, indent=2) if args.output == "json" else "\n".join(_lines(document)))
    return 0


def _lines(value: Any, indent: str = "") -> list[str]:
    """``value`` as YAML, which is what policies are written in; only of the plain values that are built here."""
    lines: list[str] = []
    for key, child in value.items():
        if isinstance(child, dict) and child:
            lines += [f"{indent}{key}:", *_lines(child, indent + "  ")]
        elif isinstance(child, list | tuple) and child:
            lines.append(f"{indent}{key}:")
            for item in child:
                if isinstance(item, dict):
                    first, *rest = _lines(item, indent + "    ")
                    lines += [f"{indent}  - {first.strip()}", *rest]
                else:
                    lines.append(f"{indent}  - {_scalar(item)}")
        else:
            lines.append(f"{indent}{key}: {_scalar(child)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str) and value and value[0] not in "*&!%@`{}[]>|'\"#?-:" and ": " not in value:
        return value
    return json.dumps(value)


def _config(args: argparse.Namespace) -> Document:
    snapshot = policies_of(args) if args.policies is not None else Snapshot(default_config())
    config: Config = snapshot.config
    return {
        "clusterId": config.cluster_id,
        "trustedWriters": [_writer(writer) for writer in config.trusted.writers],
        "automation": [_writer(writer) for writer in config.automation.writers],
        "systemWriters": {
            "users": [user for writer in config.system.writers for user in writer.users],
            "groups": ["system:nodes", *(group for writer in config.system.writers for group in writer.groups)],
            "serviceAccounts": [name for writer in config.system.writers for name in writer.service_accounts],
        },
        "exemptNamespaces": list(config.exempt_namespaces.patterns),
        "guardIdentities": config.guard_identities,
        "breakGlass": _break_glass(config.break_glass),
        "tools": sorted({marker.tool for marker in config.markers}),
        "policies": [_policy(policy) for policy in snapshot.policies],
    }


def _writer(writer: Writer) -> Document:
    document: Document = {"name": writer.name}
    if writer.service_accounts:
        document |= {"serviceAccounts": list(writer.service_accounts), "verify": writer.verify}
    if writer.users:
        document["users"] = list(writer.users)
    if writer.groups:
        document["groups"] = list(writer.groups)
    if writer.field_managers:
        document["fieldManagers"] = list(writer.field_managers)
    if writer.fields is not None:
        document["fields"] = list(writer.fields.texts)
    return document


def _break_glass(break_glass: BreakGlass | None) -> Document | str:
    if break_glass is None:
        return "off"
    return {
        "groups": sorted(break_glass.groups),
        "users": sorted(break_glass.users),
        "reasonPattern": break_glass.reason.text if break_glass.reason is not None else "",
        "maxDuration": str(break_glass.max_duration),
    }


def _policy(policy: Policy) -> Document:
    return {
        "name": policy.name,
        "mode": policy.mode,
        "severity": policy.severity,
        "scope": "All" if policy.match.scope_all else "Managed",
        "declared": policy.declared,
        "fieldSets": list(policy.field_sets),
        "deletion": policy.deletion,
        "children": policy.children,
    }


def _fieldset(name: str | None) -> Document:
    if name is None:
        return dict(DESCRIPTIONS)
    if name not in FIELD_SETS:
        raise SettingsError(f"there is no field set {name!r}; there are {', '.join(DESCRIPTIONS)}")
    kinds = {f"{kind}.{group}" if group else kind: list(paths) for (group, kind), paths in FIELD_SETS[name].items()}
    return {"name": name, "description": DESCRIPTIONS[name], "kinds": kinds}


def _tool(name: str | None) -> Document:
    if name is None:
        return dict(TITLES)
    if name not in TITLES:
        raise SettingsError(f"driftwall knows no tool {name!r}; it knows {', '.join(TITLES)}")
    return {
        "name": name,
        "title": TITLES[name],
        "markers": [_marker(marker) for marker in MARKERS if marker.tool == name],
    }


def _marker(marker: Marker) -> Document:
    return {
        "kind": marker.kind,
        "labels": {key: value or "(any)" for key, value in marker.labels.items()},
        "annotations": {key: value or "(any)" for key, value in marker.annotations.items()},
        "namesTheObject": marker.names_object is not None,
        "fieldManagers": list(marker.managers),
        "optOuts": list(marker.opt_outs),
        "trustedByDefault": list(marker.service_accounts),
    }
