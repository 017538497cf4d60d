"""Putting a bundle together, step by step, for every family of backbones; the package's docstring has the picture."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from edgeadapt.backbones import Backbone, resolve
from edgeadapt.bundle import (
    FORMAT,
    AdapterEntry,
    BundleManifest,
    Device,
    FactorPrecision,
    Precision,
    published_bundle,
    seal,
)
from edgeadapt.energy.costs import check_ratio
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.families import is_encoder
from edgeadapt.files import storage_errors, write_json
from edgeadapt.heads import TERM
from edgeadapt.manifest import AdapterBytes
from edgeadapt.progress import Progress
from edgeadapt.records import read_json
from edgeadapt.rundir import RunDir
from edgeadapt.tensors import serialise
from edgeadapt_export.assembly import Source
from edgeadapt_export.built import Built
from edgeadapt_export.decoder_source import DecoderSource
from edgeadapt_export.encoder_source import EncoderSource
from edgeadapt_export.methods import Deployed, Deployer, StoredAdapter, deployer
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.own_matmul import UseQuantMatMul
from edgeadapt_export.probe import write_probes
from edgeadapt_export.report import ExportReport
from edgeadapt_export.store import WeightStore

DATA, HEADS = "model.onnx.data", "heads.safetensors"
_ORDER = ("model", "bare", "lora8", "mixed", "embed")


@dataclass
class Clock:
    """Seconds spent on each piece of work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 2)


def assemble(
    run: Path,
    out: Path,
    *,
    precision: Precision,
    device: Device,
    merge: bool,
    factors: FactorPrecision,
    energy_budget: float | None,
    check: bool,
    backbone: str | None,
    progress: Progress,
) -> ExportReport:
    """See `edgeadapt_export.export`."""
    if precision not in ("fp32", "int8", "int4") or device not in ("rpi4", "generic"):
        raise EdgeAdaptError(
            f"precision {precision!r}, device {device!r}: give fp32, int8 or int4, and rpi4 or generic"
        )
    opened = RunDir.open(run)
    method = deployer(opened.adapter.method)
    if factors not in method.factors or (merge and factors != "fp32"):
        known = "fp32, since they are merged" if merge else " or ".join(method.factors)
        raise EdgeAdaptError(f"factors {factors!r}: for an adapter of method {opened.adapter.method!r} give {known}")
    if energy_budget is not None:
        check_ratio(energy_budget)
        if opened.adapter.sites.get("energy_budget") is None:
            raise EdgeAdaptError(
                f"--energy-budget: this adapter of method {opened.adapter.method} keeps none; leave it out"
            )
    adapter = StoredAdapter.of(opened, factors, device, energy_budget)
    clock = Clock()
    with clock.time("backbone"):
        source = _source(opened, backbone, progress)
        identity = source.identity()
    if (adapter.manifest.backbone.hidden_size, adapter.manifest.backbone.num_layers) != (
        source.shape.hidden_size,
        source.shape.num_layers,
    ):
        raise EdgeAdaptError(f"{run}: its adapter is for another shape of backbone than {identity.id}")
    if (source.shape.kind == "encoder") != (adapter.manifest.pooling is not None):
        raise EdgeAdaptError(f"{run}: task heads are what an adapter on an encoder has, and no other; train it again")
    with storage_errors(out.parent), published_bundle(out) as building:
        with clock.time("graphs"):
            merging = method if merge else None
            base = source.base(precision, device, adapter, merging=merging, progress=progress)
            progress("writing the graphs", 0, None)
            name, own_ops = _adapter_name(opened), device == "rpi4"
            built = _build(building, name, source, base, adapter, method=None if merge else method, own_ops=own_ops)
            source.write_files(building)
        figures = None
        if check:
            with clock.time("parity"):
                figures = source.parity(built, method, adapter, progress)
            if precision == "fp32" and factors != "int8" and built.deployed.kind != "spectral":
                figures.check()
        with clock.time("sealing"):
            progress("hashing and verifying the bundle", 0, None)
            manifest = seal(
                building,
                BundleManifest(
                    format=FORMAT,
                    backbone=identity,
                    precision=precision,
                    device=device,
                    opset=source.opset(),
                    minimum_onnxruntime=source.minimum_onnxruntime(precision),
                    graphs=built.graphs,
                    adapters=(_entry(built, adapter),),
                    parity={} if figures is None else figures.to_json(),
                ),
            )
    files = {file: entry.size for file, entry in manifest.files.items()}
    return ExportReport(
        bundle=out,
        backbone=identity.id,
        method=opened.adapter.method,
        kind=built.deployed.kind,
        factors=factors if built.deployed.kind == "lowrank" else None,
        precision=precision,
        device=device,
        size=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        files=files,
        seconds=clock.seconds,
        parity=figures,
    )


