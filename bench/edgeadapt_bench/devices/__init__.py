"""Devices that a bundle can be measured on. `choose` turns the word on the command line into one."""

from __future__ import annotations

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices.base import Conditions, Device, Fingerprint, Worker
from edgeadapt_bench.devices.host import HostDevice

AVAILABLE = ("host",)


def choose(name: str) -> Device:
    """Raises EdgeAdaptError for a device that this version cannot measure on, naming those it can."""
    if name == "host":
        return HostDevice()
    raise EdgeAdaptError(f"--device {name}: available now: {', '.join(AVAILABLE)}. To measure a board, run it there")


__all__ = ["AVAILABLE", "Conditions", "Device", "Fingerprint", "HostDevice", "Worker", "choose"]
