from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.following import Followed, following
from tests.serving import POLICY
from webhook.policy_compiler import read_texts
from webhook.policy_files import PolicyFiles
from webhook.policy_source import Update

BAD = POLICY.replace("enforce", "enforced").replace("protect:", "protects:")


def named(name: str, mode: str = "enforce") -> str:
    return POLICY.replace("name: replicas", f"name: {name}").replace("enforce", mode)


def put(file: Path, text: str) -> None:
    """As an editor does that is careful: beside it, then in its place."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text)
    beside.replace(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    put(folder / "a.yaml", named("a"))
    return folder


@pytest.fixture
def followed(folder: Path) -> Iterator[Followed]:
    with following(PolicyFiles(folder, poll=0.01)) as followed:
        followed.until(lambda: followed.names == ["a"], "the first load")
        yield followed


# ── what takes effect ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_edited_added_and_removed_takes_effect(folder: Path, followed: Followed) -> None:
    put(folder / "a.yaml", named("a", "warn"))
    followed.until(lambda: followed.modes == {"a": "warn"}, "the edit")
    put(folder / "b.yaml", named("b"))
    followed.until(lambda: followed.names == ["a", "b"], "the new file")
    (folder / "a.yaml").unlink()
    followed.until(lambda: followed.names == ["b"], "the file to go")
    deep = folder / "deep" / "er"
    deep.mkdir(parents=True)
    put(deep / "c.yml", named("c"))
    followed.until(lambda: followed.names == ["b", "c"], "the file in a new folder")


def test_an_edit_in_place_that_leaves_size_and_times_as_they_were_takes_effect(
    folder: Path, followed: Followed
) -> None:
    file = folder / "a.yaml"
    times = file.stat()
    file.write_text(named("z"))  # as long as before
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    followed.until(lambda: followed.names == ["z"], "the edit")


def test_a_single_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    put(file, named("a"))
    with following(PolicyFiles(file, poll=0.01)) as followed:
        followed.until(lambda: followed.names == ["a"], "the first load")
        put(file, named("b"))
        followed.until(lambda: followed.names == ["b"], "the edit")


class ConfigMap:
    """A mounted ConfigMap, written as kubelet does (k8s.io/kubernetes, atomic_writer.go)."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._number = 0
        mount.mkdir()

    def write(self, **files: str) -> None:
        self._number += 1
        data = self._mount / f"..2026_11_22_07_00_{self._number:02}"
        data.mkdir()
        for name, text in files.items():
            (data / f"{name}.yaml").write_text(text)
        (self._mount / "..data_tmp").symlink_to(data.name)
        old = (self._mount / "..data").resolve()
        (self._mount / "..data_tmp").replace(self._mount / "..data")
        for name in files:
            link = self._mount / f"{name}.yaml"
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}.yaml")
        for link in self._mount.glob("*.yaml"):
            if link.stem not in files:
                link.unlink()
        if self._number > 1:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


def test_a_mounted_configmap_that_is_swapped_takes_effect_as_a_whole(tmp_path: Path) -> None:
    mounted = ConfigMap(tmp_path / "mounted")
    mounted.write(a=named("a"), b=named("b"))
    with following(PolicyFiles(tmp_path / "mounted", poll=0.01)) as followed:
        followed.until(lambda: followed.names == ["a", "b"], "the first load")
        for number in range(10):
            mounted.write(a=named(f"a{number}"), c=named(f"c{number}"))
            followed.until(lambda n=number: followed.names == [f"a{n}", f"c{n}"], f"swap {number}")  # type: ignore[misc]
    sets = [
        sorted(policy.name for policy in update.snapshot.policies) for update in followed.updates if update.snapshot
    ]
    assert sets == [["a", "b"], *([f"a{number}", f"c{number}"] for number in range(10))]


def test_what_says_the_same_is_not_loaded_again(folder: Path, followed: Followed) -> None:
    before = followed.store.snapshot
    put(folder / "a.yaml", named("a"))
    (folder / "a.yaml").touch()
    (folder / "README.md").write_text("no policy")
    put(folder / "b.yaml", named("b"))
    followed.until(lambda: followed.names == ["a", "b"], "the next change")
    assert [update.snapshot for update in followed.updates][:1] == [before]
    assert len(followed.updates) == 2


# ── what does not ────────────────────────────────────────────────────────────────────────────────────────────────────


def corrupt(folder: Path) -> None:
    put(folder / "a.yaml", "kind: [")


def invalid(folder: Path) -> None:
    put(folder / "a.yaml", BAD)


def binary(folder: Path) -> None:
    (folder / "a.yaml").write_bytes(b"\xff\xfe\x00\x01")


def emptied(folder: Path) -> None:
    (folder / "a.yaml").unlink()


def removed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def dangling(folder: Path) -> None:
    (folder / "b.yaml").symlink_to("nowhere.yaml")


def a_folder_in_its_place(folder: Path) -> None:
    (folder / "a.yaml").unlink()
    (folder / "a.yaml").mkdir()


def repeated(folder: Path) -> None:
    put(folder / "b.yaml", named("a"))


