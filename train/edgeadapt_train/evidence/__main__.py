"""`python -m edgeadapt_train.evidence`: run what is missing of the evidence, and make its tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.evidence import report, stored
from edgeadapt_train.evidence.plan import STAGES, planned


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeadapt_train.evidence", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument("--out", type=Path, default=Path("results/evidence"), help="stored runs and tables")
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"), help="unfinished runs, with checkpoints")
    parser.add_argument("--pages", type=Path, default=Path("docs/evidence.md"), help="where the tables are put, too")
    parser.add_argument("--only", choices=[stage.name for stage in STAGES], help="this stage alone")
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--list", action="store_true", help="what is stored and what is missing; runs nothing")
    parser.add_argument("--report", action="store_true", help="only the tables, from the runs that are stored")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.list:
            _list(chosen.out, chosen.only)
            return
        if not chosen.report:
            from edgeadapt_train.evidence.campaign import campaign

            campaign(chosen.out, chosen.work, only=chosen.only, minutes=chosen.minutes)
        for path in report.write(chosen.out, chosen.pages):
            print(path)
    except EdgeAdaptError as error:
        print(f"evidence: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _list(out: Path, only: str | None) -> None:
    found = stored.read_all(out)
    for run in planned({run_id: one.summary.auc for run_id, one in found.items()}):
        if only in (None, run.stage):
            state = "stored" if run.run_id in found else "missing"
            print(f"{state:8} {run.run_id:60} edgeadapt train {' '.join(run.words())}")


if __name__ == "__main__":
    main()
