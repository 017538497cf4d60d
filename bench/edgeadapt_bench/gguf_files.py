"""GGUF files of a backbone for llama.cpp, made once, in the cache. Needs the package gguf.

packaged(backbone)       the file that the backbone's package carries: what edgeadapt's own backbone was made from
quantised(file, form)    its values quantised anew: matrices in F32, Q8_0 or Q4_0; as llama-quantize does for Q4_0,
                         the tied embedding in Q8_0, since its 576 columns do not fit Q6_K's blocks
noise_lora(file, rank)   LoRA on q and v with seeded random factors, as llama.cpp wants an adapter:
                         blk.N.attn_q.weight.lora_a [r, in], .lora_b [out, r] float32, adapter.lora.alpha
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeadapt.backbones import PACKAGED
from edgeadapt.cache import cache_directory, remembered_sha256
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.fetch import fetch
from edgeadapt.files import locked, storage_errors

Form = Literal["f32", "q8_0", "q4_0"]
Tell = Callable[[str], None]
_EMBEDDING = "token_embd.weight"


def packaged(backbone: str) -> Path:
    """The GGUF in a backbone's package. Raises EdgeAdaptError for a backbone that comes from elsewhere."""
    source = PACKAGED.get(backbone)
    if source is None or source.form != "gguf":
        raise EdgeAdaptError(f"no package carries a GGUF of {backbone}")
    store = cache_directory() / "gguf"
    with storage_errors(store), zipfile.ZipFile(fetch(source.file)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        target = store / Path(name).name
        with locked(target):
            if not target.is_file():
                part = target.with_suffix(".part")
                with archive.open(name) as packed, part.open("wb") as sink:
                    shutil.copyfileobj(packed, sink, 1 << 20)
                part.rename(target)
    return target


def quantised(source: Path, form: Form, tell: Tell) -> Path:
    """A GGUF of the same model in the cache; vectors, such as norms, in fp32."""
    gguf = _gguf()
    from gguf import quants

    kinds = gguf.GGMLQuantizationType
    wanted = {"f32": kinds.F32, "q8_0": kinds.Q8_0, "q4_0": kinds.Q4_0}[form]
    target = cache_directory() / "gguf" / f"{source.stem}-{remembered_sha256(source)[:16]}-{form}.gguf"

    def fill(writer: Any, reader: Any) -> None:
        tell(f"quantising {source.name} to {form}")
        _copy_fields(gguf, reader, writer)
        for tensor in reader.tensors:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            if values.ndim < 2 or form == "f32":
                writer.add_tensor(tensor.name, values.astype(np.float32))
                continue
            kind = kinds.Q8_0 if tensor.name == _EMBEDDING else wanted
            writer.add_tensor(tensor.name, quants.quantize(values, kind), raw_dtype=kind)

    return _written(gguf, source, target, fill)


def noise_lora(source: Path, rank: int) -> Path:
    """Random factors of `rank` for the queries and values of every layer of a GGUF model."""
    gguf = _gguf()
    target = cache_directory() / "gguf" / f"{source.stem}-{remembered_sha256(source)[:16]}-lora{rank}.gguf"

    def fill(writer: Any, reader: Any) -> None:
        writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        rng = np.random.default_rng(rank)
        for tensor in reader.tensors:
            if tensor.name.endswith((".attn_q.weight", ".attn_v.weight")):
                inputs, outputs = (int(size) for size in tensor.shape)
                for part, shape in (("lora_a", (rank, inputs)), ("lora_b", (outputs, rank))):
                    writer.add_tensor(f"{tensor.name}.{part}", rng.normal(0.0, 0.01, shape).astype(np.float32))

    return _written(gguf, source, target, fill)


def _written(gguf: Any, source: Path, target: Path, fill: Callable[[Any, Any], None]) -> Path:
    """`target`, made from `source` if it is not there yet."""
    with storage_errors(target.parent), locked(target):
        if not target.is_file():
            reader = gguf.GGUFReader(source)
            part = target.with_suffix(".part")
            writer = gguf.GGUFWriter(part, reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
            fill(writer, reader)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            part.rename(target)
    return target


def _copy_fields(gguf: Any, reader: Any, writer: Any) -> None:
    """Metadata as it is, but for what the writer says itself and how the tensors are stored."""
    for item in reader.fields.values():
        if (
            item.name == gguf.Keys.General.ARCHITECTURE
            or item.name.startswith("GGUF.")
            or item.name == "general.file_type"
        ):
            continue
        kind = item.types[0]
        inner = item.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(item.name, item.contents(), kind, sub_type=inner)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtra("bench-llama", "gguf") from None
    return gguf
