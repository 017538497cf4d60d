"""How an export comes along: a bar with steps on a terminal, one plain line per kind of work otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from edgeadapt.progress import Progress


@contextlib.contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """The caller's own progress, or one on standard error (standard output is for answers)."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield bars
    else:
        yield _Lines()


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(finished_text="*"), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        lines: dict[str, int] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in lines:
                for line in lines.values():  # the work before this one is done
                    bars.update(bars.task_ids[line], total=1, completed=1) if bars.tasks[line].total is None else None
                lines[what] = int(bars.add_task(what, total=total))
            bars.update(bars.task_ids[lines[what]], completed=done, total=total)

        yield show


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
