"""What a bundle says of an adapter's energy, and the tensors that go with it: nothing malformed comes through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeadapt.bundle import AdapterEntry
from edgeadapt.energy.costs import PROFILES
from edgeadapt.energy.envelope import (
    EnergyEnvelope,
    SpectralGroup,
    check_tensors,
    constants,
    planner_of,
    spans,
    states_of,
)
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.manifest import AdapterBytes
from edgeadapt.ops import spectral_update
from edgeadapt.records import decode, encode

L, N, K, D = 2, 4, 3, 8
QKV = SpectralGroup("qkv_proj", 16, ("q_proj", "v_proj"), (0, 12))
DOWN = SpectralGroup("down_proj", 8, ("down_proj",), (0,))
ENVELOPE = EnergyEnvelope(PROFILES["rpi4"], 1.0, ("q_proj", "down_proj", "v_proj"), (QKV, DOWN), 0.5)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {"W": rng.normal(size=(K, D)), "G": rng.uniform(size=(L, K))}
    for name, reads, writes in (("q_proj", D, 8), ("v_proj", D, 4), ("down_proj", 10, 8)):
        made |= {f"{name}.V": rng.normal(size=(L, N, reads)), f"{name}.U": rng.normal(size=(L, N, writes))}
        made |= {f"{name}.b": rng.normal(size=(L, N, 3)), f"{name}.s": rng.normal(size=(L, N))}
    return {name: value.astype(np.float32 if name.endswith(".s") else np.float16) for name, value in made.items()}


def entry(**changes: object) -> AdapterEntry:
    plain = AdapterEntry(
        name="hest",
        method="hest",
        variant="default",
        kind="spectral",
        inputs=ENVELOPE.inputs,
        sites={},
        bytes=AdapterBytes({"all": 1}, 1, 1, 1, 2),
        tasks=(),
        weights="adapters/hest/adapter.safetensors",
        envelope=ENVELOPE,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.5, None])
def test_an_envelope_is_read_as_it_was_written(ratio: float | None) -> None:
    one = replace(ENVELOPE, ratio=ratio)
    assert decode(EnergyEnvelope, encode(one), "test") == one


def test_a_group_has_the_rows_of_its_modules_by_layer_and_their_columns() -> None:
    given = tensors()
    made = constants(QKV, given)
    wide, span = made[QKV.input("wide")].reshape(L, 2, N, D + 16)[:, 1], spans(QKV, given)
    np.testing.assert_array_equal(wide[..., :D], given["v_proj.V"])
    np.testing.assert_array_equal(wide[..., D + 12 :], given["v_proj.U"])
    assert not wide[..., D : D + 12].any()
    np.testing.assert_array_equal(span.reshape(L, 2, N, 2)[:, 1], np.full((L, N, 2), (12, 16)))
    x, y = np.ones((1, 1, D), np.float32), np.zeros((1, 1, 16), np.float32)
    states = np.full((1, 1, 2 * L * N), 2, np.uint8)
    _, macs = spectral_update.reference(y, x, states, *made.values(), span, first=0, count=2 * N)
    assert macs.tolist() == [[[0.0, N * ((D + 8) + (D + 4))]]]


def test_a_plans_states_go_to_their_modules_rows() -> None:
    plan = np.arange(L * 3 * N, dtype=np.uint8)[None]  # as if every direction had a state of its own
    found = states_of(ENVELOPE, plan, L)
    by_module = plan.reshape(L, 3, N)
    np.testing.assert_array_equal(found["hest.qkv_proj.states"].reshape(L, 2, N), by_module[:, [0, 2]])
    np.testing.assert_array_equal(found["hest.down_proj.states"].reshape(L, N), by_module[:, 1])


def test_the_planner_has_the_sites_by_layer_and_module() -> None:
    planner = planner_of(ENVELOPE, tensors())
    widths = np.repeat([D + 8, 10 + 8, D + 4], N)
    np.testing.assert_array_equal(planner.macs, np.tile(widths, L))
    assert planner.token_budget == planner.fixed + planner.allocator.full_cost // 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("v_proj.b", None, "no tensor 'v_proj.b'"),
        ("W", np.zeros((K + 1, D), np.float16), "tensor 'W' is float16"),
        ("G", np.zeros(L, np.float16), "tensor 'G' has shape"),
        ("q_proj.s", np.zeros((L, N), np.float16), "tensor 'q_proj.s' is float16"),
        ("v_proj.U", np.zeros((L, N, 9), np.float16), "v_proj: 9 columns from 12 on do not fit 16"),
        ("v_proj.V", np.zeros((L, N, D + 1), np.float16), "tensor 'v_proj.V'"),
        ("down_proj.V", np.zeros((L, N, 0), np.float16), "none empty"),
        ("down_proj.b", np.full((L, N, 3), np.nan, np.float16), "holds a NaN"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(name: str, value: np.ndarray | None, said: str) -> None:
    given = tensors()
    if value is None:
        del given[name]
    else:
        given[name] = value
    with pytest.raises(EdgeAdaptError, match=said) as caught:
        check_tensors(ENVELOPE, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": None}, "weights are what kinds"),
        ({"envelope": None}, "an envelope what kind 'spectral' has"),
        ({"inputs": ("hest.qkv_proj.wide",)}, "fills other inputs"),
        ({"kind": "merged", "inputs": (), "weights": None}, "an envelope what kind 'spectral' has"),
    ],
)
def test_an_entry_that_does_not_fit_together_is_refused(changes: dict[str, object], said: str) -> None:
    entry()
    with pytest.raises(EdgeAdaptError, match=said):
        entry(**changes)


def test_groups_that_are_not_the_modules_are_refused() -> None:
    with pytest.raises(EdgeAdaptError, match="not those of its modules"):
        replace(ENVELOPE, modules=("q_proj", "v_proj"))
    with pytest.raises(EdgeAdaptError, match="are not those of its modules"):
        SpectralGroup("qkv_proj", 16, ("q_proj",), (0, 8))
    with pytest.raises(EdgeAdaptError, match="the energy budget"):
        replace(ENVELOPE, ratio=0.0)
