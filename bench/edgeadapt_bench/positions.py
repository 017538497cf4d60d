"""What a decoder graph says at every position of given texts: its likeliest tokens, and their logits.

    python -m edgeadapt_bench.positions GRAPH IDS.json OUT.npz

IDS.json is a list of lists of token ids; OUT.npz gets `tokens` [positions, BEST] int64 and `logits` of the same shape,
float32, best first. Whether the op library takes part is the environment's to say (EDGEADAPT_OPS). Needs what a device
has: it also runs inside an emulated one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeadapt.runtime.decoder import IDS, LOGITS, MASK
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.runtime.session import create

BEST = 8


def likeliest(session: ort.InferenceSession, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens and logits [len(ids), BEST] of one text, run at once with nothing before it."""
    feeds = {IDS: ids[None], MASK: np.ones((1, len(ids)), np.int64), **empty_past(session)}
    (logits,) = session.run([LOGITS], feeds)
    tokens = np.argsort(-logits[0], axis=1, kind="stable")[:, :BEST]
    return tokens, np.take_along_axis(logits[0], tokens, axis=1)


def main(graph: str, texts: str, out: str) -> None:
    session = create(Path(graph), threads=1)
    found = [likeliest(session, np.array(ids, np.int64)) for ids in json.loads(Path(texts).read_text(encoding="utf-8"))]
    tokens, logits = (np.concatenate(part) for part in zip(*found, strict=True))
    np.savez(out, tokens=tokens, logits=logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
