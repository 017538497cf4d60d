"""What training shows: a bar with the loss on a terminal, plain lines otherwise. On standard error, both."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_EVERY = 5.0  # seconds between two plain lines of one task


class Reporter(Protocol):
    """Where a run says what it is doing."""

    def say(self, line: str) -> None:
        """One line that stays."""

    def step(self, task: str, done: int, total: int, loss: float) -> None:
        """A step of a task is done; `done` counts from 1."""


class Lines:
    """Plain lines: a task's first and last step, and one every five seconds."""

    def __init__(self) -> None:
        self._said = 0.0

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def step(self, task: str, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if done in (1, total) or now - self._said >= _EVERY:
            self._said = now
            self.say(f"{task}: step {done}/{total}, loss {loss:.4f}")


class Silent:
    """Nothing: what all processes but the first say."""

    def say(self, line: str) -> None:
        pass

    def step(self, task: str, done: int, total: int, loss: float) -> None:
        pass


class _Bar:
    def __init__(self, bars: object) -> None:
        from rich.progress import Progress

        assert isinstance(bars, Progress)
        self._bars, self._tasks = bars, {}  # type: ignore[var-annotated]

    def say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False)

    def step(self, task: str, done: int, total: int, loss: float) -> None:
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, total=total, loss=loss)
        self._bars.update(self._tasks[task], completed=done, loss=loss)


@contextmanager
def reporter() -> Iterator[Reporter]:
    """The reporter that fits standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    loss = TextColumn("loss {task.fields[loss]:.4f}")
    with Progress(*columns, loss, console=Console(file=sys.stderr)) as bars:
        yield _Bar(bars)
