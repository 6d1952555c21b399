"""``driftwall webhook-config``: the webhook configurations that these policies need."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webhook import settings
from webhook.commands import add_policies_or_cluster, from_environment, policies_of
from webhook.documents import dump
from webhook.errors import SettingsError
from webhook.webhook_config import Target, render

if TYPE_CHECKING:
    from webhook.commands import Subparsers

_DESCRIPTION = """\
Prints the ValidatingWebhookConfiguration that the policies need, and a MutatingWebhookConfiguration if tags,
break-glass or policies as custom resources do: rules no wider than the policies, and conditions that keep away what
never concerns them. 'cluster' stands for the custom resources as they are now."""
_EXAMPLES = """\
examples:
  driftwall webhook-config --policies policies --service driftwall-system/driftwall --ca-file certs/ca.crt
  driftwall webhook-config --policies policies --url https://127.0.0.1:8443 --ca-file certs/ca.crt
  driftwall webhook-config --policies cluster --service driftwall-system/driftwall | kubectl apply -f -"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "webhook-config",
        help="the webhook configurations that these policies need",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policies_or_cluster(parser)
    where = parser.add_mutually_exclusive_group(required=not any(map(from_environment, ("--url", "--service"))))
    where.add_argument("--url", metavar="URL", help="where the API server reaches the webhook: https://HOST:PORT")
    where.add_argument("--service", metavar="NAMESPACE/NAME", help="the Service in front of the webhook")
    parser.add_argument(
        "--ca-file",
        type=Path,
        default=from_environment("--ca-file"),
        metavar="FILE",
        help="the CA of the serving certificate (PEM)",
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="json: one List")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the configurations."""
    own = args.policies == settings.CLUSTER
    documents = render(policies_of(args), _target(args), custom_resources=own)
    if args.output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=2))
    else:
        print("---\n".join(dump(document) for document in documents), end="")
    return 0


def _target(args: argparse.Namespace) -> Target:
    ca = b""
    if args.ca_file is not None:
        from webhook import pki

        ca = args.ca_file.read_bytes()
        pki.check_ca(ca)
    url, service = args.url, args.service
    if url is None and service is None:
        url, service = from_environment("--url"), from_environment("--service")
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise SettingsError(f"--url: {url!r} is not https://HOST:PORT; the API server takes nothing else")
        return Target(url=url, ca=ca)
    namespace, slash, name = str(service).partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise SettingsError(f"--service: {service!r} is not NAMESPACE/NAME")
    return Target(namespace=namespace, service=name, ca=ca)
