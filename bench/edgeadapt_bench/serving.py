"""The measured process, whatever engine runs in it. One variant, resident; the parent asks by JSON lines on standard
input, one answer line each.

    python -m edgeadapt_bench.serving MODULE       MODULE has a class Subject, and names in PACKAGES what it imports

    open            variant, threads   load the model                           -> times, ops, vocabulary_size
    prompt          ids                the prompt of all that follows           -> tokens
    prefill         room               run the prompt, keep room for an answer  -> times of one run
    decode          tokens             so many steps behind the prompt          -> times of each step
    task_switch                        another task, bound for the prompt       -> times | null without two tasks
    adapter_switch                     adapter read anew, bound for the prompt  -> times | null without an adapter
    memory                             peak, and its increase since before open -> peak_bytes, increase_bytes

times   seconds [n] by the wall clock, cpu_seconds [n] of this process on all its threads
Only the work itself is timed, by the child's own clocks; an engine is imported before its memory is counted. What a
library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import memory


@dataclass
class Times:
    """What some work took, one entry each: seconds by the wall clock, and of this process's own computing."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def one(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def to_json(self) -> dict[str, list[float]]:
        return {"seconds": self.wall, "cpu_seconds": self.cpu}


class Subject(Protocol):
    """An open variant, in a class of this name: Subject(variant, threads) loads it.

    `ops` is whose operators run: "library" or "bodies" of edgeadapt, or "foreign". A method that a class lacks, or that
    returns None, is a phase that its engine has no part in.
    """

    load: Times
    vocabulary_size: int
    ops: str

    def prefill(self, ids: Sequence[int], room: int) -> Times:
        """Start anew with a prompt, up to the first logits, and keep room for `room` more tokens."""
        ...

    def decode(self, prompt: Sequence[int], count: int) -> Times:
        """Times of each of `count` greedy steps behind the prompt, which is run first if the cache does not hold it.

        One more step goes before them untimed: another process has had the processor's caches in between.
        """
        ...


class Server:
    """Answers the parent's requests. Counts memory from its own making on."""

    def __init__(self, opening: Callable[[dict[str, Any], int], Subject]) -> None:
        self._before = memory.mark()
        self._opening = opening
        self._subject: Subject | None = None
        self._prompt: list[int] = []
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "prompt": self._set_prompt,
            "prefill": lambda request: _times(self._open_subject.prefill(self._prompt, request["room"])),
            "decode": lambda request: _times(self._open_subject.decode(self._prompt, request["tokens"])),
            "task_switch": lambda _: self._optional("task_switch"),
            "adapter_switch": lambda _: self._optional("adapter_switch"),
            "memory": self._memory,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        handler = self._answers.get(request.get("op", ""))
        if handler is None:
            return {"error": f"unknown request {request.get('op')!r}"}
        try:
            return handler(request)
        except EdgeAdaptError as error:
            return {"error": str(error)}

    @property
    def _open_subject(self) -> Subject:
        if self._subject is None:
            raise EdgeAdaptError("nothing is open yet")
        return self._subject

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        subject = self._subject = self._opening(request["variant"], request["threads"])
        return {**_times(subject.load), "vocabulary_size": subject.vocabulary_size, "ops": subject.ops}

    def _set_prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        self._prompt = [int(token) for token in request["ids"]]
        return {"tokens": len(self._prompt)}

    def _optional(self, phase: str) -> dict[str, Any]:
        method = getattr(self._open_subject, phase, None)
        return _times(None if method is None else method(self._prompt))

    def _memory(self, request: Mapping[str, Any]) -> dict[str, Any]:
        peak = memory.peak()
        return {"peak_bytes": peak, "increase_bytes": peak - self._before}


def _times(times: Times | None) -> dict[str, Any]:
    return {"seconds": None, "cpu_seconds": None} if times is None else times.to_json()


def main(module: str) -> None:
    """Serve until standard input closes. Interrupts are the parent's business: it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = importlib.import_module(module)
    for package in engine.PACKAGES:
        importlib.import_module(package)
    server = Server(engine.Subject)
    for line in sys.stdin:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
