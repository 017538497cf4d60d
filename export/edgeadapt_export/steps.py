"""How an export comes along: a bar with steps on a terminal, one plain line per kind of work otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from edgeadapt import progress
from edgeadapt.progress import Progress


def shown(given: Progress | None) -> AbstractContextManager[Progress]:
    """The caller's own progress, or one on standard error."""
    return progress.shown(given, _columns, _Lines())


def _columns() -> Sequence[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    done = SpinnerColumn(finished_text="*")
    return (done, TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


class _Lines:
    """A line when a piece of work starts, and one when its last step is done."""

    def __init__(self) -> None:
        self._what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            print(f"export: {what}", file=sys.stderr, flush=True)
        elif total and done == total:
            print(f"export: {what}: {total} done", file=sys.stderr, flush=True)
        self._what = what
