"""Remembered hashes: fast the second time, never wrong when the file has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edgeadapt import cache
from edgeadapt.cache import cache_directory, remembered_sha256

BIG = os.urandom(5 << 20)


def test_a_big_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx.data"
    path.write_bytes(BIG)
    expected = hashlib.sha256(BIG).hexdigest()
    assert remembered_sha256(path, tmp_path / "cache") == expected
    monkeypatch.setattr(cache, "sha256_of", lambda path: pytest.fail("read again"))
    assert remembered_sha256(path, tmp_path / "cache") == expected


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.data"
    path.write_bytes(BIG)
    remembered_sha256(path, tmp_path)
    with path.open("r+b") as sink:
        sink.write(b"x")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert remembered_sha256(path, tmp_path) == hashlib.sha256(b"x" + BIG[1:]).hexdigest()


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{", b'{"k": 3}', b"\xff\xfe"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    (tmp_path / "hashes.json").write_bytes(garbage)
    assert remembered_sha256(path, tmp_path) == hashlib.sha256(BIG).hexdigest()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    (tmp_path / "file").touch()
    assert remembered_sha256(path, tmp_path / "file" / "cache") == hashlib.sha256(BIG).hexdigest()


def test_the_directory_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("EDGEADAPT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "edgeadapt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory() == Path.home() / ".cache" / "edgeadapt"
