"""HEST on the device: what executes is the plan, and the plan keeps the bundle's budget, to the femtojoule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeadapt.bundle import Bundle
from edgeadapt.energy.envelope import MACS, STATES
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops.library import SWITCH, library_path
from edgeadapt.runtime import session
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.generate import Sampling
from edgeadapt.runtime.kv_cache import empty_past
from edgeadapt.runtime.spectral import SpectralAdapter
from edgeadapt.verify import verify
from edgeadapt.verify_plans import ONLY_PLANNED
from edgeadapt_export import export
from tests.energy_runs import make_energy_run
from tests.support import make_run, tiny_backbone

PROMPT = tuple(range(20, 60))
needs_library = pytest.mark.skipif(library_path() is None, reason="this installation has no native library")


class Home:
    def __init__(self, root: Path) -> None:
        self.root, self.backbone = root, tiny_backbone(root / "backbone")
        self.run = make_energy_run(
            root / "run", self.backbone, method="hest", modules=("q_proj", "v_proj", "down_proj")
        )

    def bundle(self, ratio: float | None, device: str = "rpi4") -> Path:
        path = self.root / f"{ratio}-{device}"
        if not path.exists():
            export(
                self.run.path,
                path,
                precision="fp32",
                device=device,  # type: ignore[arg-type]
                energy_budget=ratio,
                check=False,
                progress=lambda *_: None,
            )
        return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("hest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEADAPT_CACHE", str(root / "cache"))
        return Home(root)


@pytest.fixture(autouse=True)
def _cache(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(home.root / "cache"))


def opened(path: Path) -> tuple[Engine, SpectralAdapter]:
    engine = Engine.open(path)
    engine.use(engine.adapter_names[0])
    assert isinstance(engine.adapter, SpectralAdapter)
    return engine, engine.adapter


def executed(path: Path, ids: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds in int8 and fp16 that the kernels counted for a prompt."""
    _, adapter = opened(path)
    runner = session.create(Bundle.open(path).graph("model"), threads=1, ops="auto")
    fed = adapter.feeds(ids, None)
    base = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64), **empty_past(runner)}
    macs = runner.run([MACS], {**base, **{name: value.numpy() for name, value in fed.items()}})[0]
    int8, fp16 = macs.reshape(-1, 2).astype(np.int64).sum(axis=0)
    return int(int8), int(fp16)


@needs_library
@pytest.mark.parametrize("device", ["rpi4", "generic"])
@pytest.mark.parametrize("ratio", [0.6, 0.2, 0.05])
def test_what_executes_spends_at_most_its_share_of_the_all_fp16_plan(home: Home, ratio: float, device: str) -> None:
    path = home.bundle(ratio, device)
    _, adapter = opened(path)
    planner = adapter.planner
    counts = executed(path, PROMPT)
    energy = counts[0] * planner.profile.int8 + counts[1] * planner.profile.wide
    assert 0 < energy <= ratio * len(PROMPT) * planner.allocator.full_cost
    assert planner.profile.name == device
    assert planner.profile.wide == (4600 if device == "rpi4" else 1500)


@needs_library
def test_a_prompts_plan_and_each_new_tokens_are_what_runs(home: Home) -> None:
    report = verify(home.bundle(0.2))
    rows = {row.name: row for row in report.rows if row.name.startswith("energy")}
    assert report.passed, report
    assert len(rows) == 4
    assert all("0 tokens differ" in row.measured for name, row in rows.items() if "count" in name)


def test_without_the_library_verify_checks_the_plan_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.bundle(0.2)
    monkeypatch.setenv(SWITCH, "off")
    report = verify(path)
    assert report.passed, report
    assert ONLY_PLANNED in report.notes
    assert not [row for row in report.rows if "count = plan" in row.name]
    assert len([row for row in report.rows if row.name.startswith("energy")]) == 2


def test_an_engine_runs_the_prompts_plan_in_chunks_and_plans_every_token_behind_it(home: Home) -> None:
    """Generation piece by piece = the whole text at once, its rows planned by hand."""
    path = home.bundle(0.2)
    engine, adapter = opened(path)
    engine.decoder.chunk = 7
    made = list(engine.generate(PROMPT, Sampling(max_new_tokens=5)))
    whole = (*PROMPT, *made)
    runner = session.create(Bundle.open(path).graph("model"), threads=1, ops="auto")
    fed = adapter.feeds(PROMPT, None)
    feeds = {name: value.numpy() for name, value in fed.items()}
    later = adapter.appended(whole[len(PROMPT) :])
    for name, rows in later.items():
        assert name.endswith(STATES)
        feeds[name] = np.concatenate([feeds[name], rows], axis=1)
    base = {"input_ids": np.array([whole]), "attention_mask": np.ones((1, len(whole)), np.int64), **empty_past(runner)}
    logits = runner.run(["logits"], {**base, **feeds})[0][0]
    assert made == logits[len(PROMPT) - 1 : -1].argmax(axis=1).tolist()


def test_a_tokens_states_are_planned_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapter = opened(home.bundle(0.2))
    asked: list[int] = []
    embeddings = adapter._embeddings
    monkeypatch.setattr(adapter, "_embeddings", lambda ids: asked.extend(ids) or embeddings(ids))
    repeated, fresh = adapter.appended([9, 4, 9, 9]), adapter.appended([4, 9])
    assert asked == [9, 4]
    for name, rows in repeated.items():
        np.testing.assert_array_equal(rows[:, 1::-1], fresh[name])
        np.testing.assert_array_equal(rows[:, 2], rows[:, 0])


def test_choices_behind_a_prompt_are_planned_and_leave_it_as_it_was(home: Home) -> None:
    engine, _ = opened(home.bundle(0.2))
    engine.prefill(PROMPT, room=4)
    once = engine.decoder.continuations([(5, 6, 7), (5, 9)])
    again = engine.decoder.continuations([(5, 6, 7), (5, 9)])
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_adapter_is_the_bare_graph_whatever_the_number_of_tokens(home: Home) -> None:
    engine, _ = opened(home.bundle(0.2))
    engine.use(None)
    bare = Engine.open(home.bundle(0.2), graph="bare")
    np.testing.assert_array_equal(engine.prefill(PROMPT), bare.prefill(PROMPT))


def test_the_runs_own_budget_holds_where_none_is_given(home: Home) -> None:
    entry = Bundle.open(home.bundle(None)).manifest.adapters[0]
    assert entry.envelope is not None
    assert entry.envelope.ratio == home.run.adapter.sites["energy_budget"] == 0.6
    assert {group.linear for group in entry.envelope.groups} == {"qkv_proj", "down_proj"}


@pytest.mark.parametrize(
    ("method", "ratio", "said"),
    [("lora", 0.5, "method lora keeps none"), ("hest", 1.5, "1.5 is not a share")],
)
def test_a_budget_that_cannot_be_is_refused(home: Home, tmp_path: Path, method: str, ratio: float, said: str) -> None:
    run = home.run if method == "hest" else make_run(tmp_path / "run", method, home.backbone)
    with pytest.raises(EdgeAdaptError, match=said):
        export(run.path, tmp_path / "bundle", energy_budget=ratio, check=False, progress=lambda *_: None)


def test_without_int8_directions_the_bundle_is_pytorchs_to_rounding(home: Home, tmp_path: Path) -> None:
    run = make_energy_run(tmp_path / "run", home.backbone, method="hest", variant="no-int8")
    report = export(run.path, tmp_path / "bundle", precision="fp32", progress=lambda *_: None)
    assert report.parity is not None
    report.parity.check()