def _source(run: RunDir, given: str | None, progress: Progress) -> Source:
    """The run's backbone, at the revision that it was trained on."""
    reference = run.adapter.backbone
    found: Backbone = resolve(given or reference.id)
    if found.revision != reference.revision:
        raise EdgeAdaptError(
            f"{run.path}: trained on {reference.id} at {reference.revision}, but {given or reference.id} is now at "
            f"{found.revision}; name the same backbone, or train again"
        )
    if is_encoder(read_json(found.path / "config.json")):
        return EncoderSource(found, progress)
    return DecoderSource(found, progress)


def _build(
    out: Path,
    name: str,
    source: Source,
    base: ir.Model,
    adapter: StoredAdapter,
    *,
    method: Deployer | None,
    own_ops: bool,
) -> Built:
    """Write every graph and the adapter's own files. Without a `method` the adapter is part of `base`."""
    made = {"model": base.clone(), "embed": source.embed(base)}
    folder = out / "adapters" / name
    folder.mkdir(parents=True)
    deployed = Deployed("merged", None, ())
    if method is not None:
        deployed = method.write(folder, base, source.shape, adapter)
        method.graft(made["model"], source.shape, adapter)
        made |= {"bare": base.clone(), **source.baselines(base, deployed)}
    if adapter.heads:
        (folder / HEADS).write_bytes(serialise(adapter.heads))
    write_json(folder / "adapter.json", adapter.manifest.to_json())
    with WeightStore(out / DATA) as store:
        for role in sorted(made, key=_ORDER.index):
            last = (UseQuantMatMul(), AddFunctionBodies()) if own_ops else (AddFunctionBodies(),)
            store.save(apply(made[role], *last), out / f"{role}.onnx")
    probes = write_probes(out, [*out.glob("*.onnx"), *folder.glob("*.onnx")])
    graphs = {**{role: f"{role}.onnx" for role in made}, **probes}
    return Built(out, name, graphs, deployed, f"adapters/{name}/{HEADS}" if adapter.heads else None)


def _entry(built: Built, adapter: StoredAdapter) -> AdapterEntry:
    deployed = built.deployed
    file = f"adapters/{built.name}/{deployed.file}" if deployed.file else None
    return AdapterEntry(
        name=built.name,
        method=adapter.manifest.method,
        variant=adapter.manifest.variant,
        kind=deployed.kind,
        inputs=deployed.inputs,
        sites=adapter.manifest.sites,
        bytes=_bytes(deployed, adapter),
        tasks=adapter.manifest.tasks,
        graph=file if deployed.kind == "graph" else None,
        weights=file if deployed.kind in ("lowrank", "spectral") else None,
        parts=deployed.parts,
        heads=built.heads,
        pooling=adapter.manifest.pooling,
        envelope=deployed.envelope,
    )


def _bytes(deployed: Deployed, adapter: StoredAdapter) -> AdapterBytes:
    """The run's formula, or the deployer's own, which knows nothing of heads."""
    run = adapter.manifest.bytes
    if deployed.bytes is None or TERM not in run.terms:
        return deployed.bytes or run
    heads = run.terms[TERM]
    return replace(
        deployed.bytes, terms={**deployed.bytes.terms, TERM: heads}, deployed=deployed.bytes.deployed + heads
    )


def _adapter_name(run: RunDir) -> str:
    """The run directory's name, in the letters that an adapter's name may have; the method's where none are left."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.path.resolve().name).strip("-.")[:100]
    return name or run.adapter.method
