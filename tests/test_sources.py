from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from webhook import sources

PRETTY = json.dumps({"kind": "AdmissionReview", "request": {"a": [1, 2]}}, indent=2).encode()


def texts(*files: Path) -> list[tuple[int, bytes, str, bool]]:
    return [(text.line, text.data, text.problem, text.torn) for text in sources.read(map(str, files))]


def test_a_folder_stands_for_its_recordings_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/1.json", "a/2.jsonl.gz", "a/10.log", "a/note.txt", "a/x.gz", "c.ndjson", "policies.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = sources.find([str(tmp_path), str(tmp_path / "a/note.txt"), "-"])
    assert found == [
        *(str(tmp_path / name) for name in ("a/10.log", "a/2.jsonl.gz", "b/1.json", "c.ndjson", "a/note.txt")),
        "-",
    ]
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        sources.find(["nowhere"])


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_is_lines_or_one_document(tmp_path: Path, compressed: bool) -> None:
    def file(content: bytes) -> Path:
        path = tmp_path / "f"
        path.write_bytes(gzip.compress(content) if compressed else content)
        return path

    assert texts(file(b"")) == []
    assert texts(file(b'{"a":1}')) == [(1, b'{"a":1}', "", True)]
    assert texts(file(b'{"a":1}\n\n{"b":2}\r\n')) == [(1, b'{"a":1}\n', "", False), (3, b'{"b":2}\r\n', "", False)]
    assert texts(file(PRETTY)) == [(1, PRETTY, "", False)]
    assert texts(file(PRETTY + b"\n")) == [(1, PRETTY + b"\n", "", False)]
    assert texts(file(b'{"a":1}\n{"b":')) == [(1, b'{"a":1}\n', "", False), (2, b'{"b":', "", True)]


def test_a_log_that_was_cut_at_its_beginning_loses_its_first_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(b'ar":1}\n{"a":1}\n{"b":2}\n')
    assert texts(file) == [
        (1, b'ar":1}\n', "", False),
        (2, b'{"a":1}\n', "", False),
        (3, b'{"b":2}\n', "", False),
    ]


def test_a_line_or_document_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_TEXT", 40)
    file = tmp_path / "f"
    file.write_bytes(b'{"a":1}\n{"long":"' + b"x" * 100 + b'"}\n{"b":2}\n')
    problem = "a line of more than 40 bytes"
    assert texts(file) == [(1, b'{"a":1}\n', "", False), (2, b"", problem, False), (3, b'{"b":2}\n', "", False)]
    file.write_bytes(b'{\n"a":\n"' + b"x" * 100 + b'"}')
    assert texts(file) == [(1, b"", "a document of more than 40 bytes; give it in lines", False)]


def test_a_compressed_file_that_is_cut_off_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "f.gz"
    whole = gzip.compress(b"".join(b'{"a":%d}\n' % number for number in range(1000)))
    file.write_bytes(whole[: len(whole) // 2])
    *read, (line, data, problem, _) = texts(file)
    assert len(read) > 100
    assert (line, data) == (0, b"")
    assert problem.startswith("the compressed file is damaged or cut off: ")


def test_a_dash_is_the_standard_input_of_a_length_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a":1}\n{"b":2}\n')))
    assert sources.size(["-"]) is None
    assert [text.data for text in sources.read(["-"])] == [b'{"a":1}\n', b'{"b":2}\n']


def test_what_was_read_is_told_in_bytes_on_disk_up_to_the_last(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl.gz"
    one.write_bytes(b'{"a":1}\n' * 10)
    two.write_bytes(gzip.compress(b'{"a":1}\n' * 1000))
    told: list[int] = []
    files = sources.find([str(tmp_path)])
    assert len(list(sources.read(files, told.append))) == 1010
    assert told == sorted(told)
    assert (told[0], told[-1]) == (8, sources.size(files))
