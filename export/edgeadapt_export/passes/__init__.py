"""Graph surgery in small steps: one pass per file, with its rule, what it needs and what it leaves in its docstring.

Every pass is in place, checks its pre-condition before and its post-condition after it ran (onnx_ir's `requires` and
`ensures`), and knows nothing of the others. `apply` runs a chain of them.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError


def apply(model: ir.Model, *passes: ir.passes.InPlacePass) -> ir.Model:
    """Run the passes in order on `model` and return it. A condition that fails is an EdgeAdaptError in one line."""
    for step in passes:
        try:
            step(model)
        except (ir.passes.PassError, ir.passes.InvariantError) as error:
            cause = error.__cause__
            reason = cause if isinstance(cause, EdgeAdaptError) or not str(error) else error
            raise EdgeAdaptError(f"export pass {type(step).__name__}: {reason}") from error
    return model
