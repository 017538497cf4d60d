"""edgeadapt's own worker: a variant of a bundle on ONNX Runtime, as edgeadapt_bench.serving asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgeadapt.bundle import Bundle
from edgeadapt.ops.library import library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.decoder import Decoder, other_inputs, zero_of
from edgeadapt.runtime.engine import Engine
from edgeadapt_bench.crowd import Crowd
from edgeadapt_bench.inputs import noise, per_row
from edgeadapt_bench.rows import RowsDecoder
from edgeadapt_bench.times import Times

PACKAGES = ("onnxruntime",)


class Subject:
    """The open variant: a decoder, and the engine around it if the graph takes the bundle's adapters."""

    def __init__(self, variant: dict[str, Any], threads: int) -> None:
        bundle = self._bundle = Bundle.open(Path(variant["bundle"]))
        self._path = bundle.graph(variant["graph"])
        self._threads = threads
        self._ops: session.Ops = variant["ops"]
        self.ops = "bodies" if self._ops == "off" or library_path() is None else "library"
        self._adapter: str | None = variant["adapter"]
        self._switchable = self._adapter is not None and bundle.adapter(self._adapter).kind != "merged"
        self._engine: Engine | None = None
        self._task = 0
        self._crowd: Crowd | None = None
        self.load = Times()
        with self.load.one():
            base = self.session = session.create(self._path, threads=threads, ops=self._ops)
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
        self.vocabulary_size = self.decoder.vocabulary_size

    def prefill(self, ids: Sequence[int], room: int) -> Times:
        times = Times()
        with times.one():
            if self._engine is not None:
                self._engine.prefill(ids, room)
            else:
                self.decoder.prefill(ids, room)
        return times

    def decode(self, prompt: Sequence[int], count: int) -> Times:
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

    def classify(self, ids: Sequence[int], choices: Sequence[Sequence[int]]) -> None:
        room = max(map(len, choices))
        if self._engine is not None:
            self._engine.prefill(ids, room)
        else:
            self.decoder.prefill(ids, room)
        self.decoder.continuations(choices)

    def rows(self, rows: int, adapters: int) -> RowsDecoder:
        """Several rows of the open graph, all with this variant's adapter; `adapters` in memory where it can mix."""
        extra = other_inputs(self.session)
        if self._engine is None:
            feeds = {name: noise(item, {"adapters": adapters, "batch_size": rows}) for name, item in extra.items()}
        else:
            given = {**self._zeros(), **self._engine.inputs([0])}
            feeds = {name: per_row(extra[name], value, rows) for name, value in given.items()}
        return RowsDecoder(self.session, rows, feeds)

    def crowd(self) -> Crowd | None:
        """Copies of this variant's adapter, to be loaded beside each other; None if it has none to load."""
        if self._crowd is None and self._switchable and self._adapter is not None:
            self._crowd = Crowd(self._bundle, self._adapter, self.session, threads=self._threads, ops=self._ops)
        return self._crowd

    def _zeros(self) -> dict[str, ort.OrtValue]:
        extra = other_inputs(self.session)
        return {name: zero_of(extra[name]) for name in self.decoder.adapter_inputs}

    def _tasks(self) -> list[str]:
        assert self._engine is not None
        entries = self._engine.bundle.manifest.adapters
        return [task.name for entry in entries if entry.name == self._adapter for task in entry.tasks]

    def _choose_task(self) -> None:
        if self._engine is not None and self._tasks():
            self._engine.task(self._tasks()[self._task])
