"""Where a HEST adapter spends: `python -m edgeadapt_train.energy RUN_DIR --json use.json --svg use.svg`.

utilisation[l, m]   modelled direction energy of layer l, module m, as a share of what all its directions in fp16 would
                    cost, averaged over the prompt tokens of the run's own evaluation texts: the depth heat map
states[l, m]        shares of directions off, in int8 and in fp16 there
Every prompt is planned as on the device (edgeadapt.energy.planner) under the run's own budget and device profile.
Modelled femtojoules; nothing here was measured by a meter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.backbones import resolve
from edgeadapt.energy.costs import PROFILES
from edgeadapt.energy.envelope import EnergyEnvelope, SpectralGroup, planner_of
from edgeadapt.energy.planner import Planner
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json
from edgeadapt.rundir import RunDir
from edgeadapt.tasks import encode_prompt
from edgeadapt.text import TextCodec
from edgeadapt_train.backbone import load
from edgeadapt_train.configuration import again
from edgeadapt_train.streams import load as load_stream

CELL, LEFT, TOP = 18, 70, 40


@dataclass(frozen=True)
class Utilisation:
    """`share` [L, M] and `states` [L, M, 3] over `tokens` prompt tokens; `bound` is the share that plans may spend."""

    modules: tuple[str, ...]
    share: NDArray[np.float64]
    states: NDArray[np.float64]
    bound: float | None
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "source": "modelled",
            "modules": list(self.modules),
            "tokens": self.tokens,
            "bound": self.bound,
            "utilisation": self.share.tolist(),
            "states": self.states.tolist(),
        }

    def svg(self) -> str:
        """Layers from left to right, a row per module; darker spends more."""
        layers, rows = self.share.shape
        cells = [
            f'<rect x="{LEFT + layer * CELL}" y="{TOP + row * CELL}" width="{CELL - 1}" height="{CELL - 1}" '
            f'fill="hsl(210 80% {95 - 70 * self.share[layer, row]:.0f}%)"><title>layer {layer}, {name}: '
            f"{100 * self.share[layer, row]:.1f} %</title></rect>"
            for row, name in enumerate(self.modules)
            for layer in range(layers)
        ]
        names = [
            f'<text x="{LEFT - 6}" y="{TOP + row * CELL + 13}" text-anchor="end">{name}</text>'
            for row, name in enumerate(self.modules)
        ]
        depths = [
            f'<text x="{LEFT + layer * CELL + CELL / 2}" y="{TOP - 6}" text-anchor="middle">{layer}</text>'
            for layer in range(0, layers, 5)
        ]
        title = f'<text x="{LEFT}" y="14">modelled energy, share of all directions in fp16; {self.tokens} tokens</text>'
        size = f'width="{LEFT + layers * CELL + 10}" height="{TOP + rows * CELL + 10}"'
        body = "\n".join([title, *depths, *names, *cells])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n{body}\n</svg>\n'
        )


def utilisation(planner: Planner, modules: Sequence[str], prompts: Sequence[NDArray[np.float32]]) -> Utilisation:
    """Of prompts given as embeddings [T, d]; the planner's sites are by layer, then by module."""
    shape = (planner.layers, len(modules), -1)
    costs = np.stack([0 * planner.macs, planner.macs * planner.profile.int8, planner.macs * planner.profile.wide])
    chosen = np.concatenate([planner.plan(h0).states for h0 in prompts])
    counts = np.stack([(chosen == state).mean(axis=0) for state in range(3)])  # [3, J]
    spent, full = (energy.reshape(shape).sum(axis=2) for energy in ((counts * costs).sum(axis=0), costs[2]))
    states = counts.reshape(3, *shape).mean(axis=3).transpose(1, 2, 0)
    return Utilisation(tuple(modules), spent / full, states, planner.ratio, len(chosen))


def of_run(path: Path, examples: int = 50) -> Utilisation:
    """Of a finished run of HEST, on its own stream. Raises EdgeAdaptError for a run of another method."""
    run = RunDir.open(path)
    if run.adapter.method != "hest":
        raise EdgeAdaptError(f"{path}: is a run of {run.adapter.method}, which plans no energy; give one of hest")
    settings, tensors = again(run.config(), {}), run.tensors()
    sites = run.adapter.sites
    modules = tuple(str(name) for name in sites["modules"])
    groups = tuple(SpectralGroup(name, tensors[f"{name}.U"].shape[2], (name,), (0,)) for name in modules)
    profile = PROFILES[str(settings.adapter["device"])]
    envelope = EnergyEnvelope(profile, float(sites["kappa"]), modules, groups, sites["energy_budget"])
    found = resolve(run.adapter.backbone.id)
    backbone = load(found.path, found.id, found.revision, "fp32", "cpu")
    text = TextCodec.from_folder(found.path)
    prompts = []
    for task in load_stream(settings.stream):
        for item in task.evaluation[:examples]:
            ids = np.array([encode_prompt(task.spec, item.text, text.encode)])
            prompts.append(_embedded(backbone, ids))
    return utilisation(planner_of(envelope, tensors), modules, prompts)


def _embedded(backbone: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        return np.asarray(backbone.embed(torch.from_numpy(ids))[0].float().numpy())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edgeadapt_train.energy", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=50, help="evaluation texts of every task")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args(words)
    try:
        found = of_run(given.run, given.examples)
    except EdgeAdaptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if given.json:
        write_json(given.json, found.to_json())
    if given.svg:
        given.svg.write_text(found.svg(), encoding="utf-8")
    for row, name in enumerate(found.modules):
        print(f"{name:10s} " + " ".join(f"{100 * share:3.0f}" for share in found.share[:, row]))
    print(f"modelled, % of all directions in fp16, by layer; {found.tokens} prompt tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
