"""Devices that keep time: what is read of a machine, when a run is not to be believed, and how a board cools down.

Machines are made of files, laid out as Linux lays them out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices import EmulatedDevice, HostDevice, SshDevice, choose
from edgeadapt_bench.devices.base import UNKNOWN, Conditions
from edgeadapt_bench.devices.board import BoardDevice, is_raspberry_pi_4
from edgeadapt_bench.devices.machine import Machine
from edgeadapt_bench.devices.validity import problems

QUIET = Conditions(load_average=0.0, clock_mhz=1500.0, temperature_c=50.0, throttled="0x0")
PI_4 = "Raspberry Pi 4 Model B Rev 1.4"
CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

processor\t: 1
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


class Files:
    """A machine's files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def temperature(self, degrees: float) -> None:
        self.write("sys/class/thermal/thermal_zone0/temp", f"{degrees * 1000:.0f}\n")

    @property
    def machine(self) -> Machine:
        return Machine(self.root)


@pytest.fixture
def pi(tmp_path: Path) -> Files:
    """A Raspberry Pi 4 of two cores, busy with nothing."""
    files = Files(tmp_path)
    files.write("proc/device-tree/model", f"{PI_4}\0")
    files.write("proc/cpuinfo", CPUINFO)
    files.write("proc/meminfo", "MemTotal:        3884376 kB\nMemFree:  12 kB\n")
    files.write("proc/loadavg", "0.25 0.10 0.05 1/99 1234\n")
    files.write("etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n')
    files.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    for name, kilohertz in (("cpuinfo_min", 600000), ("cpuinfo_max", 1500000), ("scaling_cur", 1500000)):
        files.write(f"sys/devices/system/cpu/cpu0/cpufreq/{name}_freq", f"{kilohertz}\n")
    files.write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    files.temperature(48.2)
    return files


def test_a_board_is_known_by_its_files(pi: Files) -> None:
    found = BoardDevice("rpi4", pi.machine).fingerprint()
    assert (found.model, found.cpu, found.cores) == (PI_4, "Cortex-A72 (part 0xd08)", 2)
    assert found.features == ("asimd", "cpuid", "crc32", "evtstrm", "fp")
    assert (found.governor, found.clock_range_mhz) == ("performance", (600.0, 1500.0))
    assert (found.memory_bytes, found.system) == (3884376 * 1024, "Debian GNU/Linux 12 (bookworm)")


def test_conditions_are_read_anew(pi: Files) -> None:
    board = BoardDevice("rpi4", pi.machine)
    assert board.conditions() == Conditions(0.25, 1500.0, 48.2, "0x0")
    pi.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    pi.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000\n")
    pi.temperature(81.5)
    assert board.conditions() == Conditions(0.25, 600.0, 81.5, "0x50005")


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    host = HostDevice(Machine(tmp_path))
    assert host.conditions() == Conditions(0.0, UNKNOWN, UNKNOWN, UNKNOWN)
    found = host.fingerprint()
    assert (found.model, found.cpu, found.governor, found.clock_range_mhz) == (UNKNOWN,) * 4
    assert problems(host.conditions(), host.conditions()) == []


def test_this_machine_has_an_identity_of_its_own() -> None:
    one, two = HostDevice().fingerprint(), HostDevice().fingerprint()
    assert one == two
    assert one.identity == two.identity != replace(one, kernel="other").identity
    assert one.cores >= 1
    assert one.memory_bytes > 1e8


@pytest.mark.parametrize(
    ("model", "four"),
    [
        (PI_4, True),
        ("Raspberry Pi 400 Rev 1.0", True),
        ("Raspberry Pi Compute Module 4 Rev 1.0", True),
        ("Raspberry Pi 5 Model B Rev 1.0", False),
        ("Radxa ROCK 4", False),
    ],
)
def test_a_raspberry_pi_4_is_known_by_its_device_tree(model: str, four: bool, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write("proc/device-tree/model", f"{model}\0")
    assert is_raspberry_pi_4(files.machine) is four


def test_another_machine_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(
        EdgeAdaptError, match=r"--device board: this machine is no Raspberry Pi \(unknown\); --device ho"
    ):
        BoardDevice(machine=Machine(tmp_path))


def test_a_quiet_run_is_valid() -> None:
    assert problems(QUIET, QUIET) == []
    assert problems(QUIET, replace(QUIET, clock_mhz=1440.0, temperature_c=60.0)) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("0x0", "0x4", "throttled after the run (bits 0x4: throttling)"),
        ("0x50005", "0x50000", "throttled before the run (bits 0x50005: under-voltage, throttling)"),
        ("0x0", "0x50000", "throttled during the run (bits 0x50000: under-voltage, throttling)"),
        ("0x10000", "0x50000", "throttled during the run (bits 0x50000: throttling)"),
        ("0x50000", "0x50000", "at some time since its start (bits 0x50000: under-voltage, throttling), so perhaps"),
    ],
)
def test_a_run_that_throttled_is_invalid(before: str, after: str, said: str) -> None:
    found = problems(replace(QUIET, throttled=before), replace(QUIET, throttled=after))
    assert said in found[0]


