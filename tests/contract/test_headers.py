"""The kernels ask ONNX Runtime for nothing that 1.18 lacks, whichever newer headers they are built with.

OrtApi only ever grows at its end, and its documentation says since when each function is there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "build" / "ort-headers" / "usr" / "include" / "onnxruntime" / "onnxruntime_c_api.h"
OLDEST = 18  # 1.18
# OrtCustomOp says nothing of versions; its fields in order, the newest last (GetMayInplace came with 1.18).
NEWEST_FIELDS = ("GetAliasMap", "ReleaseAliasMap")


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.is_file():
        pytest.skip("no headers here: scripts/ort-headers")
    return HEADER.read_text(encoding="utf-8")


def used() -> set[str]:
    """Every function of OrtApi that the sources name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "edgeadapt" / "kernels").glob("*.[ch]*"))
    return set(re.findall(r"\b(?:api_|ort|api)(?:\.|->)([A-Z]\w+)", text))


def since(header: str) -> dict[str, int]:
    """Function -> the minor version it came with; 0 where the documentation names none (they are the oldest)."""
    found = {}
    last = 0
    for line in header[header.index("struct OrtApi {") :].splitlines():
        if match := re.search(r"\\since Version 1\.(\d+)", line):
            last = int(match.group(1))
        elif match := re.search(r"(?:ORT_API2_STATUS|ORT_CLASS_RELEASE)\((\w+)|ORT_API_CALL\* (\w+)\)\(", line):
            name = match.group(1) or match.group(2)
            found["Release" + name if "ORT_CLASS_RELEASE" in line else name] = last
            last = 0
    return found


def test_every_function_is_in_onnxruntime_1_18(header: str) -> None:
    known = since(header)
    assert len(known) > 250
    assert known["KernelContext_ParallelFor"] == 17  # the parsing sees versions
    names = used()
    assert len(names) > 20
    assert not names - known.keys()
    assert not {name: known[name] for name in names if known[name] > OLDEST}


def test_every_field_of_a_custom_op_is_in_onnxruntime_1_18(header: str) -> None:
    fields = re.findall(r"ORT_API_CALL\* (\w+)\)", header[header.index("struct OrtCustomOp {") :].partition("\n};")[0])
    assert fields[-4:] == ["GetMayInplace", "ReleaseMayInplace", *NEWEST_FIELDS]
    text = (ROOT / "edgeadapt" / "kernels" / "ort.h").read_text(encoding="utf-8")
    assert not [name for name in NEWEST_FIELDS if name in text]
