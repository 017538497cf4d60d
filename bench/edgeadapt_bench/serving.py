"""The measured process, whatever engine runs in it. One variant, resident; the parent asks by JSON lines on standard
input, one answer line each.

    python -m edgeadapt_bench.serving MODULE      MODULE has a class Subject and names the PACKAGES it computes with

    open            variant, threads   load the model                             -> times, ops, vocabulary_size
    begin           workload           sizes of what follows, by its name         -> cannot: why not, or null
    turn            phase              one turn of that workload                  -> times | null without such a phase
    memory                             peak, and its increase since before open   -> peak_bytes, increase_bytes,
                                       what the workload holds, if it says so        held_bytes | null

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import memory, workloads
from edgeadapt_bench.times import Times
from edgeadapt_bench.workloads import CannotTakePartError, Work


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
        self._work: Work | None = None
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "begin": self._begin,
            "turn": self._turn,
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

    def _begin(self, request: dict[str, Any]) -> dict[str, Any]:
        self._work = None  # what the last one kept goes first
        try:
            self._work = workloads.of(request["workload"]).start(self._open_subject)
        except CannotTakePartError as error:
            return {"cannot": str(error)}
        return {"cannot": None}

    def _turn(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._work is None:
            raise EdgeAdaptError("no workload has begun")
        return _times(self._work.turn(request["phase"]))

    def _memory(self, request: Mapping[str, Any]) -> dict[str, Any]:
        peak = memory.peak()
        held = getattr(self._work, "held", None)
        return {"peak_bytes": peak, "increase_bytes": peak - self._before, "held_bytes": held}


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
