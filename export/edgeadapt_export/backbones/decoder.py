"""A decoder's fp32 graph, made by onnxruntime-genai's model builder and kept in the cache.

The builder is asked for fp32 only (its int4 leaves the embedding in fp32, and it has no int8); everything else is a
pass of ours. It is never allowed to run code from a model's folder, nor to look for a hub token.

Inputs and outputs (L layers, H key/value heads of width D)
    input_ids      [B, T]     int64   the T new tokens of each row
    attention_mask [B, M]     int64   only its row sums and its width M are used, see below
    past_key_values.{l}.key|value  [B, H, P, D] float32,   present.{l}.key|value  [B, H, max(P, M), D] float32
    logits         [B, T, V]  float32, one row per input position (the builder's default; its option prune_lm_head would
                                      keep the last one only, which scoring a choice of several tokens cannot use)

What attention_mask means here (measured on onnxruntime 1.31.1, CPU; tests/export/test_decoder_graph.py holds it down)
    The graph reduces it to seqlens_k[b] = sum_m mask[b, m] - 1 and total_sequence_length = M, and hands both to
    GroupQueryAttention, which also takes the rotary positions from them. So the zeros mean nothing where they stand:
    a row is read as `sum` valid positions from the left, and its past has sum - T of them (none if M == T: a prompt).
    1. Pad prompts on the RIGHT. Logits at and after a row's padding are meaningless; those before are exact.
       Padding on the left gives wrong positions and wrong logits, silently.
    2. A batch of prompts of different lengths n_b may then be decoded together, one token at a time: feed T = 1 with
       row sums n_b + 1, n_b + 2, ... and M = the largest of them. Each row's new key and value overwrite its padding.
    3. More than one token after a past (T > 1, M > T) works for B = 1 only; onnxruntime refuses it for B > 1
       ("batch_size must be 1 when sequence_length > 1 and past context is given").
    4. past and present may be ONE buffer [B, H, S, D] with S >= M, bound as input and as output: nothing is copied, and
       what lies beyond a row's sum is never read. Then going back is free: to score several choices after one prompt,
       run the prompt once (B = 1, M = n), then for each choice feed its tokens with M = n + |choice|; the next choice
       simply overwrites them. Without a shared buffer present is a new, longer tensor at every step.
    5. In a batch, choices can only be scored by prompts that contain them (rule 1), or a token at a time (rule 2).
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeadapt.backbones import Backbone
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.progress import Progress, silent
from edgeadapt_export.backbones.kept import architecture, kept_graph

LAYOUT = 1  # raise it when what is kept changes; older graphs are then built anew
_FILES = ("model.onnx", "model.onnx.data", "genai_config.json")


@dataclass(frozen=True)
class DecoderGraph:
    """A built graph on the disk (model.onnx, model.onnx.data, genai_config.json) and what built it."""

    path: Path
    builder: str

    @property
    def model(self) -> Path:
        return self.path / "model.onnx"

    def genai_config(self) -> dict[str, Any]:
        value = json.loads((self.path / "genai_config.json").read_text(encoding="utf-8"))
        assert isinstance(value, dict)
        return value


def build(backbone: Backbone, cache: Path | None = None, progress: Progress = silent) -> DecoderGraph:
    """The fp32 graph of `backbone`, from the cache if this builder has made it from these bytes before.

    Raises EdgeAdaptError if the builder does not know the architecture, MissingExtra if there is no builder.
    """
    try:
        import onnxruntime_genai
    except ImportError:
        raise MissingExtra("export", "onnxruntime-genai") from None
    builder = f"onnxruntime-genai {onnxruntime_genai.__version__}"
    path = kept_graph(
        backbone, builder, LAYOUT, _FILES, lambda out: _run_builder(backbone, out), cache=cache, progress=progress
    )
    return DecoderGraph(path, builder)


def _run_builder(backbone: Backbone, out: Path) -> None:
    from onnxruntime_genai.models.builder import create_model
    from transformers.utils import logging

    said = io.StringIO()
    noise = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgeadapt-builder-") as scratch,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            create_model(
                "", str(backbone.path), str(out), "fp32", "cpu", scratch, hf_token="false", hf_remote=False
            )  # fmt: skip
    except NotImplementedError:
        raise EdgeAdaptError(
            f"backbone {backbone.id}: {architecture(backbone.path)} is not an architecture that the model builder "
            "can turn into ONNX; choose a Llama-, Qwen-, Gemma-, Phi- or SmolLM-like decoder"
        ) from None
    except Exception as error:  # whatever a broken folder provokes in two libraries
        reason = " ".join(str(error).split())[:200]
        raise EdgeAdaptError(
            f"backbone {backbone.id}: the model builder cannot use {backbone.path} ({type(error).__name__}: {reason})"
        ) from error
    finally:
        logging.set_verbosity(noise)
