"""Do the kernels say what the bodies say? At every position of real text, here and on an emulated Cortex-A72.

    python scripts/kernel_agreement.py BUNDLE [BUNDLE ...] [--out results/kernels/agreement.json] [--arm-bodies]

The graph is each bundle's bare backbone; the texts are those that the backbone wrote for its exporter's checks. Views:
`x86 body` and `x86 kernel` here (the latter with every kernel, those that do not pay included), `a72 kernel` and, if
asked for, `a72 body` in user-mode emulation with a Cortex-A72's instructions. For two views:

    agreement    share of positions whose likeliest token is the same
    flips        positions where it is not; `margin`: by how much the first view prefers its own choice to the second's,
                 in logits, median and largest over the flips
    difference   |logit - logit'| of the first view's likeliest token, median over all positions: what the margins of
                 flips are to be seen against
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.backbones import resolve
from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json
from edgeadapt.ops.library import SWITCH
from edgeadapt.progress import silent
from edgeadapt.text import TextCodec
from edgeadapt_bench.emulation import sysroot, user
from edgeadapt_export.backbones import decoder
from edgeadapt_export.sample_text import sample_texts

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build/aarch64/libedgeadapt_ops.so"
PAIRS = (
    ("x86 body", "x86 kernel"),
    ("x86 body", "a72 kernel"),
    ("x86 kernel", "a72 kernel"),
    ("a72 body", "a72 kernel"),
)
Positions = dict[str, np.ndarray]


def here(graph: Path, texts: Path, out: Path, kernels: bool) -> Positions:
    environment = {
        **os.environ,
        SWITCH: "auto" if kernels else "off",
        **({"EDGEADAPT_OPS_ISA": "best"} if kernels else {}),
    }
    words = [sys.executable, "-m", "edgeadapt_bench.positions", str(graph), str(texts), str(out)]
    subprocess.run(words, env=environment, check=True)
    return dict(np.load(out))


def emulated(graph: Path, texts: Path, out: Path, kernels: bool) -> Positions:
    words = ["-m", "edgeadapt_bench.positions", str(graph.resolve()), str(texts), str(out)]
    done = user.run(words, sysroot.prepare(lambda text: None), library=LIBRARY if kernels else None)
    if done.returncode:
        raise EdgeAdaptError(f"in the emulator: {user.last_words(done)}")
    return dict(np.load(out))


def compared(first: Positions, second: Positions) -> dict[str, Any]:
    """Figures of two views, see above."""
    best = first["tokens"][:, 0]
    flips = best != second["tokens"][:, 0]
    margins = []
    for position in np.flatnonzero(flips):
        where = np.flatnonzero(first["tokens"][position] == second["tokens"][position, 0])
        # Below the stored best ones: the last of them is a lower bound of the margin.
        margins.append(first["logits"][position, 0] - first["logits"][position, where[0] if len(where) else -1])
    same = second["tokens"] == best[:, None]
    known = same.any(axis=1)
    difference = np.abs(first["logits"][known, 0] - second["logits"][known][same[known]])
    return {
        "positions": len(best),
        "agreement": float(1 - flips.mean()),
        "flips": int(flips.sum()),
        "margin": {"median": _round(np.median(margins)), "largest": _round(max(margins))} if margins else None,
        "difference": _round(np.median(difference)),
    }


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results/kernels/agreement.json")
    parser.add_argument("--arm-bodies", action="store_true", help="also the bodies in emulation (slow)")
    given = parser.parse_args(words)
    rows = []
    for path in given.bundles:
        bundle = Bundle.open(path)
        source = resolve(bundle.manifest.backbone.id)
        codec = TextCodec.from_folder(source.path)
        texts = sample_texts(decoder.build(source, progress=silent), codec, silent)
        with tempfile.TemporaryDirectory() as folder:
            ids, out = Path(folder) / "ids.json", Path(folder) / "out.npz"
            ids.write_text(json.dumps([codec.encode(text) for text in texts]), encoding="utf-8")
            graph = bundle.graph("bare")
            views = {f"x86 {name}": here(graph, ids, out, name == "kernel") for name in ("body", "kernel")}
            for name in ("body", "kernel") if given.arm_bodies else ("kernel",):
                views[f"a72 {name}"] = emulated(graph, ids, out, name == "kernel")
        for first, second in PAIRS:
            if first in views and second in views:
                row = {"precision": bundle.manifest.precision, "views": [first, second]}
                rows.append({**row, **compared(views[first], views[second])})
                print(json.dumps(rows[-1]), flush=True)
    command = "python scripts/kernel_agreement.py" + (" --arm-bodies" if given.arm_bodies else "")
    write_json(given.out, {"command": f"{command} INT8 INT4", "rows": rows})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EdgeAdaptError as error:
        sys.exit(f"error: {error}")
