"""Count the kernels on an emulated Cortex-A72 beside stock onnxruntime and llama.cpp, into results/kernels.

    scripts/kernel_counts.py [--only ROW ...] [--table]

One guest per row, one after the other, half an hour in all on an idle machine; every row is stored when it is done, and
rows that are named with --only replace older ones. --table writes the tables from the stored rows without measuring.
The bundles lie in build/kernel-bundles; what is missing there, or was made by other sources, is exported from a run of
./runs or ./demo/runs, or from a short one that is trained here (the graphs are the same whatever an adapter learnt).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt import backbones
from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of, write_atomic, write_json
from edgeadapt.manifest import AdapterBytes
from edgeadapt.records import read_json
from edgeadapt.rundir import AdapterManifest, BackboneRef, write_adapter, write_config
from edgeadapt.tasks import TaskSpec
from edgeadapt_bench import gguf_files
from edgeadapt_bench.emulation import llama_cpp, machine, profile, static_cycles, sysroot, table
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job
from edgeadapt_bench.inputs import prompt_ids

ROOT = Path(__file__).resolve().parent.parent
BUNDLES, ENCODERS, OUT = ROOT / "build/kernel-bundles", ROOT / "build/kernel-encoders", ROOT / "results/kernels"
LIBRARY = ROOT / "build/aarch64/libedgeadapt_ops.so"
PROMPT, TOKENS, PREFILLS, DISCARD = 64, 3, 2, 2
VOCABULARY = 49152
ENCODER_TOKENS = 32
HEAD = f"""Emulated Cortex-A72 (QEMU {{qemu}}, `-cpu cortex-a72 -icount shift=0`), one thread: user instructions, never
a time. SmolLM2-135M, prompt of {PROMPT} tokens with the logits of its last position only, decode behind it. Peak: VmHWM
of the process, touched pages of mapped files included; Python included but for llama.cpp, which is driven from C.
Static cycles: {static_cycles.LABEL}. Made by `make bench-kernels`."""


@dataclass(frozen=True)
class Decoder:
    """A bundle's graph, with or without our library; `static`: phases whose static cycles are estimated, too."""

    bundle: str
    graph: str = "bare"
    ops: bool = True
    static: tuple[str, ...] = ("decode", "prefill")


@dataclass(frozen=True)
class Encoder:
    """A variant of edgeadapt_export.encoder_variants."""

    variant: str
    ops: bool = True


@dataclass(frozen=True)
class Llama:
    form: gguf_files.Form


ROWS: dict[str, Decoder | Encoder | Llama] = {
    "ours-int4": Decoder("int4"),
    "ours-int8": Decoder("int8"),
    "llama-q8_0": Llama("q8_0"),
    "llama-q4_0": Llama("q4_0"),
    "stock-int4": Decoder("stock-int4", ops=False),
    "stock-int8": Decoder("stock-int8", ops=False, static=("decode",)),
    "stock-fp32": Decoder("stock-fp32", ops=False),
    "himalaya-int4": Decoder("int4", "model", static=()),
    "himalaya-int8": Decoder("int8", "model", static=()),
    "lora8-all-int8": Decoder("lora8-all-int8", "model", static=()),
    "lora8-int4": Decoder("int4", "lora8", static=()),
    "lora8-int8": Decoder("int8", "lora8", static=()),
    "minilm-ours-int8": Encoder("int8"),
    "minilm-stock-int8": Encoder("stock-int8", ops=False),
    "minilm-stock-fp32": Encoder("stock-fp32", ops=False),
}

EVERYWHERE = "lora8-all"
# Bundle -> its run, and how it is exported: stock nodes for what stock onnxruntime is to be measured with.
EXPORTED = {
    "int4": ("demo", "--int4"),
    "int8": ("demo", "--int8"),
    "stock-int4": ("demo", "--int4", "--device", "generic"),
    "stock-int8": ("demo", "--int8", "--device", "generic"),
    "stock-fp32": ("demo", "--fp32", "--device", "generic"),
    "lora8-all-int8": (EVERYWHERE, "--int8"),
}


def measure(row: Decoder | Encoder | Llama, system: sysroot.Sysroot) -> dict[str, Any]:
    """What is stored of a row, without its name and date."""
    if isinstance(row, Llama):
        return measure_llama(row, system)
    library = built_library() if row.ops else None
    if isinstance(row, Encoder):
        graph = encoder(row.variant)
        job = Job(graph.name, "graph", library is not None, ENCODER_TOKENS, TOKENS, discard=DISCARD)
        made_of = {"graph_sha256": sha256_of(graph)}
    else:
        bundle = Bundle.open(bundle_of(row.bundle))
        graph = bundle.graph(row.graph)
        job = Job(graph.name, "decoder", library is not None, PROMPT, TOKENS, PREFILLS, DISCARD)
        made_of = {"bundle_sha256": sha256_of(bundle.root / MANIFEST)}
    if library is not None:
        made_of["library_sha256"] = sha256_of(library)
    counts = Counts(graph.parent.name, graph.name, job, system.versions(), machine.measure(job, graph, library, system))
    found = {**counts.to_json(), **made_of}
    if isinstance(row, Decoder):
        found["static"] = {phase: static(phase, job, graph, library, system) for phase in row.static}
    return found


