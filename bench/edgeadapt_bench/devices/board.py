"""A Raspberry Pi, measured on itself.

It is a host whose firmware tells when it throttled, and which is waited for to cool down (--cool-down): a run during
which it throttled, or its clock moved, is marked invalid (edgeadapt_bench.devices.validity).
"""

from __future__ import annotations

from collections.abc import Callable

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices.host import HostDevice
from edgeadapt_bench.devices.machine import HERE, Machine

BOARD, RASPBERRY_PI_4 = "board", "rpi4"
# A Compute Module 4 and a Pi 400 have the Pi 4's processor.
_FOURS = ("Raspberry Pi 4", "Raspberry Pi Compute Module 4", "Raspberry Pi 400")


def is_raspberry_pi(machine: Machine) -> bool:
    """Whether this machine says of itself, in its device tree, that it is one."""
    return machine.model.startswith("Raspberry Pi")


def is_raspberry_pi_4(machine: Machine) -> bool:
    return machine.model.startswith(_FOURS)


class BoardDevice(HostDevice):
    """The Raspberry Pi that the harness runs on; `name` is the word that it was asked for by.

    Raises EdgeAdaptError where this machine is none.
    """

    def __init__(
        self,
        name: str = BOARD,
        machine: Machine = HERE,
        cool_down: float | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if not is_raspberry_pi(machine):
            raise EdgeAdaptError(
                f"--device {name}: this machine is no Raspberry Pi ({machine.model}); --device host measures on any "
                "machine, ssh://USER@HOST on a board elsewhere"
            )
        super().__init__(machine, cool_down, *([] if sleep is None else [sleep]))
        self.name = name
