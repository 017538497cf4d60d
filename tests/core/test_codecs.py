"""The codecs: round trips, error figures, bytes, refusals, and ONNX Runtime's reading of the block-wise layout."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.codecs import (
    BlockQuantised,
    Int8Rows,
    ThreeBit,
    blockwise,
    error_statistics,
    factors,
    int4,
    int8,
    three_bit,
)
from edgeadapt.errors import EdgeAdaptError

quick = settings(max_examples=30, deadline=None)
finite = st.floats(-1e4, 1e4, width=32)


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@st.composite
def matrices(draw: st.DrawFn, multiple: int = 1) -> np.ndarray:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 24)) * multiple
    return draw(hnp.arrays(np.float32, (rows, columns), elements=finite))


class TestStatistics:
    def test_known_values(self) -> None:
        figures = error_statistics(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
        assert figures.nmse == pytest.approx(1 / 25)
        assert figures.cosine == pytest.approx(21 / (5 * 18**0.5))
        assert figures.max_abs == 1.0

    def test_zeros_are_like_zeros_and_unlike_anything_else(self) -> None:
        zero, one = np.zeros(3), np.ones(3)
        assert error_statistics(zero, zero) == error_statistics(np.zeros(0), np.zeros(0))
        assert (error_statistics(zero, zero).nmse, error_statistics(zero, zero).cosine) == (0.0, 1.0)
        assert (error_statistics(zero, one).nmse, error_statistics(zero, one).cosine) == (float("inf"), 0.0)
        assert (error_statistics(one, zero).nmse, error_statistics(one, zero).cosine) == (1.0, 0.0)

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(EdgeAdaptError, match=r"\(3,\) and \(1, 3\)"):
            error_statistics(np.zeros(3), np.zeros((1, 3)))


class TestThreeBit:
    def test_bit_order_is_little_endian(self) -> None:
        codes = np.array([[1, 2, 3, 4, 5, 6, 7, 0]])
        word = sum(int(code) << 3 * i for i, code in enumerate(codes[0]))
        assert bytes(three_bit.pack(codes)[0]) == word.to_bytes(3, "little")

    @quick
    @given(
        hnp.arrays(
            np.uint8, st.tuples(st.integers(0, 3), st.integers(0, 9).map(lambda n: 8 * n)), elements=st.integers(0, 7)
        )
    )
    def test_unpack_undoes_pack(self, codes: np.ndarray) -> None:
        packed = three_bit.pack(codes)
        assert packed.shape == (codes.shape[0], codes.shape[1] // 8 * 3)
        np.testing.assert_array_equal(three_bit.unpack(packed), codes)

    def test_gaussian_error_is_lloyd_max(self) -> None:
        figures = three_bit.quantise(gaussian(64, 4096)).error(gaussian(64, 4096))
        assert figures.nmse < 0.0345  # the levels' own figure; a scale per group does a little better
        assert figures.cosine > 0.983

    @pytest.mark.parametrize("width", [8, 56, 64, 72, 384, 576])
    def test_bytes_and_shapes(self, width: int) -> None:
        quantised = three_bit.quantise(gaussian(40, width))
        assert quantised.packed.shape == (40, 3 * width // 8)
        assert quantised.scales.shape == (40, -(-width // 64))
        assert quantised.nbytes == 40 * (3 * width // 8 + 2 * -(-width // 64))
        assert quantised.width == width
        assert three_bit.dequantise(quantised).shape == (40, width)

    def test_a_short_last_group_has_its_own_scale(self) -> None:
        x = gaussian(2, 72)
        x[:, 64:] *= 1000
        whole, tail = three_bit.quantise(x), three_bit.quantise(np.ascontiguousarray(x[:, 64:]))
        np.testing.assert_array_equal(whole.scales[:, 1:], tail.scales)
        np.testing.assert_array_equal(three_bit.dequantise(whole)[:, 64:], three_bit.dequantise(tail))

    @quick
    @given(matrices(multiple=8))
    def test_every_value_takes_its_nearest_level(self, x: np.ndarray) -> None:
        quantised = three_bit.quantise(x)
        decoded = three_bit.dequantise(quantised).astype(np.float64)
        scales = np.repeat(quantised.scales.astype(np.float64), 64, axis=1)[:, : x.shape[1], None]
        best = np.abs(x[..., None] - three_bit.LEVELS * scales).min(axis=2)
        np.testing.assert_allclose(np.abs(x - decoded), best, rtol=1e-5, atol=1e-6 * np.abs(x).max(initial=0))

    @quick
    @given(matrices(multiple=8), st.floats(2**-4, 4))
    def test_refinement_beats_the_start(self, x: np.ndarray, size: float) -> None:
        x = np.asarray(x * np.float32(size), dtype=np.float32)
        rms = np.sqrt(np.square(x[:, :64].astype(np.float64)).mean(axis=1, keepdims=True))
        levels = three_bit.LEVELS.astype(np.float64)
        start = np.square(x[:, :64, None] - levels * rms[:, :, None]).min(axis=2).sum()
        group = np.ascontiguousarray(x[:, :64])
        final = np.square(three_bit.dequantise(three_bit.quantise(group)).astype(np.float64) - group).sum()
        # fp16 storage of the scale may cost back 2^-11 of each value; a subnormal scale, 2^-25 of a level.
        assert final <= start * (1 + 1e-3) + np.square(group.astype(np.float64)).sum() * 2**-20 + group.size * 1e-13

    def test_zero_group_is_exact_and_beside_it_nothing_changes(self) -> None:
        x = gaussian(3, 128)
        x[1, :64] = 0
        decoded = three_bit.dequantise(three_bit.quantise(x))
        assert not decoded[1, :64].any()
        np.testing.assert_array_equal(decoded[:, 64:], three_bit.dequantise(three_bit.quantise(x[:, 64:])))

    def test_gains_restore_unit_norm(self) -> None:
        atoms = gaussian(40, 576) * 0.03
        atoms[7] = 0
        quantised = three_bit.quantise(atoms)
        gains = three_bit.unit_gains(quantised)
        norms = np.linalg.norm(three_bit.dequantise(quantised) * gains[:, None].astype(np.float32), axis=1)
        assert gains[7] == 0
        assert np.abs(np.delete(norms, 7) - 1).max() <= 1e-3

    def test_extreme_magnitudes(self) -> None:
        for size in (1e-30, 1e-7, 1e4):
            decoded = three_bit.dequantise(three_bit.quantise(gaussian(2, 64) * np.float32(size)))
            assert np.isfinite(decoded).all()
        with pytest.raises(EdgeAdaptError, match="does not fit fp16"):
            three_bit.quantise(gaussian(2, 64) * np.float32(1e30))

    @pytest.mark.parametrize("shape", [(2, 12), (2, 0)])
    def test_width_must_be_a_positive_multiple_of_eight(self, shape: tuple[int, int]) -> None:
        with pytest.raises(EdgeAdaptError, match="multiple of 8"):
            three_bit.quantise(np.zeros(shape, np.float32))

    def test_no_rows(self) -> None:
        assert three_bit.dequantise(three_bit.quantise(np.zeros((0, 16), np.float32))).shape == (0, 16)

    def test_parts_must_belong_together(self) -> None:
        with pytest.raises(EdgeAdaptError, match="width 128 needs"):
            ThreeBit(np.zeros((2, 48), np.uint8), np.zeros((2, 1), np.float16))


class TestInt8Rows:
    @quick
    @given(matrices())
    def test_error_is_half_a_step(self, x: np.ndarray) -> None:
        quantised = int8.quantise(x)
        scales = quantised.scales.astype(np.float64)[:, None]
        # The largest value may be clipped where its scale was rounded down: by 2^-11 of it, or 127 subnormal halves.
        slack = np.abs(x).max(axis=1, keepdims=True) * 2.0**-11 + 127 * 2.0**-25
        assert (np.abs(int8.dequantise(quantised).astype(np.float64) - x) <= scales / 2 * (1 + 1e-6) + slack).all()
        assert quantised.codes.min(initial=0) >= -127

    def test_a_row_and_its_negative_quantise_alike(self) -> None:
        x = gaussian(8, 33)
        np.testing.assert_array_equal(int8.quantise(-x).codes, -int8.quantise(x).codes)

    def test_integers_on_an_fp16_scale_survive_exactly(self) -> None:
        codes = np.random.default_rng(1).integers(-127, 128, (4, 50))
        codes[:, 0] = 127
        x = (codes / 32).astype(np.float32)
        np.testing.assert_array_equal(int8.dequantise(int8.quantise(x)), x)

    def test_zero_rows_have_scale_zero(self) -> None:
        quantised = int8.quantise(np.zeros((2, 5), np.float32))
        assert not quantised.scales.any()
        assert not quantised.codes.any()
        assert int8.quantise(np.zeros((2, 0), np.float32)).nbytes == 4

    def test_bytes(self) -> None:
        assert int8.quantise(gaussian(66, 593)).nbytes == 66 * (593 + 2)

    def test_beyond_fp16(self) -> None:
        with pytest.raises(EdgeAdaptError, match="does not fit fp16"):
            int8.quantise(np.full((1, 4), 1e8, np.float32))

    def test_parts_must_belong_together(self) -> None:
        with pytest.raises(EdgeAdaptError, match="do not match"):
            Int8Rows(np.zeros((2, 3), np.int8), np.zeros(3, np.float16))


FORMATS = [(4, 16), (4, 32), (4, 64), (8, 32), (8, 64), (8, 128)]


def quantise_blocks(x: np.ndarray, bits: int, block: int, zero_points: bool) -> BlockQuantised:
    if bits == 4:
        return int4.quantise(x, block, zero_points=zero_points)
    return int8.quantise_blockwise(x, block, zero_points=zero_points)


@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero_points"])
@pytest.mark.parametrize(("bits", "block"), FORMATS)
class TestBlockwise:
    @quick
    @given(x=matrices(multiple=7))
    def test_error_is_within_the_plain_rule(self, x: np.ndarray, bits: int, block: int, zero_points: bool) -> None:
        """The refined scale never does worse, in squared error per block, than the plain maximum rule can guarantee."""
        quantised = quantise_blocks(x, bits, block, zero_points)
        blocks = -(-x.shape[1] // block)
        padded = np.pad(x, ((0, 0), (0, blocks * block - x.shape[1]))).reshape(len(x), blocks, block).astype(np.float64)
        wrong = np.pad(x - blockwise.dequantise(quantised), ((0, 0), (0, blocks * block - x.shape[1])))
        loss = np.square(wrong.astype(np.float64)).reshape(padded.shape).sum(axis=2)
        if zero_points:
            step = (np.maximum(padded.max(axis=2), 0) - np.minimum(padded.min(axis=2), 0)) / (2**bits - 1)
        else:
            step = np.abs(padded).max(axis=2) / 2 ** (bits - 1)
        # Symmetric: the end opposite to the largest value has one code less, so it may miss by a whole step. With a
        # rounded zero point, the range may be shifted by half a step beyond the half step of rounding.
        assert (loss <= block * np.square(step) * (1 + 1e-4) + 1e-30).all()

    def test_gaussian_error(self, bits: int, block: int, zero_points: bool) -> None:
        x = gaussian(64, 1152)
        figures = quantise_blocks(x, bits, block, zero_points).error(x)
        assert figures.nmse < (0.011 if bits == 4 else 6e-5)
        assert figures.cosine > (0.994 if bits == 4 else 0.99997)

    def test_no_rows(self, bits: int, block: int, zero_points: bool) -> None:
        quantised = quantise_blocks(np.zeros((0, 70), np.float32), bits, block, zero_points)
        assert blockwise.dequantise(quantised).shape == (0, 70)
        assert quantised.gather_data.shape == (0, -(-70 // block) * block * bits // 8)

    def test_bytes_and_shapes(self, bits: int, block: int, zero_points: bool) -> None:
        quantised = quantise_blocks(gaussian(10, 576), bits, block, zero_points)
        blocks = -(-576 // block)
        points = 10 * -(-blocks * bits // 8) if zero_points else 0
        assert quantised.nbytes == 10 * blocks * (block * bits // 8 + 4) + points
        assert (quantised.zero_points is not None) == zero_points
        assert np.shares_memory(quantised.gather_data, quantised.data)

    def test_a_second_pass_changes_nothing_much(self, bits: int, block: int, zero_points: bool) -> None:
        once = blockwise.dequantise(quantise_blocks(gaussian(8, 300), bits, block, zero_points))
        twice = blockwise.dequantise(quantise_blocks(once, bits, block, zero_points))
        assert error_statistics(once, twice).nmse < (3e-3 if bits == 4 else 2e-5)

    def test_zero_blocks_decode_to_zeros(self, bits: int, block: int, zero_points: bool) -> None:
        x = gaussian(3, 4 * block)
        x[1, block : 2 * block] = 0
        x[2] = 0
        decoded = blockwise.dequantise(quantise_blocks(x, bits, block, zero_points))
        assert not decoded[1, block : 2 * block].any()
        assert not decoded[2].any()

    def test_blocks_do_not_touch_each_other(self, bits: int, block: int, zero_points: bool) -> None:
        x = gaussian(3, 4 * block)
        loud = x.copy()
        loud[:, :block] *= 1e6
        quiet, other = (blockwise.dequantise(quantise_blocks(value, bits, block, zero_points)) for value in (x, loud))
        np.testing.assert_array_equal(quiet[:, block:], other[:, block:])

    def test_slicing_does_not_show(self, bits: int, block: int, zero_points: bool) -> None:
        x = gaussian(5, 576 * 128)
        whole = blockwise.dequantise(quantise_blocks(x, bits, block, zero_points))
        alone = [blockwise.dequantise(quantise_blocks(row[None], bits, block, zero_points)) for row in x]
        np.testing.assert_array_equal(whole, np.concatenate(alone))

    def test_extreme_magnitudes(self, bits: int, block: int, zero_points: bool) -> None:
        for size in (1e-37, 1e-20, 1e20, 1e38):
            x = np.clip(gaussian(2, 128), -3, 3) * np.float32(size)
            figures = quantise_blocks(x, bits, block, zero_points).error(x)
            assert figures.nmse < (0.011 if bits == 4 else 6e-5)

    @pytest.mark.parametrize("value", [-3.0, 5.0])
    def test_constant_blocks_are_exact(self, bits: int, block: int, zero_points: bool, value: float) -> None:
        x = np.full((2, block), value, np.float32)
        np.testing.assert_allclose(blockwise.dequantise(quantise_blocks(x, bits, block, zero_points)), x, rtol=1e-6)

    @pytest.mark.parametrize("columns", [576, 640, 100, 5])
    def test_onnxruntime_reads_the_same_numbers(self, bits: int, block: int, zero_points: bool, columns: int) -> None:
        """MatMulNBits and GatherBlockQuantized on one buffer: the dequantised product and the dequantised rows."""
        rows = 11
        quantised = quantise_blocks(gaussian(rows, columns, seed=columns), bits, block, zero_points)
        weight = blockwise.dequantise(quantised)
        x, index = gaussian(3, columns, seed=9), np.array([[0, 10, 3], [10, -1, 5]])
        product, gathered = shared_model(quantised).run(None, {"x": x, "index": index})
        assert np.abs(product - x.astype(np.float64) @ weight.T.astype(np.float64)).max() <= 1e-4
        assert gathered.shape == (2, 3, -(-columns // block) * block)
        np.testing.assert_array_equal(gathered[..., :columns], weight[index])
        assert not gathered[..., columns:].any()
        assert quantised.shareable == (gathered.shape[-1] == columns)


def shared_model(quantised: BlockQuantised) -> ort.InferenceSession:
    """Both ops on the arrays of one BlockQuantised; the scales (and zero points) are the same initializers."""
    format_: dict[str, Any] = {"bits": quantised.bits, "block_size": quantised.block, "domain": "com.microsoft"}
    weights: dict[str, np.ndarray] = {"data": quantised.data, "rows": quantised.gather_data, "scales": quantised.scales}
    points = []
    if quantised.zero_points is not None:
        weights["points"], points = quantised.zero_points, ["points"]
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "data", "scales", *points], ["y"], N=quantised.rows, K=quantised.columns, **format_
        ),
        helper.make_node(
            "GatherBlockQuantized",
            ["rows", "index", "scales", *points],
            ["z"],
            gather_axis=0,
            quantize_axis=1,
            **format_,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "shared",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", quantised.columns]),
            helper.make_tensor_value_info("index", TensorProto.INT64, ["b", "t"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_zero_points_help_skewed_weights() -> None:
    x = np.abs(gaussian(16, 256)) + 1
    assert int4.quantise(x, zero_points=True).error(x).nmse < int4.quantise(x).error(x).nmse


@pytest.mark.parametrize("block", [0, 8, 48, -32])
def test_block_must_be_a_power_of_two(block: int) -> None:
    with pytest.raises(EdgeAdaptError, match="power of two, 16 or more"):
        int4.quantise(gaussian(2, 64), block)


@pytest.mark.parametrize("codec", [three_bit.quantise, int8.quantise, int4.quantise, int8.quantise_blockwise])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_with_their_row(codec: object, value: float) -> None:
    x = gaussian(4, 64)
    x[2, 5] = value
    assert callable(codec)
    with pytest.raises(EdgeAdaptError, match="row 2 holds NaN or inf"):
        codec(x)


class TestFactors:
    def test_every_component_has_its_own_scale(self) -> None:
        size = np.float32([1e-6, 1, 100])
        a, b, scales = factors.int8_factors(gaussian(64, 3) * size, gaussian(3, 40))
        assert (a.dtype, b.dtype, scales.dtype, scales.shape) == (np.int8, np.int8, np.float32, (3,))
        assert (np.abs(a).max(axis=0) == 127).all()
        assert (np.abs(b).max(axis=1) == 127).all()
        exact = (gaussian(64, 3) * size)[:, :, None] * gaussian(3, 40)[None]
        found = (a * scales)[:, :, None] * b[None].astype(np.float32)
        for k in range(3):
            assert error_statistics(exact[:, k], found[:, k]).nmse < 2e-4

    def test_a_component_of_zeros_stays_zero(self) -> None:
        a, b, scales = factors.int8_factors(gaussian(8, 2), np.zeros((2, 4), np.float16))
        assert not scales.any()
        assert not b.any()
        assert a.any()

    def test_what_does_not_belong_together_is_refused(self) -> None:
        with pytest.raises(EdgeAdaptError, match="different ranks"):
            factors.int8_factors(gaussian(8, 2), gaussian(3, 4))
        with pytest.raises(EdgeAdaptError, match="NaN or inf"):
            factors.int8_factors(gaussian(8, 2), np.full((2, 4), np.nan))
        with pytest.raises(EdgeAdaptError, match="beyond float32"):
            factors.int8_factors(np.full((8, 2), 1e30), np.full((2, 4), 1e30))


@pytest.mark.parametrize("codec", [three_bit.quantise, int8.quantise, int4.quantise, int8.quantise_blockwise])
def test_only_matrices_are_taken(codec: object) -> None:
    assert callable(codec)
    with pytest.raises(EdgeAdaptError, match="give a matrix"):
        codec(np.zeros(64, np.float32))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("data", np.zeros((2, 3, 16), np.uint8)),
        ("data", np.zeros((2, 2, 16), np.int8)),
        ("scales", np.zeros((2, 3), np.float32)),
        ("scales", np.zeros((2, 2), np.float16)),
        ("zero_points", np.zeros((2, 2), np.uint8)),
    ],
)
def test_parts_of_a_block_format_must_belong_together(part: str, value: np.ndarray) -> None:
    parts: dict[str, Any] = {
        "data": np.zeros((2, 2, 16), np.uint8),
        "scales": np.zeros((2, 2), np.float32),
        part: value,
    }
    with pytest.raises(EdgeAdaptError, match="int4"):
        BlockQuantised(4, 32, 64, **parts)
