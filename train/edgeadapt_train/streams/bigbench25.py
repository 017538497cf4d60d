"""bigbench25: 25 tasks in 12 languages, cut from BIG-bench, whose archive (358 MB) lies on the Python package index.

The cut is made once (bigbench_cut.py) and kept in the cache, or wherever `edgeadapt data bigbench25 --out` put it. How
a task is asked:
    prompt            a few words of our own behind the text; BIG-bench's task_prefix, up to 600 words long, is not used
    text              what decides comes first where the text has parts, since the end of a long text is cut off
    choices           one set for the whole task: classification; differing from text to text: multiple-choice, the
                      choices not shown in the prompt; blank ones are dropped
    targets           the first is taught, all count as right
    validation        the last ones of the cut's train split, at most a fifth of it
Texts of the evaluation split are left out of the others (the cut repeats inputs that have different answers).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.fetch import pypi_file
from edgeadapt.files import locked
from edgeadapt.progress import Progress
from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams import bigbench_cut
from edgeadapt_train.streams.base import Sizes, Source, Task, capped
from edgeadapt_train.streams.bigbench_tasks import CUTS, Cut

ARCHIVE = (
    "bigbench",
    "1.0.0",
    "bigbench-1.0.0.tar.gz",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
)


@dataclass(frozen=True)
class Asking:
    """The prompt around a text; and for a text that matches `pattern` whole, what is made of its groups."""

    prompt: str
    pattern: str = "(.*)"
    text: str = r"\1"


_SENTIMENT = Asking("{text}\nSentiment:")
ASKED = {
    "intent_recognition": Asking("{text}\nIntent:", "Utterance: (.*)"),
    "webnlg_ru": Asking("{text}\nRussian:"),
    "strategyqa": Asking("{text}\nAnswer:"),
    "past_tense": Asking("{text}\nPast tense:"),
    "spider_sql": Asking("{text}\nSQL:"),
    "winowhy": Asking("{text}\nThis reason is"),
    "question_typing": Asking("{text}\nType:"),
    "parsinlu_qa": Asking("{text}\nAnswer:"),
    "xsum": Asking("{text}\nSummary:"),
    "logical_fallacy": Asking(
        "{text}\nThis argument is",
        r"(?:Do you think the following argument is 'Valid' or 'Invalid'\? |This AI is identifying whether statements "
        r"contain fallacies\. The AI responds with 'Valid' or 'Invalid' as appropriate\. )(.*)",
    ),
    "cs_restaurants": Asking("{text}\nCzech:"),
    "play_dialog": Asking(
        "{text}\nSpeakers:",
        r"(.*)\nIn the preceding dialogue, were the lines (.*) spoken by the same person or different people\?",
        r"\2\nDialogue: \1",
    ),
    "vitaminc": Asking("{text}\nThe claim is", r"(.*)\nClaim: (.*)", r"Claim: \2\nQuote: \1"),
    "qasc_answers": Asking("{text}\nAnswer:", r"Fact: (.*) \nQuestion: (.*)", r"Question: \2\nFact: \1"),
    "sports": Asking("{text}\nThis is"),
    "translation_errors": Asking(
        "{text}\nError:",
        r"Source: (.*)\nTranslation: (.*)\nThe translation contains an error pertaining to ",
        r"English: \2\nGerman: \1",
    ),
    "social_iqa": Asking("{text}\nAnswer:"),
    "fever": Asking(
        "{text}\nTrue or false:",
        r"On June 2017, the following claim was made: (.*)\nQ: Was this claim true or false\?",
        r"Claim: \1",
    ),
}


def sources(folder: str | None = None) -> dict[str, Source]:
    """The 25 tasks, of the cut in `folder`; without one, of the cache's, which is made first if it is not there."""
    place = kept() if folder is None else Path(folder).expanduser()
    return {cut.name: partial(_task, cut, place / bigbench_cut.file_name(cut)) for cut in CUTS}


def kept() -> Path:
    """The cut in the cache."""
    place = cache_directory() / "streams" / "bigbench25"
    with locked(place):
        if not (place / bigbench_cut.MANIFEST).is_file():
            build(place)
    return place


def build(out: Path, source: Path | None = None, progress: Progress | None = None) -> None:
    """Cut BIG-bench into `out`: from `source`, its archive or the folder that it unpacks to, or else from the index."""
    if source is None:
        source = pypi_file(*ARCHIVE, progress=progress)
    elif not source.exists():
        raise EdgeAdaptError(f"{source}: no such file or folder; give BIG-bench's archive, or leave --from out")
    bigbench_cut.build(source, out, progress)


def read(cut: Cut, file: Path) -> list[dict[str, Any]]:
    """Header and examples of a task's file. Raises EdgeAdaptError if it is not the cut as it is meant to be."""
    remedy = "make it with: edgeadapt data bigbench25 --out DIR"
    try:
        content = gzip.decompress(file.read_bytes())
    except FileNotFoundError:
        raise EdgeAdaptError(f"{file}: no such file; {remedy}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise EdgeAdaptError(f"{file}: damaged; {remedy}") from None
    if hashlib.sha256(content).hexdigest() != cut.sha256:
        raise EdgeAdaptError(f"{file}: not the cut of {cut.name} that bigbench25 is made of; {remedy}")
    return [json.loads(line) for line in content.splitlines()]


def summary(folder: Path) -> list[dict[str, Any]]:
    """One row per task of a cut."""
    keys = ("task", "kind", "language", "metric", "train", "eval", "majority")
    headers = [(cut, read(cut, folder / bigbench_cut.file_name(cut))[0]) for cut in CUTS]
    return [{**{key: header[key] for key in keys}, "licence": cut.licence} for cut, header in headers]


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows for a terminal, without their licences."""
    from rich.table import Table

    columns = [name for name in rows[0] if name not in ("metric", "licence")]
    shown = Table(*columns, box=None)
    for row in rows:
        shown.add_row(*(str(row[name]) for name in columns))
    return shown


def _task(cut: Cut, file: Path, sizes: Sizes) -> Task:
    header, *rows = read(cut, file)
    asking = ASKED.get(cut.name, _SENTIMENT)
    sets = {frozenset(row.get("choices", ())) for row in rows}
    kind: Any = "generation" if frozenset() in sets else "classification" if len(sets) == 1 else "multiple-choice"
    spec = TaskSpec(
        name=cut.name,
        prompt=asking.prompt,
        choices=tuple(rows[0]["choices"]) if kind == "classification" else (),
        kind=kind,
        metric=header["metric"],
        language=cut.language,
    )
    train, evaluation = ([_example(row, asking, kind) for row in rows if row["split"] == s] for s in ("train", "eval"))
    held = min(sizes.validation, len(train) // 5)
    return capped(spec, (train[:-held], train[-held:], evaluation), sizes, cut.topic)


def _example(row: dict[str, Any], asking: Asking, kind: str) -> Example:
    match = re.fullmatch(asking.pattern, row["input"], re.DOTALL)
    text = (match.expand(asking.text) if match else row["input"]).strip()
    if kind == "generation":
        return Example(text, row["targets"][0], references=tuple(row["targets"][1:]))
    gold = row["choices"][row["label"]]
    if kind == "classification":
        return Example(text, gold)
    return Example(text, gold.strip(), choices=_distinct(row["choices"]))


def _distinct(choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stripped for choice in choices if (stripped := choice.strip())))
