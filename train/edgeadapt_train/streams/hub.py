"""Tasks from datasets of the Hugging Face hub, read row by row as far as they are needed, at a fixed revision.

    rows          the split's first ones, as many as are asked for; where a split is sorted by class, a seeded sample of
                  all of it (reservoir, Vitter's algorithm R)
    evaluation    from the dataset's own split
    validation    the first of the train rows, a fifth of them where they are few; train the next ones; `most` rows at
                  most, both together
A text is used once: what is in the evaluation split, or came before, is left out. `flips`: this share of the train
labels, exactly, is another one of the choices, drawn with the seed; validation and evaluation stay clean.

Revisions are commits of the hub's repositories. One that we do not know is asked of the hub the first time, recorded in
the cache (streams/hub-revisions.json) and used ever after. `mirror` is a folder with copies, DIR/OWNER/NAME each as on
the hub; then no network is used and no revision checked. Datasets that are only a loading script are not loaded by
datasets 4 and later; their Parquet copy is, on the branch refs/convert/parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.files import locked, write_json
from edgeadapt.records import read_json
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams.base import Sizes, Task

Row = Mapping[str, Any]
PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class HubData:
    """A dataset: OWNER/NAME, the configuration, and a commit; without one, what `branch` is when first used."""

    id: str
    config: str | None = None
    revision: str | None = None
    branch: str = "main"


@dataclass(frozen=True)
class HubTask:
    """How a dataset becomes a task. `example` makes one of a row, or None where the row is none of the task's."""

    spec: TaskSpec
    topic: str
    data: HubData
    example: Callable[[Row], Example | None]
    evaluation: str
    train: tuple[str, ...] = ("train",)
    most: int | None = None
    sorted: bool = False
    flips: float = 0.0

    def read(self, sizes: Sizes, *, seed: int, mirror: str | None) -> Task:
        """Raises EdgeAdaptError when the dataset cannot be had, or has too few rows."""
        seen: set[str] = set()
        evaluation = self._first((self.evaluation,), sizes.evaluation, seen, seed, mirror)
        wanted = sizes.train + sizes.validation
        pool = self._first(self.train, min(wanted, self.most or wanted), seen, seed, mirror)
        held = min(sizes.validation, max(len(pool) - sizes.train, len(pool) // 5))
        train = self._flipped(pool[held:], seed)
        return Task(self.spec, tuple(train), tuple(pool[:held]), tuple(evaluation), topic=self.topic)

    def _first(
        self, splits: tuple[str, ...], count: int, seen: set[str], seed: int, mirror: str | None
    ) -> list[Example]:
        made = (self._made(row) for split in splits for row in rows(self.data, split, mirror))
        fresh = _unseen((item for item in made if item is not None and item.text and item.target), seen)
        return sample(fresh, count, seed) if self.sorted else list(islice(fresh, count))

    def _made(self, row: Row) -> Example | None:
        try:
            return self.example(row)
        except (KeyError, TypeError, IndexError) as error:
            raise EdgeAdaptError(
                f"{self.data.id}: a row is not what {self.spec.name} was written for ({error!r}); it has {sorted(row)}"
            ) from None

    def _flipped(self, items: list[Example], seed: int) -> list[Example]:
        rng = np.random.default_rng([seed, len(items)])
        for at in rng.permutation(len(items))[: round(self.flips * len(items))].tolist():
            others = [choice for choice in self.spec.choices if choice != items[at].target]
            items[at] = replace(items[at], target=others[int(rng.integers(len(others)))])
        return items


def sample(items: Iterable[Example], count: int, seed: int) -> list[Example]:
    """`count` of the items, each set of them as likely, in random order; one pass."""
    rng = np.random.default_rng([seed, count])
    kept: list[Example] = []
    for number, item in enumerate(items):
        if number < count:
            kept.append(item)
        elif (place := int(rng.integers(number + 1))) < count:
            kept[place] = item
    return [kept[at] for at in rng.permutation(len(kept)).tolist()]


def rows(data: HubData, split: str, mirror: str | None = None) -> Iterator[Row]:
    """The rows of a split, streamed. Raises EdgeAdaptError in one line."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("train", "datasets") from None
    options: dict[str, Any] = {"split": split, "streaming": True}
    if mirror is None:
        place = data.id
        options["revision"] = revision(data)
    else:
        place = str(Path(mirror).expanduser() / data.id)
        if not Path(place).is_dir():
            raise EdgeAdaptError(f"{place}: no such folder; put a copy of the hub's {data.id} there")
    datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(place, data.config, **options)
    except EdgeAdaptError:
        raise
    except Exception as error:  # datasets, fsspec, pyarrow, requests: each has its own
        reason = " ".join(str(error).split())[:160]
        remedy = "see `edgeadapt data check`, or give stream.mirror=DIR with copies of the datasets"
        raise EdgeAdaptError(f"{place}, {split}: cannot be read ({type(error).__name__}: {reason}); {remedy}") from None


def revision(data: HubData) -> str:
    """The commit to read: the pinned one, the one recorded here, or the hub's now, which is recorded."""
    if (known := data.revision or recorded(data)) is not None:
        return known
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(data.id, revision=data.branch, timeout=15).sha
    except Exception as error:  # requests', httpx' and the hub's own
        raise EdgeAdaptError(f"{data.id}: the hub cannot be asked for its revision ({type(error).__name__})") from None
    store = _store()
    with locked(store):
        write_json(store, {**_records(), _key(data): found})
    return str(found)


def recorded(data: HubData) -> str | None:
    """The revision that this machine's cache has recorded for the dataset."""
    return _records().get(_key(data))


def _records() -> dict[str, str]:
    store = _store()
    return dict(read_json(store)) if store.is_file() else {}


def _store() -> Path:
    return cache_directory() / "streams" / "hub-revisions.json"


def _key(data: HubData) -> str:
    return f"{data.id}@{data.branch}"


def _unseen(items: Iterable[Example], seen: set[str]) -> Iterator[Example]:
    """The items whose text is new; it is not, afterwards."""
    for item in items:
        if item.text not in seen:
            seen.add(item.text)
            yield item
