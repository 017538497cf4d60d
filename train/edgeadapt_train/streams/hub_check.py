"""What of a stream of the Hugging Face hub this machine can read, without downloading any of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgeadapt.errors import MissingExtra
from edgeadapt_train.streams import cts25, unihyper
from edgeadapt_train.streams.hub import HubData, HubTask, recorded

TASKS: dict[str, tuple[HubTask, ...]] = {"cts25": cts25.TASKS, "unihyper": unihyper.TASKS}
DATA_FILES = {".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip"}
SECONDS = 8.0


@dataclass(frozen=True)
class Reach:
    """One task. `revision`: pinned in the code, recorded in this machine's cache, or else the name of a branch."""

    task: str
    dataset: str
    config: str | None
    revision: str
    known: Literal["pinned", "recorded", "not yet"]
    readable: bool
    said: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(stream: str, mirror: Path | None = None) -> list[Reach]:
    """Every task of the stream, in its order; from `mirror` if there is one, else from the hub, all at once."""
    tasks = TASKS[stream]
    wanted = list(dict.fromkeys(task.data for task in tasks))
    if mirror is None:
        answers = _of_hub(wanted)
    else:
        answers = {data: _of_folder(mirror.expanduser() / data.id) for data in wanted}
    return [_reach(task, *answers[task.data]) for task in tasks]


def table(found: Sequence[Reach]) -> Any:
    """The rows for a terminal."""
    from rich.table import Column, Table

    whole = (Column(name, overflow="fold") for name in ("task", "dataset", "revision", "readable here"))
    shown = Table(*whole, box=None, padding=(0, 2, 0, 0))
    for row in found:
        name = row.dataset if row.config is None else f"{row.dataset} {row.config}"
        commit = {
            "pinned": row.revision[:7],
            "recorded": f"{row.revision[:7]}, recorded here",
            "not yet": "not known yet",
        }
        shown.add_row(row.task, name, commit[row.known], row.said if row.readable else f"no: {row.said}")
    return shown


def _reach(task: HubTask, readable: bool, said: str) -> Reach:
    data = task.data
    kept = recorded(data)
    known: Any = "pinned" if data.revision else "recorded" if kept else "not yet"
    return Reach(
        task.spec.name, data.id, data.config, data.revision or kept or data.branch, known, readable=readable, said=said
    )


def _of_folder(place: Path) -> tuple[bool, str]:
    if not place.is_dir():
        return False, f"{place}: no such folder"
    return _loadable([str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()])


def _of_hub(wanted: Sequence[HubData]) -> dict[HubData, tuple[bool, str]]:
    """Each dataset's answer. If the first finds no way to the hub, the others do not wait for the same."""
    try:
        import requests
    except ImportError:
        raise MissingExtra("train", "requests") from None
    first, *others = wanted
    try:
        found = {first: _ask(first)}
    except requests.RequestException:
        return dict.fromkeys(wanted, (False, "no connection"))
    with ThreadPoolExecutor(8) as pool:
        return {**found, **dict(zip(others, pool.map(_ask_calmly, others), strict=True))}


def _ask_calmly(data: HubData) -> tuple[bool, str]:
    import requests

    try:
        return _ask(data)
    except requests.RequestException as error:
        return False, f"no answer ({type(error).__name__})"


def _ask(data: HubData) -> tuple[bool, str]:
    """Raises requests' errors where there is no answer at all."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(data.id, revision=data.revision or recorded(data) or data.branch, timeout=SECONDS)
    except HfHubHTTPError as error:
        status = "an error" if error.response is None else error.response.status_code
        return False, f"the hub answers {status} ({type(error).__name__})"
    return _loadable([file.rfilename for file in info.siblings or ()])


def _loadable(files: Sequence[str]) -> tuple[bool, str]:
    data = [name for name in files if DATA_FILES & set(PurePosixPath(name).suffixes)]
    if data:
        return True, f"{len(data)} data files"
    if any(name.endswith(".py") for name in files):
        return False, "only a loading script, which datasets 4 and later do not run"
    return False, "no data files"
