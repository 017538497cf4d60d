"""From a run directory to a bundle: the backbone's graphs, the adapter in files of its own, and what parity they have.

    report = export(Path("runs/demo"), Path("bundle"), precision="int8")

    backbone folder --builder--> fp32 graph --passes--> base graph --+--> bare.onnx
                                                                     +-- graft --> model.onnx   (method's sites)
                                                                     +-- graft --> lora8.onnx   (bench's baseline)
                                                                     +-- cut ----> embed.onnx   (the prompt's pool)
    run's tensors ---------------------------------------------------------------> adapters/<name>/

The base files do not depend on the adapter's values: two runs of one method with the same sites give the same bytes
there. A merged LoRA is the exception, by nature: it changes the weights, and its bundle has no bare graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeadapt.progress import Progress
from edgeadapt_export.report import ExportReport

Precision = Literal["fp32", "int8", "int4"]
Device = Literal["rpi4", "generic"]
FactorPrecision = Literal["fp32", "fp16", "int8"]

__all__ = ["ExportReport", "export"]


def export(
    run: Path,
    out: Path,
    *,
    precision: Precision = "int4",
    device: Device = "rpi4",
    merge: bool = False,
    factors: FactorPrecision = "fp32",
    energy_budget: float | None = None,
    check: bool = True,
    backbone: str | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the bundle `out` from the run directory `run`; whatever `out` was stays until the new one is whole.

    Args:
        precision: of the backbone's weights. int4 in blocks of 32, calibrated on text of the backbone's own (once per
            backbone: about a minute for SmolLM2-135M); int8 in blocks of 64 or 128.
        device: rpi4 writes the backbone's quantised linears as our QuantMatMul, generic as the stock MatMulNBits.
        merge: fold a static adapter (LoRA) into the weights instead of keeping it apart.
        factors: of a LoRA that is kept apart, how wide the graph takes its factors. fp32 and fp16 are the same numbers;
            int8 has one scale per rank component, takes a quarter of fp32's memory and half of the file, and changes
            about 1 % of what the adapter does.
        energy_budget: of an adapter that plans its energy (HEST), the share of the all-fp16 plan's direction energy
            that a plan may spend on `device`; None: what the run was trained for.
        check: measure parity against PyTorch (about half a minute for SmolLM2-135M) and store it.
        backbone: where to find the backbone, if not under the name that the run gives.
        progress: called with (what, done, total); by default a bar or lines on standard error.

    Raises:
        EdgeAdaptError: unusable run, backbone or option.
        CheckFailed: the fp32 graph does not compute what PyTorch computes; `out` is left as it was.
        MissingExtra: the packages of `edgeadapt[export]` are not there.
    """
    from edgeadapt.errors import MissingExtra

    try:
        from edgeadapt_export.assemble import assemble
        from edgeadapt_export.steps import shown
    except ModuleNotFoundError as error:
        raise MissingExtra("export", error.name or "onnx") from error
    with shown(progress) as show:
        return assemble(
            run,
            out,
            precision=precision,
            device=device,
            merge=merge,
            factors=factors,
            energy_budget=energy_budget,
            check=check,
            backbone=backbone,
            progress=show,
        )
