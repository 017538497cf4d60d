"""Run directories as training leaves them, with made-up scores: stored_run(root, "proposed-s0", seed=0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeadapt import rundir
from edgeadapt.scores import Confusion, Scores

TASKS = ("topics", "mood", "intent", "summaries")


def stored_run(
    root: Path,
    run_id: str,
    *,
    seed: int = 0,
    level: float = 0.7,
    forgets: float = 0.0,
    tasks: tuple[str, ...] = TASKS,
    method: str = "lora",
    withheld: bool = True,
) -> Path:
    """Scores around `level`, of which each later task takes `forgets` away; noise of 0.01 from the seed."""
    many = len(tasks)
    rng = np.random.default_rng([seed, len(run_id)])
    matrix = np.full((many, many), np.nan)
    for i in range(many):
        for j in range(min(i + 2, many)):
            learnt = level - forgets * (i - j) if j <= i else 0.3
            matrix[i, j] = np.clip(learnt + 0.01 * rng.normal(), 0, 1)
    scores = Scores(
        tasks=tasks,
        counts=(40,) * many,
        baseline=np.full(many, 0.25),
        matrix=matrix,
        withheld=matrix * 0.9 if withheld else None,
        metrics=("accuracy",) * (many - 1) + ("rougeL",),
        languages=("en",) * many,
        topics=tasks,
        majorities=(0.5,) * many,
    )
    path = root / run_id
    config = f"run_id: {run_id}\nresults_dir: {root}\nseed: {seed}\nlr: 0.002\nadapter:\n  method: {method}\n"
    rundir.write_config(path, config + "stream:\n  name: demo\n")
    rundir.write_scores(path, scores)
    rundir.write_confusion(path, {tasks[0]: Confusion(("sport", "trade"), ((15, 5), (2, 18)))})
    log = rundir.MetricsLog(path)
    for step in range(1, 5 * many + 1):
        log.append({"step": step, "task": tasks[(step - 1) // 5], "loss": 2.0 / step, "lr": 1e-3})
        if step % 5 == 1:
            log.append({"step": step, "task": tasks[(step - 1) // 5], "event": "grown"})
    return path
