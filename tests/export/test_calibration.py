"""int4 weights that keep what layers compute: moments of the layers' inputs, and what they are good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeadapt.codecs.blockwise import dequantise
from edgeadapt_export import calibration
from edgeadapt_export.calibration import kept_weights, second_moments
from edgeadapt_export.decoder_source import base_graph
from edgeadapt_export.passes.quantise import quantise
from tests.export.conftest import Tiny
from tests.export.graphs import logits, random_ids
from tests.export.test_passes import saved

TEXTS = [row.tolist() for row in random_ids(12, 40, seed=5)]


def test_moments_are_those_of_what_a_layer_reads(tiny: Tiny, tmp_path: Path) -> None:
    """With logits = h E^T, the moments of the logits over all positions are E M E^T."""
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    moments = second_moments(base, TEXTS)
    assert len(moments) == 3 * 5 + 1
    table = base.graph.initializers["model.embed_tokens.weight"].const_value
    assert table is not None
    rows = table.numpy()
    found = logits(saved(base, tmp_path), np.array(TEXTS)).reshape(-1, len(rows))
    expected = found.T @ found / len(found)
    made = rows @ moments["model.embed_tokens.weight"] @ rows.T
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-3 * expected.max())


def test_every_layer_keeps_its_outputs_better_than_by_its_weights_alone(tiny: Tiny, tmp_path: Path) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    moments = second_moments(base, TEXTS)
    for name, found in kept_weights(tmp_path / "graph", base, TEXTS).items():
        value = base.graph.initializers[name].const_value
        assert value is not None
        rows = value.numpy() if "embed" in name else value.numpy().T
        losses = [
            np.einsum("nk,kl,nl->", rows - one, moments[name], rows - one)
            for one in (dequantise(found), dequantise(quantise("int4", rows)))
        ]
        assert losses[0] < 0.97 * losses[1], name


def test_it_is_made_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_graph(tiny.graph, tiny.shape, "fp32")
    place = tmp_path / "graph"
    first = kept_weights(place, base, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "quantised_weights", lambda *_: pytest.fail("made again"))
        again = kept_weights(place, base, TEXTS)
    for name, one in first.items():
        np.testing.assert_array_equal(again[name].data, one.data)
        np.testing.assert_array_equal(again[name].scales, one.scales)
    (kept,) = tmp_path.glob("graph-int4-*.safetensors")
    kept.write_bytes(b"damaged")
    assert set(kept_weights(place, base, TEXTS)) == set(first)
    kept_weights(place, base, TEXTS[:3])
    assert len(list(tmp_path.glob("graph-int4-*.safetensors"))) == 2
