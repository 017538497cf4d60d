"""Where the native kernels are, if this installation has any.

    EDGEADAPT_OPS=off        no library: every op runs as its function body
    EDGEADAPT_OPS=auto       the library that came with this installation (the same as unset)
    EDGEADAPT_OPS=FILE.so    that library; for the sanitizer build and for comparing builds

A bundle never names a library: only the installation and the user's own environment do.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeadapt.errors import EdgeAdaptError

SWITCH = "EDGEADAPT_OPS"
NAME = "libedgeadapt_ops.so"


def library_path() -> Path | None:
    """The library to register with a session, or None if there is none or EDGEADAPT_OPS=off.

    Raises EdgeAdaptError if EDGEADAPT_OPS names a file that is not there.
    """
    asked = os.environ.get(SWITCH, "auto").strip()
    if asked.lower() == "off":
        return None
    if asked.lower() not in ("", "auto"):
        named = Path(asked).absolute()
        if not named.is_file():
            raise EdgeAdaptError(f"{SWITCH}={asked}: no such file; give a library's path, auto or off")
        return named
    installed = _installed()
    return installed if installed.is_file() else None


def why_absent() -> str | None:
    """One line for the user when `library_path()` is None: what is missing and how to get it. None if it is there."""
    if library_path() is not None:
        return None
    slower = "the ops run as function bodies, correct but slower"
    if _installed().is_file():
        return f"the native kernels are off ({SWITCH}=off); {slower}"
    return (
        f"there are no native kernels here, {slower}: install a wheel for this platform, or a C++ compiler "
        "(apt-get install g++) and run scripts/build-kernels in the source tree"
    )


def _installed() -> Path:
    return Path(__file__).resolve().parents[1] / "kernels" / NAME
