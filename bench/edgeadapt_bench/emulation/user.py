"""User mode: a program of the guest under qemu-aarch64, with a Cortex-A72's instructions. Quick; nothing is counted.

An instruction that a Cortex-A72 lacks (a dot product, say) ends the program with SIGILL here as it does there.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeadapt.ops.library import SWITCH
from edgeadapt_bench.emulation import tools
from edgeadapt_bench.emulation.application import copy_modules
from edgeadapt_bench.emulation.sysroot import PYTHON, Sysroot

Done = subprocess.CompletedProcess[str]


def run(words: Sequence[str], system: Sysroot, *, library: Path | None = None, plugin: str | None = None) -> Done:
    """`python WORDS` with this tree's edgeadapt; `library`: an aarch64 build of the ops, `plugin`: a QEMU plugin."""
    tools.require(tools.USER)
    with tempfile.TemporaryDirectory(prefix="edgeadapt-user-") as folder:
        copy_modules(Path(folder))
        emulator = ["nice", "-n", "5", "qemu-aarch64", "-cpu", "cortex-a72", "-L", str(system.root)]
        options = [] if plugin is None else ["-plugin", plugin]
        python = [f"{system.root}/usr/bin/python{PYTHON}", *words]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": folder,
            "LANG": "C.UTF-8",
            "PYTHONHOME": "/usr",
            "PYTHONPATH": f"{folder}:{system.root / 'site'}",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            SWITCH: "off" if library is None else str(library.resolve()),
        }
        command = [*emulator, *options, *python]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def last_words(done: Done) -> str:
    """What a failed program said at its end."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return " | ".join(lines[-3:])[-400:] or "nothing was printed"
