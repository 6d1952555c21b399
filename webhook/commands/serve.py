"""``driftwall serve``: the webhook."""

from __future__ import annotations

import argparse
import gc
import os
from typing import TYPE_CHECKING

from webhook import settings

if TYPE_CHECKING:
    from webhook.commands import Subparsers

HELP = "run the webhook"
_DESCRIPTION = """\
Serves /validate and /mutate over HTTPS for the API server, and /livez, /readyz, /metrics and a status page over HTTP
on a port of their own. The decision log goes to stdout, and to a file if one is named, messages go to stderr, all as
JSON lines."""
_EXAMPLES = """\
examples:
  driftwall certs init
  driftwall serve --policies policies --tls-cert certs/tls.crt --tls-key certs/tls.key"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "serve",
        help=HELP,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in settings.OPTIONS:
        default = f"; default {option.default}" if option.default else ""
        # No default here: a flag that is not given leaves the word to the environment.
        parser.add_argument(
            option.flag,
            dest=option.name,
            metavar=option.metavar,
            help=f"{option.help} [{option.variable}{default}]",
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    config = settings.read(vars(args), os.environ)
    # Of what is imported hardly anything is garbage, and to look for it again and again is a fifth of the start.
    gc.disable()
    from webhook import app  # only now: wrong flags need no server

    gc.freeze()
    gc.enable()

    return app.run(config)
