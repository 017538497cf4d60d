"""The reference designs' runs: every key means something, and both run here in trial on a backbone made for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.rundir import RunDir
from edgeadapt_train import configs
from edgeadapt_train.adapters import registry
from edgeadapt_train.configuration import compose
from edgeadapt_train.limits import Limits
from edgeadapt_train.methods import Shape, skeleton
from edgeadapt_train.reference import overrides
from edgeadapt_train.run import train

PROPOSED = "proposed-iter1-Llama-2-7B-HF-4-bit-QLoRA-7-B-parameters"
COMPARATIVE = "comparative-1-iter1-Llama-2-7B-HF-4-bit-QLoRA-7-B-parameters"
RUNS = (PROPOSED, COMPARATIVE)
GIVEN = Path(__file__).parents[3] / "shared/reference/runs"
LLAMA = Shape(32, 4096, 4096, 11008, "decoder")
HERE = ("model=tiny-llama-random", "stream=demo")


def description(run: str) -> dict[str, Any]:
    text = Path(configs.__path__[0], "runs", f"{run}.yaml").read_text()
    # YAML 1.1 reads 1e-4 as a word; Hydra reads it as a number.
    return numbers(yaml.safe_load(text))


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def leaves(value: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, (*above, key))
        else:
            yield (*above, key)


def changed(run: str, path: str, value: Any) -> dict[str, Any]:
    whole = description(run)
    place = whole
    *above, last = path.split(".")
    for key in above:
        place = place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return whole


def outcome(said: dict[str, Any]) -> list[str] | str:
    """The translation, or why there is none."""
    try:
        return overrides(said)
    except EdgeAdaptError as error:
        return str(error)


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 1 if value != 1 else 2
    if isinstance(value, float):
        return value / 2 + 0.001
    return [] if isinstance(value, list) else "another"


@pytest.mark.parametrize("run", RUNS)
def test_the_packaged_runs_are_the_given_ones(run: str) -> None:
    given = GIVEN / f"{run}.yaml"
    if not given.is_file():
        pytest.skip("the given files are not here")
    assert description(run) == numbers(yaml.safe_load(given.read_text()))


@pytest.mark.parametrize(("run", "path"), [(run, ".".join(path)) for run in RUNS for path in leaves(description(run))])
def test_every_key_means_something(run: str, path: str) -> None:
    """With another value the run is another one, or it is refused."""
    value: Any = description(run)
    for key in path.split("."):
        value = value[key]
    assert outcome(changed(run, path, other(value))) != overrides(description(run))


def test_the_proposed_run_is_ours_in_these_words() -> None:
    settings = compose([f"run={PROPOSED}", *HERE[1:]])
    assert (settings.run_id, settings.model.id) == (PROPOSED, "NousResearch/Llama-2-7b-hf")
    assert (settings.model.quantisation, settings.precision, settings.gradient_checkpointing) == ("4bit", "bf16", True)
    loop = settings.loop
    assert (loop.lr, loop.batch_size, loop.accumulation, loop.epochs, loop.steps) == (2e-4, 8, 1, 1, 50_000)
    assert (loop.warmup_steps, loop.weight_decay) == (500, 0.001)
    wanted = {"method": "himalaya", "fan_out": 8, "similarity_threshold": 0.8, "temperature_start": 1.0}
    wanted |= {"fisher_batches": 20, "window": 200, "cooldown": 200}
    assert {key: settings.adapter[key] for key in wanted} == wanted
    assert settings.limits.adapter_bytes == 2_500_000
    assert settings.limits.router_parameters == 45_000


def test_the_comparative_run_is_ours_in_these_words() -> None:
    settings = compose([f"run={COMPARATIVE}", *HERE[1:]])
    wanted = {"method": "lilac", "rank": 4, "atoms": 64}
    assert {key: settings.adapter[key] for key in wanted} == wanted
    assert settings.adapter["ewc"]["strength"] == 0.4
    assert (settings.loop.lr, settings.loop.weight_decay) == (1e-4, 0.0)
    assert settings.limits.adapter_bytes == 3_500_000


def test_the_search_spaces_are_translated() -> None:
    found = dict(word.lstrip("+").split("=", 1) for word in overrides(description(PROPOSED)))
    assert found["search.trials"] == "30"
    assert json.loads(found["search.space.adapter.fan_out.choices"]) == [4, 8, 16]
    assert float(found["search.space.lr.high"]) == 3e-4
    assert found["search.space.adapter.similarity_threshold.type"] == '"uniform"'
    assert float(found["search.space.adapter.temperature_start.low"]) == 0.5
    found = dict(word.lstrip("+").split("=", 1) for word in overrides(description(COMPARATIVE)))
    assert json.loads(found["search.space.adapter.rank.choices"]) == [4, 8]
    assert found["search.space.adapter.ewc.strength.type"] == '"loguniform"'


def test_what_the_user_says_comes_last() -> None:
    settings = compose([f"run={PROPOSED}", *HERE, "lr=0.5", "adapter.fan_out=16", "run_id=mine", "steps=3"])
    assert (settings.loop.lr, settings.loop.steps, settings.run_id) == (0.5, 3, "mine")
    assert settings.adapter["fan_out"] == 16
    assert settings.model.id == "random:llama"


def test_a_part_that_the_user_names_brings_no_limits_of_the_one_that_was_described() -> None:
    settings = compose([f"run={PROPOSED}", *HERE, "adapter=lora8"])
    assert settings.adapter["method"] == "lora"
    assert settings.limits == Limits(gpu_type="A100-80GB", gpu_gb=80.0)


@pytest.mark.parametrize(
    ("run", "path", "value", "said"),
    [
        (PROPOSED, "training.colour", "red", "reference.training.colour: a run of HIMALAYA has no such key"),
        (PROPOSED, "model.adapter.lora_rank", 4, "model.adapter.lora_rank: a run of HIMALAYA has no such key"),
        (COMPARATIVE, "training.similarity_threshold_tau", 0.8, "a run of LILAC has no such key"),
        (PROPOSED, "model.adapter.core_dictionary.num_atoms", 32, "num_atoms=32: it can only be 24"),
        (PROPOSED, "model.backbone.frozen", False, "frozen=False: it can only be True"),
        (PROPOSED, "model.backbone.quantisation", "2-bit", "quantisation: '2-bit' is unknown"),
        (PROPOSED, "method_name", "LILAC", "method_name=LILAC: model.adapter.type says HIMALAYA"),
        (PROPOSED, "method", "comparative", "must begin with it"),
        (PROPOSED, "dataset.tokenizer", "gpt2", "dataset.tokenizer=gpt2"),
        (PROPOSED, "dataset.max_seq_length", 256, "answers alone have 256 tokens"),
        (PROPOSED, "model.kd_tree.leaf_size", 1, "leaf_size=1"),
        (PROPOSED, "optuna.search_space.colour.type", "uniform", "what is searched is one of learning_rate"),
        (PROPOSED, "model.adapter.type", None, "reference.model.adapter.type is missing"),
    ],
)
def test_what_is_unknown_false_or_contradictory_is_refused(run: str, path: str, value: Any, said: str) -> None:
    with pytest.raises(EdgeAdaptError) as caught:
        overrides(changed(run, path, value))
    assert said in str(caught.value)


@pytest.mark.parametrize("run", RUNS)
def test_on_llamas_shapes_the_adapters_keep_the_designs_bounds(run: str) -> None:
    settings = compose([f"run={run}", *HERE[1:]])
    adapter = registry.build(settings.adapter, skeleton(LLAMA), 0)
    settings.limits.check_adapter(adapter)
    tight = {"limits.adapter_bytes": 100_000} | ({"limits.router_parameters": 40_000} if run == PROPOSED else {})
    for key, most in tight.items():
        name = key.removeprefix("limits.")
        with pytest.raises(EdgeAdaptError, match=f"{key}={most:,}"):
            Limits(**{name: most}).check_adapter(adapter)


def test_a_router_may_have_fewer_parameters_than_the_design_says() -> None:
    himalaya = registry.build({"method": "himalaya"}, skeleton(LLAMA), 0)
    assert himalaya.byte_terms()["router"] == 10 * (4096 + 97) + 80 == 42_010


@pytest.mark.parametrize("run", RUNS)
def test_both_run_in_trial_here(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path / "cache"))
    stream = tmp_path / "stream.jsonl"
    rows: list[dict[str, Any]] = [{"name": "mood", "prompt": "{text}\nMood:", "choices": ["good", "bad"]}]
    for split, count in (("train", 24), ("validation", 2), ("evaluation", 4)):
        rows += [{"split": split, "text": f"{split} {n}", "target": ("good", "bad")[n % 2]} for n in range(count)]
    stream.write_text("\n".join(map(json.dumps, rows)))
    words = [f"run={run}", f"results_dir={tmp_path}", "mode=trial", "model=tiny-llama-random", "stream=folder"]
    directory = train([*words, f"stream.folder={tmp_path}", "device=cpu", "threads=1"])
    assert directory == tmp_path / run
    finished = RunDir.open(directory)
    assert finished.adapter.method == ("himalaya" if run == PROPOSED else "lilac")
    assert sum("loss" in record for record in finished.metrics()) == 2
    assert "hidden_params: 45000" in finished.config() or run == COMPARATIVE
    environment = finished.environment()
    assert environment["precision"] == "bf16"


def test_without_the_hub_nothing_takes_the_backbones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path))
    settings = compose([f"run={PROPOSED}", *HERE[1:]])
    from edgeadapt.backbones import resolve

    assert settings.model.id == "NousResearch/Llama-2-7b-hf"
    with pytest.raises(EdgeAdaptError, match="hub cannot be reached"):
        resolve(settings.model.id, tmp_path)


def test_an_unknown_random_backbone_is_refused() -> None:
    from edgeadapt_train import random_backbone

    with pytest.raises(EdgeAdaptError, match="there are: random:llama"):
        random_backbone.made("random:gpt")
