"""``driftwall certs``: certificates for local work."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from webhook.errors import CertificateError

if TYPE_CHECKING:
    from webhook.commands import Subparsers

HELP = "create the serving certificate"
# What a server on this machine is called by.
DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
# A year: long enough not to be in the way of local work, short enough that a forgotten key ends.
DEFAULT_DAYS = 365
# Ten years; more is a typing error.
_MAX_DAYS = 3650
_DESCRIPTION = """\
Creates a CA and a serving certificate that it signed: ca.crt, tls.crt and tls.key (readable by its owner alone).
The key of the CA is not kept, so nobody can sign another certificate with it. For a new certificate, run this again
with --force and give the new ca.crt to whoever trusted the old one."""
_EXAMPLES = """\
examples:
  driftwall certs init
  driftwall certs init --dir /etc/driftwall --host driftwall.example.com --days 90"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser("certs", help=HELP, description="Creates certificates for local work.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    init = actions.add_parser(
        "init",
        help="create a CA and a serving certificate",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument(
        "--dir", type=Path, default=Path("certs"), metavar="DIR", help="where to write them (default: certs)"
    )
    init.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help=f"a DNS name or IP address to serve as; repeatable (default: {', '.join(DEFAULT_HOSTS)})",
    )
    init.add_argument(
        "--days", type=_days, default=DEFAULT_DAYS, metavar="N", help=f"lifetime (default: {DEFAULT_DAYS})"
    )
    init.add_argument("--force", action="store_true", help="replace the files that are there")
    init.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print what was written")
    init.set_defaults(run=run_init)


def run_init(args: argparse.Namespace) -> int:
    """Create the files and print them."""
    hosts = tuple(args.host or DEFAULT_HOSTS)
    files = create(args.dir, hosts, days=args.days, force=args.force)
    if args.output == "json":
        print(json.dumps({"files": [str(file) for file in files], "hosts": hosts, "days": args.days}))
    else:
        for file in files:
            print(f"wrote {file}")
        print(f"valid for {', '.join(hosts)}, for {args.days} days")
    return 0


def create(folder: Path, hosts: tuple[str, ...], *, days: int = DEFAULT_DAYS, force: bool = False) -> list[Path]:
    """Write ``ca.crt``, ``tls.crt`` and ``tls.key`` into ``folder``, which is made if need be; returns their paths.

    Raises:
        CertificateError: a file is there already and ``force`` is not given, a host is none, or writing failed.
    """
    from webhook import pki

    paths = [folder / name for name in ("ca.crt", "tls.crt", "tls.key")]
    if not force and (there := [str(path) for path in paths if path.exists()]):
        raise CertificateError(f"{', '.join(there)} exists already; --force replaces what is there")
    now = datetime.now(UTC)
    authority = pki.create_ca(now=now, lifetime=timedelta(days=days), name="driftwall local CA")
    serving = pki.create_serving(authority, hosts, now=now, lifetime=timedelta(days=days))
    contents = (authority.certificate, serving.certificate, serving.key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents, strict=True):
            _write(path, content, mode=0o600 if path.suffix == ".key" else 0o644)
    except OSError as error:
        raise CertificateError(f"cannot write to {folder}: {error.strerror}") from error
    return paths


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that appears whole or not at all, and that nobody else could read before ``mode`` says so."""
    # mkstemp makes it 0600 from the start.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= _MAX_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {_MAX_DAYS}")
    return int(text)
