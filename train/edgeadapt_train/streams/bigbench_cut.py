"""Cuts the 25 tasks of bigbench25 out of BIG-bench's source archive, in one pass over it.

Per task, from the examples of its task.json, in this order:
    part        examples k, k + n, k + 2n, ...                              bigbench_tasks.Cut.part
    example     {"input", "choices", "label"}: the choice of largest score (the first of several); or
                {"input", "targets"}: every answer that counts as right
    once each   equal examples are kept once, where the first of them is
    shuffle     Python's random.Random(742).shuffle
    split       evaluation: the first min(200, a fifth); train: the next 1,000 at most
    file        NN-name.jsonl.gz: a header line, evaluation, train; one JSON object a line in UTF-8
Every decompressed file must have the SHA-256 that bigbench_tasks.py states. Nothing of the archive is run.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import tarfile
import zlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import published_directory, storage_errors, write_json
from edgeadapt.progress import Progress, transfer
from edgeadapt_train.streams.bigbench_tasks import CUTS, Cut

TRAIN, EVALUATION, SEED = 1000, 200, 742
MANIFEST = "bigbench25.json"
_INSIDE = "bigbench/benchmark_tasks"
_METRICS = {"summarisation": "rougeL", "data-to-text": "rougeL", "code": "sql_exact_match"}


def file_name(cut: Cut) -> str:
    return f"{CUTS.index(cut) + 1:02d}-{cut.name}.jsonl.gz"


def build(source: Path, out: Path, progress: Progress | None = None) -> None:
    """Write the cut of `source`, BIG-bench's .tar.gz or a folder with its contents, to the directory `out`.

    The directory appears when all of it is right. Raises EdgeAdaptError for a source that is no BIG-bench 1.0.0.
    """
    with storage_errors(out), published_directory(out, marker=MANIFEST) as building, transfer(progress) as show:
        missing = {cut.folder: cut for cut in CUTS}
        with contextlib.closing(_documents(source, show)) as documents:
            for folder, document in documents:
                cut = missing.pop(folder)
                made = text_of(cut, document)
                if (found := hashlib.sha256(made).hexdigest()) != cut.sha256:
                    raise EdgeAdaptError(
                        f"{source}: the cut of {folder} has SHA-256 {found}, not {cut.sha256}; "
                        "this is not BIG-bench 1.0.0 as it was released"
                    )
                (building / file_name(cut)).write_bytes(gzip.compress(made, mtime=0))
                if not missing:
                    break
        if missing:
            raise EdgeAdaptError(
                f"{source}: has no {_INSIDE}/{min(missing)}/task.json; give BIG-bench 1.0.0's whole sources"
            )
        write_json(building / MANIFEST, manifest())


def manifest() -> dict[str, Any]:
    """What lies beside the files: where they come from and under which licences."""
    tasks = [{"file": file_name(cut), "sha256": cut.sha256, "from": cut.folder, "licence": cut.licence} for cut in CUTS]
    return {"source": "BIG-bench 1.0.0, Apache-2.0 as a collection", "sha256_of": "decompressed files", "tasks": tasks}


def text_of(cut: Cut, document: dict[str, Any]) -> bytes:
    """The task's file, decompressed, from its task.json."""
    first, step = cut.part
    examples = [_example(item) for item in document["examples"]][first::step]
    rows = list({json.dumps(item, sort_keys=True): item for item in examples}.values())
    random.Random(SEED).shuffle(rows)
    held = min(EVALUATION, len(rows) // 5)
    evaluation, train = rows[:held], rows[held : held + TRAIN]
    chooses = "choices" in rows[0]
    answers = Counter(row["choices"][row["label"]] if chooses else row["targets"][0] for row in evaluation)
    header = {
        "task": cut.name,
        "source": f"BIG-bench {cut.folder}",
        "kind": cut.topic,
        "language": cut.language,
        "metric": "accuracy" if chooses else _METRICS.get(cut.topic, "exact_match"),
        "description": document.get("description", ""),
        "task_prefix": document.get("task_prefix", ""),
        "train": len(train),
        "eval": held,
        "majority": round(answers.most_common(1)[0][1] / held, 3),
    }
    lines = [header, *({"split": "eval", **row} for row in evaluation), *({"split": "train", **row} for row in train)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _example(item: dict[str, Any]) -> dict[str, Any]:
    if scores := item.get("target_scores"):
        choices = list(scores)
        return {"input": item["input"], "choices": choices, "label": choices.index(max(choices, key=scores.get))}
    target = item["target"]
    targets = target if isinstance(target, list) else [target]
    return {"input": item["input"], "targets": [str(answer) for answer in targets]}


def _documents(source: Path, show: Progress) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Folder and task.json of the wanted tasks, as they come."""
    wanted = {cut.folder for cut in CUTS}
    if source.is_dir():
        places = [source / _INSIDE, *sorted(source.glob(f"*/{_INSIDE}"))]
        root = next((place for place in places if place.is_dir()), None)
        if root is None:
            raise EdgeAdaptError(f"{source}: has no {_INSIDE}; give the folder that BIG-bench's archive unpacks to")
        for folder in sorted(wanted):
            if (file := root / folder / "task.json").is_file():
                yield folder, json.loads(file.read_bytes())
        return
    try:
        with source.open("rb") as raw, _opened(_Counted(raw, source.stat().st_size, show)) as archive:
            for member in archive:
                folder = member.name.partition(f"/{_INSIDE}/")[2].removesuffix("/task.json")
                if folder in wanted and member.name.endswith("/task.json") and member.isfile():
                    content: Any = archive.extractfile(member)
                    yield folder, json.load(content)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise EdgeAdaptError(f"{source}: not a whole .tar.gz archive ({error}); fetch it again") from None


def _opened(counted: Any) -> tarfile.TarFile:
    """The archive, to be read once from its beginning: nothing but `read` is asked of the file."""
    return tarfile.open(fileobj=counted, mode="r|gz")


class _Counted:
    """A file that says how much of it has been read."""

    def __init__(self, raw: Any, total: int, show: Progress) -> None:
        self._raw, self._total, self._show = raw, total, show

    def read(self, size: int) -> bytes:
        piece: bytes = self._raw.read(size)
        self._show("reading BIG-bench", self._raw.tell(), self._total)
        return piece
