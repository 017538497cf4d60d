"""A Llama of reduced size with random weights, made here: for trying out a whole run where the real one cannot be had.

    random:llama      4 layers, d = 128, 4 heads, FFN 352, a vocabulary of one token per byte

Architecture, configuration and file format are those of Llama 2; what it answers means nothing. It is never taken in
the place of another backbone: a run has it only if it names it (model=tiny-llama-random).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import locked, published_directory, storage_errors

_RANDOM = "random:"
_LAYOUT = 1  # raise it when what is made changes
_SPECIAL = ("<unk>", "<s>", "</s>")
SHAPES = {
    "llama": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    }
}


def is_one(name: str) -> bool:
    """Whether an id names a random backbone."""
    return name.startswith(_RANDOM)


def made(name: str) -> Path:
    """The folder of "random:NAME" in the cache, made if it is not there yet. The weights are the same everywhere."""
    shape = SHAPES.get(name.removeprefix(_RANDOM))
    if shape is None:
        known = ", ".join(_RANDOM + one for one in SHAPES)
        raise EdgeAdaptError(f"model.id={name}: no such random backbone; there are: {known}")
    target = cache_directory() / "backbones" / f"random-{name.removeprefix(_RANDOM)}-{_LAYOUT}"
    with storage_errors(target.parent), locked(target):
        if not target.is_dir():
            with published_directory(target) as building:
                _write(shape, building)
    return target


def _write(shape: dict[str, int], folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(_SPECIAL) + 256, tie_word_embeddings=False, **ids, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    """One token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
