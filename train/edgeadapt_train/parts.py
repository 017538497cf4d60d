"""What a run is made of, from its settings: the frozen backbone and the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeadapt.backbones import resolve
from edgeadapt.tasks import TaskSpec
from edgeadapt.text import TextCodec
from edgeadapt_train import random_backbone
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Adapter
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.backbone import Backbone, CausalBackbone, load
from edgeadapt_train.configuration import RunSettings
from edgeadapt_train.continual.task_ids import Guessing, Prototypes


def load_backbone(settings: RunSettings) -> tuple[Backbone, TextCodec]:
    """The run's backbone, and its tokens. Raises EdgeAdaptError when it cannot be had."""
    wanted, model = settings.model.id, settings.model
    named = random_backbone.made(wanted) if random_backbone.is_one(wanted) else Path(wanted).expanduser()
    found = resolve(str(named) if named.exists() else wanted)
    # Export must find the backbone again: a folder by its whole path, anything else by its id.
    identity = str(named.resolve()) if named.exists() else found.id
    backbone = load(
        found.path,
        identity,
        found.revision,
        settings.precision,
        settings.device,
        quantisation=model.quantisation,
        checkpointed=settings.gradient_checkpointing,
    )
    return backbone, TextCodec.from_folder(found.path)


def build_adapter(
    settings: RunSettings, backbone: Backbone, tasks: Sequence[TaskSpec], prototypes: Prototypes | None = None
) -> Adapter:
    """The run's adapter, to be told tasks or, with prototypes, guesses; on an encoder with a head for every task."""
    adapter = registry.build(settings.adapter, backbone.host, settings.loop.seed)
    if prototypes is not None and settings.task_ids == "both" and adapter.reads_task:
        adapter = Guessing(adapter, prototypes)
    if isinstance(backbone, CausalBackbone):
        return adapter
    model = settings.model
    headed = Headed(adapter, tasks, backbone.host.hidden_size, model.pooling, model.head_lr / settings.loop.lr)
    return headed.to(backbone.device)
