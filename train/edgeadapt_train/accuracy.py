"""What bundles answer, as a device would: `python -m edgeadapt_train.accuracy BUNDLE ... --examples 300`.

setting    a bundle with our op library ("library"), and without it ("bodies"): every example of a stream's evaluation
           split goes through the engine's `classify`, one thread
accuracy   k right of n, with Wilson's 95 % interval:  (k + z^2/2 +- z sqrt(k (n-k) / n + z^2/4)) / (n + z^2),  z = 1.96
flips      of every setting against the first: examples whose label differs, of these right only there, right only here

The tasks are the bundle's; the examples those of the stream with the seed and the sizes it was trained with, so that
none was seen in training (only the size of `evaluation` may differ).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of, write_json
from edgeadapt.ops.library import library_path
from edgeadapt.runtime.opening import open_bundle
from edgeadapt.runtime.session import Ops
from edgeadapt_train.configuration import compose
from edgeadapt_train.streams import Task, load

Z = 1.959964
SETTINGS: Mapping[str, Ops] = {"library": "auto", "bodies": "off"}


@dataclass(frozen=True)
class Answers:
    """One task under one setting: the labels given and wanted, in the examples' order."""

    task: str
    given: tuple[str, ...]
    wanted: tuple[str, ...]

    @property
    def right(self) -> list[bool]:
        return [one == other for one, other in zip(self.given, self.wanted, strict=True)]

    def to_json(self) -> dict[str, Any]:
        count, n = sum(self.right), len(self.given)
        low, high = wilson(count, n)
        outcome = "".join("1" if right else "0" for right in self.right)
        figures = {"task": self.task, "examples": n, "right": count, "accuracy": count / n}
        return {**figures, "low_95": low, "high_95": high, "outcome": outcome}


@dataclass(frozen=True)
class Flips:
    """How answers differ from another setting's: labels that changed, and what that gained and lost."""

    changed: int
    gained: int
    lost: int


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    middle, half = right + Z**2 / 2, Z * (right * (n - right) / n + Z**2 / 4) ** 0.5
    return (middle - half) / (n + Z**2), (middle + half) / (n + Z**2)


def flips(here: Answers, first: Answers) -> Flips:
    changed = sum(one != other for one, other in zip(here.given, first.given, strict=True))
    pairs = list(zip(here.right, first.right, strict=True))
    return Flips(changed, gained=pairs.count((True, False)), lost=pairs.count((False, True)))


def answer(bundle: Path, tasks: Sequence[Task], ops: Ops) -> list[Answers]:
    """Ask every task that the bundle and the stream have in common."""
    engine = open_bundle(bundle, ops=ops)
    known = {task.name for entry in engine.bundle.manifest.adapters for task in entry.tasks}
    found = []
    for task in tasks:
        name = task.spec.name
        if name in known and task.spec.kind == "classification":
            engine.task(name)
            given = tuple(engine.classify(item.text).label for item in task.evaluation)
            found.append(Answers(name, given, tuple(item.target for item in task.evaluation)))
    if not found:
        raise EdgeAdaptError(f"{bundle}: has none of the stream's tasks; it knows {', '.join(sorted(known)) or 'none'}")
    return found


def measure(bundles: Sequence[Path], tasks: Sequence[Task], settings: Sequence[str]) -> dict[str, Any]:
    """Every bundle under every setting, as plain JSON."""
    rows: list[dict[str, Any]] = []
    first: dict[str, Answers] = {}
    for bundle in bundles:
        for setting in settings:
            print(f"asking {bundle} ({setting})", file=sys.stderr, flush=True)
            for answers in answer(bundle, tasks, SETTINGS[setting]):
                reference = first.setdefault(answers.task, answers)
                row = {
                    "bundle": str(bundle),
                    "bundle_sha256": sha256_of(bundle / "edgeadapt.json"),
                    "precision": Bundle.open(bundle).manifest.precision,
                    "ops": setting,
                    **answers.to_json(),
                }
                if reference is not answers:
                    row["flips_to_first"] = asdict(flips(answers, reference))
                rows.append(row)
    return {"format": 1, "rows": rows}


def markdown(value: Mapping[str, Any]) -> str:
    """The rows as a table."""
    lines = [
        "| bundle | precision | ops | task | right | accuracy (95 %) | labels unlike the first row's: gained, lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in value["rows"]:
        interval = f"{row['accuracy']:.3f} ({row['low_95']:.3f} to {row['high_95']:.3f})"
        moved = row.get("flips_to_first")
        said = "" if moved is None else f"{moved['changed']}: {moved['gained']}, {moved['lost']}"
        name, right = Path(row["bundle"]).name, f"{row['right']} of {row['examples']}"
        cells = (name, row["precision"], row["ops"], row["task"], right, interval, said)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeadapt_train.accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="directories; the first is what others differ from")
    parser.add_argument(
        "--stream", action="append", default=[], metavar="KEY=VALUE",
        help="as `edgeadapt train` takes it, repeatable: stream=folder, stream.folder=DIR",
    )  # fmt: skip
    parser.add_argument("--examples", type=int, help="evaluation examples per task, if not the stream's own number")
    parser.add_argument("--ops", choices=(*SETTINGS, "both"), default="both", help="with our op library, or without")
    parser.add_argument("--json", type=Path, help="write every row to this file, too")
    chosen = parser.parse_args(arguments)
    try:
        stream = dict(compose([*chosen.stream, "mode=full"]).stream)
        if chosen.examples is not None:
            stream["evaluation"] = chosen.examples
        settings = list(SETTINGS) if chosen.ops == "both" else [chosen.ops]
        if chosen.ops == "both" and library_path() is None:
            settings = ["bodies"]
        value = measure(chosen.bundles, load(stream), settings)
    except EdgeAdaptError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if chosen.json is not None:
        write_json(chosen.json, value)
    print(markdown(value), end="")


if __name__ == "__main__":
    main()
