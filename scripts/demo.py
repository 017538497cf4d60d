"""The whole road on a real small model, into demo/: learn two tasks, export, ask, measure, and say what came out.

Every step is a command that a user could type; it is printed before it runs. Starting again goes on where the last
start was cut short: finished runs are kept, and `make clean` forgets them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path("demo")
RUNS, BUNDLE, MEASURED, TABLE = DEMO / "runs", DEMO / "bundle", DEMO / "bench.json", DEMO / "table.md"
METHODS = {"demo": "HIMALAYA", "demo-lora8": "LoRA-8 (q, v)"}
QUESTIONS = (
    (
        "bbc_topics",
        "Shares in the airline fell by a tenth after it warned that the price of oil would eat its profits.",
    ),
    ("bbc_topics", "The striker scored twice in the last ten minutes and took his side to the final."),
    ("tweet_sentiment", "@united two hours on the runway and nobody tells us anything. Never again."),
    ("tweet_sentiment", "@JetBlue thank you so much, the crew on my flight was wonderful!"),
)
CHAT = "What is the capital of France?"
DECODE = "decode"


def edgeadapt(*words: str) -> None:
    """Show a command line, then run it; what goes wrong there ends the demo."""
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"\n$ edgeadapt {shown}", flush=True)
    done = subprocess.run([sys.executable, "-m", "edgeadapt", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def learn(run: str) -> None:
    """Train a run unless it is finished."""
    if (ROOT / RUNS / run / "adapter.json").is_file():
        print(f"\n{RUNS / run} is finished already")
    else:
        edgeadapt("train", f"run={run}", f"results_dir={RUNS}", "mode=full")


def read(path: Path) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def decode_ratios() -> dict[str, str]:
    """Variant -> decode time over the bare backbone's, in percent, with its interval."""
    shown = {}
    for row in read(MEASURED)["rows"]:
        ratio = row["ratio_to_bare"]
        if row["phase"] == DECODE and ratio is not None:
            middle, low, high = (100 * (ratio[key] - 1) for key in ("value", "low", "high"))
            shown[row["variant"]] = f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]"
    return shown


def table() -> str:
    """The closing table, in Markdown."""
    overheads = decode_ratios()
    cost = {
        "demo": overheads["demo"],
        "demo-lora8": f"unmerged {overheads['lora8-unmerged']}; merged {overheads['lora8-merged']}",
    }
    first, second = read(RUNS / "demo" / "scores.json")["tasks"]
    columns = ("before", "after task 1", "after task 2", f"{second}: before", "after task 2", "bytes", "decode, int4")
    lines = [f"| method | {first}: {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for run, name in METHODS.items():
        scores = read(RUNS / run / "scores.json")
        before, after = scores["baseline"], scores["matrix"]
        cells = [before[0], after[0][0], after[1][0], before[1], after[1][1]]
        size = read(RUNS / run / "adapter.json")["bytes"]["deployed"]
        lines.append(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} | {size:,} | {cost[run]} |")
    counts = read(RUNS / "demo" / "scores.json")["counts"]
    lines.append(
        f"\nAccuracy on {counts[0]} and {counts[1]} examples, one seed. {first} after task 2 is what was retained. "
        "Decode: time per token over the bare backbone's, paired, with 95 % interval, on this machine."
    )
    return "\n".join(lines)


def main() -> None:
    began = time.monotonic()
    for run in METHODS:
        learn(run)
    edgeadapt("export", str(RUNS / "demo"), "--int4", "-o", str(BUNDLE))
    for task, text in QUESTIONS:
        edgeadapt("run", str(BUNDLE), "--task", task, text)
    edgeadapt("run", str(BUNDLE), CHAT, "--max-new-tokens", "32")
    edgeadapt("bench", str(BUNDLE), "--quick", "--json", str(MEASURED))
    text = table()
    (ROOT / TABLE).write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nThat took {(time.monotonic() - began) / 60:.1f} minutes. The bundle is in {BUNDLE}.")


if __name__ == "__main__":
    main()