def static(phase: str, job: Job, graph: Path, library: Path | None, system: sysroot.Sysroot) -> dict[str, float]:
    """Static cycles and instructions per token of a phase, by a second run in user mode."""
    say(f"  static cycles of {phase}")
    asked = replace(job, profiled=phase, prefills=1, tokens=1, discard=0 if phase == "prefill" else DISCARD)
    blocks = [block for item in profile.profile(asked, graph, library, system) for block in item.blocks]
    found = static_cycles.estimate(blocks)
    tokens = PROMPT if phase == "prefill" else 1
    per_token = {"cycles": found.cycles / tokens, "instructions": found.instructions / tokens}
    return {**per_token, "covered": found.covered}


def measure_llama(row: Llama, system: sysroot.Sysroot) -> dict[str, Any]:
    ids = prompt_ids(PROMPT, VOCABULARY)
    weights = gguf_files.quantised(gguf_files.packaged("SmolLM2-135M-Instruct"), row.form, say)
    steps = DISCARD + TOKENS
    answer = llama_cpp.measure(weights, ids, prefills=PREFILLS, steps=steps, system=system, tell=say)
    job = Job(weights.name, prompt=PROMPT, tokens=TOKENS, prefills=PREFILLS, discard=DISCARD)
    versions = {"llama-cpp-python": llama_cpp.VERSION, "kernel": system.versions()["kernel"]}
    return Counts("llama.cpp", row.form, job, versions, answer).to_json()


def built_library() -> Path:
    if not LIBRARY.is_file():
        raise EdgeAdaptError(f"{LIBRARY}: not built yet: scripts/build-kernels --target aarch64")
    return LIBRARY


def bundle_of(name: str) -> Path:
    target = BUNDLES / name
    with made_of_sources(target) as stale:
        if stale:
            run_name, *options = EXPORTED[name]
            edgeadapt("export", str(run_directory(run_name)), *options, "-o", str(target))
    return target


@contextmanager
def made_of_sources(target: Path) -> Iterator[bool]:
    """Whether `target` is missing or was made by other sources; after the block it counts as made by these."""
    stamp = target.with_name(f"{target.name}.made-of")
    stale = not target.exists() or not stamp.is_file() or stamp.read_text(encoding="ascii") != sources()
    yield stale
    write_atomic(stamp, sources().encode())


@cache
def sources() -> str:
    """Hash of everything that decides what an exported graph looks like."""
    digest = sha256()
    for folder in ("export/edgeadapt_export", "edgeadapt/ops", "edgeadapt/codecs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_directory(name: str) -> Path:
    """A finished run of that name; a short one is made where there is none."""
    places = [ROOT / "runs" / name, ROOT / "demo/runs" / name, BUNDLES / "runs" / name]
    found = next((place for place in places if (place / "adapter.json").is_file()), None)
    if found is None and name == EVERYWHERE:
        write_lora_everywhere(places[-1])
    elif found is None:
        edgeadapt("train", f"run={name}", f"results_dir={BUNDLES / 'runs'}", "mode=trial")
    return found or places[-1]


def write_lora_everywhere(path: Path) -> None:
    """A run of LoRA of rank 8 on every linear map, with random factors: too many bytes for a trained one's budget."""
    backbone = backbones.resolve("SmolLM2-135M-Instruct")
    config = read_json(backbone.path / "config.json")
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = config["num_key_value_heads"] * (hidden // config["num_attention_heads"])
    widths = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (hidden, hidden),
    }
    widths |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    rng = np.random.default_rng(0)
    factors = {
        f"layers.{layer}.{module}.{name}": (0.01 * rng.standard_normal(shape)).astype(np.float16)
        for layer in range(layers)
        for module, (reads, writes) in widths.items()
        for name, shape in (("A", (reads, 8)), ("B", (8, writes)))
    }
    size = sum(array.nbytes for array in factors.values())
    manifest = AdapterManifest(
        format=1,
        method="lora",
        variant="default",
        backbone=BackboneRef(backbone.id, backbone.revision, hidden, layers),
        sites={"kind": "linear", "modules": list(widths), "rank": 8, "layers": list(range(layers))},
        tasks=(TaskSpec("any", "{text}", ("yes", "no")),),
        bytes=AdapterBytes({"factors": size}, size, size, 3 * size, size),
    )
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, "adapter: {method: lora}\n")
    write_adapter(path, manifest, factors)


def encoder(variant: str) -> Path:
    target = ENCODERS / f"{variant}.onnx"
    with made_of_sources(target) as stale:
        if stale:
            run(sys.executable, "-m", "edgeadapt_export.encoder_variants", str(ENCODERS), "--only", variant)
    return target


def edgeadapt(*words: str) -> None:
    run(sys.executable, "-m", "edgeadapt", *words)


def run(*command: str) -> None:
    say(f"$ {' '.join(Path(word).name if word == sys.executable else word for word in command)}")
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise EdgeAdaptError(f"{' '.join(command[1:4])} failed, see above")


def stored() -> dict[str, Mapping[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(OUT.glob("*.json"))}


def qemu_version() -> str:
    text = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=False).stdout
    return text.split("(")[0].strip().rpartition(" ")[2]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--table", action="store_true", help="only write the tables anew")
    asked = parser.parse_args()
    if not asked.table:
        system = sysroot.prepare(say)
        for name in asked.only or ROWS:
            say(f"measuring {name}")
            found = measure(ROWS[name], system)
            found |= {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "qemu": qemu_version()}
            write_json(OUT / f"{name}.json", {"name": name, **found})
    rows = stored()
    versions = sorted({str(row.get("qemu")) for row in rows.values()})
    text = table.markdown(rows, HEAD.format(qemu=", ".join(versions)))
    write_atomic(OUT / "table.md", text.encode())
    print(text)


def guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except EdgeAdaptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    guarded(main)
