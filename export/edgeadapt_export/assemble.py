"""Putting a bundle together, step by step; see the package's docstring for the picture."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeadapt.backbones import Backbone, resolve
from edgeadapt.bundle import (
    FORMAT,
    AdapterEntry,
    BundleBackbone,
    BundleManifest,
    Device,
    FactorPrecision,
    Precision,
    published_bundle,
    seal,
)
from edgeadapt.codecs import BlockQuantised
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import storage_errors
from edgeadapt.progress import Progress, silent
from edgeadapt.records import read_json
from edgeadapt.rundir import RunDir
from edgeadapt.text import TextCodec
from edgeadapt_export import parity
from edgeadapt_export.backbones import decoder
from edgeadapt_export.calibration import kept_weights, quantised_weights
from edgeadapt_export.decoder_map import Geometry, linears
from edgeadapt_export.methods import Deployed, Deployer, StoredAdapter, deployer
from edgeadapt_export.model_files import copy_model_files
from edgeadapt_export.passes import apply
from edgeadapt_export.passes.choose_logits import ChooseLogits
from edgeadapt_export.passes.compute_rotary import ComputeRotaryTables
from edgeadapt_export.passes.embed_only import KeepEmbedding
from edgeadapt_export.passes.function_bodies import AddFunctionBodies
from edgeadapt_export.passes.fuse_silu import FuseSilu
from edgeadapt_export.passes.graft_linear import GraftLinear, parts
from edgeadapt_export.passes.own_matmul import UseQuantMatMul
from edgeadapt_export.passes.quantise import QuantiseWeights
from edgeadapt_export.passes.share_embedding import ShareEmbedding
from edgeadapt_export.passes.tidy import Tidy
from edgeadapt_export.probe import write_probes
from edgeadapt_export.report import ExportReport
from edgeadapt_export.sample_text import CALIBRATION_SEED, sample_texts
from edgeadapt_export.store import WeightStore

DATA = "model.onnx.data"
BASELINE_MODULES, BASELINE_RANK = ("q_proj", "v_proj"), 8
# The oldest releases that load the graphs and agree with 1.31.1 on them (tried: 1.21.1, 1.22.1, 1.23.2): the attribute
# `bits` of GatherBlockQuantized came with 1.23.
MINIMUM_ONNXRUNTIME = {"fp32": "1.21", "int4": "1.23", "int8": "1.23"}


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
    adapter = StoredAdapter.of(opened, factors)
    clock = Clock()
    with clock.time("backbone"):
        source = _backbone(opened, backbone)
        graph = decoder.build(source, progress=progress)
        shape = geometry(source.path, graph)
        codec = TextCodec.from_folder(source.path)
    if (adapter.manifest.backbone.hidden_size, adapter.manifest.backbone.num_layers) != (
        shape.hidden_size,
        shape.num_layers,
    ):
        raise EdgeAdaptError(f"{run}: its adapter is for another shape of backbone than {source.id}")
    name = _adapter_name(opened)
    texts: list[list[int]] = []
    if precision == "int4":
        with clock.time("calibration texts"):
            texts = [codec.encode(text) for text in sample_texts(graph, codec, progress, CALIBRATION_SEED)]
    with storage_errors(out.parent), published_bundle(out) as building:
        with clock.time("graphs"):
            graphs, deployed = _write_graphs(
                out=building,
                name=name,
                graph=graph,
                shape=shape,
                method=method,
                adapter=adapter,
                precision=precision,
                device=device,
                merge=merge,
                texts=texts,
                progress=progress,
            )
            copy_model_files(source.path, graph, building)
        figures = None
        if check:
            with clock.time("parity"):
                items = parity.sequences(sample_texts(graph, codec, progress), opened.adapter.tasks, codec)
                file = building / "adapters" / name / deployed.file if deployed.file else None
                figures = parity.measure(
                    bundle=building,
                    graphs=graphs,
                    deployed=deployed,
                    adapter_file=file,
                    method=method,
                    adapter=adapter,
                    backbone=source.path,
                    items=items,
                    progress=progress,
                )
            if precision == "fp32" and factors != "int8":
                figures.check()
        with clock.time("sealing"):
            progress("hashing and verifying the bundle", 0, None)
            manifest = seal(
                building,
                BundleManifest(
                    format=FORMAT,
                    backbone=_identity(source, graph, shape, codec),
                    precision=precision,
                    device=device,
                    opset=_opset(graph),
                    minimum_onnxruntime=MINIMUM_ONNXRUNTIME[precision],
                    graphs=graphs,
                    adapters=(_entry(name, adapter, deployed),),
                    parity={} if figures is None else figures.to_json(),
                ),
            )
    files = {file: entry.size for file, entry in manifest.files.items()}
    return ExportReport(
        bundle=out,
        backbone=source.id,
        method=opened.adapter.method,
        kind=deployed.kind,
        factors=factors if deployed.kind == "lowrank" else None,
        precision=precision,
        device=device,
        size=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        files=files,
        seconds=clock.seconds,
        parity=figures,
    )


def base_graph(
    graph: decoder.DecoderGraph,
    shape: Geometry,
    precision: Precision,
    *,
    folded: tuple[Deployer, StoredAdapter] | None = None,
    texts: Sequence[Sequence[int]] = (),
    progress: Progress = silent,
) -> ir.Model:
    """The backbone's graph, ready to be grafted: shared embedding, computed rotary tables, a choice of logits,
    quantised weights.

    `folded` is merged into the fp32 weights on the way. `texts` are token ids to calibrate int4 on.
    """
    base = apply(ir.load(graph.model), Tidy(), ShareEmbedding(), ComputeRotaryTables(), FuseSilu(), ChooseLogits())
    if folded is not None:
        folded[0].merge(base, shape, folded[1])
    if precision != "fp32":
        progress(f"quantising the weights to {precision}", 0, None)
        ready: Mapping[str, BlockQuantised] = {}
        if precision == "int4" and texts:
            make = quantised_weights if folded else partial(kept_weights, graph.path)
            ready = make(base, texts, progress)
        apply(base, QuantiseWeights(precision, ready))
    return base


def geometry(backbone: Path, graph: decoder.DecoderGraph) -> Geometry:
    """The decoder's shape, from genai_config.json (what the builder used) and config.json."""
    model = graph.genai_config()["model"]
    inner = model["decoder"]
    return Geometry(
        num_layers=int(inner["num_hidden_layers"]),
        hidden_size=int(inner["hidden_size"]),
        num_heads=int(inner["num_attention_heads"]),
        num_kv_heads=int(inner["num_key_value_heads"]),
        head_dim=int(inner["head_size"]),
        vocab_size=int(model["vocab_size"]),
        context_length=int(model["context_length"]),
    )


