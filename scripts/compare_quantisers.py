"""int4 of the backbone by several quantisers, against fp32 on real text: results/quantisation/table.md and table.json.

    .venv/bin/python scripts/compare_quantisers.py [--out DIR] [--positions N]

Every graph is the model builder's, with 4-bit blocks of 32 in MatMulNBits, on stock onnxruntime. `accuracy_level` 1
computes with float32 activations, so that the weights alone are compared; 4 is what bundles ship with.
    ours         calibrated (codecs/calibrated.py) and plain (codecs/blockwise.py): symmetric; the tied embedding is in
                 4 bits, too, for lookup and LM head
    stock        onnxruntime.quantization.matmul_nbits_quantizer: its default (round to nearest; zero points, or
                 symmetric), HQQ (float32 zero points) and k-quant. The embedding's lookup stays float32, in its favour
Text: evaluation examples of the demo's two tasks, prompt and answer; ours was calibrated on text of the model's own.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeadapt.backbones import resolve
from edgeadapt.codecs import BlockQuantised
from edgeadapt.files import write_atomic, write_json
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.runtime.session import create
from edgeadapt.tasks import encode_prompt, encode_target
from edgeadapt.text import TextCodec
from edgeadapt_export.backbones import decoder
from edgeadapt_export.calibration import quantised_weights
from edgeadapt_export.decoder_source import base_graph, geometry
from edgeadapt_export.parity import kl_divergence
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.quantise import QuantiseWeights
from edgeadapt_export.sample_text import CALIBRATION_SEED, sample_texts
from edgeadapt_export.store import WeightStore
from edgeadapt_train import streams

BACKBONE = "SmolLM2-135M-Instruct"
Logits = NDArray[np.float32]


def sequences(codec: TextCodec, positions: int) -> list[list[int]]:
    """Prompts with their answers, the two tasks in turn, of at least so many tokens altogether."""
    tasks = streams.load({"name": "demo", "seed": 0, "train": 600, "validation": 120, "evaluation": 300})
    found: list[list[int]] = []
    for examples in zip(*(task.evaluation for task in tasks), strict=True):
        for task, item in zip(tasks, examples, strict=True):
            if sum(map(len, found)) < positions:
                prompt = encode_prompt(task.spec, item.text, codec.encode)
                found.append([*prompt, *encode_target(item.target, codec.encode)])
    return found


def logits(path: Path, texts: list[list[int]]) -> Iterator[Logits]:
    """[T, V] of each text."""
    session = create(path, threads=1, ops="off")
    past = empty_past(session)
    for text in texts:
        ids = np.array([text], np.int64)
        yield session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids), **past})[0][0]


def set_accuracy_level(model: onnx.ModelProto, level: int) -> None:
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", level)])


def stock(source: Path, folder: Path, **options: Any) -> Path:
    """The builder's graph through onnxruntime's quantiser; `config` names another algorithm than its default."""
    from onnxruntime.quantization import matmul_nbits_quantizer as quantiser

    logging.disable(logging.INFO)
    config = options.pop("config", None)
    algorithm = {
        None: None,
        "HQQ": quantiser.HQQWeightOnlyQuantConfig(block_size=32, bits=4),
        "k_quant": quantiser.KQuantWeightOnlyQuantConfig(),
    }[config]
    made = quantiser.MatMulNBitsQuantizer(str(source), bits=4, block_size=32, algo_config=algorithm, **options)
    made.process()
    onnx.load_external_data_for_model(made.model.model, str(source.parent))  # what it left where it was
    set_accuracy_level(made.model.model, 1)
    made.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=True)
    return folder / "model.onnx"


def ours(model: ir.Model, weights: dict[str, BlockQuantised], folder: Path, level: int) -> Path:
    """The base graph of a bundle, with these weights in place of plain ones."""
    with WeightStore(folder / "model.onnx.data") as store:
        store.save(apply(model.clone(), QuantiseWeights("int4", weights)), folder / "model.onnx")
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    set_accuracy_level(made, level)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/quantisation"))
    parser.add_argument("--positions", type=int, default=2000)
    chosen = parser.parse_args()
    source = resolve(BACKBONE)
    graph, codec = decoder.build(source), TextCodec.from_folder(source.path)
    texts = sequences(codec, chosen.positions)
    calibration = [codec.encode(text) for text in sample_texts(graph, codec, seed=CALIBRATION_SEED)]
    base = base_graph(graph, geometry(source.path, graph), "fp32")
    began = time.process_time()
    weights = quantised_weights(base, calibration)
    print(f"calibrated in {time.process_time() - began:.0f} s of CPU time", file=sys.stderr, flush=True)
    methods: dict[str, Callable[[Path], Path]] = {
        "ours, calibrated": lambda folder: ours(base, weights, folder, 1),
        "ours, calibrated, as shipped (accuracy_level 4)": lambda folder: ours(base, weights, folder, 4),
        "ours, plain": lambda folder: ours(base, {}, folder, 1),
        "stock, symmetric": lambda folder: stock(graph.model, folder, is_symmetric=True),
        "stock, zero points": lambda folder: stock(graph.model, folder, is_symmetric=False),
        "stock, k-quant": lambda folder: stock(graph.model, folder, config="k_quant"),
        "stock, HQQ": lambda folder: stock(graph.model, folder, config="HQQ"),
    }
    reference = list(logits(graph.model, texts))
    rows = []
    for name, make in methods.items():
        with tempfile.TemporaryDirectory(prefix="edgeadapt-quantisers-", dir="/var/tmp") as folder:
            path = make(Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            divergence, agreed = [], []
            for p, q in zip(reference, logits(path, texts), strict=True):
                divergence.append(kl_divergence(p, q))
                agreed.append(p.argmax(axis=1) == q.argmax(axis=1))
        values, same = np.concatenate(divergence), np.concatenate(agreed)
        rows.append(
            {
                "method": name,
                "bytes": size,
                "positions": len(values),
                "mean_kl": float(values.mean()),
                "kl_standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
                "argmax_agreement": float(same.mean()),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    write_json(
        chosen.out / "table.json", {"format": 1, "backbone": BACKBONE, "revision": source.revision, "rows": rows}
    )
    write_atomic(chosen.out / "table.md", markdown(rows).encode())


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"int4, blocks of 32, {BACKBONE}, against fp32 on {rows[0]['positions']} positions of real text",
        "",
        "| quantiser | MB | mean KL, nats (standard error) | argmax agrees |",
        "|---|---|---|---|",
    ]
    for row in rows:
        kl = f"{row['mean_kl']:.3f} ({row['kl_standard_error']:.3f})"
        share = f"{100 * row['argmax_agreement']:.1f} %"
        lines.append(f"| {row['method']} | {row['bytes'] / 1e6:.1f} | {kl} | {share} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
