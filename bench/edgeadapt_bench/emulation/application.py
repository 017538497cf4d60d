"""edgeadapt's own modules, as the guest gets them: this tree's, compiled for its Python."""

from __future__ import annotations

from pathlib import Path

import edgeadapt
import edgeadapt_bench
from edgeadapt_bench.emulation.rootfs import compile_modules


def copy_modules(folder: Path) -> None:
    """Put the packages edgeadapt and edgeadapt_bench into `folder`."""
    for package in (edgeadapt, edgeadapt_bench):
        source = Path(str(package.__file__)).parent
        for path in sorted(source.rglob("*.py")):
            target = folder / source.name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    compile_modules(folder)
