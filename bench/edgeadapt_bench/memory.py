"""A process's own memory, as Linux counts it: VmRSS now, VmHWM at its peak. Never the machine's total.

    increase = VmHWM - VmRSS at `mark`         what was done since `mark` needed that much more, at its peak

`mark` first resets the peak to the present size (writing 5 to /proc/self/clear_refs), since importing a library may
have peaked higher than what stayed; where the kernel does not allow that, the increase counts from the earlier peak.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeadapt.errors import EdgeAdaptError

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def mark() -> int:
    """Start counting: bytes that this process holds now."""
    try:
        _RESET.write_text("5")
    except OSError:
        return peak()
    return resident()


def peak() -> int:
    """Bytes at the peak since the start, or since `mark`."""
    return _field("VmHWM")


def resident() -> int:
    """Bytes held now."""
    return _field("VmRSS")


def _field(name: str) -> int:
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise EdgeAdaptError(
            f"{_STATUS}: cannot be read ({error.strerror}); memory is measured on Linux only"
        ) from None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise EdgeAdaptError(f"{_STATUS}: no {name}; this kernel does not count it")
    return int(found.group(1)) * 1024
