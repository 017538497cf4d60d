"""OpenVINO on the CPU: the bundle's own graphs through its ONNX frontend, in its own form.

    openvino          bare.onnx, computing in fp32
    openvino bf16     the same, computing in bfloat16, which OpenVINO does unless told otherwise where it can
    openvino lora8    lora8.onnx in fp32, its factors as inputs that are set once; random

The frontend knows com.microsoft's operators, and of ours none: function bodies are inlined first, which leaves stock
nodes (MatMulNBits keeps the weights' 4 or 8 bits), in a file in the cache. Keys and values become the model's state, as
in OpenVINO's own generation. Reading the file, that, and compiling are what is timed as load: OpenVINO cannot yet read
its own format back where a model has GroupQueryAttention.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, storage_errors, write_atomic
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.greedy import GreedySubject
from edgeadapt_bench.baselines.variant import BARE, Variant

NAME = "openvino"
PACKAGES = ("openvino", "onnx")
# As edgeadapt.runtime names them; importing it would load onnxruntime into the measured process.
IDS, MASK, LOGITS, LOGITS_FROM = "input_ids", "attention_mask", "logits", "logits_from"
PAST, PRESENT, WEIGHTS = "past_key_values.", "present.", "model.onnx.data"
_SEQUENCE = 2  # the axis of a state [1, heads, tokens, head size] that grows


def variants(bundle: Bundle) -> list[Variant]:
    import openvino

    common: dict[str, Any] = {"ops": "off", "worker": __name__, "packages": (NAME,)}

    def variant(name: str, graph: str, compute: str, note: str) -> Variant:
        options = {"compute": compute}
        return Variant(name, bundle.root, graph, files=inlined(bundle, graph), note=note, options=options, **common)

    found = [variant(NAME, BARE, "f32", "bare.onnx, bodies inlined; computes in fp32")]
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found.append(variant(f"{NAME} bf16", BARE, "bf16", "bare.onnx, bodies inlined; computes in bf16"))
    if "lora8" in bundle.manifest.graphs:
        note = "LoRA-8 on q,v as inputs, unmerged; random factors; computes in fp32"
        found.append(variant(f"{NAME} lora8", "lora8", "f32", note))
    return found


COMPETITOR = Competitor(NAME, "bench-openvino", PACKAGES, variants)


def inlined(bundle: Bundle, graph: str) -> tuple[Path, Path]:
    """Weights and graph in the cache: a graph of the bundle with the bodies of our operators in their places."""
    import onnx
    import onnx.inliner

    source, data = bundle.graph(graph), bundle.path(WEIGHTS)
    hashes = {path: bundle.manifest.files[path.name].sha256[:16] for path in (source, data)}
    store = cache_directory() / "bench" / f"inlined-{hashes[data]}"
    target, weights = store / f"{source.stem}-{hashes[source]}.onnx", store / WEIGHTS
    with storage_errors(store), locked(target), locked(weights):
        if not weights.is_file():
            shutil.copy(data, part := weights.with_suffix(".part"))
            part.rename(weights)
        if not target.is_file():
            model = onnx.load(str(source), load_external_data=False)
            write_atomic(target, onnx.inliner.inline_local_functions(model).SerializeToString())
    return weights, target


def stateful(graph: Path) -> Any:
    """The graph as OpenVINO reads it: batch 1, keys and values as state."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    try:
        model = openvino.Core().read_model(str(graph))
    except RuntimeError as error:
        said = str(error).strip().splitlines()
        raise EdgeAdaptError(f"openvino {openvino.__version__} cannot read the graph ({said[-1]})") from None
    shapes = {item.get_any_name(): item.partial_shape for item in model.inputs}
    past = [name for name in shapes if name.startswith(PAST)]
    for name in (IDS, MASK, *past):
        shapes[name][0] = 1  # a state without a batch has none to begin with
    model.reshape(shapes)
    apply_make_stateful_transformation(model, {name: name.replace(PAST, PRESENT) for name in past})
    return model


def _name(item: Any) -> str:
    """An input's own name: the frontend adds those of nodes that pass it on, which are shorter."""
    return max(sorted(item.get_names()), key=len)


class Subject(GreedySubject):
    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        import openvino

        super().__init__()
        self._tensor: Any = openvino.Tensor
        wanted = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": variant["options"]["compute"],
        }
        with self.load.one():
            model = openvino.Core().compile_model(stateful(variant["files"][1]), "CPU", wanted)
            self._request = model.create_infer_request()
        names = {_name(item): item for item in model.inputs}
        if LOGITS_FROM in names:
            self._request.set_tensor(LOGITS_FROM, openvino.Tensor(np.array([-1])))
        for name in sorted(set(names) - {IDS, MASK, LOGITS_FROM}):
            value = np.random.default_rng(len(name)).normal(0.0, 0.01, names[name].partial_shape.to_shape())
            self._request.set_tensor(name, openvino.Tensor(value.astype(np.float32)))
        self.vocabulary_size = int(model.output(LOGITS).partial_shape[2].get_length())
        self._mask = np.ones((1, 0), dtype=np.int64)
        self._known = 0

    def reserve(self, tokens: int) -> None:
        self._mask = np.ones((1, tokens), dtype=np.int64)

    def rewind(self, length: int) -> None:
        if length == 0:
            self._request.reset_state()
        elif length < self._known:
            for state in self._request.query_state():
                kept = np.take(state.state.data, range(length), axis=_SEQUENCE)
                state.state = self._tensor(np.ascontiguousarray(kept))
        self._known = length

    def append(self, ids: Sequence[int]) -> int:
        self._known += len(ids)
        tokens = np.array([ids], dtype=np.int64)
        self._request.set_tensor(IDS, self._tensor(tokens))
        self._request.set_tensor(MASK, self._tensor(np.ascontiguousarray(self._mask[:, : self._known])))
        self._request.infer()
        return int(self.logits().argmax())

    def logits(self) -> np.ndarray:
        return np.asarray(self._request.get_tensor(LOGITS).data[0, -1])
