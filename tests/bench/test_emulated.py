"""The emulated Cortex-A72: what is told of it, never in terms of time. The machine itself: test_emulation.py."""

from __future__ import annotations

import runpy
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices import emulated
from edgeadapt_bench.devices.board import is_raspberry_pi_4
from edgeadapt_bench.devices.machine import HERE
from edgeadapt_bench.emulation import bench as emulated_bench
from edgeadapt_bench.emulation import cpio, table, tools
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import MARK, Job, events
from edgeadapt_bench.emulation.machine import Answer, model_files
from edgeadapt_bench.emulation.profile import Block, Symbols, functions, kind_of, mix, read_blocks
from edgeadapt_bench.results import checked
from edgeadapt_bench.run import bench
from edgeadapt_bench.terminal import table as shown
from tests.exported import Exported

VERSIONS = {"onnxruntime": "1.31.1", "kernel": "6.1.0"}


def answer() -> Answer:
    found = Answer()
    for line in (
        {"event": "phase", "name": "load", "instructions": 1000},
        *({"event": "phase", "name": "prefill", "instructions": count} for count in (900, 640)),
        *({"event": "phase", "name": "decode", "instructions": count} for count in (99, 88, 10, 12, 14)),
        {"event": "memory", "name": "import", "VmHWM": 50, "VmRSS": 40, "RssAnon": 40, "RssFile": 0, "RssShmem": 0},
        {"event": "memory", "name": "end", "VmHWM": 90, "VmRSS": 80, "RssAnon": 40, "RssFile": 0, "RssShmem": 40},
    ):
        found.take(line)
    return found


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and contents of each member of a newc archive, by its specification."""
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        data = at + (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            at = (data + 511) // 512 * 512
            continue
        yield name, mode, archive[data : data + size]
        at = data + (size + 3) // 4 * 4


def tree(root: Path) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"12345")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    return root


def written(root: Path, target: Path) -> bytes:
    with target.open("wb") as sink, cpio.Archive(sink) as archive:
        archive.console()
        archive.tree(root)
    with target.open("ab") as sink, cpio.Archive(sink) as archive:
        archive.tree(root, "app/")
        archive.data("model/deep/x.onnx", b"xyz")
    return target.read_bytes()


def test_an_initramfs_holds_the_tree_and_what_is_joined_to_it(tmp_path: Path) -> None:
    found = list(entries(written(tree(tmp_path / "root"), tmp_path / "a.cpio")))
    contents = {name: (mode, data) for name, mode, data in found}
    assert contents["usr/bin/tool"] == (0o100755, b"12345")
    assert contents["bin"] == (0o120777, b"usr/bin")
    assert contents["app/usr/bin/tool"][1] == b"12345"
    assert contents["model/deep/x.onnx"] == (0o100644, b"xyz")
    assert contents["dev/console"][0] == 0o020600


def test_every_directory_comes_before_what_it_holds(tmp_path: Path) -> None:
    seen = {"."}
    for name, mode, _ in entries(written(tree(tmp_path / "root"), tmp_path / "a.cpio")):
        assert str(Path(name).parent) in seen
        if mode & 0o170000 == 0o040000:
            seen.add(name)


def test_the_same_tree_gives_the_same_archive(tmp_path: Path) -> None:
    first, second = (written(tree(tmp_path / name), tmp_path / f"{name}.cpio") for name in ("one", "two"))
    assert first == second


def test_what_is_missing_is_named_with_its_debian_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeAdaptError, match=r"needs qemu-system-aarch64: apt-get install qemu-system-arm$"):
        tools.require(tools.SYSTEM)
    with pytest.raises(EdgeAdaptError, match=r"needs llvm-mc, llvm-mca: apt-get install llvm$"):
        tools.require(tools.STATIC)


def test_the_guests_first_process_does_nothing_on_another_machine() -> None:
    before = Path("/proc/self/mounts").read_text()
    for name in ("init", "__main__"):
        runpy.run_path(str(Path(cpio.__file__).with_name("init.py")), run_name=name)
    assert Path("/proc/self/mounts").read_text() == before


def test_answers_are_found_among_what_the_console_shows() -> None:
    shown = ["[    0.0] Booting Linux", f'{MARK}{{"event": "end", "code": 0}}\r', f"{MARK}{{torn", "> " + MARK]
    assert list(events(shown)) == [{"event": "end", "code": 0}]


def test_an_error_in_the_guest_is_told_in_its_own_words() -> None:
    with pytest.raises(EdgeAdaptError, match="in the guest: no such graph"):
        list(events([f'{MARK}{{"event": "error", "message": "no such graph"}}']))


def test_first_runs_are_dropped_and_prompts_counted_per_token() -> None:
    counts = Counts("m", "g", Job("g.onnx", prompt=64, discard=2), VERSIONS, answer())
    assert counts.instructions() == {"load": 1000, "prefill": 10, "decode": 12}
    assert counts.peak == 90


def test_a_job_without_tokens_is_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="prompt, tokens and prefills must be at least 1"):
        Job("g.onnx", tokens=0)


class System:
    def versions(self) -> Mapping[str, str]:
        return VERSIONS


def played(monkeypatch: pytest.MonkeyPatch, measure: Callable[..., Answer]) -> None:
    """No guest is booted: `measure` answers in its place."""
    monkeypatch.setattr(emulated_bench.sysroot, "prepare", lambda tell: System())
    monkeypatch.setattr(emulated_bench.machine, "measure", measure)


@pytest.fixture
def measured(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> emulated_bench.EmulatedReport:
    played(monkeypatch, lambda *_: answer())
    found = bench(exported("himalaya", "int4"), device="emulated", baselines=["bare"], tell=lambda _: None)
    assert isinstance(found, emulated_bench.EmulatedReport)
    return found


def test_a_row_says_emulated_and_never_a_time(measured: emulated_bench.EmulatedReport) -> None:
    report = measured.to_json()
    rows = report["rows"]
    assert {(row["variant"], row["phase"]) for row in rows} == {
        (variant, phase) for variant in ("bare", "himalaya") for phase in ("load", "prefill", "decode")
    }
    for row in rows:
        assert row["emulated"] is True
        assert row["unit"] in ("instructions", "instructions/token")
        assert row["instructions"] > 0
    assert report["device"]["emulated"] is True
    for key in keys([rows, report["memory"]]):
        assert not any(word in key for word in ("second", "latency", "millis", "p50", "mean", "samples", "ratio"))


def test_memory_is_the_guest_process_own(measured: emulated_bench.EmulatedReport) -> None:
    item = measured.to_json()["memory"][0]
    assert (item["peak_bytes"], item["increase_bytes"]) == (90, 50)


def test_the_table_fits_a_terminal(measured: emulated_bench.EmulatedReport) -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(width=80, file=StringIO())
    console.print(shown(checked("x", measured.to_json())))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert all(word in text for word in ("decode", "M/token", "x bare", "peak MB", "himalaya"))
    assert " ms" not in text


def test_what_is_the_same_graph_is_counted_once(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    booted = []

    def measure(job: Job, *_: object) -> Answer:
        booted.append(job.graph)
        return answer()

    played(monkeypatch, measure)
    found = bench(exported("himalaya", "int4"), device="emulated", baselines=["lora8-merged"], tell=lambda _: None)
    assert booted == ["bare.onnx", "model.onnx"]
    assert [row.origin.variant for row in found.rows] == ["bare", "himalaya", "lora8-merged"]


@pytest.mark.skipif(is_raspberry_pi_4(HERE), reason="this is a Raspberry Pi 4, which is measured itself")
def test_rpi4_says_that_it_is_emulated(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, lambda *_: answer())
    told: list[str] = []
    found = bench(exported("himalaya", "int4"), device="rpi4", baselines=["bare"], tell=told.append).to_json()
    assert told[0].startswith("this machine is no Raspberry Pi 4: its processor is emulated")
    assert (found["device"]["name"], found["device"]["emulated"]) == ("rpi4", True)


def test_only_one_thread_can_be_counted(exported: Exported) -> None:
    with pytest.raises(EdgeAdaptError, match="--threads 2"):
        bench(exported("himalaya", "int4"), device="emulated", threads=2, tell=lambda _: None)


def test_a_library_for_another_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in (62, 183):
        (tmp_path / f"{machine}.so").write_bytes(b"\x7fELF" + bytes(14) + struct.pack("<H", machine))
    monkeypatch.setenv("EDGEADAPT_OPS", str(tmp_path / "183.so"))
    assert emulated.library() == tmp_path / "183.so"
    monkeypatch.setenv("EDGEADAPT_OPS", str(tmp_path / "62.so"))
    with pytest.raises(EdgeAdaptError, match="not an aarch64 library"):
        emulated.library()
    monkeypatch.setenv("EDGEADAPT_OPS", "off")
    assert emulated.library() is None


def test_a_graph_travels_with_its_external_data(exported: Exported) -> None:
    bundle = exported("himalaya", "int4")
    assert set(model_files(bundle / "bare.onnx")) == {"bare.onnx", "model.onnx.data"}


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0x8B010000, "other"),  # add x0, x0, x1
        (0xF9400020, "loads"),  # ldr x0, [x1]
        (0xF9000020, "stores"),  # str x0, [x1]
        (0xB9800020, "loads"),  # ldrsw x0, [x1]
        (0x58000000, "loads"),  # ldr x0, .
        (0xAD400400, "loads"),  # ldp q0, q1, [x0]
        (0xAD000400, "stores"),  # stp q0, q1, [x0]
        (0x3DC00000, "loads"),  # ldr q0, [x0]
        (0x3D800000, "stores"),  # str q0, [x0]
        (0x4C407000, "loads"),  # ld1 {v0.16b}, [x0]
        (0x4C007000, "stores"),  # st1 {v0.16b}, [x0]
        (0x4E20CC00, "SIMD and FP"),  # fmla v0.4s, v0.4s, v0.4s
        (0x0E208000, "SIMD and FP"),  # smlal v0.8h, v0.8b, v0.8b
        (0x14000000, "branches"),  # b .
        (0xD65F03C0, "branches"),  # ret
    ],
)
def test_instructions_by_class(word: int, kind: str) -> None:
    assert kind_of(word) == kind


def test_blocks_that_were_translated_twice_are_one() -> None:
    blocks = read_blocks(["3 1000 14000000d65f03c0", "4 1000 14000000d65f03c0", "1 2000 f9400020"])
    assert [(block.runs, block.address, block.instructions) for block in blocks] == [(7, 0x1000, 14), (1, 0x2000, 1)]
    assert mix(blocks)["branches"] == 14
    assert mix(blocks)["loads"] == 1


def test_functions_come_with_the_hottest_first() -> None:
    blocks = [Block(1, 0x10, (0,)), Block(9, 0x20, (0, 0))]
    assert [item.instructions for item in functions(blocks, Symbols([]))] == [19]
    assert functions(blocks, Symbols([]))[0].name == "elsewhere"


def row(name: str, **phases: float) -> Mapping[str, Any]:
    return {"name": name, "instructions": {key: value * 1e6 for key, value in phases.items()}, "peak_bytes": 200e6}


def test_a_table_sets_ours_beside_the_others_and_the_goal() -> None:
    rows = {"ours-int8": row("ours-int8", decode=60.5), "stock-int8": row("stock-int8", decode=2184.6)}
    text = table.markdown(rows, "head")
    assert "| int8 decode, per token | 2,184.6 | - | 60.5 | <= 55 | missed by 10.0% |" in text
    assert "| int8 guest peak RSS, MB | 200.0 | - | 200.0 | <= 210 | met |" in text
    assert "| int4 decode, per token | - | - | - | <= 60 | not measured |" in text


def test_what_an_adapter_adds_is_a_share_of_the_bare_decode() -> None:
    rows = {"ours-int4": row("ours-int4", decode=60.0), "himalaya-int4": row("himalaya-int4", decode=60.15)}
    assert "int4 | +0.25% | <= 0.5% | met |" in table.markdown(rows, "head")


def test_static_cycles_are_given_with_instructions_per_cycle() -> None:
    static = {"decode": {"cycles": 50e6, "instructions": 60e6}}
    rows = {"ours-int8": {**row("ours-int8", decode=60.0), "static": static}}
    assert "| int8 | 50.0 | 1.20 | - | - |" in table.markdown(rows, "head")


def keys(value: Any) -> Iterator[str]:
    """All keys of a JSON value, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)
