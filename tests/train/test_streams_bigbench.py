"""bigbench25: the rules of the cut on a small archive, and the real cut where it is at hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeadapt import cli
from edgeadapt.cache import cache_directory
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train import streams
from edgeadapt_train.streams import bigbench25, bigbench_cut
from edgeadapt_train.streams.base import Sizes
from edgeadapt_train.streams.bigbench_tasks import CUTS, Cut

READY = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "bigbench25"
ARCHIVE = cache_directory() / "pypi" / bigbench25.ARCHIVE[2]
ready = pytest.mark.skipif(not READY.is_dir(), reason="the ready cut is not on this machine")

SIZES = {"train": 20, "validation": 5, "evaluation": 10}


def scored(count: int) -> dict[str, Any]:
    examples = [{"input": f"text {n % 25}", "target_scores": {"yes": n % 2, "no": 1 - n % 2}} for n in range(count)]
    return {"description": "d", "task_prefix": "p", "examples": examples}


def cut_of(name: str, folder: str, document: dict[str, Any], **fields: Any) -> Cut:
    """A task whose SHA-256 is that of the file which `document` gives."""
    made = Cut(name, folder, "sentiment", "de", "", "none", **fields)
    return replace(made, sha256=hashlib.sha256(bigbench_cut.text_of(made, document)).hexdigest())


def archived(path: Path, documents: dict[str, dict[str, Any]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for folder, document in documents.items():
            for name, value in (("task.json", document), ("results/task.json", {"examples": []})):
                content = json.dumps(value).encode()
                member = tarfile.TarInfo(f"bigbench-1.0.0/bigbench/benchmark_tasks/{folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of two tasks, and the table that asks for them."""
    documents = {"a/b": scored(60), "c": {"examples": [{"input": f"i{n}", "target": [f"t{n}", 7]} for n in range(30)]}}
    cuts = (cut_of("one", "a/b", documents["a/b"], part=(0, 2)), cut_of("two", "c", documents["c"]))
    for module in (bigbench_cut, bigbench25):
        monkeypatch.setattr(module, "CUTS", cuts)
    return archived(tmp_path / "bigbench.tar.gz", documents)


def test_a_cut_of_the_archive_and_of_the_folder_it_unpacks_to_are_the_same_bytes(small: Path, tmp_path: Path) -> None:
    bigbench_cut.build(small, tmp_path / "of-archive")
    with tarfile.open(small) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    for number, source in enumerate((tmp_path / "tree", tmp_path / "tree" / "bigbench-1.0.0")):
        bigbench_cut.build(source, tmp_path / f"of-folder-{number}")
        for name in ("01-one.jsonl.gz", "02-two.jsonl.gz", "bigbench25.json"):
            assert (tmp_path / f"of-folder-{number}" / name).read_bytes() == (
                tmp_path / "of-archive" / name
            ).read_bytes()


