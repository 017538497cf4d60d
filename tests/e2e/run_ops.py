"""Run one-node models where only the wheel and its requirements are: `python run_ops.py FOLDER`.

FOLDER/<n>.onnx with its inputs FOLDER/<n>.npz -> its outputs FOLDER/<n>.out.npz; prints the library that ran.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgeadapt.ops.library import library_path, why_absent

library = library_path()
if library is None:
    raise SystemExit(why_absent())
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
options.register_custom_ops_library(str(library))
for model in sorted(Path(sys.argv[1]).glob("*.onnx")):
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(model.with_suffix(".npz")) as inputs:
        outputs = session.run(None, dict(inputs))
    np.savez(model.with_suffix(".out.npz"), *outputs)
print(library)
