"""A wheel for a board: built from this source tree, once for each state of it."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import edgeadapt
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, sha256_of, storage_errors

_PARTS = ("edgeadapt", "train", "export", "bench", "cmake", "scripts")
_FILES = ("pyproject.toml", "CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE")
_BUILT = (".so", ".pyc")


def wheel_for(machine: str, say: Callable[[str], None]) -> Path:
    """The wheel for a machine (as `uname -m` says it) in the cache.

    Raises EdgeAdaptError where there are no sources, for a machine that they are not built for, or if building fails.
    """
    root = Path(edgeadapt.__file__).resolve().parents[1]
    target = "native" if machine == platform.machine() else machine
    if not (root / "scripts" / "build_wheel.py").is_file():
        raise EdgeAdaptError(
            f"there is no wheel for {machine} here, and no source tree to build one from: build it in one "
            f"(scripts/build_wheel.py --target {target}) and name it (?wheel=PATH)"
        )
    if target not in ("native", "aarch64"):
        raise EdgeAdaptError(f"no wheel can be built here for {machine}: build it there, and name it (?wheel=PATH)")
    store = cache_directory() / "wheels"
    folder = store / f"{machine}-{state(root)}"
    with storage_errors(store), locked(folder):
        if not folder.is_dir():
            say(f"building a wheel for {machine}")
            with tempfile.TemporaryDirectory(dir=store, prefix=".building-") as place:
                made = Path(place) / "dist"
                build(root, target, made)
                made.rename(folder)
    return next(folder.glob("*.whl"))


def state(root: Path) -> str:
    """Sixteen hexadecimal digits of all that goes into a wheel."""
    found = [path for part in _PARTS for path in (root / part).rglob("*") if path.suffix not in _BUILT]
    files = [path for path in (*found, *(root / name for name in _FILES)) if path.is_file()]
    lines = [f"{path.relative_to(root)} {sha256_of(path)}" for path in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def build(root: Path, target: str, out: Path) -> None:
    command = [sys.executable, str(root / "scripts" / "build_wheel.py"), str(out), "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not list(out.glob("*.whl")):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise EdgeAdaptError(
            f"the wheel for {target} cannot be built: {lines[-1] if lines else 'nothing was said'}; "
            "scripts/build-deps --cross brings the compiler, pip install 'edgeadapt[dev]' the rest"
        )
