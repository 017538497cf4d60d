"""Paired tests and Holm's correction, against counting by hand and against their definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt_train.evaluation.significance import Paired, corrected, holm, paired

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def compare(a: list[float], b: list[float], over: str = "tasks") -> Paired:
    return paired("a", "b", over=over, measure="final score", a=a, b=b)


def test_sign_flips_are_counted_out() -> None:
    d = np.array([0.3, 0.1, 0.2, -0.05, 0.4])
    means = [abs(np.mean(d * signs)) for signs in product((1, -1), repeat=5)]
    expected = np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
    assert compare(d.tolist(), [0.0] * 5).flips_p == pytest.approx(expected)


def test_six_pairs_that_agree_are_the_fewest_that_reach_five_percent() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    five, six = compare(rising[:5], [0.0] * 5), compare(rising, [0.0] * 6)
    assert (five.wilcoxon_p, five.flips_p, five.smallest_p) == (0.0625, 0.0625, 0.0625)
    assert (six.wilcoxon_p, six.flips_p, six.smallest_p) == (0.03125, 0.03125, 0.03125)


def test_equal_methods_do_not_differ() -> None:
    found = compare([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (found.difference, found.wilcoxon_p, found.flips_p) == (0.0, 1.0, 1.0)
    assert (found.low, found.high) == (0.0, 0.0)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs_have_no_p(n: int) -> None:
    found = compare([0.5] * n, [0.25] * n)
    assert (found.n, found.smallest_p, found.wilcoxon_p, found.low) == (n, 1.0, None, None)
    assert found.difference == (0.25 if n else None)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=7))
def test_changing_sides_changes_the_sign_alone(pairs: list[tuple[float, float]]) -> None:
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    one, other = compare(a, b), compare(b, a)
    assert one.difference == pytest.approx(-other.difference) if other.difference is not None else False
    assert one.flips_p == pytest.approx(other.flips_p)
    assert one.wilcoxon_p == pytest.approx(other.wilcoxon_p)
    assert one.smallest_p - 1e-12 <= min(one.flips_p or 0, one.wilcoxon_p or 0)
    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.high


def test_holm_of_three() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(P_VALUES)
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    by_p = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in by_p] == sorted(adjusted)
    assert max(adjusted) <= min(1, max(len(p) * one for one in p))


def test_each_kind_of_pairs_is_corrected_by_itself() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    tasks, seeds, lone = compare(rising, [0.0] * 6), compare(rising[:5], [0.0] * 5, "seeds"), compare([1.0], [0.0])
    found = corrected([tasks, seeds, tasks, lone])
    assert [one.wilcoxon_holm for one in found] == [0.0625, 0.0625, 0.0625, None]
    assert [one.flips_holm for one in found] == [0.0625, 0.0625, 0.0625, None]
