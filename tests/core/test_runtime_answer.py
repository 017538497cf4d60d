"""`edgeadapt run`: what it prints, line by line, and when."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.runtime.answer import answer, lines, render
from edgeadapt.runtime.classify import Classification
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.generate import Sampling
from tests.exported import Exported

ROOT = Path(__file__).parents[2]


def said(bundle: Path, prompt: str, **options: object) -> str:
    sink = io.StringIO()
    answer(bundle, prompt, sink=sink, **options)  # type: ignore[arg-type]
    return sink.getvalue()


def test_a_label_with_probabilities(exported: Exported) -> None:
    text = said(exported(), "What a day!", task="mood")
    label, shares = text.rstrip("\n").split("\t")
    engine = Engine.open(exported())
    engine.task("mood")
    found = engine.classify("What a day!")
    assert label == found.label
    assert shares == "  ".join(
        f"{name} {share:.3f}" for name, share in sorted(found.probabilities.items(), key=lambda i: -i[1])
    )


def test_rendering_puts_the_likeliest_first() -> None:
    assert render(Classification("t", "b", {"a": 0.25, "b": 0.75})) == "b\tb 0.750  a 0.250"


def test_json_has_every_choice(exported: Exported) -> None:
    value = json.loads(said(exported(), "Ein schöner Tag", task="topics", as_json=True))
    assert value["text"] == "Ein schöner Tag"
    assert value["task"] == "topics"
    assert set(value["probabilities"]) == {"sport", "business", "technology"}
    assert value["label"] == max(value["probabilities"], key=value["probabilities"].get)
    assert sum(value["probabilities"].values()) == pytest.approx(1)


def test_generated_text_is_the_decoded_tokens(exported: Exported) -> None:
    sampling = Sampling(temperature=1.0, seed=5, max_new_tokens=24)
    engine = Engine.open(exported())
    ids = engine.codec.chat([{"role": "user", "content": "Hello"}])
    expected = engine.codec.decode(list(engine.generate(ids, sampling)))
    assert said(exported(), "Hello", sampling=sampling) == expected + "\n"
    value = json.loads(said(exported(), "Hello", sampling=sampling, as_json=True))
    assert value["answer"] == expected
    assert value["prompt_tokens"] == len(ids)
    assert value["task"] is None


def test_one_answer_per_line_of_standard_input(exported: Exported) -> None:
    source = io.StringIO("first\n\n   \nsecond\r\nthird")
    values = [json.loads(line) for line in said(exported(), "-", task="mood", as_json=True, source=source).splitlines()]
    assert [value["text"] for value in values] == ["first", "second", "third"]
    assert values[0] == json.loads(said(exported(), "first", task="mood", as_json=True))


def test_a_line_is_answered_before_the_next_is_read(exported: Exported) -> None:
    sink = io.StringIO()
    seen: list[int] = []

    class Slow(io.StringIO):
        def __iter__(self) -> Iterator[str]:  # type: ignore[override]
            for line in ("one\n", "two\n", "three\n"):
                seen.append(sink.getvalue().count("\n"))
                yield line

    answer(exported(), "-", task="mood", source=Slow(), sink=sink)
    assert seen == [0, 1, 2]


def test_lines_keep_inner_spaces() -> None:
    assert list(lines(io.StringIO("  a b \n\nc\n"))) == ["  a b ", "c"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x", "task": "weather"}, "no task 'weather'; known are: topics, mood"),
        ({"prompt": "x", "adapter": "other"}, "no adapter 'other'; it holds: himalaya"),
        ({"prompt": "x", "adapter": "himalaya"}, "choose one with --task: topics, mood"),
        ({"prompt": "x " * 300}, "tokens, and 1 more are asked for; the model takes 256"),
    ],
)
def test_errors_say_what_to_do(exported: Exported, options: dict[str, str], expected: str) -> None:
    with pytest.raises(EdgeAdaptError, match=expected):
        said(exported(), **options)


def test_a_reader_that_goes_away_ends_the_command_quietly(exported: Exported) -> None:
    """As in `edgeadapt run ... | head -1`."""
    command = [sys.executable, "-m", "edgeadapt", "run", str(exported()), "--task", "mood", "--json", "--threads", "1"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("first\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["text"] == "first"
    process.stdout.close()
    process.stdin.write("second\nthird\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
