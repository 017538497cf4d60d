"""User mode: where the instructions of one phase go, by function and basic block. For diagnosis, never for a row.

    block       runs x its instructions, between two markers around the last run of a phase (plugin hot_blocks.c)
    function    by symbol; where a library is stripped, by the range that its unwind table (.eh_frame) gives:
                "name+0x1234" is the function that begins at that address of its file
    mix         of the instructions executed: SIMD and floating point, loads, stores, branches, other

Instructions agree with system mode to a few parts in ten thousand (libc picks other routines, the kernel other paths).
"""

from __future__ import annotations

import bisect
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as remember
from pathlib import Path

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, sha256_of
from edgeadapt_bench.emulation import tools, user
from edgeadapt_bench.emulation.job import JOB, LIBRARY, MODEL, Job, events
from edgeadapt_bench.emulation.sysroot import Sysroot

_SOURCE = Path(__file__).with_name("hot_blocks.c")
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r.* (/.*)$", re.MULTILINE)
_UNWIND = re.compile(r"FDE cie=[0-9a-f]+ pc=([0-9a-f]+)\.\.\.([0-9a-f]+)")


@dataclass(frozen=True)
class Block:
    """A basic block: how often it ran, where it begins, its instructions."""

    runs: int
    address: int
    words: tuple[int, ...]

    @property
    def instructions(self) -> int:
        return self.runs * len(self.words)


@dataclass
class Function:
    """Blocks of one function, the hottest first."""

    name: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def instructions(self) -> int:
        return sum(block.instructions for block in self.blocks)


def profile(job: Job, graph: Path, library: Path | None, system: Sysroot) -> list[Function]:
    """Run a job whose `profiled` phase lies between the markers; its functions, the hottest first."""
    tools.require(tools.USER)
    with tempfile.TemporaryDirectory(prefix="edgeadapt-profile-") as name:
        place = Path(name)
        (place / "tmp").mkdir()
        (place / MODEL).symlink_to(graph.parent.resolve())
        if library is not None:
            (place / LIBRARY).parent.mkdir()
            (place / LIBRARY).symlink_to(library.resolve())
        (place / JOB).write_text(job.to_json(), encoding="utf-8")
        blocks = place / "blocks"
        words = ["-m", "edgeadapt_bench.emulation.guest", str(place / JOB)]
        done = user.run(words, system, plugin=f"{build_plugin()},out={blocks}")
        maps = next((event["text"] for event in events(done.stdout.splitlines()) if event["event"] == "maps"), None)
        if maps is None or not blocks.is_file():
            raise EdgeAdaptError(f"qemu-aarch64 ended with {done.returncode}: {user.last_words(done)}")
        return functions(read_blocks(blocks.read_text(encoding="ascii").splitlines()), Symbols.of(maps))


def build_plugin() -> Path:
    """The compiled plugin in the cache."""
    target = cache_directory() / "emulation" / f"hot_blocks-{sha256_of(_SOURCE)[:16]}.so"
    with locked(target):
        if not target.is_file():
            building = target.with_suffix(".part")
            command = ["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(building), str(_SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EdgeAdaptError(f"{_SOURCE.name} does not compile: {done.stderr.strip().splitlines()[:1]}")
            building.rename(target)
    return target


def read_blocks(lines: Iterable[str]) -> list[Block]:
    """Lines of the plugin; what was translated more than once is put together."""
    runs: dict[tuple[int, str], int] = {}
    for line in lines:
        count, address, code = line.split()
        key = int(address, 16), code
        runs[key] = runs.get(key, 0) + int(count)
    return [
        Block(count, address, tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8)))
        for (address, code), count in runs.items()
    ]


def functions(blocks: Sequence[Block], symbols: Symbols) -> list[Function]:
    found: dict[str, Function] = {}
    for block in sorted(blocks, key=lambda item: -item.instructions):
        name = symbols.name(block.address)
        found.setdefault(name, Function(name)).blocks.append(block)
    return sorted(found.values(), key=lambda item: -item.instructions)


