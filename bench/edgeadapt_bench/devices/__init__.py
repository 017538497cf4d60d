"""Devices that a bundle can be measured on. `choose` turns the word on the command line into one that keeps time; those
that are emulated count instead, in a guest per variant (edgeadapt_bench.emulation)."""

from __future__ import annotations

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices.base import Conditions, Device, Fingerprint, Worker
from edgeadapt_bench.devices.emulated import EMULATED, RASPBERRY_PI_4, is_raspberry_pi_4
from edgeadapt_bench.devices.host import HostDevice

AVAILABLE = ("host", RASPBERRY_PI_4, EMULATED)


def choose(name: str) -> Device:
    """Raises EdgeAdaptError for a device that this version cannot measure on, naming those it can."""
    if name == "host" or (name == RASPBERRY_PI_4 and is_raspberry_pi_4()):
        return HostDevice()
    raise EdgeAdaptError(f"--device {name}: available now: {', '.join(AVAILABLE)}. To measure a board, run it there")


__all__ = ["AVAILABLE", "Conditions", "Device", "Fingerprint", "HostDevice", "Worker", "choose"]
