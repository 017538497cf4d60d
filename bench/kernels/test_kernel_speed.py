"""How fast each kernel is on this machine, by instruction set: `pytest bench/ --benchmark-only [-k QuantMatMul]`.

One node per session, one thread, inputs and outputs bound; sizes are SmolLM2-135M's, or MiniLM's for an encoder's ops.
The bytes are those that a call must read or write at least, each once; the limit is what a plain copy or a plain read
of as many bytes reaches, measured right after each row. Small calls pay some microseconds to onnxruntime, and a
prompt's matrix product is bound by arithmetic, not by memory. "body" is the function body on stock onnxruntime.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnxruntime as ort
import pytest

from bench.kernels.rows import Row
from edgeadapt.codecs import blockwise
from edgeadapt.ops import OPS, Case, atom_mix_update, spectral_update
from edgeadapt.ops.library import library_path
from tests.contract.views import model_of

SETS = ("body", "scalar", "baseline", "avx2", "avx512", "avx512vnni", "dotprod")
NO_SUCH_SET = "EDGEADAPT_OPS_ISA names an instruction set"
D, INNER, VOCABULARY, PROMPT = 576, 1536, 49152, 64


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def quantised(rows: int, K: int, N: int, bits: Literal[4, 8]) -> Case:
    packed = blockwise.quantise_blocks(normal(N, K), bits=bits, block=32)
    inputs = {"x": normal(1, rows, K), "data": packed.data, "scales": packed.scales, "zero_points": packed.zero_points}
    given = {name: value for name, value in inputs.items() if value is not None}
    return Case("", given, attributes={"K": K, "N": N, "bits": bits, "block_size": 32}, sized=True)


def low_rank(tokens: int) -> Case:
    factors = {"A": normal(D, 8).astype(np.float16), "B": normal(8, D).astype(np.float16)}
    return Case("", {"y": normal(1, tokens, D), "x": normal(1, tokens, D), **factors}, {"indexed": False})


def spectral(tokens: int) -> Case:
    """q and v of a layer as one node, half of the directions in int8 and a quarter in fp16."""
    V, U = normal(32, D).astype(np.float16), np.zeros((32, D + 384), np.float16)
    U[:16, :D], U[16:, D + 192 :] = normal(16, D), normal(16, 192)
    wide, narrow, scales = spectral_update.stored(V, U, np.ones(32, np.float32))
    span = np.repeat(np.array([[0, D], [D + 192, D + 384]]), 16, axis=0)
    states = np.tile(np.array([1, 0, 1, 2], np.uint8), (1, tokens, 8))
    inputs = {"y": normal(1, tokens, D + 384), "x": normal(1, tokens, D), "states": states}
    inputs |= {"wide": wide, "narrow": narrow, "scales": scales, "span": span}
    return Case("", inputs, attributes={"first": 0, "count": 32})


def updated_norm(tokens: int) -> Case:
    inputs = {"a": normal(1, tokens, D), "b": normal(1, tokens, D), "r": normal(1, 1, D), "u": normal(1, 1, D)}
    return Case("", {**inputs, "gamma": normal(D)}, attributes={"epsilon": 1e-5})


def route(tokens: int) -> Case:
    inputs = {"h": normal(1, tokens, D), "W": normal(D, 16), "K": normal(16, 128), "bias": normal(1, 1, 128)}
    return Case("", inputs, attributes={"k": 2})


def atom_mix(tokens: int) -> Case:
    """On q, k and v, packed; of two atoms, since no other is read."""
    chosen = np.random.default_rng(2).integers(0, 2, (1, tokens, 2))
    inputs = {"y": normal(1, tokens, 960), "x": normal(1, tokens, D)}
    inputs["atoms"] = atom_mix_update.table(normal(2, 960), normal(2, 1, D), normal(1, 2, 3))
    inputs |= {"columns": np.array([[0, 576], [576, 768], [768, 960]]), "index": chosen}
    return Case("", {**inputs, "weight": normal(1, tokens, 2)}, attributes={"row": 0, "reads": 1})


def encoder_norm() -> Case:
    inputs = {"a": normal(1, 512, 384), "b": normal(1, 512, 384), "gamma": normal(384), "beta": normal(384)}
    return Case("", inputs, attributes={"epsilon": 1e-12})


WORKLOADS: dict[tuple[str, str], Callable[[], Case]] = {
    ("RankOneUpdate", "one token"): lambda: Case(
        "", {"x": normal(1, 1, D), "r": normal(1, 1, D), "u": normal(1, 1, D)}
    ),
    ("RankOneUpdate", "512 tokens"): lambda: Case(
        "", {"x": normal(1, 512, D), "r": normal(1, 1, D), "u": normal(1, 1, D)}
    ),
    ("RankOneNorm", "one token"): lambda: updated_norm(1),
    ("RankOneNorm", "512 tokens"): lambda: updated_norm(512),
    ("LowRankUpdate", "rank 8, one token"): lambda: low_rank(1),
    ("LowRankUpdate", "rank 8, 512 tokens"): lambda: low_rank(512),
    ("AtomRoute", "one token"): lambda: route(1),
    ("AtomRoute", "512 tokens"): lambda: route(512),
    ("AtomMixUpdate", "q, k, v, one token"): lambda: atom_mix(1),
    ("AtomMixUpdate", "q, k, v, 512 tokens"): lambda: atom_mix(512),
    ("SpectralUpdate", "16 + 16 directions, one token"): lambda: spectral(1),
    ("SpectralUpdate", "16 + 16 directions, 64 tokens"): lambda: spectral(PROMPT),
    ("HimalayaDirection", "one prompt"): lambda: next(iter(OPS["HimalayaDirection"].cases(np.random.default_rng(1)))),
    ("HimalayaTerms", "one prompt"): lambda: next(iter(OPS["HimalayaTerms"].cases(np.random.default_rng(1)))),
    ("TanhGelu", "512 x 1536"): lambda: Case("", {"x": normal(1, 512, INNER)}),
    ("AddLayerNorm", "512 x 384"): encoder_norm,
    ("QuantMatMul", "int4 gate, decode"): lambda: quantised(1, D, INNER, 4),
    ("QuantMatMul", "int8 gate, decode"): lambda: quantised(1, D, INNER, 8),
    ("QuantMatMul", "int4 LM head, decode"): lambda: quantised(1, D, VOCABULARY, 4),
    ("QuantMatMul", "int8 LM head, decode"): lambda: quantised(1, D, VOCABULARY, 8),
    ("QuantMatMul", "int4 gate, prompt of 64"): lambda: quantised(PROMPT, D, INNER, 4),
    ("QuantMatMul", "int8 gate, prompt of 64"): lambda: quantised(PROMPT, D, INNER, 8),
}


def test_every_op_is_measured() -> None:
    assert {op for op, _ in WORKLOADS} == set(OPS)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: f"{workload[0]}: {workload[1]}")
def test_kernel(workload: tuple[str, str], isa: str, benchmark: Any, record: Callable[[Row], None]) -> None:
    case = WORKLOADS[workload]()
    session = open_session(workload[0], case, isa)
    binding = session.io_binding()
    for name, value in case.inputs.items():
        if name in {item.name for item in session.get_inputs()}:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    for item in session.get_outputs():
        binding.bind_output(item.name)
    session.run_with_iobinding(binding)
    size = sum(value.nbytes for value in (*case.inputs.values(), *binding.copy_outputs_to_cpu()))

    benchmark.group = ": ".join(workload)
    benchmark(session.run_with_iobinding, binding)
    if benchmark.stats is None:
        return  # --benchmark-disable
    row = Row(benchmark.group, isa, size, benchmark.stats.stats.median, limit(size))
    benchmark.extra_info.update(bytes=size, bytes_per_second=size / row.seconds, limit_bytes_per_second=row.limit)
    record(row)


def open_session(name: str, case: Case, isa: str) -> ort.InferenceSession:
    """One node, its weights constant as in a model; skips the test where this machine has no such kernel."""
    weights = frozenset(case.inputs) & {"data", "scales", "zero_points", "gamma", "beta", "columns"}
    model = model_of(OPS[name], case, with_body=isa == "body", constants=weights)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    library = library_path()
    if isa == "body":
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if library is None:
        pytest.skip("no native library: scripts/build-kernels")
    with mock.patch.dict(os.environ, EDGEADAPT_OPS_ISA=isa):
        options.register_custom_ops_library(str(library))
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if NO_SUCH_SET not in str(error):
                raise
            pytest.skip(f"this processor has no {isa}")


def limit(size: int) -> float:
    """Bytes per second of a copy (read and written) or of a read (a dot product) of `size` bytes in all."""
    half = np.ones(max(1, size // 8), np.float32)
    copy = np.empty_like(half)
    whole = np.ones(max(1, size // 8), np.float32), np.ones(max(1, size // 8), np.float32)
    moved = 2 * half.nbytes
    return max(moved / median(lambda: np.copyto(copy, half)), moved / median(lambda: np.dot(*whole)))


def median(call: Callable[[], object], seconds: float = 0.1) -> float:
    """Median time of a call over `seconds` and at least five; short calls are timed in batches."""
    batch, samples, end = 1, list[float](), time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(batch):
            call()
        elapsed = time.perf_counter() - start
        if elapsed < 1e-4:
            batch, samples = 2 * batch, []
            continue
        samples.append(elapsed / batch)
    return statistics.median(samples)
