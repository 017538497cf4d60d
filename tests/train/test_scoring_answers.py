"""Metrics of generated answers: hand-computed cases, and what must hold for any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.tasks import METRICS, TaskSpec
from edgeadapt_train.answer_metrics import (
    f1,
    final_exact_match,
    judge,
    parse_rate,
    rouge_l,
    sql_exact_match,
    sql_tokens,
)
from edgeadapt_train.scoring import confusion

WORDS = st.lists(st.sampled_from(["cat", "dog", "Haus", "дом", "sat"]), min_size=1, max_size=6).map(" ".join)


def test_exact_match_collapses_white_space_and_takes_any_right_answer() -> None:
    found = judge("exact_match", ["a  b\n", "c", "d"], [["a b"], ["x", "c"], ["D"]])
    assert found.correct.tolist() == [True, True, False]
    assert found.score == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("2 + 3 = 5 #### 1,234", "so it is #### 1234", 1.0),
        ("#### 7.", "#### 7", 1.0),
        ("7", "#### 7", 1.0),
        ("#### 7 #### 8", "#### 7", 0.0),
    ],
)
def test_the_final_answer_is_what_is_behind_the_last_mark(answer: str, target: str, right: float) -> None:
    assert final_exact_match(answer, target) == right


def test_f1_is_squads() -> None:
    # answer {cat, sat, on, mat}, target {black, cat, sat}: 2 in common, P = 2/4, R = 2/3, F1 = 4/7
    assert f1("The cat sat on a mat.", "black cat, sat") == pytest.approx(4 / 7)
    assert f1("the", "a") == 1.0
    assert f1("the", "cat") == 0.0
    found = judge("f1", ["The Cat!", "dog"], [["cat"], ["a big dog", "bird"]])
    assert found.score == pytest.approx((1 + 2 * 1 * 0.5 / 1.5) / 2)
    assert found.correct.tolist() == [True, False]
    assert found.beside == {"squad_exact_match": 0.5}


def test_rouge_l_counts_the_longest_common_subsequence_in_any_script() -> None:
    # "the cat on mat" is common: 4 of 6 and 4 of 5 words
    assert rouge_l("the cat sat on the mat", "The cat, on mat now") == pytest.approx(2 * 4 / (6 + 5))
    assert rouge_l("кошка на окне", "Кошка спит на окне") == pytest.approx(2 * 3 / (3 + 4))
    assert judge("rougeL", ["a b"], [["x", "a b c"]]).score == pytest.approx(2 * 2 / 5)


def test_bleu_and_chrf_are_sacrebleus_over_all_answers() -> None:
    answers, targets = ["the cat sat on the mat"], [["a cat sat on the mat"]]
    # matches 5/6, 4/5, 3/4, 2/3 of the 1..4-grams, equal lengths: (1/3)^(1/4)
    assert judge("bleu", answers, targets).score == pytest.approx((1 / 3) ** 0.25)
    assert judge("bleu", [*answers, "good"], [*targets, ["bad", "good"]]).score > (1 / 3) ** 0.25
    for metric in ("bleu", "chrf"):
        assert judge(metric, ["one two three four"], [["nothing", "one two three four"]]).score == pytest.approx(1)
        assert judge(metric, [""], [["one two"]]).score == 0


def test_sql_is_compared_token_by_token() -> None:
    assert sql_tokens('SELECT Name FROM t1 WHERE x <> "New York" ;') == [
        "select", "name", "from", "t1", "where", "x", "!=", "'New York'",
    ]  # fmt: skip
    assert sql_exact_match("select count(*) where a.b=value", "SELECT count ( * )  WHERE a.b = value;") == 1
    assert sql_exact_match("select a.* where x = 'New'", "select a.* where x = 'new'") == 0
    assert judge("sql_exact_match", ["select a"], [["select b", "SELECT A"]]).score == 1


def test_the_parse_rate_is_that_of_the_examples_whose_target_is_python() -> None:
    answers = ["def f(x):\n    return x", "def f(x", "SELECT 1 FROM t", ""]
    targets = [["x = 1"], ["y = 2"], ["SELECT 1 FROM t"], ["print(1)"]]
    assert parse_rate(answers, targets) == pytest.approx(1 / 3)
    assert judge("code_rougeL", answers, targets).beside == {"parse_rate": parse_rate(answers, targets)}
    assert parse_rate(["x"], [["not python at all"]]) == 0


def test_pass_at_1_runs_the_answer_and_then_its_tests() -> None:
    tests = "assert double(2) == 4"
    answers = ["def double(x):\n    return 2 * x", "def double(x):\n    return x", "def double(", "raise SystemExit(0)"]
    found = judge("pass@1", answers, [["the reference", tests]] * 4)
    assert found.correct.tolist() == [True, False, False, False]
    assert found.score == 0.25


@given(answer=WORDS, target=WORDS, other=WORDS)
@pytest.mark.parametrize("metric", [m for m in METRICS["generation"] if m not in ("pass@1", "bleu", "chrf")])
def test_scores_lie_in_0_to_1_and_another_right_answer_never_costs(
    metric: str, answer: str, target: str, other: str
) -> None:
    one, two = judge(metric, [answer], [[target]]).score, judge(metric, [answer], [[target, other]]).score
    assert 0 <= one <= two <= 1
    assert judge(metric, [answer], [[answer]]).score == 1


@given(first=WORDS, second=WORDS)
def test_f1_and_rouge_l_are_symmetric(first: str, second: str) -> None:
    assert f1(first, second) == pytest.approx(f1(second, first))
    assert rouge_l(first, second) == pytest.approx(rouge_l(second, first))


@given(st.text(max_size=60))
def test_case_and_space_outside_quotes_never_matter_to_sql(text: str) -> None:
    plain = text.replace("'", "").replace('"', "")
    if plain.upper().lower() == plain.lower():  # true of all but a few letters, such as the German sharp s
        assert sql_exact_match(f" {plain.upper()} ;", plain) == sql_exact_match(plain, plain) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=30))
def test_a_confusion_matrix_has_targets_as_rows_and_counts_every_example(pairs: list[tuple[str, str]]) -> None:
    task = TaskSpec("t", "{text}", ("a", "b", "c"))
    counts = confusion(task, [found for _, found in pairs], [wanted for wanted, _ in pairs])
    assert counts.dtype == np.int64
    for i, wanted in enumerate(task.choices):
        for j, found in enumerate(task.choices):
            assert counts[i, j] == pairs.count((wanted, found))


def test_the_confusion_of_a_task_of_words_counts_words() -> None:
    task = TaskSpec("t", "{text}", ("O", "X"), kind="tokens")
    np.testing.assert_array_equal(confusion(task, ["O X", "X"], ["O O", "X"]), [[1, 1], [0, 1]])
    with pytest.raises(EdgeAdaptError, match="no choices of its own"):
        confusion(TaskSpec("g", "{text}", kind="generation"), ["a"], ["b"])