def test_a_cut_follows_the_rules(small: Path, tmp_path: Path) -> None:
    bigbench_cut.build(small, tmp_path / "out")
    header, *rows = read_lines(tmp_path / "out" / "01-one.jsonl.gz")
    # every second example of 60 is 30; n and n + 50 are equal (n even: 0, 2, 4, 6, 8 come twice): 25 are left
    assert len(rows) == 25
    assert (header["train"], header["eval"]) == (20, 5)
    assert [row["split"] for row in rows] == ["eval"] * 5 + ["train"] * 20
    assert header["majority"] == 1.0  # n is even, so "no" is always right
    assert rows[0] == {"split": "eval", "input": rows[0]["input"], "choices": ["yes", "no"], "label": 1}
    _, generated, *_ = read_lines(tmp_path / "out" / "02-two.jsonl.gz")
    assert generated["targets"] == [f"t{generated['input'][1:]}", "7"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "give BIG-bench 1.0.0's whole sources"),
        (lambda path: path.write_bytes(b"something else"), "not a whole .tar.gz"),
        (lambda path: archived(path, {"a/b": scored(60)}), "has no bigbench/benchmark_tasks/c/task.json"),
        (lambda path: archived(path, {"a/b": scored(61), "c": scored(9)}), "not BIG-bench 1.0.0 as it was released"),
    ],
)
def test_another_archive_is_refused_and_leaves_nothing(small: Path, tmp_path: Path, damage: Any, said: str) -> None:
    damage(small)
    with pytest.raises(EdgeAdaptError, match=said):
        bigbench_cut.build(small, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bigbench.tar.gz"]


def test_somebody_elses_folder_is_not_replaced(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(EdgeAdaptError, match="not replaced"):
        bigbench_cut.build(small, tmp_path / "mine")
    bigbench_cut.build(small, tmp_path / "again")
    bigbench_cut.build(small, tmp_path / "again")


def test_a_file_that_is_not_the_cut_is_refused(small: Path, tmp_path: Path) -> None:
    bigbench_cut.build(small, tmp_path / "out")
    cut, file = bigbench25.CUTS[0], tmp_path / "out" / "01-one.jsonl.gz"
    bigbench25.read(cut, file)
    for content, said in ((gzip.compress(b"{}\n"), "not the cut of one"), (b"no gzip", "damaged")):
        file.write_bytes(content)
        with pytest.raises(EdgeAdaptError, match=said):
            bigbench25.read(cut, file)
    with pytest.raises(EdgeAdaptError, match="edgeadapt data bigbench25"):
        bigbench25.read(cut, tmp_path / "nowhere.jsonl.gz")


def test_the_command_makes_the_cut_and_shows_it(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "bigbench25", "--out", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--from", str(small)])
    shown = capsys.readouterr()
    assert [(row["task"], row["train"], row["eval"], row["licence"]) for row in json.loads(shown.out)] == [
        ("one", 20, 5, "none"),
        ("two", 24, 6, "none"),
    ]
    assert "reading BIG-bench" in shown.err
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--from", str(tmp_path / "gone.tar.gz")])
    assert "gone.tar.gz: no such file or folder" in capsys.readouterr().err


def test_the_cut_is_made_in_the_cache_when_it_is_first_asked_for(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def pypi_file(*names: str, progress: object) -> Path:
        fetched.append(names)
        return small

    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bigbench25, "pypi_file", pypi_file)
    first, again = bigbench25.sources(), bigbench25.sources()
    assert fetched == [bigbench25.ARCHIVE]
    assert first["one"](Sizes(**SIZES)) == again["one"](Sizes(**SIZES))
    assert (tmp_path / "cache" / "streams" / "bigbench25" / "02-two.jsonl.gz").is_file()


@ready
def test_the_ready_cut_has_the_hashes_of_the_table() -> None:
    for cut in CUTS:
        content = gzip.decompress((READY / bigbench_cut.file_name(cut)).read_bytes())
        assert hashlib.sha256(content).hexdigest() == cut.sha256


@ready
@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason="BIG-bench's archive is not in the cache")
def test_the_cut_of_the_archive_is_the_ready_one(tmp_path: Path) -> None:
    bigbench25.build(tmp_path / "made")
    for cut in CUTS:
        name = bigbench_cut.file_name(cut)
        made, given = ((place / name).read_bytes() for place in (tmp_path / "made", READY))
        assert gzip.decompress(made) == gzip.decompress(given)


@ready
def test_the_stream_is_25_tasks_in_12_languages() -> None:
    tasks = streams.load({"name": "bigbench25", "folder": str(READY), **SIZES})
    assert [task.spec.name for task in tasks] == [cut.name for cut in CUTS]
    assert len({task.language for task in tasks}) == 12
    assert {task.spec.kind for task in tasks} == {"classification", "multiple-choice", "generation"}
    assert {task.spec.metric for task in tasks} == {"accuracy", "exact_match", "rougeL", "sql_exact_match"}
    for task in tasks:
        assert (len(task.train), len(task.validation), len(task.evaluation)) == (20, 5, 10)
        assert 0 < task.majority <= 1


@ready
def test_every_text_that_has_parts_is_taken_apart() -> None:
    asked = [name for name, asking in bigbench25.ASKED.items() if asking.pattern != "(.*)"]
    full = {"train": 1000, "validation": 100, "evaluation": 200}
    marks = {"play_dialog": "\nDialogue: ", "vitaminc": "\nQuote: ", "qasc_answers": "\nFact: "}
    marks |= {"translation_errors": "\nGerman: "}
    for task in streams.load({"name": "bigbench25", "folder": str(READY), "tasks": asked, **full}):
        for example in (*task.train, *task.validation, *task.evaluation):
            assert marks.get(task.spec.name, "") in example.text
            assert not example.text.startswith(("Utterance:", "Do you think", "This AI is", "On June 2017", "Source:"))
            assert not example.text.endswith(("or different people?", "claim true or false?", "error pertaining to"))


@ready
def test_a_subset_in_another_order_with_shorter_prompts() -> None:
    wanted = ["sports", "parsinlu_qa"]
    settings = {"name": "bigbench25", "folder": str(READY), "tasks": wanted, "max_prompt_tokens": 40, **SIZES}
    tasks = streams.load(settings)
    assert [task.spec.name for task in tasks] == wanted
    assert [task.spec.max_prompt_tokens for task in tasks] == [40, 40]
    assert all(2 <= len(item.choices) <= 4 and all(item.choices) for item in tasks[1].train)
