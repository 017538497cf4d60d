"""An encoder's graph as it ships, and as onnxruntime's own tools make it: what a benchmark sets side by side.

    python -m edgeadapt_export.encoder_variants OUT [--backbone all-MiniLM-L6-v2] [--only int8 --only stock-int8]

    stock-fp32    Optimum's export as it is; onnxruntime fuses what it can while loading
    stock-int8    onnxruntime.quantization.quantize_dynamic of it, signed weights per tensor (its default, and on an A72
                  the fastest of its forms: per channel 1 % slower, unsigned weights 45 % slower)
    fp32          ours in float32
    int8, int4    ours for rpi4: block-wise weights in QuantMatMul, Gelu by tanh (TanhGelu), AddLayerNorm
    int8-erf      ours with the exact Gelu

All take input_ids, attention_mask and token_type_ids int64 [B, S] and give last_hidden_state float32 [B, S, d]. Prints
a JSON object: variant -> file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import onnx_ir as ir

from edgeadapt.backbones import resolve
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.progress import Progress
from edgeadapt_export.backbones import encoder
from edgeadapt_export.backbones.encoder import EncoderGraph, base_graph
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.own_activations import UseOwnActivations
from edgeadapt_export.passes.own_matmul import UseQuantMatMul
from edgeadapt_export.steps import shown
from edgeadapt_export.store import WeightStore

MINILM = "all-MiniLM-L6-v2"
Maker = Callable[[EncoderGraph, Path], None]


def write_variants(
    out: Path, backbone: str = MINILM, only: Iterable[str] = (), progress: Progress | None = None
) -> dict[str, Path]:
    """Write the variants (all of VARIANTS unless `only` names some) into the folder `out`: name -> .onnx file."""
    chosen = tuple(only) or tuple(VARIANTS)
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown:
        raise EdgeAdaptError(f"encoder variant {unknown[0]!r}: give one of {', '.join(VARIANTS)}")
    out.mkdir(parents=True, exist_ok=True)
    with shown(progress) as show:
        graph = encoder.build(resolve(backbone), progress=show)
        made = {name: out / f"{name}.onnx" for name in chosen}
        for done, (name, path) in enumerate(made.items()):
            show("writing the encoder's variants", done, len(made))
            VARIANTS[name](graph, path)
        show("writing the encoder's variants", len(made), len(made))
    return made


def save(model: ir.Model, path: Path) -> None:
    """Write `model` to `path` as for rpi4 (our own ops, with their bodies), and its weights to a file beside it."""
    with WeightStore(path.with_name(f"{path.name}.data")) as store:
        store.save(apply(model, UseQuantMatMul(), UseOwnActivations(), AddFunctionBodies()), path)


def _stock_fp32(graph: EncoderGraph, path: Path) -> None:
    shutil.copyfile(graph.model, path)


def _stock_int8(graph: EncoderGraph, path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    with encoder.quiet():
        quantize_dynamic(graph.model, path)


VARIANTS: dict[str, Maker] = {
    "stock-fp32": _stock_fp32,
    "stock-int8": _stock_int8,
    "fp32": lambda graph, path: save(base_graph(graph), path),
    "int8": lambda graph, path: save(base_graph(graph, "int8"), path),
    "int8-erf": lambda graph, path: save(base_graph(graph, "int8", gelu="erf"), path),
    "int4": lambda graph, path: save(base_graph(graph, "int4"), path),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m edgeadapt_export.encoder_variants", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder for the graphs")
    parser.add_argument("--backbone", default=MINILM, help="name, folder or hub id of a BERT-like encoder")
    parser.add_argument("--only", action="append", default=[], choices=list(VARIANTS), help="leave out the others")
    chosen = parser.parse_args(arguments)
    try:
        made = write_variants(chosen.out, chosen.backbone, chosen.only)
    except EdgeAdaptError as error:
        print(f"encoder_variants: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps({name: str(path) for name, path in made.items()}, indent=2))


if __name__ == "__main__":
    main()
