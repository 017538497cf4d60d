"""Families of transformers: which are encoders, and what each calls the linear maps of a block.

    here      Llama's like          BERT                      DistilBERT
    q_proj    self_attn.q_proj      attention.self.query      attention.q_lin
    k_proj    self_attn.k_proj      attention.self.key        attention.k_lin
    v_proj    self_attn.v_proj      attention.self.value      attention.v_lin
    o_proj    self_attn.o_proj      attention.output.dense    attention.out_lin
    up_proj   mlp.up_proj           intermediate.dense        ffn.lin1
    down_proj mlp.down_proj         output.dense              ffn.lin2

Adapters, their files and the exported graphs know the names of the first column alone, so that a method's settings fit
every family. MiniLM and TinyBERT are BERTs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENCODERS = ("bert", "distilbert")
_NAMES = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "attention.output.dense": "o_proj",
    "intermediate.dense": "up_proj",
    "output.dense": "down_proj",
    "q_lin": "q_proj",
    "k_lin": "k_proj",
    "v_lin": "v_proj",
    "out_lin": "o_proj",
    "lin1": "up_proj",
    "lin2": "down_proj",
}


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a model's config.json describes an encoder: one that sees a text in both directions."""
    return config.get("model_type") in ENCODERS and not config.get("is_decoder", False)


def module_name(path: str) -> str:
    """The name here of a linear map, from its path in a block or what its family calls it; else the path's last part.

    "attention.self.query", "query", "q_lin", "self_attn.q_proj", "q_proj" -> "q_proj";  "mlp.gate_proj" -> "gate_proj"
    """
    parts = path.split(".")
    for start in range(len(parts)):
        if (name := _NAMES.get(".".join(parts[start:]))) is not None:
            return name
    return parts[-1]
