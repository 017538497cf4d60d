"""User instructions of this process, from the processor's own counter (Linux perf_event_open).

The same call works on a board and in the emulated guest; in qemu-aarch64's user mode there is no counter.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from edgeadapt.errors import EdgeAdaptError

_SYSCALL = {"aarch64": 241, "x86_64": 298}
_SIZE = 112  # of struct perf_event_attr, version 5
_HARDWARE, _INSTRUCTIONS = 0, 1
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


class InstructionCounter:
    """Counts from its making on, this thread and the threads and processes it starts later; the kernel's left out."""

    def __init__(self) -> None:
        attributes = bytearray(_SIZE)
        flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
        struct.pack_into("<IIQQQQQ", attributes, 0, _HARDWARE, _SIZE, _INSTRUCTIONS, 0, 0, 0, flags)
        libc = ctypes.CDLL(None, use_errno=True)
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise EdgeAdaptError(f"no instruction counter known for {platform.machine()}")
        pointer = (ctypes.c_char * _SIZE).from_buffer(attributes)
        self._handle = libc.syscall(number, pointer, 0, -1, -1, 0)
        if self._handle < 0:
            raise EdgeAdaptError(f"perf_event_open(instructions): {os.strerror(ctypes.get_errno())}")

    def read(self) -> int:
        return int.from_bytes(os.read(self._handle, 8), "little")
