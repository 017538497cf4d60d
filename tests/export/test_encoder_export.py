"""Bundles of encoders: what they hold, and that they compute what PyTorch computes; on tiny random backbones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgeadapt.bundle import Bundle
from edgeadapt.errors import CheckFailed, EdgeAdaptError
from edgeadapt.heads import Heads
from edgeadapt.inspect import describe
from edgeadapt.runtime.answer import answer
from edgeadapt.runtime.encoder import EncoderEngine
from edgeadapt.runtime.engine import Engine
from edgeadapt.runtime.opening import open_bundle
from edgeadapt.tasks import TaskSpec, encode_sequence, encode_words
from edgeadapt.verify import verify
from edgeadapt_export import encoder_parity, export
from edgeadapt_export.built import Built
from edgeadapt_export.methods import Deployed, StoredAdapter, deployer, torch_sites
from tests.support import make_run, tiny_encoder

TOPICS = TaskSpec("topics", "{text}", ("sport", "trade", "art"), max_prompt_tokens=64)
NAMES = TaskSpec("names", "{text}", ("O", "B-PER", "I-PER"), kind="tokens", max_prompt_tokens=64)
TASKS = (TOPICS, NAMES)
TEXT = "The shares of the airline fell by a tenth"


class Made:
    """Bundles of tiny encoders, exported when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reports: dict[Path, Any] = {}

    def __call__(self, method: str = "himalaya", precision: Any = "fp32", kind: str = "bert", **options: Any) -> Path:
        words = [method, precision, kind, *map(str, options.values())]
        target, backbone = self.root / "-".join(words), self.root / kind
        if target not in self.reports:
            if not backbone.exists():
                tiny_encoder(backbone, kind=kind)
            site = options.pop("site", "residual")
            run = self.root / "runs" / f"{method}-{kind}-{site}"
            if not run.exists():
                make_run(run, method, backbone, tasks=TASKS, site=site)
            self.reports[target] = export(run, target, precision=precision, progress=lambda *_: None, **options)
        return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEADAPT_CACHE", str(root / "cache"))
        yield Made(root)


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        ("himalaya", "bert", {}),
        ("himalaya", "distilbert", {}),
        ("himalaya", "bert", {"site": "square"}),
        ("lora", "bert", {}),
        ("lora", "distilbert", {}),
        ("lora", "bert", {"merge": True}),
        ("lora", "bert", {"factors": "int8"}),
    ],
)
def test_in_float32_the_bundle_is_pytorchs_model(made: Made, method: str, kind: str, options: dict[str, Any]) -> None:
    bundle = made(method, kind=kind, **options)
    parity = made.reports[bundle].parity
    assert parity.sequences == 96
    assert parity.positions > 48 + 4 * 48
    assert parity.max_abs_logit_difference <= (0.2 if "factors" in options else 1e-3)
    assert parity.argmax_agreement >= 0.999 or "factors" in options


@pytest.mark.parametrize(("precision", "agreement"), [("int8", 0.9), ("int4", 0.5)])
def test_rounded_weights_answer_alike(made: Made, precision: str, agreement: float) -> None:
    parity = made.reports[made(precision=precision)].parity
    assert agreement <= parity.argmax_agreement
    assert parity.max_abs_logit_difference > 1e-3


def test_another_adapter_is_told_apart(made: Made, tmp_path: Path) -> None:
    path = made()
    entry = Bundle.open(path).manifest.adapters[0]
    other = StoredAdapter.of(make_run(tmp_path / "other", "himalaya", made.root / "bert", tasks=TASKS, seed=1))
    deployed = Deployed("graph", Path(str(entry.graph)).name, entry.inputs)
    built = Built(path, entry.name, {"model": "model.onnx", "embed": "embed.onnx"}, deployed, entry.heads)
    codec = EncoderEngine.open(path).codec
    found = encoder_parity.measure(built, deployer("himalaya"), other, backbone=made.root / "bert", codec=codec)
    with pytest.raises(CheckFailed, match="differs from PyTorch"):
        found.check()


