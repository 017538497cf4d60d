"""Each pass alone: what it changes, what it leaves, and that its conditions are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeadapt.codecs import blockwise
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import OPS
from edgeadapt_export.decoder_source import base_graph
from edgeadapt_export.graph_map import linears, module_slice
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.choose_logits import ChooseLogits
from edgeadapt_export.passes.compute_rotary import ComputeRotaryTables, inverse_frequencies
from edgeadapt_export.passes.direction_inputs import direction_names
from edgeadapt_export.passes.embed_only import KeepEmbedding
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.fuse_silu import FuseSilu
from edgeadapt_export.passes.graft_linear import GraftLinear, parts
from edgeadapt_export.passes.graft_residual import GraftResidual
from edgeadapt_export.passes.graft_square import GraftSquare
from edgeadapt_export.passes.quantise import QuantiseWeights, block_size, quantise
from edgeadapt_export.passes.share_embedding import ShareEmbedding
from edgeadapt_export.passes.tidy import Tidy
from edgeadapt_export.store import WeightStore
from tests.export.conftest import Tiny
from tests.export.graphs import logits, random_ids, session

LAYERS = (0, 1, 2)


def saved(model: ir.Model, folder: Path, name: str = "model") -> Path:
    folder.mkdir(exist_ok=True)
    with WeightStore(folder / f"{name}.onnx.data") as store:
        store.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def original(tiny: Tiny) -> ir.Model:
    return ir.load(tiny.graph.model)


def test_sharing_the_embedding_changes_no_number(tiny: Tiny, tmp_path: Path) -> None:
    model = apply(original(tiny), ShareEmbedding())
    assert "Transpose" not in kinds(model)
    ids = random_ids(2, 9)
    np.testing.assert_array_equal(logits(saved(model, tmp_path), ids), logits(tiny.graph.model, ids))


def test_the_activation_is_one_node_and_computes_the_same(tiny: Tiny, tmp_path: Path) -> None:
    before = original(tiny)
    after = apply(original(tiny), FuseSilu())
    assert [node.op_type for node in after.graph].count("QuickGelu") == len(LAYERS)
    assert not [node for node in after.graph if node.op_type == "Sigmoid"]
    ids = random_ids(2, 9)
    expected = logits(saved(before, tmp_path, "before"), ids)
    np.testing.assert_allclose(logits(saved(after, tmp_path, "after"), ids), expected, atol=1e-5)


def test_rotary_tables_are_computed_and_not_stored(tiny: Tiny, tmp_path: Path) -> None:
    model = apply(original(tiny), ComputeRotaryTables())
    assert not {"cos_cache", "sin_cache"} & set(model.graph.initializers)
    ids = random_ids(1, 200)
    np.testing.assert_allclose(logits(saved(model, tmp_path), ids), logits(tiny.graph.model, ids), atol=1e-4)


def test_frequencies_are_found_to_the_last_bit_and_scaled_tables_are_left_alone() -> None:
    frequencies = (1 / 10000 ** (np.arange(0, 64, 2) / 64)).astype(np.float32)
    angles = np.arange(4096, dtype=np.float32)[:, None] * frequencies
    found = inverse_frequencies(np.cos(angles), np.sin(angles))
    assert found is not None
    assert np.abs(np.cos(np.arange(4096, dtype=np.float32)[:, None] * found) - np.cos(angles)).max() <= 1e-6
    assert inverse_frequencies(np.float32(1.1) * np.cos(angles), np.float32(1.1) * np.sin(angles)) is None


def test_logits_are_those_of_the_positions_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    model = apply(original(tiny), ShareEmbedding(), ChooseLogits())
    assert [list(value.shape) for value in model.graph.outputs if value.name == "logits"] == [
        ["batch_size", "logits_length", 320]
    ]
    path, ids = saved(model, tmp_path), random_ids(2, 9)
    every = logits(tiny.graph.model, ids)
    np.testing.assert_array_equal(logits(path, ids), every)
    for first in (0, 5, -1, -3):
        found = logits(path, ids, logits_from=np.array([first]))
        np.testing.assert_allclose(found, every[:, first:], rtol=0, atol=1e-5)


def test_a_second_choice_of_logits_is_refused(tiny: Tiny) -> None:
    with pytest.raises(EdgeAdaptError, match="has an input logits_from already"):
        apply(base_graph(tiny.graph, tiny.shape, "fp32"), ChooseLogits())


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_every_weight_is_quantised_and_the_embedding_stored_once(tiny: Tiny, tmp_path: Path, precision: Any) -> None:
    path = saved(base_graph(tiny.graph, tiny.shape, precision), tmp_path)
    model = onnx.load(path, load_external_data=False)
    found = [node.op_type for node in model.graph.node]
    assert found.count("MatMulNBits") == 3 * 5 + 1
    assert found.count("GatherBlockQuantized") == 1
    assert not {"MatMul", "FusedMatMul", "Gather"} & {
        node.op_type for node in model.graph.node if any("weight" in name for name in node.input)
    }
    offsets = {
        item.name: next(entry.value for entry in item.external_data if entry.key == "offset")
        for item in model.graph.initializer
        if item.external_data
    }
    rows = next(node.input[0] for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    head = next(node.input[1] for node in model.graph.node if node.name == "/lm_head/MatMul")
    assert rows != head
    assert offsets[rows] == offsets[head]


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_the_quantised_graph_computes_the_dequantised_weights(tiny: Tiny, tmp_path: Path, precision: Any) -> None:
    quantised = apply(original(tiny), ShareEmbedding(), QuantiseWeights(precision))
    for node in quantised.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)  # activations stay float32
    model = apply(original(tiny), ShareEmbedding())
    for name, value in model.graph.initializers.items():
        if name.endswith("MatMul.weight") or name == "model.embed_tokens.weight":
            assert value.const_value is not None
            matrix = value.const_value.numpy()
            rows = matrix if "embed" in name else matrix.T
            dense = blockwise.dequantise(quantise(precision, rows))
            value.const_value = ir.Tensor(np.ascontiguousarray(dense if "embed" in name else dense.T), name=name)
    ids = random_ids(2, 9)
    expected = logits(saved(model, tmp_path, "dense"), ids)
    np.testing.assert_allclose(logits(saved(quantised, tmp_path), ids), expected, atol=2e-5 * np.abs(expected).max())


def test_blocks_never_pad_the_widths_of_our_backbones() -> None:
    assert [block_size("int8", width) for width in (576, 1536, 384, 768)] == [64, 128, 128, 128]
    assert block_size("int4", 576) == 32


@pytest.mark.parametrize("site", ["residual", "square"])
def test_a_direction_of_zero_or_gains_of_zero_change_nothing_to_the_bit(tiny: Tiny, tmp_path: Path, site: str) -> None:
    base = base_graph(tiny.graph, tiny.shape, "int4")
    residual, square = GraftResidual(tiny.shape, LAYERS), GraftSquare(tiny.shape, LAYERS, ("q_proj", "o_proj"))
    graft = residual if site == "residual" else square
    path = saved(apply(base.clone(), graft, AddFunctionBodies()), tmp_path)
    ids = random_ids(2, 9)
    bare = logits(saved(base, tmp_path, "bare"), ids)
    r = np.ones((2, 1, 64), np.float32) / 8
    for alone in (direction(r, np.ones((2, 3), np.float32), r_too=False), {"himalaya.r": r}):
        np.testing.assert_array_equal(logits(path, ids, **alone), bare)
    moved = logits(path, ids, **direction(r, np.full((2, 3), 0.5, np.float32)))
    assert np.abs(moved - bare).max() > 1e-2


def direction(r: np.ndarray, gains: np.ndarray, *, r_too: bool = True) -> dict[str, np.ndarray]:
    """A graph's direction inputs: r [B, 1, d] and u_i = g_i r for gains [B, L]."""
    first, *names = direction_names(gains.shape[1])
    updates = {name: gains[:, i, None, None] * r for i, name in enumerate(names)}
    return {first: r, **updates} if r_too else updates


