"""Probe graphs: one op each, all its inputs open, so that a device can run an op's function body without any ONNX tools.

`edgeadapt verify` feeds them the op's own cases and compares body, kernel and reference on the machine at hand. A probe
is a kilobyte: one node and its function. There is one per set of input dtypes and ranks that the op's cases know, since
an ONNX graph states both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx.parser
from onnx import TensorProto, helper

from edgeadapt.files import write_atomic
from edgeadapt.ops import DOMAIN, OPS, OPSET, VERSION, Case, Op

FOLDER = "probes"
_IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads


def write_probes(bundle: Path, used: Iterable[tuple[str, Mapping[str, bool]]]) -> dict[str, str]:
    """Write the probes of the ops that a bundle's graphs use.

    Args:
        bundle: directory being built; the files go to its folder `probes`.
        used: op names of `edgeadapt.ops.OPS`, each with the form of its body that the graphs hold.

    Returns:
        Manifest entries for `graphs`: "probe/<op>/<number>" -> path from the bundle's root.
    """
    entries: dict[str, str] = {}
    for name, form in sorted({(name, tuple(sorted(form.items()))) for name, form in used}):
        op = OPS[name]
        for case in _signatures(op, dict(form)):
            number = sum(key.startswith(f"probe/{name}/") for key in entries)
            relative = f"{FOLDER}/{name}.{number}.onnx"
            write_atomic(bundle / relative, probe(op, case))
            entries[f"probe/{name}/{number}"] = relative
    return entries


def probe(op: Op, case: Case) -> bytes:
    """A serialised model of one node of `op`, with its body; inputs named, typed and ranked like the case's."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in case.inputs.items()
    ]
    rank = op.reference(*case.inputs.values()).ndim
    output = helper.make_tensor_value_info("result", TensorProto.FLOAT, [None] * rank)
    node = helper.make_node(op.name, list(case.inputs), ["result"], domain=DOMAIN)
    model = helper.make_model(
        helper.make_graph([node], f"probe_{op.name}", inputs, [output]),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[onnx.parser.parse_function(op.body(**case.form))],
        ir_version=_IR_VERSION,
        producer_name="edgeadapt",
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _signatures(op: Op, form: dict[str, bool]) -> list[Case]:
    """One case for every set of dtypes and ranks among the op's cases of this form."""
    found: dict[tuple[tuple[str, str, int], ...], Case] = {}
    for case in op.cases(np.random.default_rng(0)):
        if {**op.forms[0], **dict(case.form)} == {**op.forms[0], **form}:
            key = tuple((name, str(value.dtype), value.ndim) for name, value in case.inputs.items())
            found.setdefault(key, case)
    return list(found.values())
