"""The small files of a model that go into a bundle: tokenizer, templates, configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgeadapt.records import read_json

_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_MAX_TOKENIZER = 64 << 20


def copy_model_files(backbone: Path, out: Path) -> None:
    """Copy them from the backbone's folder; tokenizer.json without its white space (less than half of SmolLM2's)."""
    for name in _COPIED:
        if (backbone / name).is_file():
            shutil.copyfile(backbone / name, out / name)
    tokenizer = read_json(backbone / "tokenizer.json", _MAX_TOKENIZER)
    compact = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    (out / "tokenizer.json").write_text(compact, encoding="utf-8")