def test_each_row_of_a_batch_has_its_own_direction(tiny: Tiny, tmp_path: Path) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    path = saved(apply(base, GraftResidual(tiny.shape, LAYERS), AddFunctionBodies()), tmp_path)
    rng = np.random.default_rng(0)
    r, gains = rng.standard_normal((2, 1, 64)).astype(np.float32) / 8, rng.standard_normal((2, 3)).astype(np.float32)
    ids = random_ids(2, 9)
    both = logits(path, ids, **direction(r, gains))
    for row in range(2):
        one = slice(row, row + 1)
        alone = logits(path, ids[one], **direction(r[one], gains[one]))
        np.testing.assert_allclose(both[one], alone, atol=1e-5)


def test_low_rank_factors_of_v_leave_q_and_k_alone(tiny: Tiny, tmp_path: Path) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    made = parts(base, tiny.shape, LAYERS, ("q_proj", "v_proj"), 8)
    q, v = made[0].blocks
    assert (q.module, q.offset, q.width, v.module, v.offset, v.width) == ("q_proj", 0, 64, "v_proj", 96, 32)
    path = saved(apply(base.clone(), GraftLinear(made, {"qkv_proj": 64}), AddFunctionBodies()), tmp_path)
    ids = random_ids(1, 9)
    bare = logits(saved(base, tmp_path, "bare"), ids)
    rng = np.random.default_rng(0)
    factors = {}
    for part in made:
        factors[part.a_input] = rng.standard_normal((64, part.rank)).astype(np.float32)
    np.testing.assert_array_equal(logits(path, ids, **factors), bare)  # B = 0


