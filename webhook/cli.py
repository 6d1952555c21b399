"""The command line. A command's module is imported when that command is chosen, so that none waits for another's."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from webhook import settings
from webhook.errors import (
    CertificateError,
    DriftwallError,
    LookupFailed,
    MalformedReview,
    PolicyError,
    SettingsError,
)

# Name -> what --help says of it. The module is webhook.commands.NAME, with _ for -.
COMMANDS: Final = {
    "serve": "run the webhook",
    "lint": "check policy files, every error at once",
    "review": "decide recorded AdmissionReviews offline",
    "test": "run the cases beside the policies",
    "replay": "what these policies would have done to recorded writes",
    "scan": "drift that is there now",
    "webhook-config": "the webhook configurations that these policies need",
    "explain": "show the configuration in force, a field set, a tool, or why a write is refused",
    "doctor": "is the installation sound, and who can get past it by RBAC",
    "certs": "create the serving certificate",
    "demo": "see it refuse manual edits, on this machine, in seconds",
}

# The codes of sysexits.h, from 64 up; 1 and 2 are answers here, so argparse's own 2 must not come out.
EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOINPUT: Final = 66
EX_UNAVAILABLE: Final = 69
EX_SOFTWARE: Final = 70
EX_IOERR: Final = 74
EX_CONFIG: Final = 78
# What a shell reports for a program that the signal ended: 128 + SIGINT, 128 + SIGPIPE.
EX_INTERRUPTED: Final = 130
EX_PIPE: Final = 141

_CODES: Final[dict[type[DriftwallError], int]] = {
    SettingsError: EX_USAGE,
    MalformedReview: EX_DATAERR,
    LookupFailed: EX_UNAVAILABLE,
    PolicyError: EX_CONFIG,
    CertificateError: EX_CONFIG,
}

_DESCRIPTION = "Blocks configuration drift at write time: a Kubernetes admission webhook for objects that Git manages."
_EXAMPLES = """\
examples:
  driftwall demo
  driftwall lint policies
  driftwall serve --policies policies --tls-cert certs/tls.crt --tls-key certs/tls.key

exit codes: 0 success, 1 the answer is no, 2 drift (scan alone), 64 and above usage or environment"""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage with the exit code 64."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong with it, and exit."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Finds the version out only when it is asked for: that reads the installed package's metadata."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"driftwall {settings.version()}")
        parser.exit()


def build_parser(chosen: str | None) -> Parser:
    """The parser, with the whole of the command ``chosen`` and just the names of the others."""
    parser = Parser(
        prog="driftwall",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name == chosen:
            importlib.import_module(f"webhook.commands.{name.replace('-', '_')}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command in ``argv`` (default: that of the process); returns the exit code and never raises."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # a reader that has gone shows here at the latest
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EX_PIPE
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except DriftwallError as error:
        return _fail(str(error), exit_code(error))
    except OSError as error:
        code = EX_NOINPUT if isinstance(error, FileNotFoundError | PermissionError) else EX_IOERR
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}", code)
    except Exception:  # noqa: BLE001 - Python's own exit code would be 1, which is an answer here
        traceback.print_exc()
        return _fail("this is a mistake in driftwall; please report it with the lines above", EX_SOFTWARE)
    return code


def _run(arguments: list[str]) -> int:
    # The first word that is no flag: the global flags take no values.
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        args = build_parser(chosen).parse_args(arguments)
    except SystemExit as stop:  # --help, --version or wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    code: int = args.run(args)
    return code


def exit_code(error: DriftwallError) -> int:
    """The exit code for ``error``: by its type, or EX_NOINPUT where it stems from a file that cannot be read."""
    if isinstance(error, SettingsError | CertificateError) and isinstance(error.__cause__, OSError):
        return EX_NOINPUT
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), EX_UNAVAILABLE)


def _fail(message: str, code: int) -> int:
    if sys.stderr is not None:
        for line in message.splitlines():
            print(f"driftwall: {line}", file=sys.stderr)
    return code