@pytest.mark.parametrize(("method", "site"), [("himalaya", "residual"), ("himalaya", "square"), ("lora", "residual")])
def test_answers_are_pytorchs_with_the_adapter_by_hooks(made: Made, method: str, site: str) -> None:
    import torch
    from transformers import AutoModel

    path = made(method, **({"site": site} if site == "square" else {}))
    run = StoredAdapter.of(_run(made, method, site))
    model = AutoModel.from_pretrained(made.root / "bert", attn_implementation="eager").eval()
    heads = Heads.of(run.heads, TASKS, "mean", 64)
    engine = open_bundle(path)
    assert isinstance(engine, EncoderEngine)
    for number, task in enumerate(TASKS):
        engine.task(task.name)
        if task.kind == "tokens":
            ids, starts = encode_words(task, TEXT.split(), engine.codec.encode, engine.codec.frame, 0)
        else:
            ids, starts = encode_sequence(task, TEXT, engine.codec.encode, engine.codec.frame), []
        tokens = torch.tensor([ids])
        with torch.no_grad():
            pool = model.get_input_embeddings()(tokens).mean(dim=1).numpy()
            with deployer(method).attach(model, run, pool, number):
                hidden = model(tokens).last_hidden_state[0].numpy()
            bare = model(tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(engine.hidden([ids])[0], hidden, atol=1e-3)
        assert np.abs(hidden - bare).max() > 1e-2
        if task.kind == "tokens":
            expected = [task.choices[place] for place in heads.logits(1, hidden[starts]).argmax(axis=1)]
            assert list(engine.tag(TEXT).labels) == expected
        else:
            logits = heads.logits(0, heads.pooled(hidden))
            shares = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(list(engine.classify(TEXT).probabilities.values()), shares, atol=1e-4)


def _run(made: Made, method: str, site: str) -> Any:
    from edgeadapt.rundir import RunDir

    return RunDir.open(made.root / "runs" / f"{method}-bert-{site}")


@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_a_batch_is_its_rows(made: Made, method: str) -> None:
    engine = EncoderEngine.open(made(method))
    engine.task("topics")
    rows = [[1, *range(10, 10 + length), 2] for length in (3, 17, 8)]
    alone = np.concatenate([engine.embed([row]) for row in rows])
    np.testing.assert_allclose(engine.embed(rows), alone, atol=1e-4)
    engine.use(None)
    assert np.abs(engine.embed(rows) - alone).max() > 1e-2


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("method", ["himalaya", "lora"])
def test_verify_passes_and_the_bare_graph_is_the_unadapted_one(made: Made, method: str, precision: str) -> None:
    path = made(method, precision)
    report = verify(path)
    assert report.passed, [row for row in report.rows if not row.passed]
    names = [row.name for row in report.rows]
    assert "graph: zero inputs = bare" in names
    assert any(name.endswith("has an effect") for name in names)


def test_what_the_bundle_holds(made: Made) -> None:
    bundle = Bundle.open(made("himalaya", "int8"))
    entry = bundle.manifest.adapters[0]
    assert bundle.manifest.backbone.kind == "encoder"
    graphs = {name for name in bundle.manifest.graphs if not name.startswith("probe/")}
    assert graphs == {"model", "bare", "lora8", "embed"}
    stored = load_file(bundle.path(str(entry.heads)))
    assert sum(array.nbytes for array in stored.values()) == entry.bytes.terms["heads"] == 2 * 6 * 65
    state = load_file(bundle.root / "adapters" / entry.name / "state.safetensors")
    assert not any(name.startswith("heads") for name in state)
    described = describe(bundle.root)
    assert described["backbone"]["kind"] == "encoder"
    assert described["adapters"][0]["adapter_bytes"]["terms"]["heads"] == 2 * 6 * 65


def test_int8_factors_count_the_heads_too(made: Made) -> None:
    entry = Bundle.open(made("lora", factors="int8")).manifest.adapters[0]
    assert entry.bytes.terms["heads"] == 2 * 6 * 65
    assert entry.bytes.deployed == sum(entry.bytes.terms.values())


def test_engines_are_not_mistaken_for_each_other(made: Made) -> None:
    with pytest.raises(EdgeAdaptError, match="a bundle of one encoder, where one decoder is needed"):
        Engine.open(made())


def test_the_blocks_and_maps_of_pytorchs_encoders_are_found() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    model = DistilBertModel(DistilBertConfig(vocab_size=16, dim=8, n_layers=2, n_heads=2, hidden_dim=16))
    block = torch_sites.block(model, 1)
    assert torch_sites.linear(block, "v_proj") is model.transformer.layer[1].attention.v_lin
    assert torch_sites.linear(block, "down_proj") is model.transformer.layer[1].ffn.lin2
    with pytest.raises(EdgeAdaptError, match="no block 2"):
        torch_sites.block(model, 2)


def test_what_cannot_be_asked_is_refused_in_one_line(made: Made) -> None:
    engine = EncoderEngine.open(made())
    with pytest.raises(EdgeAdaptError, match="choose a task"):
        engine.classify(TEXT)
    engine.task("topics")
    with pytest.raises(EdgeAdaptError, match="task topics is of kind classification, not tokens"):
        engine.tag(TEXT)
    with pytest.raises(EdgeAdaptError, match="the text is empty"):
        engine.classify(" ")
    with pytest.raises(EdgeAdaptError, match="the text has 97 tokens; the model takes 96"):
        engine.embed([[5] * 97])
    with pytest.raises(EdgeAdaptError, match="outside the model's vocabulary of 320"):
        engine.embed([[320]])
    with pytest.raises(EdgeAdaptError, match="an encoder answers tasks alone; choose one with --task: topics, names"):
        answer(made(), TEXT)


def test_words_beyond_what_the_task_reads_belong_to_nothing(made: Made) -> None:
    engine = EncoderEngine.open(made())
    engine.task("names")
    found = engine.tag("word " * 40)
    assert len(found.words) == len(found.labels) == len(found.probabilities) == 40
    assert found.probabilities[0] is not None
    assert set(found.probabilities[15:]) == {None}
    assert set(found.labels[15:]) == {"O"}


def test_words_are_printed_with_their_labels(made: Made) -> None:
    sink = io.StringIO()
    answer(made(), "Ada is here", task="names", sink=sink)
    labels = [pair.split("/") for pair in sink.getvalue().split()]
    assert [word for word, _ in labels] == ["Ada", "is", "here"]
    assert {label for _, label in labels} <= set(NAMES.choices)
