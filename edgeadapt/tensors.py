"""safetensors files of strangers, and our own. Never a pickle.

The `safetensors` library checks the header (offsets in order, no gaps or overlaps, shapes times widths equal to the
bytes, file length exact). Here come the limits that it does not set, and errors in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]
else:
    Tensors = dict

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 1 << 16


def serialise(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a safetensors file; C-contiguous copies are made where needed."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))


def payload_bytes(path: Path) -> int:
    """Bytes of all tensors in a safetensors file, its header checked. Raises EdgeAdaptError naming the file."""
    size = path.stat().st_size
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise EdgeAdaptError(f"{path}: not a safetensors file (a header of {length:,} bytes in {size:,})")
        header = parse_json(source.read(length), f"{path}: its header")
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise EdgeAdaptError(f"{path}: not a safetensors file (its header is not an object of at most {MAX_TENSORS})")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            opened.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise EdgeAdaptError(f"{path}: not a sound safetensors file ({str(error)[:120]}); fetch it again") from None
    return size - 8 - length


def shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every tensor, of a file that `payload_bytes` accepts."""
    payload_bytes(path)
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no __iter__ there
        return {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
