from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from webhook import pki
from webhook.cli import main


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_writes_a_ca_a_certificate_and_a_key_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "certs"
    assert main(["certs", "init", "--dir", str(folder)]) == 0
    assert capsys.readouterr().out == (
        f"wrote {folder}/ca.crt\nwrote {folder}/tls.crt\nwrote {folder}/tls.key\n"
        "valid for localhost, 127.0.0.1, ::1, for 365 days\n"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    now = datetime.now(UTC)
    validity = pki.check((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes(), now=now)
    assert timedelta(days=364) < validity.not_after - now < timedelta(days=366)


def test_the_key_is_readable_by_its_owner_alone_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real = os.fchmod

    def spy(descriptor: int, wanted: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))  # before it is changed
        real(descriptor, wanted)

    monkeypatch.setattr(os, "fchmod", spy)
    before = os.umask(0)
    try:
        assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    finally:
        os.umask(before)
    assert modes == [0o600] * 3
    assert [mode(tmp_path / name) for name in ("ca.crt", "tls.crt", "tls.key")] == [0o644, 0o644, 0o600]


def test_the_key_of_the_ca_is_not_kept(tmp_path: Path) -> None:
    main(["certs", "init", "--dir", str(tmp_path)])
    keys = [path.name for path in tmp_path.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert keys == ["tls.key"]


def test_it_replaces_nothing_unless_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tls.key").write_text("mine")
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 78
    assert capsys.readouterr().err == (
        f"driftwall: {tmp_path}/tls.key exists already; --force replaces what is there\n"
    )
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    assert main(["certs", "init", "--dir", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "tls.key").read_text() != "mine"
    assert mode(tmp_path / "tls.key") == 0o600


def test_hosts_and_days_are_taken_and_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certs", "init", "--dir", str(tmp_path), "--host", "driftwall.example.com", "--host", "10.0.0.1"]
    assert main([*command, "--days", "1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "files": [f"{tmp_path}/{name}" for name in ("ca.crt", "tls.crt", "tls.key")],
        "hosts": ["driftwall.example.com", "10.0.0.1"],
        "days": 1,
    }


def test_a_host_that_is_none_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "init", "--dir", str(tmp_path), "--host", "https://x"]) == 78
    assert capsys.readouterr().err == "driftwall: 'https://x' is neither a DNS name nor an IP address\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", ["0", "-1", "x", "3651", "99999999999"])
def test_a_lifetime_is_from_a_day_to_ten_years(tmp_path: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "init", "--dir", str(tmp_path), f"--days={days}"]) == 64
    assert f"{days!r} is not a number of days from 1 to 3650" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["certs", "init", "--dir", str(tmp_path / "file" / "certs")]) == 66
    assert capsys.readouterr().err == f"driftwall: cannot write to {tmp_path}/file/certs: Not a directory\n"


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fail)
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 66
    assert list(tmp_path.iterdir()) == []


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs"]) == 64
    assert "the following arguments are required: ACTION" in capsys.readouterr().err
