"""HIMALAYA's stored bytes, term by term: d = hidden size, L layers, w = router_width(d), n tasks, G gains of a task.

    atoms 40 * 3 d / 8 | group scales 2 * 40 ceil(d / 64) | atom gains 80 | router w (d + 97) + 80 | its row scales
    2 (w + 80) | task table 512 | statistics 96 | tree 46 | gains 2 G                     54,944 at d = 576, G = L = 30
    protection 82 n + 2 G (n - 1)
    atoms=read_write adds 16 (3 d / 8 + 2 ceil(d / 64) + 2)

G = L; with gain=shared 1 stands for L, with update=terms it is three times that. Without protection the n rows are
zeros and the n gain vectors equal: the op indexes both by task, so they are stored and counted all the same.
"""

from __future__ import annotations

from edgeadapt.codecs import three_bit
from edgeadapt_train.adapters.himalaya.config import (
    ATOMS,
    ELASTIC,
    STATISTICS,
    TASK_WIDTH,
    TASKS,
    TREE_NUMBERS,
    router_width,
)


def byte_terms(d: int, tasks: int, gains: int, *, tied: bool) -> dict[str, int]:
    """The formula above; `gains` is G."""
    w = router_width(d)
    terms = {
        "atoms": ATOMS * d * 3 // 8,
        "atom_group_scales": 2 * ATOMS * three_bit.groups(d),
        "atom_gains": 2 * ATOMS,
        "router": w * (d + 97) + 80,
        "router_row_scales": 2 * (w + 80),
        "task_table": TASKS * TASK_WIDTH,
        "statistics": 2 * 2 * STATISTICS,
        "tree": 2 * TREE_NUMBERS,
        "gains": 2 * gains,
        "protection": 82 * tasks + 2 * gains * (tasks - 1),
    }
    written = {"write_atoms": ELASTIC * (d * 3 // 8 + 2 * three_bit.groups(d) + 2)}
    return terms if tied else terms | written
