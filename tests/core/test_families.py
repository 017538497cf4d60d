"""One set of names for a block's linear maps, whatever the family calls them."""

from __future__ import annotations

import pytest

from edgeadapt.families import is_encoder, module_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("attention.self.query", "q_proj"),
        ("attention.output.dense", "o_proj"),
        ("intermediate.dense", "up_proj"),
        ("output.dense", "down_proj"),
        ("attention.q_lin", "q_proj"),
        ("ffn.lin2", "down_proj"),
        ("self_attn.q_proj", "q_proj"),
        ("mlp.gate_proj", "gate_proj"),
        ("value", "v_proj"),
        ("nothing", "nothing"),
    ],
)
def test_a_linear_map_has_one_name_in_every_family(path: str, name: str) -> None:
    assert module_name(path) == name
    assert module_name(name) == name


@pytest.mark.parametrize(
    ("config", "encodes"),
    [
        ({"model_type": "bert"}, True),
        ({"model_type": "distilbert"}, True),
        ({"model_type": "bert", "is_decoder": True}, False),
        ({"model_type": "llama"}, False),
        ({}, False),
    ],
)
def test_what_is_an_encoder(config: dict[str, object], encodes: bool) -> None:
    assert is_encoder(config) is encodes
