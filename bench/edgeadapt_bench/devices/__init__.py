"""Devices that a bundle can be measured on: `choose` turns the word on the command line into one.

host                  this machine                                                    keeps time
board                 this machine, which is a Raspberry Pi                           keeps time
rpi4                  this machine if it is a Raspberry Pi 4, else the emulated one
emulated              a Raspberry Pi 4's processor in emulation                       counts
ssh://[USER@]HOST     another machine, with its own harness                           as that does
"""

from __future__ import annotations

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices import ssh
from edgeadapt_bench.devices.base import Conditions, Device, Fingerprint, Worker
from edgeadapt_bench.devices.board import BOARD, RASPBERRY_PI_4, BoardDevice, is_raspberry_pi_4
from edgeadapt_bench.devices.emulated import EMULATED, EmulatedDevice
from edgeadapt_bench.devices.host import HostDevice
from edgeadapt_bench.devices.machine import HERE, Machine
from edgeadapt_bench.devices.ssh import SshDevice

AVAILABLE = ("host", BOARD, RASPBERRY_PI_4, EMULATED, f"{ssh.SCHEME}[USER@]HOST[:PORT]")


def choose(
    name: str, cool_down: float | None = None, machine: Machine = HERE
) -> HostDevice | EmulatedDevice | SshDevice:
    """The device of that name, where `machine` is the one that this runs on.

    Raises EdgeAdaptError for a device that there is not, naming those there are, or one that this machine is not.
    """
    if name.startswith(ssh.SCHEME):
        return SshDevice(ssh.parse(name))
    if name == "host":
        return HostDevice(machine, cool_down)
    if name == BOARD or (name == RASPBERRY_PI_4 and is_raspberry_pi_4(machine)):
        return BoardDevice(name, machine, cool_down)
    if name in (EMULATED, RASPBERRY_PI_4):
        return EmulatedDevice(name)
    raise EdgeAdaptError(f"--device {name}: there are {', '.join(AVAILABLE)}")


__all__ = [
    "AVAILABLE",
    "Conditions",
    "Device",
    "EmulatedDevice",
    "Fingerprint",
    "HostDevice",
    "SshDevice",
    "Worker",
    "choose",
]
