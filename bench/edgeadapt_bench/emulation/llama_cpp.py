"""The competitor: llama.cpp on the same emulated machine, with the same weights.

    source       llama-cpp-python's source archive on the package index, its vendored llama.cpp
    build        Debian's aarch64 compiler, GGML_CPU_ARM_ARCH=armv8-a (a Cortex-A72), no OpenMP, static; one thread
    weights      edgeadapt_bench.gguf_files: the same backbone in Q8_0 or Q4_0
    counted      llama_cpp_counts.c, in C: no Python in its memory

Everything is made once, in the cache. Nothing of edgeadapt needs it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.fetch import Pinned, fetch
from edgeadapt.files import locked, sha256_of, storage_errors
from edgeadapt_bench.emulation import machine
from edgeadapt_bench.emulation.sysroot import Sysroot, Tell

VERSION = "0.3.36"
SOURCE = Pinned(
    project="llama-cpp-python",
    version=VERSION,
    filename=f"llama_cpp_python-{VERSION}.tar.gz",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)
_DRIVER = Path(__file__).with_name("llama_cpp_counts.c")
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_SYSTEM_NAME": "Linux",
    "CMAKE_SYSTEM_PROCESSOR": "aarch64",
    "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc",
    "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "OFF",
    "GGML_OPENMP": "OFF",
    "GGML_CPU_ARM_ARCH": "armv8-a",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
_LIBRARIES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")


def measure(
    weights: Path, ids: Sequence[int], *, prefills: int, steps: int, system: Sysroot, tell: Tell
) -> machine.Answer:
    """Instructions per run of load, prefill and decode, and memory, of a GGUF file."""
    guest = {"llama_cpp_counts": driver(tell), "model.gguf": weights}
    numbers = [str(number) for number in (prefills, steps, *ids)]
    return machine.boot(["/llama_cpp_counts", "/model.gguf", *numbers], guest, system)


def driver(tell: Tell) -> Path:
    """The counting program for aarch64, built if it is not there yet."""
    built = libraries(tell)
    target = built / f"counts-{sha256_of(_DRIVER)[:16]}"
    with locked(target):
        if not target.is_file():
            part, compiled = target.with_suffix(".part"), target.with_suffix(".o")
            compiler = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O2", "-Wall", f"-I{built / 'include'}"]
            _run([*compiler, "-c", str(_DRIVER), "-o", str(compiled)])
            archives = [str(built / Path(name).name) for name in _LIBRARIES]
            _run(["aarch64-linux-gnu-g++", "-static", "-o", str(part), str(compiled), *archives, "-lpthread", "-lm"])
            part.rename(target)
    return target


def libraries(tell: Tell) -> Path:
    """llama.cpp's static libraries and headers for aarch64, built if they are not there yet (some minutes)."""
    recipe = repr((SOURCE.sha256, sorted(_OPTIONS.items()), _LIBRARIES))
    store = cache_directory() / "emulation"
    target = store / f"llama_cpp-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with storage_errors(store), locked(target):
        if not target.is_dir():
            for program in ("aarch64-linux-gnu-g++", "cmake"):
                if shutil.which(program, path=_path()) is None:
                    raise EdgeAdaptError(f"llama.cpp needs {program}: apt-get install g++-aarch64-linux-gnu cmake")
            archive = fetch(SOURCE)
            with tempfile.TemporaryDirectory(dir=store, prefix=".building-") as building:
                _build(archive, Path(building), tell).rename(target)
    return target


def _build(archive: Path, place: Path, tell: Tell) -> Path:
    tell(f"unpacking {archive.name}")
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    source = place / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    build, made = place / "build", place / "made"
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    tell("building llama.cpp for aarch64")
    _run(["cmake", "-S", str(source), "-B", str(build), *options])
    _run(["cmake", "--build", str(build), "--target", "llama", "--parallel", str(os.cpu_count() or 1)])
    for folder in (source / "include", source / "ggml" / "include"):
        shutil.copytree(folder, made / "include", dirs_exist_ok=True)
    for name in _LIBRARIES:
        shutil.copy(build / name, made)
    return made


def _path() -> str:
    """Programs of this environment first: it brings CMake."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _path()})
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        raise EdgeAdaptError(f"{command[0]} failed: {(lines or ['it says nothing'])[0]}")
