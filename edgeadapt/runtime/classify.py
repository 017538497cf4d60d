"""A label for a text: each choice's length-normalised log-likelihood behind the shared prompt (see edgeadapt.tasks).

    score(c) = 1/|c| sum_i log p(c_i | prompt, c_<i)        label = argmax score        probabilities = softmax(scores)

The prompt is run once; the choices are scored one after the other from the same position of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import choice_probabilities, choice_scores, encode_prompt, encode_target

if TYPE_CHECKING:
    from edgeadapt.runtime.engine import Engine


@dataclass(frozen=True)
class Classification:
    """The answer: the likeliest choice, and every choice's probability in the task's order."""

    task: str
    label: str
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"task": self.task, "label": self.label, "probabilities": self.probabilities}


def classify(engine: Engine, text: str) -> Classification:
    """Label `text` by the engine's current task.

    Raises:
        EdgeAdaptError: no classification task is chosen, or the text is empty.
    """
    task = engine.current_task
    if task is None:
        raise EdgeAdaptError("choose a task before classifying a text")
    if task.kind != "classification":
        raise EdgeAdaptError(f"task {task.name} is of kind {task.kind}; it has no labels to choose from")
    if not text.strip():
        raise EdgeAdaptError(f"task {task.name}: the text is empty")
    encode = engine.codec.encode
    choices = [encode_target(choice, encode) for choice in task.choices]
    engine.prefill(encode_prompt(task, text, encode), room=max(map(len, choices)))
    scores = choice_scores(engine.decoder.continuations(choices))
    shares = choice_probabilities(scores)
    return Classification(
        task=task.name,
        label=task.choices[int(scores.argmax())],
        probabilities={choice: float(share) for choice, share in zip(task.choices, shares, strict=True)},
    )
