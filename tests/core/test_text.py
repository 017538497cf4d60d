"""Text to tokens and back from a model folder's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.text import TextCodec

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>bot:{% endif %}"
)


def tokenizer() -> Tokenizer:
    """One token a byte; <s> 256, </s> 257, <eot> 258; a post-processor that puts a BOS in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>", "<eot>")])
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 256)])
    return made


def folder(path: Path, config: Mapping[str, Any] | None = None, generation: Mapping[str, Any] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"} if config is None else config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return TextCodec.from_folder(
        folder(tmp_path_factory.mktemp("model"), {"eos_token": "</s>", "chat_template": TEMPLATE})
    )


def test_no_special_token_is_added_unasked(codec: TextCodec) -> None:
    assert len(codec.encode("abc")) == 3
    assert 256 not in codec.encode("abc")
    assert codec.encode("") == []
    assert codec.vocabulary_size == 259


@given(st.text(max_size=40))
def test_text_comes_back(text: str) -> None:
    whole = TextCodec(tokenizer(), (257,))
    if not any(name in text for name in ("<s>", "</s>", "<eot>")):
        assert whole.decode(whole.encode(text)) == text


def test_special_tokens_are_not_shown(codec: TextCodec) -> None:
    assert codec.decode([256, *codec.encode("hi"), 257]) == "hi"


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token": "</s>"}, None, (257,)),
        ({"eos_token": {"content": "</s>", "special": True}}, None, (257,)),
        ({"eos_token": "</s>"}, {"eos_token_id": [257, 258]}, (257, 258)),
        ({}, {"eos_token_id": 258}, (258,)),
    ],
)
def test_the_ends_are_what_the_files_say(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    assert TextCodec.from_folder(folder(tmp_path, config, generation)).eos_ids == expected


@pytest.mark.parametrize("config", [{}, {"eos_token": "<unknown>"}, {"eos_token": None}])
def test_a_model_without_an_end_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(EdgeAdaptError, match="names no eos_token"):
        TextCodec.from_folder(folder(tmp_path, config))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=r"tokenizer\.json: not a readable tokenizer"):
        TextCodec.from_folder(tmp_path)
    (folder(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(EdgeAdaptError, match=r"tokenizer_config\.json: not "):
        TextCodec.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "nonsense"}}')
    with pytest.raises(EdgeAdaptError, match=r"tokenizer\.json: not a readable tokenizer"):
        TextCodec.from_folder(tmp_path)


def test_a_conversation_is_rendered_by_the_models_own_template(codec: TextCodec) -> None:
    ids = codec.chat([{"role": "user", "content": "hi"}])
    assert ids == [256, *codec.encode("user:hi"), 257, 256, *codec.encode("bot:")]


def test_the_template_beside_wins(tmp_path: Path) -> None:
    path = folder(tmp_path, {"eos_token": "</s>", "chat_template": "no"})
    (path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    found = TextCodec.from_folder(path)
    assert found.decode(found.chat([{"role": "user", "content": "yes"}])) == "yes"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for m in messages %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_hostile_or_broken_template_is_one_clean_error(template: str) -> None:
    with pytest.raises(EdgeAdaptError, match="chat template cannot be rendered"):
        TextCodec(tokenizer(), (257,), template).chat([{"role": "user", "content": "hi"}])


def test_templates_know_the_special_tokens_and_how_to_refuse(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% if messages|length > 1 %}{{ raise_exception('only one, please') }}{% endif %}{{ eos_token }}"
    )
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template}
    found = TextCodec.from_folder(folder(tmp_path, config))
    assert found.chat([{"role": "user", "content": "hi"}]) == [256, 257]
    with pytest.raises(EdgeAdaptError, match="only one, please"):
        found.chat([{"role": "user", "content": "hi"}] * 2)


def test_without_a_template_there_is_no_conversation() -> None:
    with pytest.raises(EdgeAdaptError, match="no chat template"):
        TextCodec(tokenizer(), (257,)).chat([])


@given(st.text(max_size=40))
def test_a_stream_gives_the_same_text_and_never_half_a_character(text: str) -> None:
    whole = TextCodec(tokenizer(), (257,))
    if any(name in text for name in ("<s>", "</s>", "<eot>")):
        return
    ids = whole.encode(text)
    pieces = list(whole.stream(iter(ids)))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_stream_that_ends_inside_a_character_shows_what_there_is(codec: TextCodec) -> None:
    ids = codec.encode("aé")[:-1]
    assert "".join(codec.stream(iter(ids))) == "a\ufffd"
