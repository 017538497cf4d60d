"""Every adapter on one page: results/methods/table.md, and docs/methods.md, which also says what each one computes.

    .venv/bin/python scripts/methods_page.py [DIR]        from DIR/table.json and DIR/decode.json (results/methods)

Both measuring scripts write them anew after each row.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeadapt.files import write_atomic
from edgeadapt_train import methods

BASELINE = "lora8"
ORDER = (
    BASELINE, "himalaya", "himalaya-terms", "lilac", "coltas", "glodis", "loreft", "full", "unihyper", "sat-lora",
    "hf-sat-lora", "hest", "tabs", "bhsp",
)  # fmt: skip
DOCS = Path(__file__).resolve().parent.parent / "docs/methods.md"
NOTES = """\
Bytes: what ships for one task on a new adapter. Step: {batch} texts of {tokens} tokens, one thread, processor time, and
its ratio to that of peft's LoRA-8, measured in turn. Memory: the highest resident size of three steps above the loaded
backbone. Decode: a token of int4 SmolLM2-135M with the adapter apart from the weights, against the bare backbone: on
x86-64 processor time in turn (HEST plans for every token), on a Cortex-A72 emulated user instructions. An adapter that
is merged costs nothing there. Medians, and the quarters to either side in brackets; a dash was not measured.
"""


def costs(folder: Path) -> str:
    """A table per backbone."""
    training = _read(folder / "table.json")
    decode = {row["adapter"]: row for row in _read(folder / "decode.json").get("rows", ())}
    text = NOTES.format(**training)
    text += f"The machine has two cores and had other work: its load average was {_loads(training, decode)}.\n"
    sizes = {row.name: row.bytes for row in methods.rows()}
    for shape in methods.SHAPES:
        rows = {row["adapter"]: row for row in training["rows"] if row["shape"] == shape}
        known = decode if shape == "smollm2-135m" else {}
        columns = ["adapter", "bytes", "step, s", "of LoRA-8's", "memory, MB"]
        columns += ["decode, x86-64", "decode, A72"] if known else []
        precision = "".join(f", training in {row['precision']}" for row in list(rows.values())[:1])
        text += f"\n### {shape}{precision}\n\n| {' | '.join(columns)} |\n|---{'|---:' * (len(columns) - 1)}|\n"
        for name in ORDER:
            text += f"| {name} | {sizes[name][shape]:,} | {' | '.join(_cells(name, rows.get(name), known))} |\n"
    return text


def _cells(name: str, row: Mapping[str, Any] | None, decode: Mapping[str, Any]) -> Iterator[str]:
    if row is None:
        yield from "---"
    else:
        low, high = row["step_ratio_quartiles"]
        yield f"{row['step_seconds']:.3f}"
        yield f"{row['step_ratio']:.2f} [{low:.2f} {high:.2f}]"
        yield f"{row['training_bytes'] / 1e6:.0f}"
    if not decode:
        return
    found = decode.get(name, {})
    x86, a72 = found.get("x86"), found.get("a72")
    none = "merged" if found.get("kind") == "merged" else "-"
    if x86 is None:
        yield none
    else:
        low, high = x86["ratio_quartiles"]
        yield f"{x86['ratio'] - 1:+.1%} [{low - 1:+.1%} {high - 1:+.1%}]"
    yield none if a72 is None else f"{a72['ratio'] - 1:+.2%}"


def _loads(training: Mapping[str, Any], decode: Mapping[str, Any]) -> str:
    seen = [value for row in training["rows"] for value in row.get("load_average", ())]
    seen += [value for row in decode.values() for value in row.get("x86", {}).get("load_average", ())]
    return f"{min(seen):.1f} to {max(seen):.1f} while this was measured" if seen else "not kept"


def described() -> str:
    """What each method computes."""
    text = "| `adapter=` | what it computes | trained | runs on a device |\n|---|---|---|---|\n"
    for row in methods.rows():
        cells = (f"`{row.name}`", f"`{row.equation}`", row.trained, row.device)
        text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return text


def write(folder: Path) -> None:
    """Both pages, from what is measured so far."""
    table = costs(folder)
    head = (
        "Written by `scripts/methods_table.py` (training) and `scripts/methods_decode.py` (decoding), which say how.\n"
    )
    write_atomic(folder / "table.md", f"# What adapters cost\n\n{head}\n{table}".encode())
    intro = "`edgeadapt methods` lists them; equations in full open each file of `train/edgeadapt_train/adapters/`.\n"
    page = f"# The adapters\n\n{intro}\n{described()}\n## What they cost\n\n{head}\n{table}"
    write_atomic(DOCS, page.encode())


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {"rows": [], "batch": 0, "tokens": 0}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results/methods"))
