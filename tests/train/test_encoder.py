"""Encoders in training: task heads beside any adapter, labels for texts and for words, through the one loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.heads import Heads
from edgeadapt.rundir import RunDir
from edgeadapt.tasks import TaskSpec, encode_sequence, encode_words
from edgeadapt.text import TextCodec
from edgeadapt_train.adapters import registry
from edgeadapt_train.adapters.base import Host
from edgeadapt_train.adapters.headed import Headed
from edgeadapt_train.adapters.linear_sites import linear_sites
from edgeadapt_train.backbone import Backbone, CausalBackbone, blocks, load
from edgeadapt_train.batches import Example, collate_words
from edgeadapt_train.loop import Learner, LoopSettings
from edgeadapt_train.objectives import encoded, objective
from edgeadapt_train.run import train
from edgeadapt_train.scoring import entity_f1, evaluate
from tests.support import tiny_backbone, tiny_encoder

TOPICS = TaskSpec("topics", "{text}", ("sport", "trade", "art"), max_prompt_tokens=32)
NAMES = TaskSpec("names", "{text}", ("O", "B-PER", "I-PER"), kind="tokens", max_prompt_tokens=32)
TASKS = (TOPICS, NAMES)
WIDTH = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, TextCodec]:
    folder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")
    return load(folder, "tiny", "none", "fp32", "cpu"), TextCodec.from_folder(folder)


def headed(backbone: Backbone, method: str = "himalaya", pooling: Any = "mean") -> Headed:
    inner = registry.build({"method": method}, backbone.host, 0)
    return Headed(inner, TASKS, WIDTH, pooling, lr_scale=0.5)


def texts(count: int) -> list[Example]:
    return [Example(f"{TOPICS.choices[n % 3] * 2} {n}", TOPICS.choices[n % 3]) for n in range(count)]


def sentences(count: int) -> list[Example]:
    """Capitals are names."""
    return [Example(f"so says Ada Byron {n} to Bob", "O O B-PER I-PER O O B-PER") for n in range(count)]


def learner(made: tuple[Backbone, TextCodec], adapter: Headed, index: int, **settings: Any) -> Learner:
    backbone, text = made
    examples = encoded(backbone, TASKS[index], (texts, sentences)[index](24), text)
    chosen = LoopSettings(**{"lr": 2e-2, "batch_size": 8, "epochs": 20, "steps": 30, **settings})
    taught = objective(backbone, adapter, TASKS[index], index, text)
    return Learner(backbone, adapter, examples, taught, settings=chosen, index=index)


def test_an_encoder_is_known_by_its_configuration(made: tuple[Backbone, TextCodec]) -> None:
    backbone, text = made
    assert not isinstance(backbone, CausalBackbone)
    assert len(backbone.host.layers) == 2
    assert text.frame == (1, 2)


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_heads_and_adapter_learn_texts_then_words_and_what_ships_says_so(
    made: tuple[Backbone, TextCodec], method: str
) -> None:
    backbone, text = made
    adapter = headed(backbone, method)
    adapter.attach()
    for index, examples in enumerate((texts(30), sentences(30))):
        run = learner(made, adapter, index)
        before = evaluate(backbone, adapter, TASKS[index], examples, index=index, text=text).score
        run.begin()
        losses = [run.step().loss for _ in range(run.total)]
        run.finish()
        after = evaluate(backbone, adapter, TASKS[index], examples, index=index, text=text).score
        assert losses[-1] < 0.5 * losses[0]
        assert after >= before + 0.3
    adapter.detach()


def test_scores_are_those_of_the_stored_heads_text_by_text(made: tuple[Backbone, TextCodec]) -> None:
    backbone, text = made
    adapter = headed(backbone, "lora", "cls")
    with torch.no_grad():
        for parameter in adapter.heads.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    stored = Heads.of(adapter.deployed(), TASKS, "cls", WIDTH)
    found = [evaluate(backbone, adapter, task, items, index=t, text=text, batch_size=3).answers
             for t, (task, items) in enumerate(zip(TASKS, (texts(7), sentences(4)), strict=True))]  # fmt: skip
    for number, item in enumerate(texts(7)):
        ids = encode_sequence(TOPICS, item.text, text.encode, text.frame)
        features = stored.pooled(hidden(backbone, ids))
        assert found[0][number] == TOPICS.choices[int(stored.logits(0, features).argmax())]
    for number, item in enumerate(sentences(4)):
        ids, starts = encode_words(NAMES, item.text.split(), text.encode, text.frame, text.unknown)
        labels = [NAMES.choices[place] for place in stored.logits(1, hidden(backbone, ids)[starts]).argmax(axis=1)]
        assert found[1][number].split() == labels + ["O"] * (7 - len(labels))


def hidden(backbone: Backbone, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(backbone.host.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy())


def test_only_the_current_tasks_head_moves(made: tuple[Backbone, TextCodec]) -> None:
    adapter = headed(made[0])
    adapter.attach()
    first = learner(made, adapter, 0, steps=3)
    first.begin()
    first.step()
    kept = adapter.heads.weights[0].detach().clone()
    assert kept.any()
    assert not adapter.heads.weights[1].any()
    second = learner(made, adapter, 1, steps=3)
    second.begin()
    second.step()
    adapter.detach()
    assert torch.equal(adapter.heads.weights[0], kept)
    assert adapter.heads.weights[1].any()


def test_a_learner_goes_on_from_its_state_to_the_same_bits(made: tuple[Backbone, TextCodec]) -> None:
    states = []
    for cut in (False, True):
        adapter = headed(made[0])
        adapter.attach()
        run = learner(made, adapter, 1, steps=4)
        run.begin()
        for _ in range(4):
            if cut and run.done == 2:
                state = run.state()
                adapter.detach()
                adapter = headed(made[0])
                adapter.attach()
                run = learner(made, adapter, 1, steps=4)
                run.restore(state, 2)
            run.step()
        adapter.detach()
        states.append(run.state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_the_heads_are_a_term_of_their_own_in_the_bytes(made: tuple[Backbone, TextCodec], method: str) -> None:
    adapter = headed(made[0], method)
    assert adapter.byte_terms()["heads"] == 2 * (3 + 3) * (WIDTH + 1)
    report = adapter.byte_report()
    assert sum(array.nbytes for array in adapter.deployed().values()) == report["deployed"]
    inner = adapter.inner.byte_report()["deployed"]
    assert report["deployed"] == inner + adapter.byte_terms()["heads"]


def test_a_word_is_labelled_at_its_first_token_and_what_is_cut_is_not(made: tuple[Backbone, TextCodec]) -> None:
    backbone, text = made
    items = [Example("ab c", "B-PER O"), Example("x" * 28 + " yz", "O B-PER")]
    batch = collate_words(encoded(backbone, NAMES, items, text), torch.device("cpu"))
    assert batch.labels[0, :7].tolist() == [-100, 1, -100, 0, -100, -100, -100]
    assert batch.labels[1].tolist() == [-100, 0, *[-100] * 28]
    assert batch.targets == 3


@pytest.mark.parametrize(
    ("answers", "targets", "score"),
    [
        (["B-PER I-PER O"], ["B-PER I-PER O"], 1.0),
        (["B-PER O O"], ["B-PER I-PER O"], 0.0),
        (["B-PER O B-LOC"], ["B-PER O B-ORG"], 0.5),
        (["O O"], ["O O"], 0.0),
        (["B-PER B-PER", "O"], ["B-PER I-PER", "B-LOC"], 0.0),
    ],
)
def test_f1_counts_whole_entities(answers: list[str], targets: list[str], score: float) -> None:
    assert entity_f1(answers, targets) == score


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    tiny_encoder(folder / "encoder")
    tiny_backbone(folder / "decoder")
    stream = folder / "stream"
    stream.mkdir()
    for number, (task, examples) in enumerate(((TOPICS, texts), (NAMES, sentences))):
        rows = [{**task.to_json(), "name": f"{number}-{task.name}"}]
        for split, start, stop in (("train", 0, 24), ("validation", 24, 28), ("evaluation", 28, 36)):
            rows += [{"split": split, "text": item.text, "target": item.target} for item in examples(36)[start:stop]]
        (stream / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def words(place: Path, results: Path, model: str, *more: str) -> list[str]:
    return [
        "run=tokens", "run_id=r", f"results_dir={results}", "model=custom", f"model.id={place / model}",
        f"stream.folder={place / 'stream'}", "precision=fp32", "device=cpu", "threads=1", "batch_size=4", "steps=6",
        *more,
    ]  # fmt: skip


@pytest.mark.parametrize("adapter", ["himalaya", "lora8"])
def test_a_run_on_an_encoder_ends_as_a_finished_run_directory(place: Path, tmp_path: Path, adapter: str) -> None:
    directory = train(words(place, tmp_path, "encoder", f"adapter={adapter}"))
    assert directory is not None
    run = RunDir.open(directory)
    assert run.adapter.pooling == "mean"
    assert [task.kind for task in run.adapter.tasks] == ["classification", "tokens"]
    assert run.adapter.bytes.terms["heads"] == 2 * 6 * (WIDTH + 1)
    stored = Heads.of(run.tensors(), run.adapter.tasks, "mean", WIDTH)
    assert all(weight.any() for weight in stored.weights)
    scores = run.scores()
    assert scores is not None
    assert not np.isnan(scores.matrix).any()


def test_words_are_not_for_language_models_and_text_is_not_for_encoders(place: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="words are labelled by an encoder"):
        train(words(place, tmp_path, "decoder"))
    (tmp_path / "stream").mkdir()
    rows: list[dict[str, str]] = [{"name": "free", "prompt": "{text}", "kind": "generation"}]
    rows += [{"split": split, "text": split, "target": "x"} for split in ("train", "validation", "evaluation")]
    (tmp_path / "stream" / "0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(EdgeAdaptError, match="an encoder writes and weighs no text"):
        train(words(place, tmp_path, "encoder", f"stream.folder={tmp_path / 'stream'}"))


def test_labels_and_words_that_do_not_pair_up_are_refused_with_their_line(place: Path, tmp_path: Path) -> None:
    rows = [NAMES.to_json(), {"split": "train", "text": "Ada and Bob", "target": "B-PER O"}]
    (tmp_path / "0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(EdgeAdaptError, match="line 2: there are 2 labels for 3 words"):
        train(words(place, tmp_path, "encoder", f"stream.folder={tmp_path}"))


SHAPES = {  # layers, width, heads, inner width, as published
    "bert-base": (12, 768, 12, 3072, "bert"),
    "bert-large": (24, 1024, 16, 4096, "bert"),
    "tinybert": (4, 312, 12, 1200, "bert"),
    "distilbert": (6, 768, 12, 3072, "distilbert"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_adapters_fit_the_shapes_of_the_known_encoders(name: str) -> None:
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    layers, width, heads, inner, kind = SHAPES[name]
    with torch.device("meta"):
        if kind == "bert":
            model: Any = BertModel(BertConfig(
                hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner
            ))  # fmt: skip
        else:
            model = DistilBertModel(DistilBertConfig(dim=width, n_layers=layers, n_heads=heads, hidden_dim=inner))
    host = Host(model, blocks(model), width)
    found = linear_sites(host, ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"))
    shapes = {(site.name, site.d_in, site.d_out) for site in found}
    square = {(name, width, width) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert shapes == {*square, ("up_proj", width, inner), ("down_proj", inner, width)}
    assert len(found) == 6 * layers
