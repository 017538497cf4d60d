"""`edgeadapt verify`: is this bundle whole, and does it compute here what it is meant to compute?

    integrity    every file is the one that the manifest lists
    op           for every op that the bundle's graphs use, on the op's own random and adversarial cases:
                 |view - reference| <= allowance        view = function body (stock ONNX Runtime), kernel (our library)
    graph        zero adapter inputs                     = the bare graph, exactly
                 an adapter whose inputs are not zero    changes the logits: it is not silently without effect
                 kernels on                              = kernels off, within `SLACK` times what scaling the adapter's
                                                         inputs by 1 + n, n in `NUDGES`, does to the logits
                 of an encoder the last hidden states are looked at in the place of logits

    energy       of an adapter that plans it: verify_plans.py

The last yardstick is measured because it differs by four orders of magnitude: with fp32 weights, rounding moves the
logits by 1e-6 of the largest; int4 and int8 products also quantise their activations, and one rounding that falls to
the other side moves them by 3e-2. A kernel may not do more than the last bits of its own inputs do. But where the
backbone's linears are QuantMatMul, a kernel may quantise what the body multiplies in float32 (each product within its
own bound, which the op's check holds it to): then the logits may move by `QUANTISED` of the largest. On an emulated
Cortex-A72 those of SmolLM2-135M in int4, adapted, moved by 4.4 % (python -m edgeadapt_bench.emulation --verify).

The bundle carries a probe graph for each op (one node, all inputs open), since nothing here can build an ONNX graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.onnxscan import scan
from edgeadapt.ops import DOMAIN, OPS, Case, Op
from edgeadapt.ops.library import library_path
from edgeadapt.ops.registry import ATTRIBUTES
from edgeadapt.runtime import session
from edgeadapt.runtime.adapted import Adapted
from edgeadapt.runtime.opening import open_bundle
from edgeadapt.verify_plans import ONLY_PLANNED, plan_checks

if TYPE_CHECKING:
    from rich.table import Table

PROBE = "probe/"
SEEDS = (0, 1)
NUDGES = (2.0**-22, -(2.0**-22), 2.0**-21)
SLACK = 3.0
FLOOR = 1e-6  # of the largest logit: rounding, where a nudge happens to change nothing
QUANTISED = 0.15  # of the largest logit: activations in 8 bits on one side alone
_PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Check:
    """One line of the report. `measured` and `allowed` are in the check's own terms; `passed` is what counts."""

    name: str
    measured: str
    allowed: str
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class VerifyReport:
    """All checks that were made, and a word on those that could not be."""

    bundle: str
    rows: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> int:
        return sum(not row.passed for row in self.rows)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"bundle": self.bundle, "passed": self.passed, "checks": rows, "notes": list(self.notes)}

    def table(self) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            title=self.bundle, title_justify="left", box=box.SIMPLE_HEAD, caption="\n".join(self.notes) or None
        )
        for column in ("check", "measured", "allowed", ""):
            table.add_column(column)
        for row in self.rows:
            table.add_row(row.name, row.measured, row.allowed, "ok" if row.passed else "FAILED")
        return table


def verify(bundle: Path, *, threads: int = 1) -> VerifyReport:
    """Make every check that this machine can make.

    Raises:
        EdgeAdaptError: `bundle` is no bundle directory at all.
    """
    if not (bundle / MANIFEST).is_file():
        raise EdgeAdaptError(f"{bundle}: has no {MANIFEST}, so it is not a bundle; make one with edgeadapt export")
    try:
        opened = Bundle.open(bundle)
    except EdgeAdaptError as error:
        return VerifyReport(str(bundle), (Check("integrity", str(error), "as listed", passed=False),))
    count = len(opened.manifest.files)
    rows = [Check("integrity", f"{count} files, {opened.size / 1e6:.1f} MB", "as listed", passed=True)]
    rows += op_checks(opened, threads)
    rows += graph_checks(opened, threads)
    plans = [Check(*row) for row in plan_checks(opened, threads)]
    library = library_path()
    note = "no op library on this machine: kernels were not checked" if library is None else f"op library: {library}"
    notes = (note, ONLY_PLANNED) if plans and library is None else (note,)
    return VerifyReport(str(bundle), (*rows, *plans), notes)


def op_checks(bundle: Bundle, threads: int) -> Iterator[Check]:
    """Body and kernel against the reference, for every probe of the bundle."""
    probes = {key: bundle.graph(key) for key in bundle.manifest.graphs if key.startswith(PROBE)}
    probed = {key.removeprefix(PROBE).partition("/")[0] for key in probes}
    for name in sorted(_ops_used(bundle) - probed):
        yield Check(f"op {name}", "used, but the bundle has no probe of it", "a probe; export it again", passed=False)
    views: list[tuple[str, session.Ops]] = [("body", "off")]
    if library_path() is not None:
        views.append(("kernel", "auto"))
    for key, path in probes.items():
        name = key.removeprefix(PROBE).partition("/")[0]
        if name not in OPS:
            yield Check(f"op {name}", "unknown to this edgeadapt", "a known op; update edgeadapt", passed=False)
            continue
        for view, ops in views:
            yield _op_check(OPS[name], session.create(path, threads=threads, ops=ops), view)


