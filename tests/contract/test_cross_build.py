"""The library for 64-bit Arm as the compiler left it: where an instruction beyond plain ARMv8.0 may be, and where not.

A Raspberry Pi 4 (Cortex-A72 without the cryptographic extension) ends a program at the first instruction that it lacks.
So all code is ARMv8.0 but the files <family>_dotprod.cc, which run where HWCAP says that they may; and those have the
dot product and nothing else that is new. The assembler judges: told to accept one architecture only, it refuses the
disassembly of any other one's instructions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.core.test_packaging import PI_GLIBC, build_wheel_script

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "aarch64-linux-gnu-"
A72 = "armv8-a"  # floating point and NEON; no CRC, no cryptography, no atomics of ARMv8.1, no half-precision arithmetic

pytestmark = pytest.mark.skipif(
    shutil.which(f"{TOOLS}g++") is None, reason="no compiler for aarch64: scripts/build-deps --cross"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    """build/aarch64 with the library built from the present sources."""
    subprocess.run([ROOT / "scripts" / "build-kernels", "--target", "aarch64"], check=True)
    return ROOT / "build" / "aarch64"


def instructions(path: Path) -> Counter[str]:
    """Every instruction in `path`, as the assembler would read it, and how often; all addresses are `.`, here."""
    command = [f"{TOOLS}objdump", "--disassemble", "--no-show-raw-insn", "--no-addresses", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("\t"):
            continue
        found[re.sub(r"<.*>", ".", line.partition("//")[0].strip())] += 1
    return found


def beyond(found: Counter[str], architecture: str, tmp_path: Path) -> Counter[str]:
    """Those of `found` that `architecture` does not have."""
    lines = list(found)
    source = tmp_path / "all.s"
    source.write_text("\n".join(lines) + "\n", encoding="ascii")
    command = [f"{TOOLS}as", f"-march={architecture}", "-o", str(tmp_path / "all.o"), str(source)]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    refused: Counter[str] = Counter()
    for match in re.finditer(r"all\.s:(\d+): Error: (.*)", said):
        line = lines[int(match.group(1)) - 1]
        assert "selected processor does not support" in match.group(2), f"{line}: {match.group(2)}"
        refused[line] = found[line]
    return refused


def objects(folder: Path, *, dot_product: bool) -> list[Path]:
    kernels = folder / "CMakeFiles" / "edgeadapt_ops.dir" / "edgeadapt" / "kernels"
    built = {path.name.removesuffix(".o"): path for path in kernels.glob("*.o")}
    sources = {path.name for path in (ROOT / "edgeadapt" / "kernels").glob("*.cc")}
    return [path for name, path in built.items() if name in sources and name.endswith("_dotprod.cc") == dot_product]


@pytest.mark.parametrize(
    "new",
    [
        "sdot v0.4s, v1.16b, v2.16b", "udot v0.4s, v1.16b, v2.4b[0]", "fadd v0.8h, v1.8h, v2.8h", "fmul h0, h1, h2",
        "aese v0.16b, v1.16b", "pmull v0.1q, v1.1d, v2.1d", "sha256h q0, q1, v2.4s", "crc32b w0, w1, w2",
        "ldadd w0, w1, [x2]", "casal x0, x1, [x2]", "sqrdmlah v0.4s, v1.4s, v2.4s", "bfdot v0.4s, v1.8h, v2.8h",
        "smmla v0.4s, v1.16b, v2.16b", "add z0.s, z1.s, z2.s", "fjcvtzs w0, d1", "ldaprb w0, [x1]",
    ],
)  # fmt: skip
def test_the_check_refuses_what_a_cortex_a72_lacks(new: str, tmp_path: Path) -> None:
    assert beyond(Counter([new, "smlal v0.8h, v1.8b, v2.8b"]), A72, tmp_path) == Counter([new])


def test_all_but_the_dot_product_files_are_plain_armv8(folder: Path, tmp_path: Path) -> None:
    built = objects(folder, dot_product=False)
    assert len(built) > 8
    for path in built:
        assert not beyond(instructions(path), A72, tmp_path), path.name


def test_the_dot_product_files_have_dot_products_and_nothing_else_that_is_new(folder: Path, tmp_path: Path) -> None:
    for path in objects(folder, dot_product=True):
        new = beyond(instructions(path), A72, tmp_path)
        assert {line.split()[0] for line in new} in ({"sdot"}, {"udot"}, {"sdot", "udot"}), path.name


def test_what_was_linked_in_brings_nothing_new(folder: Path, tmp_path: Path) -> None:
    """The compiler's own libraries end up in the library too: it holds no more new instructions than our files do."""
    ours: Counter[str] = Counter()
    for path in objects(folder, dot_product=True):
        ours += beyond(instructions(path), A72, tmp_path)
    assert beyond(instructions(folder / "libedgeadapt_ops.so"), A72, tmp_path) <= ours


def test_it_runs_on_raspberry_pi_os_12_and_shows_its_entry_point_only(folder: Path) -> None:
    library = folder / "libedgeadapt_ops.so"
    tag = build_wheel_script().platform_tag(library.read_bytes())  # refuses other libraries than libc and libm
    match = re.fullmatch(r"manylinux_2_(\d+)_aarch64", tag)
    assert match is not None, tag
    assert int(match.group(1)) <= PI_GLIBC
    with library.open("rb") as source:
        symbols = ELFFile(source).get_section_by_name(".dynsym")
        assert isinstance(symbols, SymbolTableSection)
        defined = {
            symbol.name
            for symbol in symbols.iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
        }
    assert defined == {"RegisterCustomOps"}
