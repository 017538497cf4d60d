"""Function bodies for our own ops, so that a stock onnxruntime runs the file.

Rule    For every op of the domain `edgeadapt` that the graph uses, its body (edgeadapt.ops) becomes a model-local
        function, in the one form that the graph uses: a function cannot branch on an input that is not there. The form
        is read off the nodes' inputs: LowRankUpdate with 5 has the index. (An op with one form takes every number.)
Needs   All nodes of an op with several forms have the same number of inputs; every op of the domain is registered.
Leaves  One function per op used, none for the others, and the domain among the opset imports.
"""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import DOMAIN, OPS, VERSION

# The flag of `Op.body` that one more input than the plain form switches on.
_OPTIONAL_INPUT = {"LowRankUpdate": ("indexed", 5)}


class AddFunctionBodies(ir.passes.InPlacePass):
    """See the module's docstring."""

    def requires(self, model: ir.Model) -> None:
        for op, arities in _used(model).items():
            if op not in OPS:
                raise EdgeAdaptError(f"the graph uses {DOMAIN}::{op}, which is not registered")
            if len(OPS[op].forms) > 1 and len(arities) != 1:
                raise ir.passes.PreconditionError(f"{op} is used with {sorted(arities)} inputs; one form per file")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        used = _used(model)
        for op, arities in sorted(used.items()):
            function = ir.from_proto(onnx.parser.parse_function(_text(op, max(arities))))
            assert isinstance(function, ir.Function)
            model.functions[function.identifier()] = function
        if used:
            model.opset_imports[DOMAIN] = VERSION
        return ir.passes.PassResult(model, bool(used))

    def ensures(self, model: ir.Model) -> None:
        if {name for domain, name, _ in model.functions if domain == DOMAIN} != set(_used(model)):
            raise ir.passes.PostconditionError("the functions are not those of the ops used")


def _used(model: ir.Model) -> dict[str, set[int]]:
    used: dict[str, set[int]] = {}
    for node in model.graph:
        if node.domain == DOMAIN:
            used.setdefault(node.op_type, set()).add(len(node.inputs))
    return used


def _text(op: str, arity: int) -> str:
    if op in _OPTIONAL_INPUT:
        flag, full = _OPTIONAL_INPUT[op]
        return OPS[op].body(**{flag: arity == full})
    return OPS[op].body()
