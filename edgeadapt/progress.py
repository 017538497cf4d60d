"""How far a long piece of work has come: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

# Called with what is being done, bytes or steps done, and their total if known.
Progress = Callable[[str, int, "int | None"], None]


def silent(what: str, done: int, total: int | None) -> None:
    """Say nothing."""


@contextlib.contextmanager
def transfer(progress: Progress | None) -> Iterator[Progress]:
    """The caller's own progress, or bytes shown on standard error (which leaves standard output to answers)."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        with _bar() as shown:
            yield shown
    else:
        yield _Lines()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr)) as bars:
        lines: dict[str, int] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in lines:
                lines[what] = int(bars.add_task(what, total=total))
            bars.update(bars.task_ids[lines[what]], completed=done, total=total)

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
