"""Text to token ids and back, from a model folder's own files, with the `tokenizers` library alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgeadapt.errors import EdgeAdaptError

REPLACEMENT = "�"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token")


class TextCodec:
    """A model folder's tokenizer.

    Never adds special tokens by itself: a GGUF-derived tokenizer would put a BOS in front that the file's own metadata
    forbids, and prompts are put together from pieces (see `edgeadapt.tasks`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_ids: Sequence[int],
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = dict(special_tokens or {})
        self.eos_ids = tuple(eos_ids)
        self.chat_template = chat_template

    @classmethod
    def from_folder(cls, folder: Path) -> TextCodec:
        """Read tokenizer.json, tokenizer_config.json and (if there) chat_template.jinja and generation_config.json."""
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every kind of bad file
            raise EdgeAdaptError(f"{path}: not a readable tokenizer ({error})") from None
        tokenizer.no_padding()  # both are a training library's leftovers in the file
        tokenizer.no_truncation()
        config = _read_json(folder / "tokenizer_config.json")
        eos_ids = _end_ids(tokenizer, config, _read_json(folder / "generation_config.json"))
        if not eos_ids:
            raise EdgeAdaptError(f"{folder}: tokenizer_config.json names no eos_token that tokenizer.json knows")
        template = config.get("chat_template")
        beside = folder / "chat_template.jinja"
        if beside.is_file():
            template = beside.read_text(encoding="utf-8")
        named = {name: _content(config.get(name)) for name in _SPECIAL}
        special = {name: token for name, token in named.items() if token is not None}
        return cls(tokenizer, eos_ids, template if isinstance(template, str) else None, special)

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def frame(self) -> tuple[int, int]:
        """What an encoder reads before and behind a text: [CLS] and [SEP], or what begins and ends a sequence."""
        first = self._special("cls_token", "bos_token")
        last = self._special("sep_token", "eos_token")
        if first is None or last is None:
            raise EdgeAdaptError("the tokenizer names no tokens that begin and end a text (cls_token, sep_token)")
        return first, last

    @property
    def unknown(self) -> int:
        """The token of what the vocabulary lacks; the one that ends a text where there is none."""
        found = self._special("unk_token")
        return self.eos_ids[0] if found is None else found

    def _special(self, *names: str) -> int | None:
        """The id of the first of these special tokens that there is."""
        tokens = (self._special_tokens[name] for name in names if name in self._special_tokens)
        ids = (self._tokenizer.token_to_id(token) for token in tokens)
        return next((int(found) for found in ids if found is not None), None)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the model's own chat format, rendered in jinja2's sandbox."""
        if self.chat_template is None:
            raise EdgeAdaptError("this model has no chat template; ask with --task, or give the plain text with --raw")
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            text = environment.from_string(self.chat_template).render(
                messages=messages, add_generation_prompt=True, **self._special_tokens
            )
        except Exception as error:  # a template is a program, and may fail like any
            raise EdgeAdaptError(f"the model's chat template cannot be rendered: {error}") from None
        return self.encode(text)

    def stream(self, ids: Iterator[int]) -> Iterator[str]:
        """Text as the ids come. A piece is held back while it ends inside a multi-byte character."""
        pending: list[int] = []
        shown = ""
        for token in ids:
            pending.append(token)
            text = self.decode(pending)
            if text.endswith(REPLACEMENT):
                continue
            if len(text) > len(shown):
                yield text[len(shown) :]
            if text.endswith("\n"):
                pending, shown = [], ""
            else:
                shown = text
        rest = self.decode(pending)
        if len(rest) > len(shown):
            yield rest[len(shown) :]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeAdaptError(f"{path}: not JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def _end_ids(tokenizer: Tokenizer, config: Mapping[str, Any], generation: Mapping[str, Any]) -> list[int]:
    found: list[int] = []  # an encoder's text ends with sep_token
    token = _content(config.get("eos_token")) or _content(config.get("sep_token"))
    if token is not None and (identifier := tokenizer.token_to_id(token)) is not None:
        found.append(identifier)
    declared = generation.get("eos_token_id", [])
    for identifier in declared if isinstance(declared, list) else [declared]:
        if isinstance(identifier, int) and identifier not in found:
            found.append(identifier)
    return found


def _content(token: Any) -> str | None:
    """A special token's text; configurations give it as a string or as an object."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _refuse(reason: str) -> None:
    """What chat templates call to reject a conversation."""
    raise EdgeAdaptError(reason)
