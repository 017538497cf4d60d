"""What `edgeadapt verify` says of an adapter that plans its energy: multiply-adds that ran = the plan <= the budget.

    count = plan     per token and state, the sum over nodes of what the executing kernel counted (output hest.macs) is
                     what the plan's states say, exactly: for a prompt's shared plan and for a new token's own
    plan <= budget   modelled femtojoules, integers, controller included: T e_token for a prompt, e_token for a token
Where the op library does not run, the bodies compute every direction and mask it: there the plan alone is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.energy.envelope import MACS, STATES
from edgeadapt.ops.library import library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.runtime.spectral import SpectralAdapter

Row = tuple[str, str, str, bool]
TOKENS = 32
ONLY_PLANNED = "the op library does not run here: bodies compute every direction, so plans were checked, not what ran"


def plan_checks(bundle: Bundle, threads: int) -> Iterator[Row]:
    """(name, measured, allowed, passed) of every check."""
    planned = [entry.name for entry in bundle.manifest.adapters if entry.envelope is not None]
    if not planned:
        return
    engine = Engine.on(bundle, graph="model", threads=threads, ops="auto")
    runner = session.create(bundle.graph("model"), threads=threads, ops="auto")
    rng = np.random.default_rng(0)
    ids = [int(token) for token in rng.integers(0, engine.vocabulary_size, TOKENS)]
    for name in planned:
        engine.use(name)
        adapter = engine.adapter
        assert isinstance(adapter, SpectralAdapter)
        fed = adapter.feeds(ids, None)  # kept: the arrays below are views of it
        prompt = {key: value.numpy() for key, value in fed.items()}
        token = {**prompt, **adapter.appended(ids[:1])}
        for what, tokens, feeds in (("a prompt", ids, prompt), ("a new token", ids[:1], token)):
            states = _states(adapter, feeds)
            energy = adapter.planner.energy(adapter.planner.counts(states), len(tokens))
            if library_path() is not None:
                base = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), np.int64)}
                macs = runner.run([MACS], {**base, **empty_past(runner), **feeds})[0][0]
                ran = macs.reshape(len(tokens), -1, 2).astype(np.int64).sum(axis=1)
                said = np.stack([((states == kind) * adapter.planner.macs).sum(axis=1) for kind in (1, 2)], axis=1)
                wrong = int((ran != said).any(axis=1).sum())
                measured = f"{ran[:, 0].sum():,} int8, {ran[:, 1].sum():,} fp16 MACs; {wrong} tokens differ"
                yield f"energy: {name}, {what}: count = plan", measured, "the plan's, exactly", wrong == 0
                energy = adapter.planner.energy((int(ran[:, 0].sum()), int(ran[:, 1].sum())), len(tokens))
            limit = len(tokens) * adapter.planner.token_budget
            yield f"energy: {name}, {what}: modelled", f"{energy:,} fJ", f"<= {limit:,} fJ", energy <= limit


def _states(adapter: SpectralAdapter, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    """The plan's states [T, J], back from the groups' inputs."""
    envelope = adapter.envelope
    layers = adapter.planner.layers
    by_module: dict[str, NDArray[np.generic]] = {}
    for group in envelope.groups:
        rows = feeds[group.input(STATES)][0]
        shaped = rows.reshape(len(rows), layers, len(group.modules), -1)
        by_module |= {name: shaped[:, :, at] for at, name in enumerate(group.modules)}
    stacked = np.stack([by_module[name] for name in envelope.modules], axis=2)
    return np.asarray(stacked.reshape(len(stacked), -1), dtype=np.uint8)
