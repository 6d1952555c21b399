from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.following import wait_for
from tests.running import started
from tests.serving import PATIENCE, POLICY, Certificates, certificates, review
from webhook.lines import LineWriter, Stream
from webhook.log_file import LogFile

Make = Callable[..., LogFile]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def log_file() -> Iterator[Callable[..., LogFile]]:
    made: list[LogFile] = []

    def make(path: Path, *, max_bytes: int = 1000, max_files: int = 3) -> LogFile:
        made.append(LogFile(path, max_bytes=max_bytes, max_files=max_files))
        return made[-1]

    yield make
    for file in made:
        file.close()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_lines_are_appended_to_a_file_that_is_its_owners_alone(path: Path, log_file: Make) -> None:
    assert log_file(path).write(b"one\ntwo\n")
    assert log_file(path).write(b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_would_get_too_long_is_put_aside_and_the_oldest_goes(path: Path, log_file: Make) -> None:
    file = log_file(path, max_bytes=10, max_files=3)
    for number in range(7):
        assert file.write(b"line %d\n" % number)  # 7 bytes, so two do not fit
    assert names(path.parent) == ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2"]
    assert [(path.parent / name).read_bytes() for name in names(path.parent)] == [b"line 6\n", b"line 5\n", b"line 4\n"]
    assert {(path.parent / name).stat().st_mode & 0o777 for name in names(path.parent)} == {0o600}


def test_where_one_file_is_kept_there_is_never_another(path: Path, log_file: Make) -> None:
    file = log_file(path, max_bytes=10, max_files=1)
    for number in range(3):
        assert file.write(b"line %d\n" % number)
    assert names(path.parent) == ["decisions.jsonl"]
    assert path.read_bytes() == b"line 2\n"


def test_what_is_longer_than_a_file_may_be_gets_one_for_itself(path: Path, log_file: Make) -> None:
    file = log_file(path, max_bytes=10)
    assert file.write(b"a\n")
    assert file.write(b"b" * 100 + b"\n")
    assert file.write(b"c\n")
    assert path.read_bytes() == b"c\n"
    assert path.with_name("decisions.jsonl.1").read_bytes() == b"b" * 100 + b"\n"


def test_a_file_that_somebody_renames_removes_or_empties_is_opened_anew(path: Path, log_file: Make) -> None:
    file = log_file(path)
    file.write(b"one\n")
    path.rename(path.with_name("rotated"))  # logrotate's "nocreate"
    assert file.write(b"two\n")
    assert path.read_bytes() == b"two\n"
    path.rename(path.with_name("rotated.2"))
    path.touch(0o640)  # logrotate's "create 0640"
    assert file.write(b"three\n")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"three\n", 0o640)
    os.truncate(path, 0)  # logrotate's "copytruncate"
    assert file.write(b"four\n")
    assert path.read_bytes() == b"four\n"
    path.unlink()
    assert file.write(b"five\n")
    assert path.read_bytes() == b"five\n"


def test_a_rotated_file_is_not_held_open(path: Path, log_file: Make) -> None:
    file = log_file(path, max_bytes=10)
    for _ in range(5):
        file.write(b"12345678\n")
    opened = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in opened if name.startswith("decisions.jsonl")] == ["decisions.jsonl"]


def test_a_line_that_a_killed_process_left_half_written_spoils_no_other(path: Path, log_file: Make) -> None:
    path.write_bytes(b'{"a": 1}\n{"b"')
    assert log_file(path).write(b'{"c": 3}\n')
    assert path.read_bytes() == b'{"a": 1}\n{"b"\n{"c": 3}\n'


def test_what_is_no_file_or_nowhere_is_said_once_and_written_as_soon_as_it_can_be(
    path: Path, log_file: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = path.parent / "later"
    file = log_file(folder / "log")
    assert [file.write(b"lost\n"), file.write(b"lost\n")] == [False, False]
    folder.mkdir()
    assert file.write(b"kept\n")
    assert (folder / "log").read_bytes() == b"kept\n"
    assert caplog.messages == [
        f"decision log: {folder}/log cannot be written, so lines are lost: No such file or directory",
        f"decision log: {folder}/log can be written again",
    ]
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is no regular file"):
        log_file(path).check()


WRITER = """
import sys
from pathlib import Path
from webhook.log_file import LogFile
file = LogFile(Path(sys.argv[1]), max_bytes=4000, max_files=1000)
name = sys.argv[2].encode()
for number in range(400):
    assert file.write(b"".join(b"%s %d %d %s\\n" % (name, number, part, b"x" * 50) for part in range(3)))
"""


def test_processes_that_write_and_rotate_at_once_lose_and_mix_no_line(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    files = list(path.parent.iterdir())
    assert len(files) > 10
    assert all(file.stat().st_size <= 4000 for file in files)
    lines = [line.split() for file in files for line in file.read_bytes().splitlines()]
    assert {len(line) for line in lines} == {4}
    assert sorted((name, int(number), int(part)) for name, number, part, _ in lines) == [
        (name.encode(), number, part) for name in "abc" for number in range(400) for part in range(3)
    ]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", "size=64k", "driftwall-test", folder], check=True)
    yield folder
    # Lazily, so that it goes even where a test that failed still has a file open there.
    subprocess.run([*as_root, "umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no room but for a part of a page that is taken already."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("it takes all")


@pytest.mark.parametrize("output", ["file", "stdout"])
def test_a_full_disk_costs_whole_lines_and_is_written_again_once_there_is_room(
    small_disk: Path, log_file: Make, output: str
) -> None:
    path = small_disk / "log"
    lost: list[int] = []
    with path.open("wb") as opened:
        writer = LineWriter(
            log_file(path, max_bytes=10**6) if output == "file" else Stream(opened.fileno()), on_drop=lost.append
        )
        line = json.dumps({"text": "y" * 1000}).encode()
        writer.write(line)
        wait_for(lambda: path.stat().st_size, "the first line")
        ballast = fill(small_disk)
        for _ in range(20):
            writer.write(line)  # some 3,000 bytes fit, and a part of the rest
        wait_for(lambda: sum(lost), "lost lines")
        ballast.unlink()
        wait_for(lambda: writer.waiting == 0, "the writer to have tried them all")
        before = sum(lost)
        writer.write(line)
        writer.close(PATIENCE)
    lines = path.read_bytes().splitlines()
    assert lines == [line] * (22 - before)
    assert sum(lost) == before > 0


# A real server


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return certificates(tmp_path)


def test_the_workers_of_a_server_write_the_same_lines_to_a_file_as_to_stdout(made: Certificates, path: Path) -> None:
    path = path.with_name("log")
    flags = ("--workers", "2", "--decision-log", str(path), "--decision-log-max-files", "2")
    with started(made, *flags) as running:

        def send() -> None:
            for _ in range(20):
                assert running.client.post(review()).status == 200

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert running.stop(signal.SIGINT) == 0
        logged = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(logged) == 80
        assert sorted(line["time"] for line in logged) == sorted(line["time"] for line in running.logged())


def test_a_log_file_that_cannot_be_written_is_a_wrong_setting(made: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "absent" / "log"
    command = [sys.executable, "-m", "webhook", "serve", "--policies", str(tmp_path), "--decision-log", str(path)]
    files = ["--tls-cert", str(made.cert_file), "--tls-key", str(made.key_file)]
    ended = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert ended.returncode == 66
    assert f"--decision-log: {path} cannot be written: No such file or directory" in ended.stderr
