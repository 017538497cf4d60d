"""Atomic files and directories: whatever the moment of death, a reader finds the old version or the new one, whole."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt import files
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import inside, locked, published_directory, recover_directory, storage_errors, write_atomic

NAMES = ("a.json", "b.bin", "sub/c.bin")


def version(target: Path) -> str:
    """The one version that all files of a published directory carry."""
    (found,) = {(target / name).read_text() for name in NAMES}
    assert sorted(path.name for path in target.iterdir()) == ["a.json", "b.bin", "sub"]
    return found


def publish(target: Path, text: str) -> None:
    with published_directory(target) as building:
        for name in NAMES:
            (building / name).parent.mkdir(exist_ok=True)
            (building / name).write_text(text)


def hidden(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.name.startswith("."))


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run `action` in a child that sends itself SIGKILL at its `step`-th call into the system. Whether it got there."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: object) -> None:
            nonlocal left
            if event.startswith(("os.", "open", "shutil.", "tempfile.", "ctypes.dlsym", "fcntl.")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            action()
        except BaseException:  # the parent must see that this is not a clean end
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def every_moment(action: Callable[[], None]) -> Iterator[int]:
    step = 1
    while killed_at(step, action):
        yield step
        step += 1
        assert step < 500


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged in one step", "two renames"])
def test_killed_at_every_step_a_published_directory_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    target = tmp_path / "bundle"
    publish(target, "0")
    seen, current = set(), 0

    def next_version() -> None:
        publish(target, str(current + 1))

    for step in every_moment(next_version):
        if exchange:
            assert target.exists()  # there is no moment without one
        else:
            recover_directory(target)
        found = int(version(target))
        assert found in (current, current + 1), step
        seen.add(found - current)
        current = found
    assert seen == {0, 1}
    publish(target, "last")
    assert version(target) == "last"
    assert hidden(tmp_path) == []


def test_killed_at_every_step_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "adapter.json"
    write_atomic(target, b"0" * 5000)
    seen = set()
    for step in every_moment(lambda: write_atomic(target, b"1" * 5000)):
        content = target.read_bytes()
        assert content in (b"0" * 5000, b"1" * 5000), step
        seen.add(content[:1])
        write_atomic(target, b"0" * 5000)
    assert seen == {b"0", b"1"}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "scores.json"
    write_atomic(target, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EdgeAdaptError, match=r"scores\.json: the disk is full"), storage_errors(tmp_path):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert hidden(tmp_path) == []


def test_what_a_killed_writer_left_is_swept_away_once_it_is_old(tmp_path: Path) -> None:
    young, old, other = (tmp_path / f".{name}.tmp" for name in ("a.json.young", "a.json.old", "b.json.old"))
    for path in (young, old, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    write_atomic(tmp_path / "a.json", b"{}")
    assert (young.exists(), old.exists(), other.exists()) == (True, False, True)


def test_an_exception_while_building_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    publish(target, "old")

    def fail() -> None:
        with published_directory(target) as building:
            (building / "a.json").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert version(target) == "old"
    assert hidden(tmp_path) == []


def test_a_writer_that_lives_is_not_swept_away_and_one_that_died_is(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with published_directory(target) as slow:
        publish(target, "fast")
        assert slow.is_dir()
        for name in NAMES:
            (slow / name).parent.mkdir(exist_ok=True)
            (slow / name).write_text("slow")
    assert version(target) == "slow"

    child = os.fork()
    if child == 0:
        with published_directory(target):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(hidden(tmp_path)) == 1
    publish(target, "next")
    assert hidden(tmp_path) == []


def test_two_processes_that_publish_at_once_both_end_well_and_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    children = []
    for text in ("A", "B", "C"):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(15):
                    publish(target, text)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert version(target) in "ABC"
    assert hidden(tmp_path) == []


def test_somebody_elses_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(EdgeAdaptError, match="home: holds other files"),
        published_directory(tmp_path / "home", "x.json"),
    ):
        pytest.fail("must not get here")
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeAdaptError, match="file: is a file"), published_directory(tmp_path / "file"):
        pytest.fail("must not get here")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_an_empty_directory_and_one_with_the_marker_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    for text in ("1", "2"):
        with published_directory(target, marker="x.json") as building:
            (building / "x.json").write_text(text)
    assert (target / "x.json").read_text() == "2"


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    publish(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert version(tmp_path / "real") == "new"


def test_a_lock_keeps_other_processes_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path, ready = tmp_path / "thing", tmp_path / "ready"
    child = os.fork()
    if child == 0:
        with locked(path):
            ready.touch()
            signal.pause()
    while not ready.exists():
        pass
    with (tmp_path / ".thing.lock").open("a") as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(path):
        pass


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\b", "a\0b", "a\nb", "\u202ea"]
)
def test_a_path_that_may_leave_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    with pytest.raises(EdgeAdaptError, match="does not stay inside"):
        inside(tmp_path, name)


def test_links_directories_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert inside(tmp_path, "real/file") == tmp_path / "real" / "file"
    for name, reason in (("linked/file", "links"), ("real/link", "links"), ("real", "no such"), ("pipe", "no such")):
        with pytest.raises(EdgeAdaptError, match=reason):
            inside(tmp_path, name)


@given(st.text(st.sampled_from("ab./\\\0\n~"), max_size=12))
def test_whatever_the_name_the_path_stays_inside(name: str) -> None:
    root = Path("/nowhere/root")
    with pytest.raises(EdgeAdaptError) as refused:  # nothing exists there, so every name is refused for some reason
        inside(root, name)
    if "does not stay inside" not in str(refused.value):
        assert (root / name).resolve().is_relative_to(root.resolve())
        assert ".." not in Path(name).parts