def test_only_the_bodies_of_ops_that_are_used_are_added(tiny: Tiny) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    assert not apply(base.clone(), AddFunctionBodies()).functions
    grafted = apply(base.clone(), GraftResidual(tiny.shape, LAYERS), AddFunctionBodies())
    assert [name for _, name, _ in grafted.functions] == ["RankOneNorm"]
    assert set(OPS) > {"RankOneNorm"}


def test_the_embedding_alone_pools_what_the_mask_leaves(tiny: Tiny, tmp_path: Path) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    table = base.graph.initializers["model.embed_tokens.weight"].const_value
    assert table is not None
    rows = table.numpy()
    opened = session(saved(apply(base, KeepEmbedding(64), Tidy()), tmp_path))
    ids, mask = random_ids(3, 7), np.ones((3, 7), np.int64)
    mask[1, 4:], mask[2] = 0, 0
    (pool,) = opened.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(pool[0], rows[ids[0]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(pool[1], rows[ids[1, :4]].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(pool[2], np.zeros(64))


def test_a_second_graft_is_refused(tiny: Tiny) -> None:
    model = apply(base_graph(tiny.graph, tiny.shape, "fp32"), GraftResidual(tiny.shape, LAYERS))
    with pytest.raises(EdgeAdaptError, match="carries rank-one updates already"):
        apply(model, GraftResidual(tiny.shape, LAYERS))


def test_a_projection_that_is_not_square_is_refused(tiny: Tiny) -> None:
    with pytest.raises(EdgeAdaptError, match="v_proj is not a square projection of width 64"):
        apply(base_graph(tiny.graph, tiny.shape, "fp32"), GraftSquare(tiny.shape, LAYERS, ("v_proj",)))


def test_a_module_that_the_graph_lacks_is_named(tiny: Tiny) -> None:
    model = base_graph(tiny.graph, tiny.shape, "fp32")
    with pytest.raises(EdgeAdaptError, match=r"layer 1 .* has no x_proj; it has .*down_proj"):
        module_slice(model, tiny.shape, 1, "x_proj")
    assert {name for _, name in linears(model)} == {"qkv_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
