"""Function bodies for our own ops, so that a stock onnxruntime runs the file.

Rule    For every op of the domain `edgeadapt` that the graph uses, its body (edgeadapt.ops) becomes a model-local
        function, in the one form that the graph uses: a function cannot branch on an input that is not there. The form
        is read off the nodes' inputs: LowRankUpdate has the index or not, and the scales. (An op with one form takes
        every number.)
Needs   All nodes of an op with several forms leave out the same inputs; every op of the domain is registered.
Leaves  One function per op used, none for the others, and the domain among the opset imports.
"""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPS, VERSION

# The flags of `Op.body`, and the inputs that switch them on by being there.
_FLAGS = {"LowRankUpdate": {"indexed": "index", "scaled": "scales"}}


class AddFunctionBodies(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        for op, given in _used(model).items():
            if op not in OPS:
                raise EdgeAdaptError(f"the graph uses {DOMAIN}::{op}, which is not registered")
            if len(OPS[op].forms) > 1 and len(given) != 1:
                raise ir.passes.PreconditionError(f"{op} is used in {len(given)} forms; one form per file")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        used = _used(model)
        for op, given in used.items():
            function = ir.from_proto(onnx.parser.parse_function(_text(op, next(iter(given)))))
            assert isinstance(function, ir.Function)
            model.functions[function.identifier()] = function
        if used:
            model.opset_imports[DOMAIN] = VERSION
        return ir.passes.PassResult(model, bool(used))

    def ensures(self, model: ir.Model) -> None:
        if {name for domain, name, _ in model.functions if domain == DOMAIN} != set(_used(model)):
            raise ir.passes.PostconditionError("the functions are not those of the ops used")


def _used(model: ir.Model) -> dict[str, set[tuple[bool, ...]]]:
    """Ops of our domain in alphabetical order, and which of its inputs are there in any node."""
    used: dict[str, set[tuple[bool, ...]]] = {}
    for node in model.graph:
        if node.domain == DOMAIN:
            used.setdefault(node.op_type, set()).add(tuple(value is not None for value in node.inputs))
    return dict(sorted(used.items()))


def _text(op: str, given: tuple[bool, ...]) -> str:
    names = {name for name, there in zip(OPS[op].parameters, given, strict=False) if there}
    return OPS[op].body(**{flag: name in names for flag, name in _FLAGS.get(op, {}).items()})
