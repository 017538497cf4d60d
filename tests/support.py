"""Tiny backbones and synthetic runs for tests: real formats, random values, made in well under a second each.

backbone = tiny_backbone(tmp_path / "backbone")            a Hugging Face folder: Llama-like, tied embedding
run = make_run(tmp_path / "run", "himalaya", backbone)     a finished run directory with a random, nonzero adapter, and
                                                           with heads if the backbone is tiny_encoder's
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.codecs import int8, three_bit
from edgeadapt.families import is_encoder
from edgeadapt.heads import TERM, Pooling, bias_name, is_head, weight_name
from edgeadapt.manifest import PROTECTION, AdapterBytes
from edgeadapt.rundir import AdapterManifest, BackboneRef, RunDir, write_adapter, write_config
from edgeadapt.tasks import TaskSpec

TINY_VOCABULARY = 320
TASKS = (
    TaskSpec("topics", "Text: {text}\nTopic:", ("sport", "business", "technology"), max_prompt_tokens=64),
    TaskSpec("mood", "{text}\nMood:", ("good", "bad"), max_prompt_tokens=48),
)


def tiny_backbone(
    folder: Path,
    *,
    layers: int = 3,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 128,
    tied: bool = True,
    seed: int = 0,
) -> Path:
    """A random Llama-like decoder with grouped queries, and a byte-level tokenizer without merges (259 tokens)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # large enough for logits that differ by more than rounding
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def tiny_encoder(folder: Path, *, kind: str = "bert", layers: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random BERT or DistilBERT, every bias and normalisation of it random too, and the tokenizer of the decoder."""
    import torch
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            model: Any = BertModel(
                BertConfig(
                    vocab_size=TINY_VOCABULARY,
                    hidden_size=hidden,
                    num_hidden_layers=layers,
                    num_attention_heads=4,
                    intermediate_size=2 * hidden,
                    max_position_embeddings=96,
                )
            )
        else:
            model = DistilBertModel(
                DistilBertConfig(
                    vocab_size=TINY_VOCABULARY,
                    dim=hidden,
                    n_layers=layers,
                    n_heads=4,
                    hidden_dim=2 * hidden,
                    max_position_embeddings=96,
                )
            )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def tiny_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and its configuration: one token per byte, <pad> 0, <s> 1, </s> 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary.update({piece: 3 + i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = (
        "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
    )
    fast.save_pretrained(folder)


def himalaya_tensors(
    hidden: int, columns: int, tasks: int, *, gain: float = 0.3, seed: int = 0, width: int = 10
) -> dict[str, np.ndarray]:
    """Random stored tensors of HIMALAYA: HimalayaDirection's inputs, gains, statistics and tree."""
    rng = np.random.default_rng(seed)
    atoms = three_bit.quantise(_unit(rng.standard_normal((40, hidden))))
    norms = np.linalg.norm(three_bit.dequantise(atoms), axis=1)
    active = np.where(np.arange(40) < 32, 1 / norms, 0)
    w1 = int8.quantise(rng.standard_normal((width, hidden + 17)) / np.sqrt(hidden))
    w2 = int8.quantise(rng.standard_normal((80, width + 1)))
    rows = int8.quantise(rng.standard_normal((tasks, 80)))
    return {
        "atoms": atoms.packed,
        "atom_scales": atoms.scales,
        "atom_gains": active.astype(np.float16),
        "w1": w1.codes,
        "w1_scales": w1.scales,
        "w2": w2.codes,
        "w2_scales": w2.scales,
        "tasks": rng.integers(-127, 128, (32, 16), dtype=np.int8),
        "rows": rows.codes,
        "row_scales": rows.scales,
        "gains": (gain * np.tanh(rng.standard_normal((tasks, columns)))).astype(np.float16),
        "statistics": rng.random((2, 24)).astype(np.float16),
        "tree": rng.standard_normal(23).astype(np.float16),
    }


def lora_tensors(
    shapes: dict[str, tuple[int, int]], layers: int, rank: int = 8, *, size: float = 0.1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random LoRA factors, float16. `shapes`: module -> (d_in, d_out)."""
    rng = np.random.default_rng(seed)
    made = {}
    for layer in range(layers):
        for module, (reads, writes) in shapes.items():
            made[f"layers.{layer}.{module}.A"] = (rng.standard_normal((reads, rank)) / np.sqrt(reads)).astype(
                np.float16
            )
            made[f"layers.{layer}.{module}.B"] = (size * rng.standard_normal((rank, writes))).astype(np.float16)
    return made


def make_run(
    path: Path,
    method: str,
    backbone: Path,
    *,
    site: str = "residual",
    pool: str = "mean",
    modules: tuple[str, ...] = ("q_proj", "v_proj"),
    tasks: tuple[TaskSpec, ...] = TASKS,
    gain: float = 0.3,
    pooling: Pooling = "mean",
    seed: int = 0,
) -> RunDir:
    """A finished run of `method` ("himalaya" or "lora") on a backbone folder, with random nonzero values.

    `site` ("residual", or "square" on q_proj and o_proj) and `pool` are HIMALAYA's, `modules` LoRA's; `gain` scales
    what the adapter does in either (0: nothing); `pooling` is that of the heads on an encoder.
    """
    from edgeadapt.backbones import resolve
    from edgeadapt.records import read_json

    config: dict[str, Any] = read_json(backbone / "config.json")
    hidden, layers, key_width, inner = _sizes(config)
    found = resolve(str(backbone))
    if method == "himalaya":
        tensors = himalaya_tensors(hidden, layers, len(tasks), gain=gain, seed=seed)
        square = {"kind": "square", "modules": ["q_proj", "o_proj"], "layers": list(range(layers))}
        sites = square if site == "square" else {"kind": "residual", "layers": list(range(layers))}
        sites["pool"] = pool
        terms = {name: int(array.nbytes) for name, array in tensors.items() if name not in ("rows", "row_scales")}
        terms["gains"] = 2 * layers
        terms[PROTECTION] = 82 * len(tasks) + 2 * layers * (len(tasks) - 1)
    elif method == "lora":
        widths = {"q_proj": (hidden, hidden), "k_proj": (hidden, key_width), "v_proj": (hidden, key_width)}
        widths |= {"o_proj": (hidden, hidden), "gate_proj": (hidden, inner), "down_proj": (inner, hidden)}
        tensors = lora_tensors({name: widths[name] for name in modules}, layers, size=gain / 3, seed=seed)
        sites = {"kind": "linear", "modules": list(modules), "rank": 8, "layers": list(range(layers))}
        terms = {"factors": sum(int(array.nbytes) for array in tensors.values())}
    else:
        raise ValueError(f"no synthetic run for method {method!r}")
    if is_encoder(config):
        tensors |= head_tensors(tasks, hidden, seed)
        terms[TERM] = sum(array.nbytes for name, array in tensors.items() if is_head(name))
    deployed = sum(terms.values())
    manifest = AdapterManifest(
        format=1,
        method=method,
        variant="default",
        backbone=BackboneRef(str(backbone), found.revision, hidden, layers),
        sites=sites,
        tasks=tasks,
        bytes=AdapterBytes(terms, deployed, deployed, 3 * deployed, max(2_500_000, deployed)),
        pooling=pooling if is_encoder(config) else None,
    )
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, f"adapter: {{method: {method}}}\n")
    return write_adapter(path, manifest, tensors)


def head_tensors(tasks: tuple[TaskSpec, ...], hidden: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random heads of an encoder's tasks, float16."""
    rng = np.random.default_rng(seed)
    made = {}
    for number, task in enumerate(tasks):
        made[weight_name(number)] = rng.standard_normal((len(task.choices), hidden)).astype(np.float16)
        made[bias_name(number)] = rng.standard_normal(len(task.choices)).astype(np.float16)
    return made


def _sizes(config: dict[str, Any]) -> tuple[int, int, int, int]:
    """Width, layers, width of a key, inner width."""
    if config["model_type"] == "distilbert":
        return config["dim"], config["n_layers"], config["dim"], config["hidden_dim"]
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads", heads)
    key_width = key_heads * (config.get("head_dim") or hidden // heads)
    return hidden, config["num_hidden_layers"], key_width, config["intermediate_size"]


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
