"""What a task is, and how one of its examples becomes tokens. Training, export and the device share these lines, so
that a model is asked on the device exactly what it was taught.

    prompt ids = enc(before) + enc(text)[:room] + enc(after)        before {text} after = TaskSpec.prompt
    target ids = enc(" " + target)                                  training appends the end-of-sequence id
    score(c)   = 1/|c| sum_i log p(c_i | prompt, c_<i)              length-normalised log-likelihood of a choice

An encoder is asked by a head of the task (edgeadapt.heads) and reads the text alone, framed as its tokenizer does it:
    sequence ids = first + enc(text)[:room] + last                  first, last: [CLS] and [SEP] of a BERT
    words ids    = first + enc(w_0) + enc(" " + w_1) + ... + last   whole words; a word's label is at its first token
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgeadapt.errors import EdgeAdaptError

Encode = Callable[[str], list[int]]
Frame = tuple[int, int]
Kind = Literal["classification", "multiple-choice", "generation", "tokens"]
FIELD = "{text}"
# What each kind may be scored by, its default first. All lie in [0, 1]; edgeadapt_train/answer_metrics.py defines them.
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "multiple-choice": ("accuracy",),
    "tokens": ("entity_f1",),
    "generation": (
        "exact_match",
        "final_exact_match",
        "f1",
        "rougeL",
        "code_rougeL",
        "bleu",
        "chrf",
        "sql_exact_match",
        "pass@1",
    ),
}
OUTSIDE = "O"  # the label of a word that belongs to no entity, and of one that was cut off


@dataclass(frozen=True)
class TaskSpec:
    """One task of a stream: how it asks, what it may answer, and how its answers are scored.

    classification    one of `choices`
    multiple-choice   one of the choices that each example brings itself; on a device it answers in its own words
    generation        any text
    tokens            every word (split at white space) gets one of `choices`; a target: labels with spaces between
    `metric` is one of METRICS[kind]; if it is not given, the first.
    """

    name: str
    prompt: str
    choices: tuple[str, ...] = ()
    kind: Kind = "classification"
    metric: str = ""
    language: str = "en"
    max_prompt_tokens: int = 96

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise EdgeAdaptError(f"task name {self.name!r}: give a name without '/'")
        if self.prompt.count(FIELD) != 1:
            raise EdgeAdaptError(f"task {self.name}: its prompt must contain {FIELD} exactly once")
        if self.kind not in METRICS:
            raise EdgeAdaptError(f"task {self.name}: kind {self.kind!r} is none of {', '.join(METRICS)}")
        if self.kind in ("classification", "tokens") and len(set(self.choices)) < 2:
            raise EdgeAdaptError(f"task {self.name}: a {self.kind} task needs at least two different choices")
        if self.kind == "multiple-choice" and self.choices:
            raise EdgeAdaptError(f"task {self.name}: multiple-choice has its choices at each example, not at the task")
        if self.kind == "tokens" and OUTSIDE not in self.choices:
            raise EdgeAdaptError(f"task {self.name}: the labels of words need one for no entity, {OUTSIDE!r}")
        metrics = METRICS[self.kind]
        if self.metric in ("", "accuracy"):  # files of earlier versions say "accuracy" of every kind
            object.__setattr__(self, "metric", metrics[0])
        if self.metric not in metrics:
            raise EdgeAdaptError(f"task {self.name}: metric {self.metric!r} is none of {', '.join(metrics)}")
        if self.max_prompt_tokens < 8:
            raise EdgeAdaptError(f"task {self.name}: max_prompt_tokens is {self.max_prompt_tokens}; 8 is the least")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "choices": list(self.choices)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TaskSpec:
        unknown = set(value) - set(cls.__dataclass_fields__)
        if unknown:
            raise EdgeAdaptError(f"task {value.get('name')!r}: unknown fields {sorted(unknown)}")
        return cls(**{**value, "choices": tuple(value.get("choices", ()))})


def encode_prompt(task: TaskSpec, text: str, encode: Encode) -> list[int]:
    """Token ids of the prompt. Only the example's own text is cut to `max_prompt_tokens`, never the instruction."""
    before, after = task.prompt.split(FIELD)
    head, tail = encode(before), encode(after)
    room = task.max_prompt_tokens - len(head) - len(tail)
    if room < 1:
        raise EdgeAdaptError(f"task {task.name}: its prompt alone fills max_prompt_tokens={task.max_prompt_tokens}")
    return head + encode(text)[:room] + tail


def encode_sequence(task: TaskSpec, text: str, encode: Encode, frame: Frame) -> list[int]:
    """Token ids of a text as an encoder reads it, at most `max_prompt_tokens`."""
    first, last = frame
    return [first, *encode(text)[: task.max_prompt_tokens - 2], last]


def encode_words(
    task: TaskSpec, words: Sequence[str], encode: Encode, frame: Frame, unknown: int
) -> tuple[list[int], list[int]]:
    """Token ids of a text's words, and where each word begins; only as many words as fit into `max_prompt_tokens`.

    A word that the tokenizer sees nothing in (say, a zero-width space) is the token `unknown`.
    """
    first, last = frame
    ids, starts = [first], []
    for number, word in enumerate(words):
        pieces = encode(word if number == 0 else f" {word}") or [unknown]
        if len(ids) + len(pieces) + 1 > task.max_prompt_tokens:
            break
        starts.append(len(ids))
        ids += pieces
    return [*ids, last], starts


def encode_target(target: str, encode: Encode) -> list[int]:
    """Token ids of an answer, as it follows the prompt."""
    return encode(" " + target)


def choice_scores(token_log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Length-normalised log-likelihood of each choice: per choice (tokens,) float -> (choices,) float64."""
    return np.array([float(np.mean(np.asarray(item, dtype=np.float64))) for item in token_log_probs])


def choice_probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax over the choices' scores: (choices,) -> (choices,), summing to one."""
    shifted = np.exp(scores - scores.max())
    return np.asarray(shifted / shifted.sum())
