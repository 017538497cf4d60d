"""When a run must not be believed: it throttled, or its clock moved. What cannot be read is unknown, never invalid.

Throttle bits of a Raspberry Pi's firmware (raspberrypi.com/documentation, "get_throttled"): the lowest four say what
is the case now, those sixteen places higher what was the case at any time since the start.

    bit  0 and 16   under-voltage
    bit  1 and 17   the clock is capped
    bit  2 and 18   throttled
    bit  3 and 19   the soft temperature limit is reached
"""

from __future__ import annotations

from edgeadapt_bench.devices.base import UNKNOWN, Conditions

CLOCK_TOLERANCE = 0.05
_NAMES = ("under-voltage", "capped clock", "throttling", "soft temperature limit")
_NOW, _SINCE_START = 0xF, 16


def problems(before: Conditions, after: Conditions) -> list[str]:
    """Why a run between these two is not valid; empty if nothing speaks against it."""
    return [*_throttling(before.throttled, after.throttled), *_clock(before.clock_mhz, after.clock_mhz)]


def _throttling(before: str, after: str) -> list[str]:
    found = []
    for when, bits in (("before", before), ("after", after)):
        if bits != UNKNOWN and (now := int(bits, 16) & _NOW):
            found.append(f"throttled {when} the run (bits {bits}: {_named(now)}); cool the board and measure again")
    earlier, later = (0 if bits == UNKNOWN else int(bits, 16) >> _SINCE_START & _NOW for bits in (before, after))
    if since := later & ~earlier:
        found.append(f"throttled during the run (bits {after}: {_named(since)}); cool the board and measure again")
    elif earlier:
        found.append(
            f"the board throttled at some time since its start (bits {before}: {_named(earlier)}), so perhaps during "
            "the run, too; restart it, which clears these bits, and measure again"
        )
    return found


def _clock(before: float | str, after: float | str) -> list[str]:
    if isinstance(before, str) or isinstance(after, str) or abs(moved := after / before - 1) <= CLOCK_TOLERANCE:
        return []
    return [f"the clock moved by {moved:+.0%} during the run; fix the governor and measure again"]


def _named(bits: int) -> str:
    return ", ".join(name for place, name in enumerate(_NAMES) if bits >> place & 1)