class Symbols:
    """Names of addresses of one process: its mapped files, and in each the functions that symbols or unwinding show."""

    def __init__(self, files: Sequence[tuple[int, int, Path]]) -> None:
        self._files = files
        self._functions: dict[Path, tuple[list[int], list[tuple[int, str]]]] = {}

    @classmethod
    def of(cls, maps: str) -> Symbols:
        """From /proc/self/maps: every file with the addresses that it begins and ends at."""
        spans: dict[Path, tuple[int, int]] = {}
        for begin, end, name in _MAPPING.findall(maps):
            path = Path(name)
            known = spans.get(path, (int(begin, 16), 0))
            spans[path] = min(known[0], int(begin, 16)), max(known[1], int(end, 16))
        return cls([(*span, path) for path, span in spans.items() if path.is_file() and _is_elf(path)])

    def name(self, address: int) -> str:
        for begin, end, path in self._files:
            if begin <= address < end:
                return self._within(path, address if _is_fixed(path) else address - begin)
        return "elsewhere"

    def _within(self, path: Path, offset: int) -> str:
        if path not in self._functions:
            table = sorted(functions_of(path).items())
            self._functions[path] = [begin for begin, _ in table], [entry for _, entry in table]
        begins, entries = self._functions[path]
        index = bisect.bisect_right(begins, offset) - 1
        if index >= 0 and offset < entries[index][0]:
            return entries[index][1]
        return f"{path.name}+0x{offset:x}"


def functions_of(path: Path) -> dict[int, tuple[int, str]]:
    """Begin -> (end, name) of a file's functions, from its unwind table and its symbols."""
    found: dict[int, tuple[int, str]] = {}
    for begin, end in _UNWIND.findall(_output(["llvm-dwarfdump", "--eh-frame", str(path)])):
        found[int(begin, 16)] = int(end, 16), f"{path.name}+0x{int(begin, 16):x}"
    for option in ("--dynamic", "--no-sort"):  # exported ones, then all, which name more
        text = _output(["llvm-nm", "--defined-only", "--print-size", "--demangle", option, str(path)])
        for line in text.splitlines():
            parts = line.split(maxsplit=3)
            if len(parts) == 4 and parts[2] in "tTwW" and int(parts[1], 16):
                found[int(parts[0], 16)] = int(parts[0], 16) + int(parts[1], 16), parts[3]
    return found


def mix(blocks: Iterable[Block]) -> Mapping[str, int]:
    """Instructions executed by class."""
    found = dict.fromkeys(("SIMD and FP", "loads", "stores", "branches", "other"), 0)
    for block in blocks:
        for word in block.words:
            found[kind_of(word)] += block.runs
    return found


def kind_of(word: int) -> str:
    """Class of an A64 instruction by its top-level encoding (Arm ARM, C4.1: op0, bits 28 to 25)."""
    group = word >> 25 & 15
    if group & 7 == 7:
        return "SIMD and FP"
    if group & 14 == 10:
        return "branches"
    if group & 5 == 4:
        return "loads" if _is_load(word) else "stores"
    return "other"


def _is_load(word: int) -> bool:
    family, vector = word >> 27 & 7, word >> 26 & 1
    if family == 3 and not word >> 24 & 1:  # literal
        return True
    if family == 7 and not vector:  # one register: opc 0 stores, 1 loads, 2 and 3 load with sign (or prefetch)
        return bool(word >> 22 & 3)
    return bool(word >> 22 & 1)  # L of pairs, exclusives, structures; of one SIMD register, too


def _is_elf(path: Path) -> bool:
    with path.open("rb") as source:
        return source.read(4) == b"\x7fELF"


@remember
def _is_fixed(path: Path) -> bool:
    """Whether a file is an executable of fixed addresses (e_type 2, ET_EXEC)."""
    with path.open("rb") as source:
        return source.read(18)[16:] == b"\x02\x00"


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
