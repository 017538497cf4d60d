"""Meters on a made-up powercap tree and on a made-up NVML: no figure without a source, and none without a meter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeadapt.energy.meters import Energy, Meter, metered, meters, nvml_meters, rapl_meters

NVML = r"""
static unsigned long long used = 5000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) { *device = (void*)(long)(index + 1); return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* total) {
  if (device != (void*)1) return 3;  /* not supported */
  *total = used += 250;
  return 0;
}
"""


def package(root: Path, name: str, microjoules: int, *, called: str = "package-0", wrap: int = 999) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder


def test_a_package_is_read_in_joules_and_its_parts_are_not_counted_again(tmp_path: Path) -> None:
    folder = package(tmp_path, "intel-rapl:0", 100, wrap=10**12)
    package(tmp_path, "intel-rapl:0:0", 70, called="core")
    (meter,) = rapl_meters(tmp_path)
    with metered([meter]) as spent:
        (folder / "energy_uj").write_text("2500100\n")
    assert spent == [Energy(pytest.approx(2.5), "RAPL package-0")]


def test_a_counter_that_wrapped_is_unwrapped(tmp_path: Path) -> None:
    folder = package(tmp_path, "intel-rapl:0", 990, wrap=999)
    (meter,) = rapl_meters(tmp_path)
    meter.start()
    for value, total in ((995, 5), (4, 14), (3, 1013)):
        (folder / "energy_uj").write_text(f"{value}\n")
        assert meter.reading().joules == pytest.approx(total * 1e-6)


def test_a_counter_that_may_not_be_read_is_no_meter(tmp_path: Path) -> None:
    folder = package(tmp_path, "intel-rapl:0", 5)
    (folder / "energy_uj").unlink()
    package(tmp_path, "intel-rapl:1", 5, called="package-1")
    assert [meter.source for meter in rapl_meters(tmp_path)] == ["RAPL package-1"]


def test_without_a_meter_there_is_no_figure(tmp_path: Path) -> None:
    found = meters(tmp_path, nvml="libno-such-nvml.so")
    with metered(found) as spent:
        pass
    assert found == spent == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for the made-up library")
def test_gpus_that_count_their_energy_are_meters_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvml.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    (meter,) = nvml_meters(str(library))
    meter.start()
    assert meter.reading() == Energy(0.25, "NVML GPU 0")


def test_what_fails_inside_is_metered_and_not_hidden() -> None:
    values = iter((10, 30))
    with pytest.raises(KeyError), metered([Meter("made up", lambda: next(values), 0.5)]) as spent:
        raise KeyError
    assert spent == [Energy(10.0, "made up")]
