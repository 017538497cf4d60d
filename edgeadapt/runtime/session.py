"""The one place where ONNX Runtime sessions are made, so that every session of the product is set up alike.

Threads are always explicit. Their spinning is off unless asked for: a waiting thread that spins eats a battery and, on
a board without a fan, heats the cores that do the work. The arena stays on (each decode step needs the same few
buffers), memory patterns are off: they pay for shapes that repeat, and the length of a conversation never does.

Of the runtime's graph optimisers constant folding alone is wanted: exported graphs have their fused form already, and
on a small board the search for more takes a third of a session's load (SmolLM2-135M in int4 on an emulated Cortex-A72:
262 M instructions with all of them, 173 M without). The names below are those of onnxruntime 1.31's first level; one
that a release lacks is ignored, one that it adds only costs its time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnxruntime as ort

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import library_path

Ops = Literal["auto", "off"]
_LEFT_OUT = (
    "CommonSubexpressionElimination",
    "ConstantSharing",
    "DoubleQDQPairsRemover",
    "EnsureUniqueDQForNodeUnit",
    "FreeDimensionOverrideTransformer",
    "GeluFusionL1",
    "LayerNormFusionL1",
    "Level1_RuleBasedTransformer",
    "MatMulAddFusion",
    "QDQPropagationTransformer",
    "ReshapeFusion",
    "SliceConcatToSpaceToDepthFusion",
    "TransposeOptimizer",
    "WeightBiasQuantization",
    "WhereDummyDq",
)


def create(
    path: Path,
    *,
    threads: int,
    spinning: bool = False,
    ops: Ops = "auto",
    optimised: Path | None = None,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A CPU session of the graph at `path`.

    Args:
        threads: threads that one operation may use; operations themselves run one after the other.
        spinning: whether idle threads busy-wait. Faster to wake, at the cost of energy.
        ops: "auto" registers our kernels if `edgeadapt.ops.library` finds them; "off" runs the function bodies.
        optimised: where to write the graph as the runtime runs it. For looking at; never ship it.
        profile: where to write the runtime's own trace, by the beginning of its name; ends with `end_profiling`.

    Raises:
        EdgeAdaptError: the graph cannot be loaded by this ONNX Runtime.
    """
    if threads < 1:
        raise EdgeAdaptError(f"threads is {threads}; give 1 or more")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    library = library_path() if ops == "auto" else None
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_LEFT_OUT)
        )
    except Exception as error:  # the runtime raises a dozen classes of its own, all meaning: this file will not do
        reason = " ".join(str(error).split())
        raise EdgeAdaptError(f"{path}: ONNX Runtime {ort.__version__} cannot load it ({reason})") from None
