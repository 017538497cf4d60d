"""The measured process. One variant, resident; the parent asks by JSON lines on standard input, one answer line each.

    open            variant, threads   verify the bundle, load the graph        -> times, ops, vocabulary_size
    prompt          ids                the prompt of all that follows           -> tokens
    prefill         room               run the prompt, keep room for an answer  -> times of one run
    decode          tokens             so many steps behind the prompt          -> times of each step
    task_switch                        another task, bound for the prompt       -> times | null without two tasks
    adapter_switch                     adapter read anew, bound for the prompt  -> times | null without an adapter
    memory                             peak, and its increase since before open -> peak_bytes, increase_bytes

times   seconds [n] by the wall clock, cpu_seconds [n] of this process on all its threads
Only the work itself is timed, by the child's own clocks. What a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.decoder import Decoder, other_inputs
from edgeadapt.runtime.engine import Engine
from edgeadapt_bench import memory
from edgeadapt_bench.inputs import noise


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


class Subject:
    """The open variant: a decoder, and the engine around it if the graph takes the bundle's adapters."""

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        bundle = Bundle.open(Path(variant["bundle"]))
        self._path = bundle.graph(variant["graph"])
        self._threads = threads
        self._ops: session.Ops = variant["ops"]
        self._adapter: str | None = variant["adapter"]
        self._switchable = self._adapter is not None and bundle.adapter(self._adapter).kind != "merged"
        self._engine: Engine | None = None
        self._task = 0
        self.load = Times()
        with self.load.one():
            base = self._session()
            if variant["random_inputs"]:
                extra = other_inputs(base)
                context = bundle.manifest.backbone.context_length
                self.decoder = Decoder(base, adapter_inputs=tuple(extra), context_length=context)
                self.decoder.feed({name: noise(item) for name, item in extra.items()})
            else:
                self._engine = Engine(bundle, base, threads=threads, ops=self._ops)
                self.decoder = self._engine.decoder
        if self._engine is not None and self._adapter is not None:
            self._engine.use(self._adapter)
            self._choose_task()

    def prefill(self, ids: Sequence[int], room: int) -> Times:
        times = Times()
        with times.one():
            if self._engine is not None:
                self._engine.prefill(ids, room)
            else:
                self.decoder.prefill(ids, room)
        return times

    def decode(self, prompt: Sequence[int], count: int) -> Times:
        """Times of each of `count` greedy steps behind the prompt, which is run first if the cache does not hold it.

        One more step goes before them untimed: another process has had the processor's caches in between.
        """
        length = len(prompt)
        if self.decoder.length < length:
            self.prefill(prompt, count + 1)
        self.decoder.rewind(length)
        token = int(self.decoder.step(prompt[-1]).argmax())
        times = Times()
        for _ in range(count):
            with times.one():
                token = int(self.decoder.step(token).argmax())
        return times

    def task_switch(self, ids: Sequence[int]) -> Times | None:
        if self._engine is None or not self._switchable or len(self._tasks()) < 2:
            return None
        self._task = (self._task + 1) % len(self._tasks())
        name = self._tasks()[self._task]
        times = Times()
        with times.one():
            self._engine.task(name)
            self._engine.adapt(ids)
        return times

    def adapter_switch(self, ids: Sequence[int]) -> Times | None:
        if self._engine is None or self._adapter is None or not self._switchable:
            return None
        self._engine.use(None)
        times = Times()
        with times.one():
            self._engine.load(self._adapter)
            self._engine.use(self._adapter)
            self._choose_task()
            self._engine.adapt(ids)
        return times

    def _session(self) -> ort.InferenceSession:
        return session.create(self._path, threads=self._threads, ops=self._ops)

    def _tasks(self) -> list[str]:
        assert self._engine is not None
        entries = self._engine.bundle.manifest.adapters
        return [task.name for entry in entries if entry.name == self._adapter for task in entry.tasks]

    def _choose_task(self) -> None:
        if self._engine is not None and self._tasks():
            self._engine.task(self._tasks()[self._task])


class Server:
    """Answers the parent's requests."""

    def __init__(self) -> None:
        self._before = memory.mark()
        self._subject: Subject | None = None
        self._prompt: list[int] = []
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "prompt": self._set_prompt,
            "prefill": lambda request: _times(self._open_subject.prefill(self._prompt, request["room"])),
            "decode": lambda request: _times(self._open_subject.decode(self._prompt, request["tokens"])),
            "task_switch": lambda _: _times(self._open_subject.task_switch(self._prompt)),
            "adapter_switch": lambda _: _times(self._open_subject.adapter_switch(self._prompt)),
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
        self._subject = Subject(request["variant"], request["threads"])
        library = library_path() if request["variant"]["ops"] == "auto" else None
        return {
            **_times(self._subject.load),
            "vocabulary_size": self._subject.decoder.vocabulary_size,
            "ops": "bodies" if library is None else "library",
        }

    def _set_prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        self._prompt = [int(token) for token in request["ids"]]
        return {"tokens": len(self._prompt)}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        peak = memory.peak()
        return {"peak_bytes": peak, "increase_bytes": peak - self._before}


def _times(times: Times | None) -> dict[str, Any]:
    return {"seconds": None, "cpu_seconds": None} if times is None else times.to_json()


def main() -> None:
    """Serve until standard input closes. Interrupts are the parent's business: it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
