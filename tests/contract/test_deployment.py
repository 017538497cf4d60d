"""Rule 6, end to end, for every method that reaches a device: what was trained is what the bundle computes.

    trained adapter --run directory--> export (fp32) --bundle--> parity, `verify`, the runtime's logits
Each is trained for a few steps on one tiny decoder. Its bundle must agree with PyTorch, pass `verify` with the op
library and without it, and give the logits that training's own hardened form gives, which the exporter never sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeadapt.backbones import resolve
from edgeadapt.bundle import Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import SWITCH, library_path
from edgeadapt.runtime.engine import Engine
from edgeadapt.verify import verify
from edgeadapt_export import export
from edgeadapt_export.methods import DEPLOYERS
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Prompt
from edgeadapt_train.backbone import wrap
from edgeadapt_train.batches import Example
from edgeadapt_train.run import write_adapter
from edgeadapt_train.streams import Task
from tests.contract.subjects import NAMED, SUBJECTS, Bench, Subject, learn
from tests.support import TASKS, tiny_backbone

DEPLOYABLE = [s for s in SUBJECTS if s.options["method"] in DEPLOYERS and "decoder" in s.hosts]
# One form a method, and those with a graph of their own; the others are slow: they differ in what is trained.
ALSO = ("himalaya square", "himalaya terms", "himalaya read and write")
FIRST = {subject.options["method"]: subject.name for subject in reversed(DEPLOYABLE)}
FORMS = [
    pytest.param(s, id=s.name, marks=() if s.name in (*FIRST.values(), *ALSO) else pytest.mark.slow) for s in DEPLOYABLE
]
PROMPT = (5, 60, 17, 200, 31, 9, 77, 140)


@dataclass
class Home:
    """Where a backbone lives that all bundles share; its graph and sample texts stay in the cache beside it."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "backbone"

    def trained(self, subject: Subject) -> tuple[Path, Bench]:
        """A finished run of two tasks, and the model with the adapter that was learnt."""
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager")
        backbone = wrap(model, str(self.folder), resolve(str(self.folder)).revision)
        ids = torch.randint(3, 96, (4, 11), generator=torch.Generator().manual_seed(1))
        bench = Bench(model, registry.build(subject.options, backbone.host, 3), ids, torch.zeros(4, dtype=torch.int64))
        bench.adapter.attach()
        for task in range(len(TASKS)):
            learn(bench, task=task, lr=2e-2)
        run = self.root / "runs" / subject.name.replace(" ", "-")
        run.mkdir(parents=True, exist_ok=True)
        one = [(Example(text, "good"),) for text in ("a", "b", "c")]
        names = [tuple(Example(e.text, spec.choices[0]) for e in split) for spec in TASKS for split in one]
        tasks = [Task(spec, *names[3 * at : 3 * at + 3]) for at, spec in enumerate(TASKS)]
        write_adapter(run, bench.adapter, backbone, tasks)
        return run, bench


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("deployed")
    tiny_backbone(root / "backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEADAPT_CACHE", str(root / "cache"))
        yield Home(root)


def hardened(bench: Bench, task: int) -> np.ndarray:
    """Training's own logits after PROMPT in the stored form, [V]."""
    ids = torch.tensor([PROMPT])
    with bench.adapter.hardened():
        prompt = Prompt(bench.model.get_input_embeddings()(ids), torch.ones_like(ids), torch.tensor([task]))
        with bench.adapter.conditioned(prompt):
            return np.asarray(bench.model(input_ids=ids).logits[0, -1].numpy())


def served(bundle: Path, task: int) -> np.ndarray:
    """The runtime's logits after the same prompt, asked as the same task."""
    engine = Engine.open(bundle, threads=1)
    engine.use(engine.bundle.manifest.adapters[0].name)
    engine.task(TASKS[task].name)
    return engine.prefill(list(PROMPT)).copy()


def check_served(bundle: Path, bench: Bench, rounding: float) -> None:
    bare = Engine.open(bundle, threads=1)
    plain = bare.prefill(list(PROMPT)).copy()
    for task in range(len(TASKS)):
        expected = hardened(bench, task)
        np.testing.assert_allclose(served(bundle, task), expected, atol=max(2e-4, rounding))
        if Bundle.open(bundle).manifest.adapters[0].inputs:
            assert np.abs(expected - plain).max() > max(1e-3, rounding)  # or the comparison would say nothing


@pytest.mark.parametrize("subject", FORMS)
def test_rule_6_the_bundle_computes_what_was_trained(
    subject: Subject, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, bench = home.trained(subject)
    for merge in (False, True):
        if merge != subject.merged_only and not (merge and subject.merges):
            continue
        bundle = tmp_path / f"bundle-{merge}"
        report = export(run, bundle, precision="fp32", merge=merge, progress=lambda *_: None)
        assert report.parity is not None
        assert report.parity.max_abs_logit_difference <= max(1e-3, subject.rounding)
        assert report.parity.mean_kl <= 1e-4
        check_served(bundle, bench, subject.rounding)
        if library_path() is not None:
            assert verify(bundle).passed, verify(bundle)
        with monkeypatch.context() as patch:
            patch.setenv(SWITCH, "off")
            assert verify(bundle).passed, verify(bundle)
            check_served(bundle, bench, subject.rounding)


@pytest.mark.parametrize("subject", [s for s in DEPLOYABLE if not s.merges], ids=lambda s: s.name)
def test_what_has_no_static_merge_is_not_merged(subject: Subject, home: Home, tmp_path: Path) -> None:
    run, _ = home.trained(subject)
    with pytest.raises(EdgeAdaptError, match="--merge"):
        export(run, tmp_path / "bundle", precision="fp32", merge=True, check=False, progress=lambda *_: None)
    assert not (tmp_path / "bundle").exists()


def test_full_fine_tuning_asks_to_be_merged(home: Home, tmp_path: Path) -> None:
    run, _ = home.trained(NAMED["full"])
    with pytest.raises(EdgeAdaptError, match="--merge"):
        export(run, tmp_path / "bundle", precision="fp32", check=False, progress=lambda *_: None)


@pytest.mark.parametrize("name", ["lilac", "glodis", "loreft"])
def test_an_expanded_adapter_ships_its_stored_bytes_and_a_few_nodes(name: str, home: Home, tmp_path: Path) -> None:
    run, bench = home.trained(NAMED[name])
    export(run, tmp_path / "bundle", precision="fp32", check=False, progress=lambda *_: None)
    entry = Bundle.open(tmp_path / "bundle").manifest.adapters[0]
    graph = ir.load(tmp_path / "bundle" / str(entry.graph)).graph
    stored = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    assert stored == entry.bytes.deployed == sum(bench.adapter.byte_terms().values())
    assert not graph.inputs
    assert sum(node.op_type != "Constant" for node in graph) < 64  # all layers at once: tens, not tens per layer