@pytest.mark.parametrize(("after", "said"), [(1200.0, "moved by -20%"), (1600.0, "moved by +7%")])
def test_a_run_whose_clock_moved_is_invalid(after: float, said: str) -> None:
    assert said in problems(QUIET, replace(QUIET, clock_mhz=after))[0]


@given(st.sampled_from(["clock_mhz", "throttled"]), st.booleans(), st.integers(0, 0xFFFFF), st.floats(100.0, 9000.0))
def test_what_is_not_known_never_makes_a_run_invalid(field: str, first: bool, bits: int, clock: float) -> None:
    other = {"clock_mhz": clock} if field == "clock_mhz" else {"throttled": hex(bits & 0xFFFF0000)}
    known, unknown = replace(QUIET, **other), replace(QUIET, **{field: UNKNOWN})  # type: ignore[arg-type]
    if field == "throttled" and bits >> 16:
        return  # what one end knows of throttling still counts
    assert problems(*((known, unknown) if first else (unknown, known))) == []


def test_a_board_is_waited_for_to_cool_down(pi: Files) -> None:
    told, degrees = [], iter([61.0, 57.0, 54.9])
    pi.temperature(65.0)

    def sleep(seconds: float) -> None:
        assert seconds > 0
        pi.temperature(next(degrees))

    BoardDevice("rpi4", pi.machine, cool_down=55.0, sleep=sleep).settle(told.append)
    assert told == ["cooling down from 65.0 to 55 degrees"]
    assert next(degrees, None) is None


def test_a_board_that_does_not_cool_down_is_told_of(pi: Files) -> None:
    pi.temperature(65.0)
    with pytest.raises(EdgeAdaptError, match=r"--cool-down 55: still 65.0 degrees after 15 minutes"):
        BoardDevice("rpi4", pi.machine, cool_down=55.0, sleep=lambda _: None).settle(lambda _: None)


def test_nothing_is_waited_for_unasked_or_unknown(pi: Files, tmp_path: Path) -> None:
    def never(_: float) -> None:
        raise AssertionError("waited")

    pi.temperature(90.0)
    BoardDevice("rpi4", pi.machine, sleep=never).settle(lambda _: None)
    HostDevice(Machine(tmp_path / "none"), cool_down=40.0, sleep=never).settle(lambda _: None)


def test_each_word_is_a_device(pi: Files, tmp_path: Path) -> None:
    other = Machine(tmp_path / "none")
    assert type(choose("host", machine=pi.machine)) is HostDevice
    assert isinstance(choose("emulated", machine=pi.machine), EmulatedDevice)
    assert isinstance(choose("ssh://pi@board", machine=other), SshDevice)
    board = choose("board", machine=pi.machine)
    assert isinstance(board, BoardDevice)
    assert board.name == "board"


def test_rpi4_is_the_board_on_one_and_emulated_elsewhere(pi: Files, tmp_path: Path) -> None:
    native = choose("rpi4", machine=pi.machine)
    assert isinstance(native, BoardDevice)
    assert native.name == "rpi4"
    assert choose("rpi4", machine=Machine(tmp_path / "none")) == EmulatedDevice("rpi4")


def test_a_device_that_there_is_not() -> None:
    with pytest.raises(EdgeAdaptError, match=r"--device toaster: there are host, board, rpi4, emulated, ssh://"):
        choose("toaster")
