"""onnxruntime-genai: its own generation loop over the bundle's graphs, without our library.

    onnxruntime-genai          bare.onnx
    onnxruntime-genai lora8    lora8.onnx, its factors from an .onnx_adapter file, which onnxruntime adds to every run

The bundle's genai_config.json is what a user of the bundle has; this file only chooses the graph and the threads. genai
computes the logits of every position of a prompt, since it cannot be told otherwise for a graph; edgeadapt those of the
last. End tokens do not end a measurement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, sha256_of, storage_errors
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.greedy import GreedySubject
from edgeadapt_bench.baselines.variant import BARE, Variant

NAME = "onnxruntime-genai"
PACKAGES = ("onnxruntime_genai",)
_ADAPTER = "noise"


def variants(bundle: Bundle) -> list[Variant]:
    if not (bundle.root / "genai_config.json").is_file():
        raise EdgeAdaptError(f"{bundle.root} has no genai_config.json: its graph is not one that genai runs")
    common: dict[str, Any] = {"ops": "off", "worker": __name__, "packages": (NAME,)}
    found = [Variant(NAME, bundle.root, BARE, note="bare.onnx in genai's own loop; logits of all positions", **common)]
    if "lora8" in bundle.manifest.graphs:
        note = "LoRA-8 on q,v from an .onnx_adapter file, unmerged; random factors"
        options = {"adapter": str(adapter_file(bundle.graph("lora8")))}
        found.append(Variant(f"{NAME} lora8", bundle.root, "lora8", note=note, options=options, **common))
    return found


COMPETITOR = Competitor(NAME, "bench-genai", PACKAGES, variants)


def adapter_file(graph: Path) -> Path:
    """Seeded noise for all adapter inputs of a graph, as onnxruntime's adapter file in the cache."""
    import onnxruntime as ort

    from edgeadapt.runtime import session
    from edgeadapt.runtime.decoder import other_inputs
    from edgeadapt_bench.inputs import noise

    store = cache_directory() / "bench"
    target = store / f"noise-{sha256_of(graph)[:16]}.onnx_adapter"
    with storage_errors(store), locked(target):
        if not target.is_file():
            adapter, part = ort.AdapterFormat(), target.with_suffix(".part")
            adapter.set_adapter_version(1)
            adapter.set_model_version(1)
            inputs = other_inputs(session.create(graph, threads=1, ops="off"))
            values = {name: noise(item) for name, item in inputs.items()}  # kept: the adapter does not own them
            adapter.set_parameters(values)
            adapter.export_adapter(str(part))
            part.rename(target)
    return target


class Subject(GreedySubject):
    ops = "bodies"

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        import onnxruntime_genai as og

        super().__init__()
        bundle = Bundle.open(Path(variant["bundle"]))
        self.vocabulary_size = bundle.manifest.backbone.vocab_size
        graph = {
            "filename": bundle.graph(variant["graph"]).name,
            "session_options": {"intra_op_num_threads": threads, "log_severity_level": 3},
        }
        self._adapters: Any = None
        self._generator: Any = None
        self._chosen = -1
        with self.load.one():
            config = og.Config(str(bundle.root))
            config.overlay(json.dumps({"model": {"decoder": graph, "eos_token_id": self.vocabulary_size}}))
            self._model = og.Model(config)
            if adapter := variant["options"].get("adapter"):
                self._adapters = og.Adapters(self._model)
                self._adapters.load(adapter, _ADAPTER)

    def reserve(self, tokens: int) -> None:
        import onnxruntime_genai as og

        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=tokens + 1, do_sample=False)  # it holds the next token, too
        self._generator = og.Generator(self._model, params)
        if self._adapters is not None:
            self._generator.set_active_adapter(self._adapters, _ADAPTER)

    def rewind(self, length: int) -> None:
        self._generator.rewind_to(length)
        self._chosen = -1

    def append(self, ids: Sequence[int]) -> int:
        """A token that genai has just chosen is in its sequence already: it is run, and not given again."""
        if list(ids) != [self._chosen]:
            self._generator.append_tokens(np.asarray(ids, dtype=np.int32))
        self._generator.generate_next_token()
        self._chosen = int(self._generator.get_next_tokens()[0])
        return self._chosen

    def logits(self) -> np.ndarray:
        return np.asarray(self._generator.get_output("logits")[0, -1])
