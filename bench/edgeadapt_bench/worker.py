"""The measured process. One variant, resident; the parent asks by JSON lines on standard input, one answer line each.

    open            variant, threads   verify the bundle, load the graph        -> load_s, ops, vocabulary_size
    prompt          ids                the prompt of all that follows           -> tokens
    prefill         room               run the prompt, keep room for an answer  -> seconds
    decode          tokens             so many steps behind the prompt          -> seconds [tokens]
    task_switch                        another task, bound for the prompt       -> seconds | null without two tasks
    adapter_switch                     adapter read anew, bound for the prompt  -> seconds | null without an adapter
    reopen                             drop the model and load it again         -> load_s
    memory                             peak, and its increase since before open -> peak_bytes, increase_bytes

Only the work itself is timed, by the child's own clock. What a library prints goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.adapters import dtype_of
from edgeadapt.runtime.decoder import Decoder, other_inputs
from edgeadapt.runtime.engine import Engine
from edgeadapt_bench import memory


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
        began = time.perf_counter()
        base = self._session()
        if variant["random_inputs"]:
            extra = other_inputs(base)
            context = bundle.manifest.backbone.context_length
            self.decoder = Decoder(base, adapter_inputs=tuple(extra), context_length=context)
            self.decoder.feed({name: noise(item) for name, item in extra.items()})
        else:
            self._engine = Engine(bundle, base, threads=threads, ops=self._ops)
            self.decoder = self._engine.decoder
        self.load_s = time.perf_counter() - began
        if self._engine is not None and self._adapter is not None:
            self._engine.use(self._adapter)
            self._choose_task()

    def prefill(self, ids: Sequence[int], room: int) -> float:
        began = time.perf_counter()
        if self._engine is not None:
            self._engine.prefill(ids, room)
        else:
            self.decoder.prefill(ids, room)
        return time.perf_counter() - began

    def decode(self, prompt: Sequence[int], count: int) -> list[float]:
        """Seconds of each of `count` greedy steps behind the prompt, which is run first if the cache does not hold it.

        One more step goes before them untimed: another process has had the processor's caches in between.
        """
        length = len(prompt)
        if self.decoder.length < length:
            self.prefill(prompt, count + 1)
        self.decoder.rewind(length)
        token = int(self.decoder.step(prompt[-1]).argmax())
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            token = int(self.decoder.step(token).argmax())
            seconds.append(time.perf_counter() - began)
        return seconds

    def task_switch(self, ids: Sequence[int]) -> float | None:
        if self._engine is None or not self._switchable or len(self._tasks()) < 2:
            return None
        self._task = (self._task + 1) % len(self._tasks())
        name = self._tasks()[self._task]
        began = time.perf_counter()
        self._engine.task(name)
        self._engine.adapt(ids)
        return time.perf_counter() - began

    def adapter_switch(self, ids: Sequence[int]) -> float | None:
        if self._engine is None or self._adapter is None or not self._switchable:
            return None
        self._engine.use(None)
        began = time.perf_counter()
        self._engine.load(self._adapter)
        self._engine.use(self._adapter)
        self._choose_task()
        self._engine.adapt(ids)
        return time.perf_counter() - began

    def _session(self) -> ort.InferenceSession:
        return session.create(self._path, threads=self._threads, ops=self._ops)

    def _tasks(self) -> list[str]:
        assert self._engine is not None
        entries = self._engine.bundle.manifest.adapters
        return [task.name for entry in entries if entry.name == self._adapter for task in entry.tasks]

    def _choose_task(self) -> None:
        if self._engine is not None and self._tasks():
            self._engine.task(self._tasks()[self._task])


def noise(item: ort.NodeArg) -> ort.OrtValue:
    """A small random value for an adapter input; sizes that the graph leaves open are 1."""
    shape = [size if isinstance(size, int) else 1 for size in item.shape]
    values = np.random.default_rng(len(item.name)).normal(0.0, 0.01, shape)
    return ort.OrtValue.ortvalue_from_numpy(values.astype(dtype_of(item.type)))


class Server:
    """Answers the parent's requests."""

    def __init__(self) -> None:
        self._before = memory.mark()
        self._subject: Subject | None = None
        self._request: dict[str, Any] = {}
        self._prompt: list[int] = []
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "prompt": self._set_prompt,
            "prefill": lambda request: {"seconds": self._open_subject.prefill(self._prompt, request["room"])},
            "decode": lambda request: {"seconds": self._open_subject.decode(self._prompt, request["tokens"])},
            "task_switch": lambda _: {"seconds": self._open_subject.task_switch(self._prompt)},
            "adapter_switch": lambda _: {"seconds": self._open_subject.adapter_switch(self._prompt)},
            "reopen": self._reopen,
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
        self._request = request
        self._subject = Subject(request["variant"], request["threads"])
        library = library_path() if request["variant"]["ops"] == "auto" else None
        return {
            "load_s": self._subject.load_s,
            "vocabulary_size": self._subject.decoder.vocabulary_size,
            "ops": "bodies" if library is None else "library",
        }

    def _reopen(self, _: dict[str, Any]) -> dict[str, Any]:
        self._subject = None
        gc.collect()
        return self._open(self._request)

    def _set_prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        self._prompt = [int(token) for token in request["ids"]]
        return {"tokens": len(self._prompt)}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        peak = memory.peak()
        return {"peak_bytes": peak, "increase_bytes": peak - self._before}


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
