"""Stored results, as `bench --json` writes them: the format that bench.schema.json describes, read back.

The schema is what others may rely on; `load` checks what this package is about to use and no more, so that reading a
result needs no package besides Python's own. A file's `format` is raised when what a key means changes or a key goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_atomic
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.report import FORMAT

SCHEMA = "bench.schema.json"
BEFORE = 2  # the format before this one, which is still read
FEWEST = 5  # samples that an interval needs; of fewer it would be their smallest and largest, and say too much


@dataclass(frozen=True)
class Group:
    """Rows of one phase that can be compared, by variant."""

    workload: Mapping[str, Any]
    threads: int
    rows: dict[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Result:
    """One run's document and where it came from. All that is shown or compared is read from `document` alone."""

    name: str
    document: Mapping[str, Any]

    @property
    def emulated(self) -> bool:
        return bool(self.document["device"]["emulated"])

    @property
    def device(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["device"]
        return found

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.document["rows"]
        return found

    @property
    def memory(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.document["memory"]
        return found

    @property
    def variants(self) -> list[str]:
        """Names in the order of measuring, the bare backbone first."""
        return list(dict.fromkeys(str(row["variant"]) for row in (*self.memory, *self.rows)))

    @property
    def problems(self) -> Sequence[str]:
        """Why the figures must not be used; empty for a valid run. A count has no such reasons."""
        return list(self.document.get("problems", ()))

    @property
    def left_out(self) -> Mapping[str, str]:
        """Baselines that could not take part, and why."""
        return dict(self.document.get("left_out", {}))

    @property
    def bandwidth(self) -> Mapping[int, float]:
        """Bytes per second that this machine reads from memory, by number of threads; empty if nobody measured it."""
        return {int(item["threads"]): float(item["bytes_per_second"]) for item in self.document["memory_bandwidth"]}

    @property
    def phases(self) -> list[str]:
        """Those that there are rows of, in the order in which people want to see them."""
        found = {row["phase"] for row in self.rows}
        return [phase for phase in PHASES if phase in found]

    def of(self, phase: str) -> list[Group]:
        """Rows of one phase that belong together: of one workload's sizes and one number of threads."""
        found: dict[tuple[Any, ...], Group] = {}
        for row in self.rows:
            if row["phase"] == phase:
                key = (*row["workload"].items(), row["threads"])
                found.setdefault(key, Group(row["workload"], row["threads"], {})).rows[str(row["variant"])] = row
        return list(found.values())

    def files(self, bundle: str) -> Mapping[str, int]:
        """Sizes of a bundle's files in bytes."""
        found: Mapping[str, int] = self.document["sizes"].get(bundle, {})
        return found


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a result file."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath(SCHEMA).read_text(encoding="utf-8"))
    return found


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        EdgeAdaptError: not a file, not JSON, no result of this benchmark, another format, or a row that says nothing.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeAdaptError(f"{path}: no such file; give what `edgeadapt bench --json` wrote") from None
    except IsADirectoryError:
        raise EdgeAdaptError(f"{path}: a directory; give the file that `edgeadapt bench --json` wrote") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EdgeAdaptError(f"{path}: not JSON ({error}); give what `edgeadapt bench --json` wrote") from None
    return checked(str(path), document)


def checked(name: str, document: Any) -> Result:
    """A document as a result. Raises EdgeAdaptError as `load` does."""
    keys = ("format", "started", "device", "rows", "memory", "sizes")
    if not isinstance(document, dict) or any(key not in document for key in keys):
        raise EdgeAdaptError(f"{name}: not a bench result; give what `edgeadapt bench --json` wrote")
    if document["format"] == BEFORE:
        document = _raised(name, document)
    if document["format"] != FORMAT:
        raise EdgeAdaptError(
            f"{name}: bench results of format {document['format']}, and this version reads format {FORMAT}; "
            "measure again, or read it with the version that wrote it"
        )
    result = Result(name, document)
    try:
        for row in result.rows:
            figures = (row["variant"], row["phase"], row["precision"], row["threads"], row["bundle"], row["workload"])
            if any(figure is None for figure in figures) or row["emulated"] is not result.emulated:
                raise ValueError
            float(row["instructions"] if result.emulated else row["p50"])
            if not result.emulated and (not row["samples"] or not all(row["samples"])):
                raise ValueError
        for item in result.memory:
            float(item["peak_bytes"]), float(item["increase_bytes"]), item["variant"], item["bundle"], item["workload"]
    except (KeyError, TypeError, ValueError):
        raise EdgeAdaptError(
            f"{name}: a bench result that is damaged, or edited: a row lacks its figures, or is of another device"
        ) from None
    if not result.rows:
        raise EdgeAdaptError(f"{name}: a bench result without a single row; measure again")
    return result


def _raised(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of the format before this one, in this one's words."""

    def workload(row: Mapping[str, Any]) -> dict[str, Any]:
        old, phase = row["workload"], row["phase"]
        if phase == "load":
            return {"name": "load"}
        if phase in ("task_switch", "adapter_switch"):
            return {"name": "switch", "prompt": old["prompt_tokens"]}
        return {"name": "generation", "prompt": old["prompt_tokens"], "output": old["decode_tokens"]}

    try:
        bandwidth = document.get("memory_bandwidth")
        return {
            **document,
            "format": FORMAT,
            "rows": [{**row, "workload": workload(row)} for row in document["rows"]],
            "memory": [{**item, "workload": None} for item in document["memory"]],
            "memory_bandwidth": [] if bandwidth is None else [bandwidth],
        }
    except (KeyError, TypeError, AttributeError):
        raise EdgeAdaptError(f"{name}: a bench result that is damaged, or edited; measure again") from None


def write(result: Result, *, csv: Path | None = None, markdown: Path | None = None, html: Path | None = None) -> int:
    """Write a result in other forms, each where a path is given; how many were written."""
    from edgeadapt_bench.html import to_html
    from edgeadapt_bench.tables import to_csv, to_markdown

    asked = [(path, form) for path, form in ((csv, to_csv), (markdown, to_markdown), (html, to_html)) if path]
    for path, form in asked:
        write_atomic(path, form(result).encode())
    return len(asked)
