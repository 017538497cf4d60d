"""A run's configuration: Hydra composes the packaged YAML files, then typed settings check every value.

    config.yaml               what every run has
    runs/<name>.yaml          a ready run: run=<name>; reference.py translates those in other words
    model/ stream/ adapter/   the parts that a run chooses: model=..., stream=..., adapter=...

`mode=trial` cuts a run to one epoch of two batches and 16 examples per score, without tracker or search: does
everything work here?
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.heads import Pooling
from edgeadapt_train import reference
from edgeadapt_train.backbone import Quantisation
from edgeadapt_train.continual.lessons import Strategy
from edgeadapt_train.limits import Limits
from edgeadapt_train.loop import LoopSettings
from edgeadapt_train.options import checked
from edgeadapt_train.search_space import SearchSettings
from edgeadapt_train.tracking import TrackingSettings

TRIAL_STEPS, TRIAL_EXAMPLES = 2, 16
_LOOP = {item.name for item in fields(LoopSettings)}


@dataclass(frozen=True)
class ModelSettings:
    """The backbone. `quantisation`: of its frozen weights, in training. `pooling` and `head_lr` (absolute, whatever the
    adapter's) are those of an encoder's task heads."""

    id: str
    quantisation: Quantisation = "none"
    pooling: Pooling = "mean"
    head_lr: float = 5e-3

    def __post_init__(self) -> None:
        if not 0 < self.head_lr < math.inf:
            raise EdgeAdaptError(f"model.head_lr={self.head_lr}: give a positive number")


@dataclass(frozen=True)
class RunSettings:
    """A run, resolved. `adapter`, `stream`: the method's and the loader's own options, checked by them."""

    run_id: str
    results_dir: Path
    mode: str
    model: ModelSettings
    precision: str
    device: str
    threads: int | None
    checkpoint_every: int
    eval_batch_size: int
    max_new_tokens: int
    adapter: Mapping[str, Any]
    stream: Mapping[str, Any]
    loop: LoopSettings
    yaml: str
    gradient_checkpointing: bool = False
    strategy: Strategy = "in-turn"
    task_ids: Literal["given", "both"] = "both"
    split: Literal["validation", "evaluation"] = "evaluation"
    limits: Limits = field(default_factory=Limits)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.run_id):
            raise EdgeAdaptError(f"run_id={self.run_id!r}: use letters, digits, '_', '-' and '.'")
        if self.mode not in ("trial", "full"):
            raise EdgeAdaptError(f"mode={self.mode}: choose trial or full")
        for name in ("checkpoint_every", "eval_batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise EdgeAdaptError(f"{name}={getattr(self, name)}: give at least 1")
        if self.threads is not None and self.threads < 1:
            raise EdgeAdaptError(f"threads={self.threads}: give at least 1, or null for torch's own choice")

    @property
    def directory(self) -> Path:
        return self.results_dir / self.run_id


def compose(overrides: Sequence[str]) -> RunSettings:
    """Settings from `run=NAME results_dir=DIR mode=... key=value ...`.

    Raises EdgeAdaptError, in one line, for an unknown key, an unknown choice or a value of the wrong type.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    words = [re.sub(r"^search\.space\.", "++search.space.", re.sub(r"^run=", "runs=", word)) for word in overrides]
    try:
        with initialize_config_module("edgeadapt_train.configs", version_base="1.3"):
            named = hydra_compose("config", [word for word in words if word.startswith(("runs=", "reference."))])
            translated = _translated(named.reference, words)
            config = hydra_compose("config", [*translated, *words])
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise EdgeAdaptError(f"configuration: {error.full_key} must be given: {error.full_key}=VALUE") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise EdgeAdaptError(f"configuration: {_one_line(error)}") from None
    assert isinstance(values, dict)
    return _settings({str(key): value for key, value in values.items()}, OmegaConf.to_yaml(config, resolve=True))


def _translated(description: Any, words: Sequence[str]) -> list[str]:
    """The overrides of a run that is described in a reference design's words; none for others."""
    from omegaconf import OmegaConf

    if description is None:
        return []
    said = OmegaConf.to_container(description, resolve=True)
    assert isinstance(said, dict)
    chosen = [word.split("=")[0] for word in words]
    return reference.overrides({str(key): value for key, value in said.items()}, chosen)


def plain(yaml: str) -> dict[str, Any]:
    """A stored configuration as Python's own values."""
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(OmegaConf.create(yaml), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def again(yaml: str, changes: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunSettings:
    """Settings of a run's stored configuration with `changes` (dotted keys) and `key=value` overrides, in this order.

    Raises EdgeAdaptError, in one line, for an unknown key and for a value of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.create(yaml)
        for key, value in changes.items():
            OmegaConf.update(config, key, value)
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise EdgeAdaptError(f"configuration: {_one_line(error)}") from None
    assert isinstance(values, dict)
    return _settings({str(key): value for key, value in values.items()}, OmegaConf.to_yaml(config))


def _settings(values: dict[str, Any], yaml: str) -> RunSettings:
    values = dict(values)
    adapter = dict(values.pop("adapter"))
    adapter.pop("lr", None)
    values.pop("reference", None)  # translated already
    model = ModelSettings(**checked(ModelSettings, values.pop("model"), "model."))
    stream = dict(values.pop("stream"))
    limits = Limits(**checked(Limits, values.pop("limits", {}), "limits."))
    loop = LoopSettings(**checked(LoopSettings, {key: values.pop(key) for key in sorted(_LOOP) if key in values}))
    tracking = TrackingSettings(**checked(TrackingSettings, values.pop("tracking", {}), "tracking."))
    search = SearchSettings.of(values.pop("search", {}))
    place = Path(str(values.pop("results_dir"))).expanduser()
    plain = checked(RunSettings, values)
    settings = RunSettings(
        results_dir=place,
        model=model,
        adapter=adapter,
        stream=stream,
        limits=limits,
        loop=loop,
        tracking=tracking,
        search=search,
        yaml=yaml,
        **plain,
    )
    if settings.mode == "full":
        return settings
    short = {key: min(int(stream[key]), TRIAL_EXAMPLES) for key in ("validation", "evaluation") if key in stream}
    trial = replace(loop, epochs=1, steps=min(loop.steps or TRIAL_STEPS, TRIAL_STEPS))
    fewer = {"fisher_batches": TRIAL_STEPS} if "fisher_batches" in adapter else {}
    return replace(
        settings,
        loop=trial,
        stream={**stream, **short},
        adapter={**adapter, **fewer},
        tracking=TrackingSettings(),
        search=SearchSettings(),
    )


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "Set the env", "Config search"))]
    return "; ".join(kept)[:300]