def _write_graphs(
    *,
    out: Path,
    name: str,
    graph: decoder.DecoderGraph,
    shape: Geometry,
    method: Deployer,
    adapter: StoredAdapter,
    precision: Precision,
    device: Device,
    merge: bool,
    texts: Sequence[Sequence[int]],
    progress: Progress,
) -> tuple[dict[str, str], Deployed]:
    """Every graph and the adapter's own files. Returns graph files by role, and the adapter's deployment."""
    folded = (method, adapter) if merge else None
    base = base_graph(graph, shape, precision, folded=folded, texts=texts, progress=progress)
    progress("writing the graphs", 0, None)
    made = {"model": base.clone(), "embed": apply(base.clone(), KeepEmbedding(shape.hidden_size), Tidy())}
    folder = out / "adapters" / name
    folder.mkdir(parents=True)
    if merge:
        deployed = Deployed("merged", None, ())
    else:
        deployed = method.write(folder, base, shape, adapter)
        method.graft(made["model"], shape, adapter)
        made["bare"] = base.clone()
        if deployed.kind != "lowrank":
            made["lora8"] = _lora_baseline(base.clone(), shape)
    (folder / "adapter.json").write_bytes(_description(adapter))
    with WeightStore(out / DATA) as store:
        for role in sorted(made, key=("model", "bare", "lora8", "embed").index):
            last = (AddFunctionBodies(),) if device == "generic" else (UseQuantMatMul(), AddFunctionBodies())
            store.save(apply(made[role], *last), out / f"{role}.onnx")
    probes = write_probes(out, [*out.glob("*.onnx"), *folder.glob("*.onnx")])
    return {**{role: f"{role}.onnx" for role in made}, **probes}, deployed


def _lora_baseline(model: ir.Model, shape: Geometry) -> ir.Model:
    """LoRA of rank 8 on q and v: what bench compares an adapter with. Its factors are inputs, as for a real one."""
    targets = parts(model, shape, tuple(range(shape.num_layers)), BASELINE_MODULES, BASELINE_RANK)
    return apply(model, GraftLinear(targets, {name: shape.hidden_size for _, name in linears(model)}))


def _backbone(run: RunDir, given: str | None) -> Backbone:
    reference = run.adapter.backbone
    found = resolve(given or reference.id)
    if found.revision != reference.revision:
        raise EdgeAdaptError(
            f"{run.path}: trained on {reference.id} at {reference.revision}, but {given or reference.id} is now at "
            f"{found.revision}; name the same backbone, or train again"
        )
    return found


def _identity(source: Backbone, graph: decoder.DecoderGraph, shape: Geometry, codec: TextCodec) -> BundleBackbone:
    config = read_json(source.path / "config.json")
    return BundleBackbone(
        id=source.id,
        revision=source.revision,
        architecture=str(config["architectures"][0]),
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        context_length=shape.context_length,
        eos=codec.eos_ids,
    )


def _entry(name: str, adapter: StoredAdapter, deployed: Deployed) -> AdapterEntry:
    file = f"adapters/{name}/{deployed.file}" if deployed.file else None
    return AdapterEntry(
        name=name,
        method=adapter.manifest.method,
        variant=adapter.manifest.variant,
        kind=deployed.kind,
        inputs=deployed.inputs,
        sites=adapter.manifest.sites,
        bytes=deployed.bytes or adapter.manifest.bytes,
        tasks=adapter.manifest.tasks,
        graph=file if deployed.kind == "graph" else None,
        weights=file if deployed.kind == "lowrank" else None,
        parts=deployed.parts,
    )


def _description(adapter: StoredAdapter) -> bytes:
    import json

    return (json.dumps(adapter.manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _adapter_name(run: RunDir) -> str:
    """The run directory's name, in the letters that an adapter's name may have; the method's where none are left."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.path.resolve().name).strip("-.")[:100]
    return name or run.adapter.method


def _opset(graph: decoder.DecoderGraph) -> int:
    return ir.load(graph.model).opset_imports[""]
