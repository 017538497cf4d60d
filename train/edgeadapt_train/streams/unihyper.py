"""unihyper: UniHyperLoRA's own tasks from the Hugging Face hub, for an encoder: the source task sst2, then CoNLL-2003
(entities, a label per word), BoolQ and Amazon reviews.

CoNLL-2003's repository is a loading script, so its Parquet copy is read. Neither it nor the reviews are pinned by a
public source that we found; the hub is asked the first time (hub.py).
"""

from __future__ import annotations

from functools import partial

from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams.base import Source
from edgeadapt_train.streams.cts25 import boolq, labelled, sst2
from edgeadapt_train.streams.hub import PARQUET, HubData, HubTask, Row

ENTITIES = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
MOODS = ("negative", "positive")


def tagged(row: Row) -> Example:
    """A sentence's words and their labels, with spaces between."""
    words = ["".join(word.split()) or "-" for word in row["tokens"]]
    return Example(" ".join(words), " ".join(ENTITIES[tag] for tag in row["ner_tags"]))


TASKS = (
    sst2(),
    HubTask(
        TaskSpec("conll2003", "{text}", ENTITIES, kind="tokens", max_prompt_tokens=128),
        "entities",
        HubData("eriktks/conll2003", branch=PARQUET),
        tagged,
        evaluation="validation",
    ),
    boolq("boolq", flips=0.0),
    HubTask(
        TaskSpec("amazon_reviews", "{text}\nSentiment:", MOODS, max_prompt_tokens=256),
        "sentiment",
        HubData("fancyzhx/amazon_polarity"),
        labelled(MOODS, "{title}: {content}"),
        evaluation="test",
        most=50_000,
    ),
)


def sources(seed: int = 0, mirror: str | None = None) -> dict[str, Source]:
    """The four tasks; `mirror` is a folder with copies of the datasets."""
    return {task.spec.name: partial(task.read, seed=seed, mirror=mirror) for task in TASKS}