def endless(folder: Path) -> None:
    put(folder / "a.yaml", POLICY + "#" * (1024 * 1024))


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (corrupt, "a.yaml:1: "),
    (invalid, "a.yaml:6: spec.mode: 'enforced' is not one of"),
    (binary, "a.yaml:1: the file is in UTF-16"),
    (emptied, ":1: no policy is here; driftwall would guard nothing"),
    (removed, "no such file or folder"),
    (dangling, "b.yaml: a symbolic link that leads nowhere"),
    (a_folder_in_its_place, "no policy is here"),
    (repeated, "b.yaml:4: metadata.name: a second DriftPolicy named 'a'"),
    (endless, "a.yaml:1: the file has 1,048,577 bytes"),
]


@pytest.mark.parametrize(("spoil", "problem"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_what_does_not_load_leaves_the_last_good_set_in_force_until_it_is_mended(
    folder: Path, followed: Followed, spoil: Callable[[Path], None], problem: str
) -> None:
    good = followed.store.snapshot
    spoil(folder)
    followed.until(lambda: problem in "\n".join(followed.readiness.remarks()), "the problem to be told")
    assert followed.store.snapshot is good
    assert followed.readiness.reasons() == []
    assert followed.metric("policies_last_load_successful") == 0
    (folder / "b.yaml").unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    if (folder / "a.yaml").is_dir():
        (folder / "a.yaml").rmdir()
    put(folder / "a.yaml", named("mended"))
    followed.until(lambda: followed.names == ["mended"], "the mended set")
    assert followed.readiness.remarks() == []
    assert followed.metric("policies_last_load_successful") == 1


def test_every_problem_is_told(folder: Path, followed: Followed) -> None:
    put(folder / "a.yaml", BAD)
    put(folder / "b.yaml", "kind: [")
    followed.until(lambda: len(followed.told[-1:]) and len(followed.told[-1]) == 3, "all the problems")
    told = followed.told[-1]
    assert [problem.removeprefix(str(folder)).split(": ")[0] for problem in told] == [
        "/a.yaml:6", "/a.yaml:7", "/b.yaml:1",
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["missing", "empty", "bad"])
def test_without_valid_policies_at_the_start_it_waits_for_them(tmp_path: Path, start: str) -> None:
    folder = tmp_path / "policies"
    if start != "missing":
        folder.mkdir()
    if start == "bad":
        put(folder / "a.yaml", BAD)
    with following(PolicyFiles(folder, poll=0.01)) as followed:
        followed.until(followed.store.looked.is_set, "the first look")
        assert followed.store.snapshot is None
        assert followed.readiness.reasons() != ["policies: not loaded yet"]
        folder.mkdir(exist_ok=True)
        put(folder / "a.yaml", named("a"))
        followed.until(lambda: followed.names == ["a"], "the policies")
        assert followed.readiness.reasons() == []


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def names(update: Update | None) -> list[str] | None:
    return None if update is None or update.snapshot is None else [policy.name for policy in update.snapshot.policies]


def test_the_first_look_loads_and_a_second_one_finds_nothing_new(folder: Path) -> None:
    source = PolicyFiles(folder)
    assert names(source.look()) == ["a"]
    assert source.look() is None


def test_what_is_still_being_written_is_left_alone_until_two_looks_have_found_the_same(folder: Path) -> None:
    source = PolicyFiles(folder)
    source.look()
    # Half of it would load, and guard less.
    with (folder / "b.yaml").open("w") as file:
        for part in (named("b"), "---\n", named("c")):
            file.write(part)
            file.flush()
            assert source.look() is None
    assert names(source.look()) == ["a", "b", "c"]


def test_files_that_are_swapped_while_they_are_read_are_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PolicyFiles(folder)
    source.look()
    put(folder / "b.yaml", named("b"))
    assert source.look() is None

    def swapped_meanwhile(paths: list[Path]) -> object:
        read = read_texts(paths)
        put(folder / "a.yaml", named("new"))
        return read

    with monkeypatch.context() as patched:
        patched.setattr("webhook.policy_files.read_texts", swapped_meanwhile)
        assert source.look() is None
    found = [update for update in (source.look() for _ in range(3)) if update is not None]
    assert [names(update) for update in found] == [["b", "new"]]


def test_files_that_were_written_long_ago_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    monkeypatch.setattr("webhook.policy_files.time.time_ns", lambda: real() + 60_000_000_000)
    reads: list[object] = []

    def counted(paths: list[Path]) -> object:
        reads.append(paths)
        return read_texts(paths)

    monkeypatch.setattr("webhook.policy_files.read_texts", counted)
    source = PolicyFiles(folder)
    source.look()
    for _ in range(5):
        assert source.look() is None
    assert len(reads) == 1


def test_a_failure_of_driftwall_itself_is_a_problem_like_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RecursionError

    with monkeypatch.context() as patched:
        patched.setattr("webhook.policy_files.compile_texts", fail)
        source = PolicyFiles(folder)
        update = source.look()
    assert update == Update(snapshot=None, problems=(f"{folder}: driftwall failed to read it; its log says why",))
