"""llama.cpp, by llama-cpp-python: the same backbone as a GGUF in the precision nearest to the bundle's.

    int4    Q4_0 (the tied embedding Q8_0)      4.5 bits a weight, blocks of 32
    int8    Q8_0                                8.5 bits a weight, blocks of 32
    fp32    F32

    llama.cpp          the backbone alone
    llama.cpp lora8    LoRA of rank 8 on q and v, not merged: one more pair of products at each, as llama.cpp adds them

Its defaults otherwise: mapped weights (their pages count as memory once they were read), keys and values in fp16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeadapt.backbones import PACKAGED
from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import gguf_files
from edgeadapt_bench.baselines.competitor import Competitor
from edgeadapt_bench.baselines.greedy import GreedySubject
from edgeadapt_bench.baselines.variant import BARE, Variant

NAME = "llama.cpp"
PACKAGES = ("llama_cpp", "gguf")
RANK = 8
_LORA = "LoRA-8 on q,v, unmerged, random factors"
_FORMS: dict[str, gguf_files.Form] = {"int4": "q4_0", "int8": "q8_0", "fp32": "f32"}
_CONTEXT = 512  # llama.cpp's own default; a longer workload gets a longer one


def variants(bundle: Bundle) -> list[Variant]:
    backbone = bundle.manifest.backbone
    form = _FORMS[bundle.manifest.precision]
    source = gguf_files.packaged(backbone.id)
    if not backbone.revision.startswith(f"sha256:{PACKAGED[backbone.id].file.sha256[:16]}"):
        raise EdgeAdaptError(f"the bundle was made of another {backbone.id} than the packaged one; export it again")
    weights = gguf_files.quantised(source, form, lambda _: None)
    common: dict[str, Any] = {
        "worker": __name__,
        "packages": ("llama-cpp-python",),
        "files": (weights,),
        "precision": form.upper(),
    }
    lora = {"lora": str(gguf_files.noise_lora(source, RANK))}
    note = f"the same backbone, weights {form.upper()}, cache fp16"
    return [
        Variant(NAME, bundle.root, BARE, note=note, **common),
        Variant(f"{NAME} lora8", bundle.root, BARE, note=f"{note}; {_LORA}", options=lora, **common),
    ]


COMPETITOR = Competitor(NAME, "bench-llama", PACKAGES, variants)


class Subject(GreedySubject):
    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        import llama_cpp

        super().__init__()
        self._api: Any = llama_cpp
        self._threads = threads
        self._adapter: Any = None
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C calls it
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = variant["files"][0]
        with self.load.one():
            self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
            if not self._model:
                raise EdgeAdaptError(f"{path}: llama.cpp cannot load it")
            if lora := variant["options"].get("lora"):
                self._adapter = llama_cpp.llama_adapter_lora_init(self._model, lora.encode())
                if not self._adapter:
                    raise EdgeAdaptError(f"{lora}: llama.cpp cannot load it")
            self._open_context(_CONTEXT)
        self.vocabulary_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def reserve(self, tokens: int) -> None:
        if tokens > self._api.llama_n_ctx(self._context):
            self._api.llama_free(self._context)
            self._open_context(tokens)

    def rewind(self, length: int) -> None:
        self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context), 0, length, -1)

    def append(self, ids: Sequence[int]) -> int:
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, len(ids))):
            raise EdgeAdaptError(f"llama.cpp cannot run {len(ids)} tokens")
        return int(self.logits().argmax())

    def logits(self) -> np.ndarray:
        values = self._api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(values, (self.vocabulary_size,))

    def _open_context(self, tokens: int) -> None:
        wanted = self._api.llama_context_default_params()
        wanted.n_ctx = wanted.n_batch = tokens
        wanted.n_threads = wanted.n_threads_batch = self._threads
        self._context = self._api.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise EdgeAdaptError(f"llama.cpp cannot make a context of {tokens} tokens")
        if self._adapter is not None:
            adapters, scales = (type(self._adapter) * 1)(self._adapter), (ctypes.c_float * 1)(1.0)
            if self._api.llama_set_adapters_lora(self._context, adapters, 1, scales):
                raise EdgeAdaptError("llama.cpp cannot use its adapter in this context")
