"""Metrics of a score matrix: cases worked out by hand, and what follows from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.continual.metrics import Summary, summary

NAN = np.nan
SCORES = st.floats(0, 1, width=32)


@st.composite
def runs(draw: st.DrawFn, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and a baseline as a run stores them: the lower triangle, the superdiagonal, the baseline."""
    many = draw(st.integers(least, 6))
    matrix = draw(arrays(np.float64, (many, many), elements=SCORES))
    matrix[np.triu_indices(many, 2)] = NAN
    return matrix, draw(arrays(np.float64, many, elements=SCORES))


def test_three_tasks_by_hand():
    matrix = [[0.8, 0.4, NAN], [0.6, 0.9, 0.3], [0.5, 0.7, 0.6]]

    found = summary(matrix, [0.5, 0.2, 0.25])

    assert found.retained == pytest.approx([0.8, 0.75, 0.6])
    assert found.auc == pytest.approx((0.775 + 0.675) / 2)
    relative = [1, (0.75 + 1) / 2, (0.625 + 7 / 9 + 1) / 3]
    assert found.relative_auc == pytest.approx((relative[0] + 2 * relative[1] + relative[2]) / 4)
    assert found.forgetting == pytest.approx(((0.8 - 0.5) + (0.9 - 0.7)) / 2)
    assert found.bwt == pytest.approx(((0.5 - 0.8) + (0.7 - 0.9)) / 2)
    assert found.fwt == pytest.approx(((0.4 - 0.2) + (0.3 - 0.25)) / 2)
    assert found.final == pytest.approx(0.6)


def test_the_best_score_before_the_last_task_may_be_one_before_the_task_was_learnt():
    matrix = [[0.5, 0.9, NAN], [0.7, 0.6, 0.1], [0.6, 0.8, 0.2]]

    found = summary(matrix, [0.0, 0.0, 0.0])

    assert found.forgetting == pytest.approx(((0.7 - 0.6) + (0.9 - 0.8)) / 2)
    assert found.bwt == pytest.approx((0.1 + 0.2) / 2)


def test_a_task_that_was_never_answered_is_skipped_in_the_relative_curve():
    matrix = [[0.0, 0.0, NAN], [0.0, 0.5, 0.0], [0.0, 0.4, 0.2]]

    found = summary(matrix, [0.0, 0.0, 0.0])

    # After task 1 nothing counts; after task 2 only task 2 (1); after task 3 tasks 2 and 3 (0.8, 1).
    assert found.relative_auc == pytest.approx((1 + 0.9) / 2)


def test_one_task_has_a_final_score_and_nothing_to_forget():
    found = summary([[0.7]], [0.1])

    assert found.final == pytest.approx(0.7)
    assert np.isnan([found.auc, found.relative_auc, found.forgetting, found.bwt, found.fwt]).all()


def test_an_unfinished_run_has_only_the_retained_accuracy_of_its_finished_tasks():
    found = summary([[0.8, 0.4, NAN], [0.6, 0.8, 0.3], [NAN, NAN, NAN]], [0.5, 0.2, 0.25])

    assert found.retained[:2] == pytest.approx([0.8, 0.7])
    assert np.isnan([found.retained[2], found.auc, found.forgetting, found.bwt, found.final]).all()


def test_a_score_missing_below_the_diagonal_is_not_passed_over():
    found = summary([[0.8, 0.4, NAN], [NAN, 0.8, 0.3], [0.5, 0.7, 0.6]], [0.5, 0.2, 0.25])

    assert np.isnan([found.auc, found.forgetting]).all()
    assert found.final == pytest.approx(0.6)


def test_other_shapes_are_refused():
    with pytest.raises(EdgeAdaptError, match=r"found \(2, 3\) and \(2,\)"):
        summary(np.zeros((2, 3)), np.zeros(2))


@given(runs())
def test_forgetting_is_at_least_what_backward_transfer_loses(run):
    found = summary(*run)

    assert found.forgetting >= -found.bwt - 1e-9


@given(runs())
def test_nothing_is_forgotten_when_no_column_falls(run):
    matrix, baseline = run
    risen = np.where(np.isnan(matrix), NAN, np.sort(np.where(np.isnan(matrix), -1, matrix), axis=0))

    found = summary(risen, baseline)

    assert found.forgetting <= 1e-9
    assert found.bwt >= -1e-9


@given(runs(), st.data())
def test_what_lies_far_above_the_diagonal_counts_for_forgetting_alone(run, data):
    matrix, baseline = run
    more = np.where(np.isnan(matrix), data.draw(arrays(np.float64, matrix.shape, elements=SCORES)), matrix)

    sparse, dense = summary(matrix, baseline), summary(more, baseline)

    for name in ("auc", "relative_auc", "bwt", "fwt", "final"):
        assert getattr(dense, name) == pytest.approx(getattr(sparse, name), nan_ok=True)
    assert dense.forgetting >= sparse.forgetting - 1e-9


@given(runs(), st.floats(0.1, 1))
def test_metrics_scale_with_the_scores_and_the_relative_one_does_not(run, factor):
    matrix, baseline = run

    full, scaled = summary(matrix, baseline), summary(factor * matrix, factor * baseline)

    for name in ("auc", "forgetting", "bwt", "fwt", "final"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(full, name), abs=1e-9)
    if (np.diagonal(matrix)[np.diagonal(matrix) > 0] > 1e-6).all():
        assert scaled.relative_auc == pytest.approx(full.relative_auc, nan_ok=True)


@given(st.integers(2, 6), SCORES)
def test_equal_scores_everywhere_are_their_own_average_and_nothing_moves(many, score):
    found = summary(np.full((many, many), score), np.full(many, score))

    assert (found.auc, found.final) == pytest.approx((score, score))
    assert (found.forgetting, found.bwt, found.fwt) == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.relative_auc == pytest.approx(1) if score > 0 else np.isnan(found.relative_auc)


@given(runs(least=1))
def test_averages_of_scores_are_scores(run):
    found: Summary = summary(*run)

    averages = np.array([*found.retained, found.auc, found.final])
    averages = averages[~np.isnan(averages)]
    assert ((averages >= 0) & (averages <= 1)).all()
