"""A GGUF model as a Hugging Face folder: fp32 safetensors, tokenizer, chat template. Needs torch and transformers."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError, MissingExtra


def require_converter() -> None:
    for module in ("torch", "transformers", "gguf"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra("train", module)


def convert(gguf: Path, folder: Path, name: str) -> None:
    """Write the Hugging Face form of a GGUF model into `folder`: fp32 safetensors, tokenizer, chat template.

    The file's own metadata decides about BOS (`tokenizer.ggml.add_bos_token`) and EOS (`tokenizer.ggml.eos_token_id`).
    `name` is what errors call it.
    """
    import torch
    import transformers
    from gguf import GGUFReader
    from transformers.utils import logging

    noise = logging.get_verbosity()
    logging.set_verbosity(40)  # errors only
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own for every tensor
            reader = GGUFReader(gguf)
            load: Any = transformers  # its own annotations are partial
            read = load.AutoTokenizer.from_pretrained(**source)
            model = load.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
            tokenizer = _tokenizer(reader, read)
            for config in (model.config, model.generation_config):
                config.bos_token_id = tokenizer.bos_token_id
                config.eos_token_id = tokenizer.eos_token_id
                config.pad_token_id = tokenizer.pad_token_id
            vars(model.config).pop("_model_name_or_path", None)
            model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
    except Exception as error:  # whatever a broken or unknown file provokes in four libraries
        if "os error 28" in str(error) or "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder.parent)) from None
        said = " ".join(str(error).split())[:200]
        raise EdgeAdaptError(f"{name}: cannot be converted ({type(error).__name__}: {said})") from error
    finally:
        logging.set_verbosity(noise)


def _tokenizer(reader: Any, read: Any) -> Any:
    """The tokenizer that transformers derives from a GGUF, put right.

    Its class adds a BOS that `tokenizer.ggml.add_bos_token` = false forbids; and for a byte-level vocabulary it decodes
    as a SentencePiece one would, which turns U+2581 into a space.
    """
    from tokenizers import decoders, processors
    from transformers import PreTrainedTokenizerFast

    backend = read.backend_tokenizer
    byte_level = _metadata(reader, "tokenizer.ggml.model", "") == "gpt2"
    if not _metadata(reader, "tokenizer.ggml.add_bos_token", not byte_level):
        backend.post_processor = processors.ByteLevel(trim_offsets=False) if byte_level else processors.Sequence([])
    if byte_level:
        backend.decoder = decoders.ByteLevel()
    end = _metadata(reader, "tokenizer.ggml.eos_token_id", read.eos_token_id)
    tokens = {
        "bos_token": _metadata(reader, "tokenizer.ggml.bos_token_id", read.bos_token_id),
        "eos_token": end,
        "pad_token": _metadata(reader, "tokenizer.ggml.padding_token_id", end),
        "unk_token": _metadata(reader, "tokenizer.ggml.unknown_token_id", read.unk_token_id),
    }
    named = {key: backend.id_to_token(int(value)) for key, value in tokens.items() if value is not None}
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = read.chat_template
    return tokenizer


def _metadata(reader: Any, key: str, default: Any) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()
