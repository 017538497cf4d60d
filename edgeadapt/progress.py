"""How far a long piece of work has come: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Called with what is being done, bytes or steps done, and their total if known.
Progress = Callable[[str, int, "int | None"], None]


def silent(what: str, done: int, total: int | None) -> None:
    """Say nothing."""


@contextlib.contextmanager
def shown(progress: Progress | None, columns: Callable[[], Sequence[Any]], lines: Progress) -> Iterator[Progress]:
    """The caller's own progress, or one on standard error, which leaves standard output to answers: a bar of rich's
    `columns` for each piece of work on a terminal, `lines` otherwise."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        with _bars(columns()) as bars:
            yield bars
    else:
        yield lines


def transfer(progress: Progress | None) -> contextlib.AbstractContextManager[Progress]:
    """Bytes that are on their way."""
    return shown(progress, _transfer_columns, _Lines())


def _transfer_columns() -> Sequence[Any]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    description = TextColumn("{task.description}")
    return (description, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())


@contextlib.contextmanager
def _bars(columns: Sequence[Any]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(*columns, console=Console(stderr=True)) as bars:
        begun: dict[str, int] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in begun:
                for earlier in begun.values():
                    if bars.tasks[earlier].total is None:  # it never said how long it is; now it is done
                        bars.update(bars.task_ids[earlier], total=1, completed=1)
                begun[what] = int(bars.add_task(what, total=total))
            bars.update(bars.task_ids[begun[what]], completed=done, total=total)

        yield show


class _Lines:
    """One line when a piece of work starts, one every ten seconds, one when it is complete."""

    def __init__(self) -> None:
        self._what = ""
        self._said = 0.0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what == self._what and now - self._said < 10 and done != total:
            return
        self._what, self._said = what, now
        of = f" of {total / 1e6:.1f}" if total else ""
        print(f"{what}: {done / 1e6:.1f}{of} MB" if done or total else what, file=sys.stderr, flush=True)
