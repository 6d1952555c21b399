"""``driftwall demo``: the main job on this machine, in seconds and without a cluster."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from webhook import bundled
from webhook.cases import Case, find_suites
from webhook.commands import certs
from webhook.errors import DriftwallError
from webhook.messages import KUBECTL
from webhook.terminal import BOLD, GREEN, RED, coloured

if TYPE_CHECKING:
    from webhook.commands import Subparsers

_DESCRIPTION: Final = """\
Starts the webhook on this machine with the policies that come with driftwall and fresh certificates, sends it reviews
that a real API server wrote down, and shows who tried what, and what kubectl would have said."""
# A start takes under a second; a machine that is busy with something else gets this long.
_START_SECONDS: Final = 30
_CALL_SECONDS: Final = 10


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser("demo", help="see it refuse manual edits, on this machine", description=_DESCRIPTION)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: one line for each review"
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    case: Case
    allowed: bool
    message: str
    milliseconds: float


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if every review got the verdict that its case expects, else 1."""
    started = time.perf_counter()
    policies = bundled.policies()
    cases = [case for suite in find_suites(policies) for case in suite.cases if case.file is not None]
    surprises = 0
    outcomes: list[_Outcome] = []
    with tempfile.TemporaryDirectory(prefix="driftwall-demo-") as name:
        folder = Path(name)
        certs.create(folder, certs.DEFAULT_HOSTS, days=1)
        with _server(policies, folder) as url:
            if args.output == "text":
                print(f"The webhook is at {url}/validate; {len(cases)} reviews from a real API server:\n")
            tls = ssl.create_default_context(cafile=folder / "ca.crt")
            address = urlsplit(url)
            connection = http.client.HTTPSConnection(
                str(address.hostname), address.port, context=tls, timeout=_CALL_SECONDS
            )
            with contextlib.closing(connection):
                for case in cases:
                    outcome = _ask(connection, case)
                    outcomes.append(outcome)
                    surprises += outcome.allowed != case.allowed
                    print(_json(outcome) if args.output == "json" else _text(outcome))
    if args.output == "text":
        denied = sum(not outcome.allowed for outcome in outcomes)
        took = time.perf_counter() - started
        print(f"\n{denied} manual edits refused, {len(outcomes) - denied} writes let through, in {took:.1f} s.")
        if surprises:
            print(f"{surprises} of the verdicts are not what policies/ expects.")
    return 1 if surprises else 0


def _ask(connection: http.client.HTTPSConnection, case: Case) -> _Outcome:
    sent = time.perf_counter()
    try:
        recorded = case.file.read_bytes() if case.file is not None else b""
        connection.request("POST", "/validate", recorded, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise DriftwallError(f"the webhook did not answer: {error}") from error
    if reply.status != http.HTTPStatus.OK:
        raise DriftwallError(f"the webhook answered with HTTP {reply.status}: {body.decode(errors='replace')}")
    response = json.loads(body)["response"]
    return _Outcome(
        case=case,
        allowed=response["allowed"],
        message=response.get("status", {}).get("message", ""),
        milliseconds=(time.perf_counter() - sent) * 1000,
    )


def _json(outcome: _Outcome) -> str:
    return json.dumps(
        {
            "case": outcome.case.name,
            "allowed": outcome.allowed,
            "expected": outcome.case.allowed,
            "message": outcome.message,
            "seconds": round(outcome.milliseconds / 1000, 6),
        }
    )


def _text(outcome: _Outcome) -> str:
    verdict = coloured("allowed", GREEN) if outcome.allowed else coloured("DENIED ", RED)
    who, colon, what = outcome.case.name.partition(": ")
    name = f"{coloured(who, BOLD)}{colon}{what}" if colon else outcome.case.name
    lines = [f"{verdict}  {name}  ({outcome.milliseconds:.1f} ms)"]
    if not outcome.allowed:
        # As kubectl shows it.
        said = f"{KUBECTL} {outcome.message}"
        lines += [f"         {line}" for line in said.splitlines()]
        lines.append("")
    return "\n".join(lines)


@contextlib.contextmanager
def _server(policies: Path, folder: Path) -> Iterator[str]:
    """A webhook in a process of its own, which knows of no cluster; yields its URL."""
    command = [
        *(sys.executable, "-m", "webhook", "serve"),
        *("--policies", str(policies)),
        *("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")),
        *("--listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0", "--shutdown-delay", "0s"),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DRIFTWALL_", "KUBE"))}
    environment["HOME"] = str(folder)
    process = subprocess.Popen(  # noqa: S603 - this Python, and files of our own
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield _address(process)
    finally:
        process.terminate()
        try:
            process.wait(_CALL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Where the webhook listens, once it says so."""
    stderr = process.stderr
    if stderr is None:
        raise DriftwallError("the webhook's messages cannot be read")
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    said: list[str] = []
    try:
        for line in stderr:
            said.append(line)
            with contextlib.suppress(ValueError):
                message: Any = json.loads(line)
                if isinstance(message, dict) and message.get("message") == "ready":
                    # Somebody must go on reading, or a talkative webhook would stall.
                    threading.Thread(target=_drain, args=(stderr,), daemon=True).start()
                    return str(message["listen"])
    finally:
        watchdog.cancel()
    raise DriftwallError("the webhook did not start:\n" + "".join(said))


def _drain(stream: IO[str]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for _ in stream:
            pass
