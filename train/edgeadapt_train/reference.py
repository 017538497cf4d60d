"""Runs that are described in the reference designs' own words, and the one translation of these words into ours.

A file in configs/runs/ with the package `reference` holds such a description, key by key as it was given. `edgeadapt
train run=NAME` reads it, translates every key, and puts what the user says on the command line on top:

    a key that sets something      becomes a key of ours (RULES: Sets), such as training.learning_rate -> lr
    a key that states a fact       must state what is the case (Is), such as core_dictionary.num_atoms: 24
    a key that bounds a number     becomes a limit that the run is held to (Sets, to limits.*: limits.py), such as
                                   router.hidden_params: 45000; our own formulas may stay below it
    an unknown key                 is an error, and so is a key that belongs to another adapter

Who names another part on the command line (model=..., stream=..., adapter=...) means that part: what the description
says of it is left out then, its limits included.

What the descriptions leave open is in LEFT_OPEN.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.adapters.himalaya.config import CORE, ELASTIC, OPEN

_ROLES = ("proposed", "comparative", "baseline")
_OWNERS = {"limits.tasks": "stream", "limits.languages": "stream"}
_OWNERS |= {"limits.adapter_bytes": "adapter", "limits.router_parameters": "adapter"}


@dataclass(frozen=True)
class Sets:
    """The key sets `key` of ours, to `value` of what it says."""

    key: str
    value: Callable[[Any], Any] = lambda said: said


@dataclass(frozen=True)
class Is:
    """The key says `value`; `why` it can say nothing else."""

    value: Any
    why: str


def one_of(words: Mapping[str, str]) -> Callable[[Any], str]:
    """Our word for one of theirs."""

    def value(said: Any) -> str:
        if said not in words:
            raise EdgeAdaptError(f"{said!r} is unknown; there are: {', '.join(words)}")
        return words[said]

    return value


def megabytes(said: Any) -> int:
    return round(1_000_000 * float(said))


_ADAPTERS = {"HIMALAYA": "himalaya", "LILAC": "lilac"}
_SPACE = {
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "similarity_threshold_tau": "adapter.similarity_threshold",
    "kd_tree_fanout": "adapter.fan_out",
    "router_temperature_init": "adapter.temperature_start",
    "lora_rank": "adapter.rank",
    "ewc_lambda": "adapter.ewc.strength",
}

COMMON: dict[str, Sets | Is] = {
    "run_id": Sets("run_id"),
    "model.backbone.name": Sets("model.id"),
    "model.backbone.quantisation": Sets("model.quantisation", one_of({"4-bit QLoRA": "4bit", "none": "none"})),
    "model.backbone.frozen": Is(True, "an adapter never moves the backbone"),
    "model.adapter.total_parameter_budget_mb": Sets("limits.adapter_bytes", megabytes),
    "dataset.name": Sets("stream", one_of({"continual_task_stream_25": "cts25"})),
    "dataset.num_tasks": Sets("limits.tasks"),
    "dataset.max_samples_per_task": Sets("stream.train"),
    "dataset.languages": Sets("limits.languages"),
    "dataset.streaming": Is(True, "only what the caps allow is read of a split on the hub"),
    "training.task_epochs": Sets("epochs"),
    "training.max_updates_per_task": Sets("steps"),
    "training.batch_size": Sets("batch_size"),
    "training.optimizer": Is("adamw", "every method is trained by AdamW"),
    "training.learning_rate": Sets("lr"),
    "training.weight_decay": Sets("weight_decay"),
    "training.lr_scheduler": Is("linear", "after the warm-up the rate falls linearly"),
    "training.warmup_steps": Sets("warmup_steps"),
    "training.gradient_checkpointing": Sets("gradient_checkpointing"),
    "training.grad_accum_steps": Sets("accumulation"),
    "training.mixed_precision": Sets("precision", one_of({"bf16": "bf16", "no": "fp32"})),
    "evaluation.primary_metric": Is("retained_accuracy_auc", "runs are compared by it (continual/metrics.py)"),
    "evaluation.secondary_metric": Is("cpu_latency_overhead", "`edgeadapt evaluate` reads it from the bench's rows"),
    "evaluation.eval_batch_size": Sets("eval_batch_size"),
    "evaluation.cpu_latency_device": Is(
        "raspberry-pi-4", "it is what `edgeadapt export` and `bench` take for a device"
    ),
    "hardware.gpu_type": Sets("limits.gpu_type"),
    "hardware.max_gpu_mem_gb": Sets("limits.gpu_gb"),
    "optuna.n_trials": Sets("search.trials"),
    "optuna.direction": Is("maximize", "the objective is an accuracy"),
}
OF_ADAPTER: dict[str, dict[str, Sets | Is]] = {
    "himalaya": {
        "model.adapter.core_dictionary.num_atoms": Is(CORE, "the files and kernels hold as many"),
        "model.adapter.core_dictionary.init": Is("isotropic", "orthonormal rows, from the QR of a Gaussian"),
        "model.adapter.elastic_dictionary.max_atoms": Is(ELASTIC, "the files and kernels hold as many"),
        "model.adapter.elastic_dictionary.index": Is("learnable_kd_tree", "it is the split tree"),
        "model.adapter.elastic_dictionary.quantisation_bits": Is(3, "atoms are stored in 3 bits"),
        "model.adapter.router.hidden_params": Sets("limits.router_parameters"),
        "model.adapter.router.expected_active_atoms": Is(OPEN, "at most so many gates open"),
        "model.adapter.router.temperature_init": Sets("adapter.temperature_start"),
        "model.adapter.coeff_precision_bits": Is(8, "coefficients on the device are int8"),
        "model.kd_tree.fanout": Sets("adapter.fan_out"),
        "model.norm_rescaling": Is(True, "the direction has unit norm, by the atoms' Gram matrix"),
        "training.similarity_threshold_tau": Sets("adapter.similarity_threshold"),
        "training.fisher_projection_steps": Sets("adapter.fisher_batches"),
        "training.router_temperature_anneal": Is("linear", "from the initial temperature to 0.1"),
    },
    "lilac": {
        "model.adapter.lora_rank": Sets("adapter.rank"),
        "model.adapter.dictionary_size": Sets("adapter.atoms"),
        "model.adapter.ewc_lambda": Sets("adapter.ewc.strength"),
        "model.adapter.quantisation_bits": Is(8, "everything is stored in int8"),
    },
}
# Room for answers as streams/cts25.py asks for it; growth at the pace of runs of thousands of steps, as
# himalaya/adapter.py has it.
ANSWER_TOKENS = 256
LEFT_OPEN: dict[str, dict[str, Any]] = {
    "himalaya": {"adapter.window": 200, "adapter.cooldown": 200},
    "lilac": {},
}
# Looked at together with others, below.
_TOGETHER = {
    "method",
    "method_name",
    "model.adapter.type",
    "dataset.tokenizer",
    "dataset.max_seq_length",
    "model.kd_tree.leaf_size",
}


def overrides(description: Mapping[str, Any], chosen: Sequence[str] = ()) -> list[str]:
    """The description as Hydra overrides. `chosen`: parts (model, stream, adapter) that the user names himself.

    Raises EdgeAdaptError, naming the key, for one that is unknown, missing, false or in contradiction to another.
    """
    said = dict(_flat(description))
    adapter = _adapter(said)
    rules = COMMON | OF_ADAPTER[adapter]
    found: dict[str, Any] = {"adapter": adapter, "max_new_tokens": ANSWER_TOKENS, **LEFT_OPEN[adapter]}
    for key, value in said.items():
        if key.startswith("optuna.search_space."):
            found |= _space(key, value)
        elif key in rules:
            found |= _applied(key, rules[key], value)
        elif key not in _TOGETHER:
            raise EdgeAdaptError(f"reference.{key}: a run of {said['model.adapter.type']} has no such key")
    found |= _together(said)
    kept = {key: value for key, value in found.items() if _owner(key) not in chosen}
    parts = [f"{key}={kept.pop(key)}" for key in ("stream", "adapter") if key in kept]
    return parts + [f"++{key}={json.dumps(value)}" for key, value in kept.items()]


def _adapter(said: Mapping[str, Any]) -> str:
    needed = ("run_id", "method", "method_name", "model.backbone.name", "model.adapter.type", "dataset.name")
    for key in needed:
        if key not in said:
            raise EdgeAdaptError(f"reference.{key} is missing")
    kind, role = said["model.adapter.type"], said["method"]
    if kind not in _ADAPTERS:
        raise EdgeAdaptError(f"reference.model.adapter.type={kind}: choose one of {', '.join(_ADAPTERS)}")
    if said["method_name"] != kind:
        raise EdgeAdaptError(f"reference.method_name={said['method_name']}: model.adapter.type says {kind}")
    if role not in _ROLES or not str(said["run_id"]).startswith(role):
        raise EdgeAdaptError(
            f"reference.method={role}: run_id={said['run_id']} must begin with it ({', '.join(_ROLES)})"
        )
    return _ADAPTERS[kind]


def _applied(key: str, rule: Sets | Is, value: Any) -> dict[str, Any]:
    if isinstance(rule, Is):
        if value != rule.value:
            raise EdgeAdaptError(f"reference.{key}={value}: it can only be {rule.value}: {rule.why}")
        return {}
    try:
        return {rule.key: rule.value(value)}
    except (EdgeAdaptError, ValueError) as error:
        raise EdgeAdaptError(f"reference.{key}: {error}") from None


def _space(key: str, value: Any) -> dict[str, Any]:
    """A dimension of the search: the name is translated, the rest is as it is here."""
    _, _, name, *rest = key.split(".")
    if name not in _SPACE or len(rest) != 1:
        raise EdgeAdaptError(f"reference.{key}: what is searched is one of {', '.join(_SPACE)}")
    return {f"search.space.{_SPACE[name]}.{rest[0]}": value}


def _together(said: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that must fit others."""
    found: dict[str, Any] = {}
    backbone = said["model.backbone.name"]
    if said.get("dataset.tokenizer", backbone) != backbone:
        raise EdgeAdaptError(f"reference.dataset.tokenizer={said['dataset.tokenizer']}: the backbone's is {backbone}")
    fan_out, leaf = said.get("model.kd_tree.fanout"), said.get("model.kd_tree.leaf_size")
    if leaf is not None and (fan_out is None or leaf * fan_out < ELASTIC):
        raise EdgeAdaptError(
            f"reference.model.kd_tree.leaf_size={leaf}: {ELASTIC} atoms in {fan_out} leaves are more each"
        )
    if (longest := said.get("dataset.max_seq_length")) is not None:
        if longest <= ANSWER_TOKENS:
            raise EdgeAdaptError(
                f"reference.dataset.max_seq_length={longest}: answers alone have {ANSWER_TOKENS} tokens"
            )
        found["stream.max_prompt_tokens"] = longest - ANSWER_TOKENS
    return found


def _owner(key: str) -> str:
    """The part of a run that a key of ours belongs to."""
    first, _, rest = key.partition(".")
    if first == "search" and rest.startswith("space.adapter."):
        return "adapter"
    return _OWNERS.get(key, first)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{above}{name}.")
        else:
            yield f"{above}{name}", item
