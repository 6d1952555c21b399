from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.serving import PATIENCE, environment
from webhook import cli
from webhook.cli import COMMANDS, main
from webhook.errors import (
    CertificateError,
    DriftwallError,
    LookupFailed,
    MalformedReview,
    PolicyError,
    SettingsError,
)

Install = Callable[[Callable[[argparse.Namespace], int]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a function the command ``probe``."""

    def put(run: Callable[[argparse.Namespace], int]) -> None:
        module = ModuleType("webhook.commands.probe")

        def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
            parser = subparsers.add_parser("probe", help="a probe", description="What a probe does.")
            parser.add_argument("--number", type=int, default=0)
            parser.set_defaults(run=run)

        module.__dict__["add_parser"] = add_parser
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "probe", "a probe")

    return put


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_the_exit_code_is_that_of_the_command(install: Install) -> None:
    install(lambda args: int(args.number))
    assert main(["probe", "--number", "1"]) == 1
    assert main(["probe"]) == 0


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for name, text in COMMANDS.items():
        assert f"    {name}" in shown.out
        assert text in " ".join(shown.out.split())
    assert "examples:" in shown.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_that_starts_with_its_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: driftwall {name} ")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("driftwall ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "driftwall: the following arguments are required: COMMAND"),
        (["nonsense"], "driftwall: argument COMMAND: invalid choice: 'nonsense'"),
        (["--nonsense"], "driftwall: the following arguments are required: COMMAND"),
        (["probe", "--nonsense"], "driftwall: unrecognized arguments: --nonsense"),
        (["probe", "--number", "x"], "driftwall probe: argument --number: invalid int value: 'x'"),
    ],
)
def test_wrong_usage_is_64_since_2_means_drift(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    install(lambda _: 0)
    assert main(arguments) == 64
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: driftwall")
    assert message in shown.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("x"), 64),
        (MalformedReview("x"), 65),
        (LookupFailed("x"), 69),
        (DriftwallError("x"), 69),
        (PolicyError(["x"]), 78),
        (CertificateError("x"), 78),
    ],
)
def test_an_error_is_one_line_and_an_exit_code_by_its_type(
    install: Install, capsys: pytest.CaptureFixture[str], error: DriftwallError, code: int
) -> None:
    install(failing(error))
    assert main(["probe"]) == code
    assert capsys.readouterr() == ("", "driftwall: x\n")


def test_a_file_that_cannot_be_read_is_66(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    error = CertificateError("tls.crt cannot be read")
    error.__cause__ = FileNotFoundError()
    install(failing(error))
    assert main(["probe"]) == 66
    install(failing(FileNotFoundError(2, "No such file or directory", "x.yaml")))
    assert main(["probe"]) == 66
    assert capsys.readouterr().err.splitlines() == [
        "driftwall: tls.crt cannot be read",
        "driftwall: x.yaml: No such file or directory",
    ]


def test_every_problem_of_the_policies_is_a_line(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(PolicyError(["a.yaml:1: wrong", "b.yaml:2: wrong"])))
    assert main(["probe"]) == 78
    assert capsys.readouterr().err == "driftwall: a.yaml:1: wrong\ndriftwall: b.yaml:2: wrong\n"


def test_an_interrupt_is_130_without_a_word(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(KeyboardInterrupt()))
    assert main(["probe"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_is_no_answer(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(ZeroDivisionError()))
    assert main(["probe"]) == 70
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert shown.endswith("driftwall: this is a mistake in driftwall; please report it with the lines above\n")


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *arguments], env=environment(), text=True, check=False, timeout=PATIENCE,
        **{"capture_output": True, **options},
    )  # fmt: skip


@pytest.mark.parametrize("flag", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_is_141_without_a_word(flag: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import os, sys; from webhook.cli import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1); "
        f"code = main(['certs', 'init', '--dir', {str(tmp_path)!r}]); sys.exit(code)"
    )
    done = python(*flag, "-c", code)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_stdout_is_no_crash() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m webhook --version >&-"], env=environment(), text=True, check=False,
        capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_python_m_webhook_is_driftwall() -> None:
    done = python("-m", "webhook", "nonsense")
    assert done.returncode == 64
    assert done.stderr.startswith("usage: driftwall [-h]")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_imports_what_another_one_needs_before_it_runs(name: str) -> None:
    heavy = {"fastapi", "uvicorn", "kubernetes", "cryptography", "prometheus_client"}
    code = (
        f"import sys; from webhook.cli import build_parser; build_parser({name!r}); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    assert python("-c", code).stdout == "[]\n"


def test_messages_are_sysexits(tmp_path: Path) -> None:
    assert (cli.EX_USAGE, cli.EX_NOINPUT, cli.EX_UNAVAILABLE, cli.EX_CONFIG) == (64, 66, 69, 78)