def graph_checks(bundle: Bundle, threads: int) -> Iterator[Check]:
    """The model's graph as a whole: with and without an adapter's values, with and without kernels."""
    engine = open_bundle(bundle.root, threads=threads, ops="off")
    rng = np.random.default_rng(0)
    ids = [int(token) for token in rng.integers(0, engine.vocabulary_size, _PROMPT_TOKENS)]
    kernels = None if library_path() is None else open_bundle(bundle.root, threads=threads, ops="auto")
    zero = _response(engine, ids)
    floor = QUANTISED if "QuantMatMul" in _ops_used(bundle) else FLOOR
    if "bare" in bundle.manifest.graphs and not any(item.kind == "merged" for item in bundle.manifest.adapters):
        bare = _response(open_bundle(bundle.root, graph="bare", threads=threads, ops="off"), ids)
        difference = float(np.abs(zero - bare).max())
        yield Check("graph: zero inputs = bare", f"{difference:.2e}", "0", passed=difference == 0)
    for entry in bundle.manifest.adapters:
        task = entry.tasks[0].name if entry.tasks else None
        used = _response(engine, ids, entry.name, task)
        if entry.inputs:
            silent = [name for name, value in engine.inputs(ids).items() if not value.numpy().any()]
            effect = float(np.abs(used - zero).max())
            wanted, passed = (f"any: {silent[0]} is zero here", True) if silent else ("> 0", effect > 0)
            yield Check(f"graph: {entry.name} has an effect", f"{effect:.2e}", wanted, passed)
        if kernels is not None:
            allowed = max(SLACK * _sensitivity(engine, ids, used), floor * float(np.abs(used).max()))
            difference = float(np.abs(_response(kernels, ids, entry.name, task) - used).max())
            name = f"graph: {entry.name}, kernels = bodies"
            yield Check(name, f"{difference:.2e}", f"{allowed:.2e}", passed=difference <= allowed)


def _sensitivity(engine: Adapted, ids: list[int], expected: np.ndarray) -> float:
    """Largest change of the response over `NUDGES` of the adapter's inputs."""
    fed = engine.inputs(ids)  # kept: the arrays below are views of it
    inputs = {name: value.numpy() for name, value in fed.items()}
    largest = 0.0
    for nudge in NUDGES:
        nudged = {name: ort.OrtValue.ortvalue_from_numpy(_nudged(value, nudge)) for name, value in inputs.items()}
        largest = max(largest, float(np.abs(engine.respond(ids, nudged) - expected).max()))
    return largest


def _nudged(value: np.ndarray, nudge: float) -> np.ndarray:
    """An input times 1 + nudge. A float16 cannot move by so little: there its largest number moves by its last bit.

    int8 codes stay as they are; their scales move.
    """
    if value.dtype == np.float32:
        return np.asarray(value * np.float32(1 + nudge))
    moved = value.copy()
    if value.dtype == np.float16 and value.size:
        at = np.unravel_index(np.abs(value).argmax(), value.shape)
        moved[at] = np.nextafter(value[at], np.float16(np.copysign(np.inf, nudge)))
    return moved


def _op_check(op: Op, runner: ort.InferenceSession, view: str) -> Check:
    """The worst of the cases that this probe can take, as a share of what each may differ by."""
    worst, count, where = 0.0, 0, ""
    for seed in SEEDS:
        for case in op.cases(np.random.default_rng(seed)):
            if not _takes(runner, case):
                continue
            count += 1
            share = _share(op, case, runner)
            if share > worst:
                worst, where = share, f" ({case.name})" if share > 1 else ""
    types = {item.type for item in runner.get_inputs()}
    narrow = {"tensor(float16)": " float16", "tensor(int8)": " int8"} if op.name == "LowRankUpdate" else {}
    name = f"op {op.name}{''.join(narrow[kind] for kind in narrow if kind in types)}: {view} = reference"
    passed = count > 0 and worst <= 1
    return Check(name, f"{worst:.3f} in {count} cases{where}", "1 (share of tolerance)", passed)


def _share(op: Op, case: Case, runner: ort.InferenceSession) -> float:
    """Largest difference from the reference over the case's allowance; infinite where NaN or inf are elsewhere."""
    found = runner.run(None, dict(case.inputs))
    return max(
        _share_of(np.asarray(output), expected, op.allowance(case, expected))
        for output, expected in zip(found, op.expected(case), strict=True)
    )


def _share_of(found: np.ndarray, expected: np.ndarray, allowance: np.ndarray) -> float:
    finite = np.isfinite(expected)
    if found.shape != expected.shape or not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(found[finite].astype(np.float64) - expected[finite])
    allowed = np.broadcast_to(allowance, expected.shape)[finite]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(difference == 0, 0, difference / allowed)
    return float(np.nan_to_num(shares, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _ops_used(bundle: Bundle) -> set[str]:
    """Ops of our domain in any graph of the bundle."""
    graphs = [bundle.path(name) for name in bundle.manifest.files if name.endswith(".onnx")]
    prefix = f"{DOMAIN}::"
    return {op.removeprefix(prefix) for path in graphs for op in scan(path).operators if op.startswith(prefix)}


def _takes(runner: ort.InferenceSession, case: Case) -> bool:
    """Are these the probe's attributes, and its inputs by name, element type, and every dimension that it fixes?"""
    said = runner.get_modelmeta().custom_metadata_map.get(ATTRIBUTES)
    if said is not None and json.loads(said) != dict(case.attributes):
        return False
    inputs = case.inputs
    names = {"float32": "float", "float64": "double"}
    wanted = {item.name: item for item in runner.get_inputs()}
    return wanted.keys() == inputs.keys() and all(
        item.type == f"tensor({names.get(str(value.dtype), str(value.dtype))})"
        and len(item.shape) == value.ndim
        and all(size == has for size, has in zip(item.shape, value.shape, strict=True) if isinstance(size, int))
        for name, value in inputs.items()
        for item in (wanted[name],)
    )


def _response(engine: Adapted, ids: list[int], adapter: str | None = None, task: str | None = None) -> np.ndarray:
    """What the graph gives for the prompt, asked as an adapter's task: a decoder's logits, an encoder's states."""
    engine.use(adapter)
    if adapter is not None and task is not None:
        engine.task(task)
    return engine.respond(ids)
