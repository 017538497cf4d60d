"""`edgeadapt methods`: every adapter that a run can name is there, with its equation and its bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from edgeadapt_export.methods import DEPLOYERS
from edgeadapt_train import methods
from edgeadapt_train.adapters.registry import METHODS


@pytest.fixture(scope="module")
def rows() -> dict[str, methods.MethodRow]:
    return {row.name: row for row in methods.rows()}


def test_every_method_has_a_configuration_and_says_what_it_is(rows: dict[str, methods.MethodRow]) -> None:
    assert {row.method for row in rows.values()} == set(METHODS)
    for row in rows.values():
        assert all((row.equation, row.trained, row.device)), row.name


def test_only_what_can_be_exported_claims_a_device(rows: dict[str, methods.MethodRow]) -> None:
    for row in rows.values():
        assert (row.method in DEPLOYERS) == (not row.device.startswith("none")), row.name


@pytest.mark.parametrize(
    ("name", "smollm2", "minilm"),
    [
        ("lora8", 30 * 2 * 8 * (576 + 576 + 576 + 192), 6 * 2 * 8 * 4 * 384),
        ("coltas", 921_600, 147_456),
        ("lilac", 64 * (576 + 576 + 192) + 3 * 128 + 60 * (512 + 16), 64 * 2 * 384 + 2 * 128 + 12 * (512 + 16)),
        ("glodis", 2 * 64 * 192 + 30 * 40 * 4 + 60 * 2, 2 * 64 * 192 + 6 * 32 * 4 + 12 * 2),
        ("loreft", 30 * (4 * 4 * 576 + 8), 6 * (4 * 4 * 384 + 8)),
        ("full", 2 * 106_202_880, 2 * 6 * (4 * 384**2 + 2 * 384 * 1536 + 9 * 384 + 1536)),
        ("himalaya", 54_944 + 82, 52_145 + 82),
    ],
)
def test_bytes_are_the_formula_on_the_shapes_of_two_backbones(
    name: str, smollm2: int, minilm: int, rows: dict[str, methods.MethodRow]
) -> None:
    assert dict(rows[name].bytes) == {"smollm2-135m": smollm2, "minilm": minilm}


@pytest.mark.parametrize("shape", list(methods.SHAPES))
def test_a_skeleton_has_the_parameters_of_the_real_blocks(shape: str) -> None:
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

    wanted = methods.SHAPES[shape]
    common = {"hidden_size": wanted.hidden, "intermediate_size": wanted.inner, "num_hidden_layers": 1, "vocab_size": 8}
    with torch.device("meta"):
        if wanted.family == "decoder":
            real = LlamaModel(LlamaConfig(**common, num_attention_heads=9, num_key_value_heads=3)).layers[0]
        else:
            real = BertModel(BertConfig(**common, num_attention_heads=12)).encoder.layer[0]
    block = methods.skeleton(wanted).layers[0]
    assert {name: tuple(value.shape) for name, value in block.named_parameters()} == {
        name: tuple(value.shape) for name, value in real.named_parameters()
    }


def test_a_program_may_read_it_and_a_person(rows: dict[str, methods.MethodRow]) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(methods.table(list(rows.values())))
    shown = console.export_text()
    assert "921,600" in shown
    assert all(name in shown for name in rows)
    assert json.loads(json.dumps([row.to_json() for row in rows.values()]))[0]["bytes"]


def test_without_the_training_packages_it_says_which_install_brings_them() -> None:
    code = "import sys; sys.modules['torch'] = None; from edgeadapt.cli import main; main(['methods'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "edgeadapt[train]" in done.stderr
