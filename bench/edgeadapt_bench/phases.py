"""What can be timed: the phases of all workloads, in the order in which people want to see them.

`unit` is that of a sample; `share` the weight of a phase where the time of a whole run is bounded. Phases that are
measured `once` do not depend on where a process's weights happen to lie: the first opening is enough for them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One phase, with its words for a heading and for a sentence below it."""

    name: str
    unit: str
    title: str
    says: str
    share: float = 0.0
    once: bool = False


_ALL = (
    Phase("decode", "s/token", "Decode", "one further token, the greedy choice included", 6.0),
    Phase("prefill", "s", "Prefill", "the prompt, from its token ids to the first logits: time to first token", 3.0),
    Phase("classify", "s", "Classify", "a prompt and the scores of all labels behind it", 6.0),
    Phase("embed", "s/text", "Embed", "token ids to the hidden states of the last layer", 6.0),
    Phase("task_switch", "s", "Task switch", "another task of the same adapter, bound for a prompt", 0.5, once=True),
    Phase(
        "adapter_switch", "s", "Adapter switch", "an adapter's file read anew, and bound for a prompt", 0.5, once=True
    ),
    Phase(
        "resident_switch",
        "s",
        "Switch among residents",
        "another adapter that is in memory already, bound for a prompt",
        0.5,
        once=True,
    ),
    Phase("load", "s", "Load", "the base graph, from its file to a session that is ready"),
)
PHASES = {phase.name: phase for phase in _ALL}
