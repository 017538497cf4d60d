"""What is special about HIMALAYA's two ops: gates, ties, norms, the residual site, and the price of a site."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPSET, VERSION, Case, himalaya_direction, himalaya_terms, rank_one_update
from edgeadapt.ops.himalaya_direction import dictionary, gates, reference, route
from edgeadapt.ops.himalaya_tables import ATOMS, Tables, fixed_logits, random_tables
from tests.contract.views import VIEWS, assert_agrees, kernel_library

quick = settings(max_examples=40, deadline=None)
each_view = pytest.mark.parametrize("view", VIEWS)
small = st.integers(-3, 3)
codes = st.lists(small, min_size=ATOMS, max_size=ATOMS).map(np.array)


def tables(seed: int = 0, width: int = 72, n_rows: int = 2) -> Tables:
    return random_tables(np.random.default_rng(seed), width, router=4, n_rows=n_rows)


def case_of(stored: Tables, pool: np.ndarray, task: np.ndarray) -> Case:
    return Case("drawn", {"pool": pool, "task": task, **stored.as_dict()})


def skip_without(view: str) -> None:
    if view == "kernel" and kernel_library() is None:
        pytest.skip("this installation has no native library")


class TestDirection:
    @each_view
    @quick
    @given(a=codes, c=codes, alive=st.lists(st.booleans(), min_size=ATOMS, max_size=ATOMS))
    def test_gates_by_the_letter(self, view: str, a: np.ndarray, c: np.ndarray, alive: list[bool]) -> None:
        """Few distinct logits make every draw a tangle of ties; an independent sort says which three may open."""
        skip_without(view)
        base = tables()
        gains = np.where(alive, np.abs(base.atom_gains) + np.float16(0.5), 0).astype(np.float16)
        stored = replace(fixed_logits(base, a, c), atom_gains=gains)
        ranked = sorted(range(ATOMS), key=lambda j: (-a[j], j))[:3]
        chosen = [j for j in ranked if a[j] > 0 and alive[j]]
        direction = sum((c[j] / 32 * dictionary(stored)[j].astype(np.float64) for j in chosen), np.zeros(stored.width))
        norm = np.linalg.norm(direction)
        expected = direction / norm if norm > 0 else direction
        pool = np.random.default_rng(1).standard_normal((1, stored.width)).astype(np.float32)
        (result,) = VIEWS[view](himalaya_direction.OP, case_of(stored, pool, np.array([1])))
        np.testing.assert_allclose(result[0], expected, atol=2e-6)

    @each_view
    @quick
    @given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 30).map(lambda n: 8 * n), batch=st.integers(1, 4))
    def test_random_routers(self, view: str, seed: int, width: int, batch: int) -> None:
        skip_without(view)
        rng = np.random.default_rng(seed)
        stored = random_tables(rng, width, router=int(rng.integers(1, 9)), n_rows=int(rng.integers(1, 33)))
        pool = (rng.standard_normal((batch, width)) * 10 ** rng.uniform(-2, 3)).astype(np.float32)
        task = rng.integers(0, len(stored.rows), batch)
        a, c = route(pool, task, stored)
        # Keep away from the jumps: where two places or a sign hang on the last bits, views may differ (see the op).
        ordered = np.sort(np.concatenate((np.maximum(a, 0), np.zeros((batch, 1))), axis=1), axis=1)[:, -4:]
        assume(bool((np.diff(ordered, axis=1) > 1e-4).all()))
        opened = np.where(gates(a, stored.atom_gains), c, 0.0)
        length = np.linalg.norm(opened @ dictionary(stored), axis=1)
        assume(bool(((length == 0) | (length > 0.05 * np.abs(opened).sum(axis=1))).all()))
        case = case_of(stored, pool, task)
        assert_agrees(himalaya_direction.OP, case, VIEWS[view](himalaya_direction.OP, case))

    @quick
    @given(seed=st.integers(0, 2**32 - 1))
    def test_unit_or_zero_and_within_three_atoms(self, seed: int) -> None:
        stored = tables(seed % 7)
        rng = np.random.default_rng(seed)
        pool, task = rng.standard_normal((5, stored.width)).astype(np.float32), rng.integers(0, 2, 5)
        a, c = route(pool, task, stored)
        opened = gates(a, stored.atom_gains)
        r = reference(pool, task, *stored.as_dict().values())
        assert opened.sum(axis=1).max() <= 3
        np.testing.assert_allclose(np.linalg.norm(r, axis=1), opened.any(axis=1).astype(float), atol=1e-6)
        gram = dictionary(stored).astype(np.float64) @ dictionary(stored).astype(np.float64).T
        k = np.where(opened, c, 0)
        length = np.sqrt(np.maximum(np.einsum("bi,ij,bj->b", k, gram, k), 0))
        np.testing.assert_allclose(r * length[:, None], k @ dictionary(stored), atol=1e-5)

    def test_protection_rows_are_added_per_task(self) -> None:
        stored = replace(tables(n_rows=3), rows=np.zeros((3, 80), np.int8))
        rows = stored.rows.copy()
        rows[1] = 17
        pool = np.tile(np.arange(stored.width, dtype=np.float32), (2, 1))
        protected = replace(stored, rows=rows)
        before, after = (route(pool, np.array([0, 1]), item) for item in (stored, protected))
        shift = 17 * float(stored.row_scales[1])
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(new - old, [[0.0] * ATOMS, [shift] * ATOMS], atol=1e-12)

    @pytest.mark.parametrize("task", [-1, 2, 31])
    def test_reference_refuses_unknown_tasks(self, task: int) -> None:
        stored = tables()
        with pytest.raises(EdgeAdaptError, match=r"task must lie in 0\.\.1"):
            reference(np.ones((1, stored.width), np.float32), np.array([task]), *stored.as_dict().values())

    @each_view
    def test_views_refuse_a_task_without_a_row(self, view: str) -> None:
        skip_without(view)
        stored = tables()
        pool = np.ones((1, stored.width), np.float32)
        with pytest.raises(InvalidArgument, match=r"out of data bounds|task\[0\] is 2"):
            VIEWS[view](himalaya_direction.OP, case_of(stored, pool, np.array([2])))

    @pytest.mark.parametrize("name", list(tables().as_dict()))
    def test_tables_of_another_shape_or_dtype_are_refused_by_name(self, name: str) -> None:
        stored = tables()
        value = getattr(stored, name)
        other = np.uint8 if value.dtype == np.int8 else np.int8
        with pytest.raises(EdgeAdaptError, match=name if name not in ("w1", "rows") else "is"):
            replace(stored, **{name: value[..., :-1]})
        with pytest.raises(EdgeAdaptError, match=name):
            replace(stored, **{name: value.astype(other)})


class TestTerms:
    @each_view
    @quick
    @given(a=codes, c=codes, alive=st.lists(st.booleans(), min_size=ATOMS, max_size=ATOMS))
    def test_terms_by_the_letter(self, view: str, a: np.ndarray, c: np.ndarray, alive: list[bool]) -> None:
        """The open atoms by index; one without a coefficient, like one that is inactive, leaves no place empty."""
        skip_without(view)
        base = tables()
        gains = np.where(alive, np.abs(base.atom_gains) + np.float16(0.5), 0).astype(np.float16)
        stored = replace(fixed_logits(base, a, c), atom_gains=gains)
        D = dictionary(stored).astype(np.float64)
        ranked = sorted(range(ATOMS), key=lambda j: (-a[j], j))[:3]
        chosen = sorted(j for j in ranked if a[j] > 0 and alive[j] and c[j] != 0)
        total = sum(abs(c[j]) * (D[j] ** 2).sum() for j in chosen)
        expected = [np.sqrt(abs(c[j]) / total) * D[j] for j in chosen] + [np.zeros(stored.width)] * (3 - len(chosen))
        pool = np.random.default_rng(1).standard_normal((1, stored.width)).astype(np.float32)
        found = VIEWS[view](himalaya_terms.OP, case_of(stored, pool, np.array([1])))
        np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-6)
        assert sum(np.square(term).sum() for term in found) == pytest.approx(1.0 if chosen else 0.0, abs=1e-5)


class TestRankOne:
    @each_view
    @quick
    @given(
        seed=st.integers(0, 2**32 - 1),
        shape=st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(1, 70)),
    )
    def test_random_shapes(self, view: str, seed: int, shape: tuple[int, int, int]) -> None:
        batch, _, width = shape
        skip_without(view)
        rng = np.random.default_rng(seed)
        r = rng.standard_normal((batch, 1, width)).astype(np.float32)
        r /= np.linalg.norm(r, axis=2, keepdims=True)
        x = rng.standard_normal(shape).astype(np.float32)
        u = rng.standard_normal((batch, 1, width)).astype(np.float32)
        case = Case("drawn", {"x": x, "r": r, "u": u})
        assert_agrees(rank_one_update.OP, case, VIEWS[view](rank_one_update.OP, case))

    @quick
    @given(st.integers(0, 2**32 - 1), st.floats(-1, 1, width=32))
    def test_norm_bound_and_residual_identity(self, seed: int, gain: float) -> None:
        rng = np.random.default_rng(seed)
        h = rng.standard_normal((1, 4, 24)).astype(np.float32)
        r = rng.standard_normal((1, 1, 24)).astype(np.float32)
        r /= np.linalg.norm(r)
        z = rank_one_update.reference(h, r, np.float32(gain) * r)
        moved = np.linalg.norm(z, axis=2)
        assert (moved <= abs(gain) * np.linalg.norm(h, axis=2) * (1 + 1e-5) + 1e-6).all()
        np.testing.assert_allclose(h + z, h + gain * (h @ r[0, 0])[..., None] * r[0, 0], atol=1e-5)

    @pytest.mark.parametrize(
        ("changed", "shape", "message"),
        [("x", (2, 3), "x is"), ("r", (1, 1, 8), "r is"), ("r", (2, 8), "r is"), ("u", (2, 2, 8), "u is")],
    )
    def test_other_shapes_are_refused(self, changed: str, shape: tuple[int, ...], message: str) -> None:
        shapes = {"x": (2, 3, 8), "r": (2, 1, 8), "u": (2, 1, 8), changed: shape}
        with pytest.raises(EdgeAdaptError, match=message):
            rank_one_update.reference(**{name: np.zeros(value, np.float32) for name, value in shapes.items()})

    def test_what_a_site_costs_after_optimisation(self, tmp_path: Path) -> None:
        """Decode pays per node: a site is three, and the addition that makes h."""
        layers, width = 6, 16
        shapes: dict[str, list[str | int | None]] = {"x": ["B", "T", width], "r": ["B", 1, width]}
        shapes |= {f"u{layer}": ["B", 1, width] for layer in range(layers)}
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        nodes = []
        for layer in range(layers):
            before, after = ("x" if not layer else f"n{layer - 1}"), f"n{layer}"
            nodes.append(helper.make_node("Tanh", [before], [f"h{layer}"]))
            nodes.append(
                helper.make_node("RankOneUpdate", [f"h{layer}", "r", f"u{layer}"], [f"z{layer}"], domain=DOMAIN)
            )
            nodes.append(helper.make_node("Add", [f"h{layer}", f"z{layer}"], [after]))
        output = helper.make_tensor_value_info(f"n{layers - 1}", TensorProto.FLOAT, ["B", "T", width])
        model = helper.make_model(
            helper.make_graph(nodes, "sites", inputs, [output]),
            functions=[onnx.parser.parse_function(rank_one_update.body())],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
            ir_version=10,
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        counted = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
        assert sum(counted.values()) - counted["Tanh"] == 4 * layers, counted
