"""Probe graphs: one op each, all its inputs open, so that a device can run an op's body without any ONNX tools.

`edgeadapt verify` feeds them the op's own cases and compares body, kernel and reference on the machine at hand. A probe
is a kilobyte: one node and its function. There is one per set of input dtypes and ranks that the op's cases know, since
an ONNX graph states both; and one per set of attributes, which come with shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import helper

from edgeadapt.ops import DOMAIN, OPS, OPSET, VERSION, Case, Op
from edgeadapt.ops.registry import ATTRIBUTES

FOLDER = "probes"
_IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads


def write_probes(bundle: Path, graphs: Iterable[Path]) -> dict[str, str]:
    """Write the probes of all ops of our domain that `graphs` use, in the forms that they use.

    The form of an op shows in which inputs are there: a function cannot branch on one that is not.

    Args:
        bundle: directory being built; the files go to its folder `probes`.
        graphs: ONNX files; their external data are not read.

    Returns:
        Manifest entries for `graphs`: "probe/<op>/<number>" -> path from the bundle's root.
    """
    used = {
        (node.op_type, tuple(map(bool, node.input)))
        for path in graphs
        for node in onnx.load(str(path), load_external_data=False).graph.node
        if node.domain == DOMAIN
    }
    entries: dict[str, str] = {}
    for name, given in sorted(used):
        for case in _signatures(OPS[name], given):
            number = sum(key.startswith(f"probe/{name}/") for key in entries)
            relative = f"{FOLDER}/{name}.{number}.onnx"
            (bundle / FOLDER).mkdir(exist_ok=True)
            (bundle / relative).write_bytes(probe(OPS[name], case))
            entries[f"probe/{name}/{number}"] = relative
    return entries


def probe(op: Op, case: Case) -> bytes:
    """A serialised model of one node of `op`, with its body; inputs named, typed and ranked like the case's."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), case.dimensions[name])
        for name, value in case.inputs.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in zip(op.outputs, op.expected(case), strict=True)
    ]
    node = helper.make_node(op.name, op.arguments(case), op.outputs, domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in case.attributes.items())
    model = helper.make_model(
        helper.make_graph([node], f"probe_{op.name}", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[onnx.parser.parse_function(op.body(**case.form))],
        ir_version=_IR_VERSION,
        producer_name="edgeadapt",
    )
    helper.set_model_props(model, {ATTRIBUTES: json.dumps(dict(case.attributes))})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _signatures(op: Op, given: tuple[bool, ...]) -> list[Case]:
    """One case for every set of dtypes, ranks and attributes among the op's cases with these inputs."""
    found: dict[tuple[object, ...], Case] = {}
    for case in op.cases(np.random.default_rng(0)):
        if tuple(map(bool, op.arguments(case))) == given:
            inputs = tuple((name, str(value.dtype), value.ndim) for name, value in case.inputs.items())
            found.setdefault((inputs, tuple(case.attributes.items())), case)
    return list(found.values())
