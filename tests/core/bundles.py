"""A small bundle with all that the format knows: external data shared by graphs, a direction, low-rank factors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edgeadapt.bundle import (
    FORMAT,
    AdapterEntry,
    BundleBackbone,
    BundleManifest,
    LowRankBlock,
    LowRankPart,
    published_bundle,
    seal,
)
from edgeadapt.manifest import AdapterBytes
from edgeadapt.tasks import TaskSpec
from edgeadapt.tensors import serialise

TASK = TaskSpec("topics", "Text: {text}\nTopic:", ("sport", "business"))
HIDDEN = 8


def external(name: str, location: str, offset: int, length: int) -> TensorProto:
    shape = [length // 4]
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph(*weights: TensorProto, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ("logits",)) -> bytes:
    """A model file; what it computes does not matter here."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", HIDDEN]) for name in ("x", *inputs)]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", HIDDEN]) for name in outputs]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in outputs]
    if "himalaya.r" in inputs:
        nodes.append(helper.make_node("RankOneUpdate", ["x", "x", "himalaya.r"], ["z"], domain="edgeadapt"))
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports, results, list(weights)),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("edgeadapt", 1)],
    )
    return bytes(model.SerializeToString())


def manifest() -> BundleManifest:
    direction = AdapterEntry(
        name="demo",
        method="himalaya",
        variant="default",
        kind="graph",
        inputs=("himalaya.r", "himalaya.gains"),
        sites={"kind": "residual", "layers": [0, 1]},
        bytes=AdapterBytes({"atoms": 90, "protection": 10}, 100, 200, 300, 2_500_000),
        tasks=(TASK,),
        graph="adapters/demo/direction.onnx",
    )
    part = LowRankPart("lora.0.A", "lora.0.B", 12, (LowRankBlock("q.A", "q.B", 0), LowRankBlock("v.A", "v.B", 8)))
    lowrank = AdapterEntry(
        name="lora",
        method="lora",
        variant="default",
        kind="lowrank",
        inputs=("lora.0.A", "lora.0.B"),
        sites={"kind": "linear"},
        bytes=AdapterBytes({"factors": 176}, 176, 200, 300, 2_500_000),
        tasks=(TASK,),
        weights="adapters/lora/adapter.safetensors",
        parts=(part,),
    )
    return BundleManifest(
        format=FORMAT,
        backbone=BundleBackbone("owner/name", "abc", "llama", 2, 1, 4, HIDDEN, 320, 256, (2,)),
        precision="int4",
        device="rpi4",
        opset=21,
        minimum_onnxruntime="1.20",
        graphs={"model": "model.onnx", "bare": "bare.onnx"},
        adapters=(direction, lowrank),
        parity={"max_abs_logit_difference": 1e-4, "int4": {"argmax_agreement": 0.98}},
    )


def fill(folder: Path) -> None:
    """All files of the bundle but its manifest."""
    factors = {
        "q.A": np.ones((HIDDEN, 2), np.float16), "q.B": np.ones((2, 8), np.float16),
        "v.A": np.ones((HIDDEN, 2), np.float16), "v.B": np.ones((2, 4), np.float16),
    }  # fmt: skip
    weights = (external("w", "model.onnx.data", 0, 64), external("tied", "model.onnx.data", 0, 64))
    for name in ("demo", "lora"):
        (folder / "adapters" / name).mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph(*weights, inputs=("himalaya.r", "himalaya.gains")))
    (folder / "bare.onnx").write_bytes(graph(external("w", "model.onnx.data", 0, 64)))
    (folder / "model.onnx.data").write_bytes(
        b"\x7fELF, or so it seems: weights may begin with any bytes".ljust(80, b".")
    )
    (folder / "adapters" / "demo" / "direction.onnx").write_bytes(graph(outputs=("himalaya.r", "himalaya.gains")))
    (folder / "adapters" / "lora" / "adapter.safetensors").write_bytes(serialise(factors))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"session_options": {}}}}))


def make(target: Path) -> Path:
    """Write a whole, valid bundle."""
    with published_bundle(target) as building:
        fill(building)
        seal(building, manifest())
    return target
