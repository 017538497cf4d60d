"""The figures: known answers, coverage on synthetic samples, and a slowdown that must be seen."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt_bench.statistics import STUDENT, Ratio, paired_ratio, settled, summarise, widening


def test_known_figures() -> None:
    found = summarise(range(1, 102))
    assert (found.n, found.p50, found.p90, found.p99) == (101, 51, 91, 100)
    assert (found.minimum, found.maximum, found.mean) == (1, 101, 51)
    assert found.deviation == pytest.approx(np.std(np.arange(1, 102), ddof=1))
    assert 40 < found.low < 51 < found.high < 62


def test_one_sample_is_its_own_interval() -> None:
    found = summarise([0.25])
    assert (found.p50, found.low, found.high, found.deviation) == (0.25, 0.25, 0.25, 0)


def test_no_samples_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])
    with pytest.raises(ValueError, match="not pairs"):
        paired_ratio([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ValueError, match="not pairs"):
        paired_ratio([[]], [[]])
    with pytest.raises(ValueError, match="no samples to compare"):
        paired_ratio([], [])
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([[1.0], [1.0]], [[1.0]])


def test_the_interval_of_the_median_covers_it() -> None:
    """95 % nominal; of 300 skewed sets of 30 samples at least 90 % must hold the true median."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        found = summarise(rng.lognormal(0.0, 0.5, 30).tolist())
        covered += found.low <= 1.0 <= found.high
    assert covered >= 270


def rounds(rng: np.random.Generator, count: int, factor: float, luck: float = 0.0) -> tuple[list[float], list[float]]:
    """Two variants' samples in one opening, on a machine whose speed drifts by half and that stalls now and then.

    `luck`: deviation of what a process gains or loses for as long as it lives.
    """
    drift = np.exp(np.cumsum(rng.normal(0, 0.05, count)))
    noise = np.exp(rng.normal(0, 0.01, (2, count)))
    stalls = 1 + 2 * (rng.random((2, count)) < 0.05)
    first, second = 0.01 * drift * noise * stalls * np.exp(rng.normal(0, luck, (2, 1)))
    return (first * factor).tolist(), second.tolist()


def ratio(rng: np.random.Generator, openings: int, count: int, factor: float, luck: float = 0.0) -> Ratio:
    pairs = [rounds(rng, count, factor, luck) for _ in range(openings)]
    return paired_ratio([above for above, _ in pairs], [below for _, below in pairs])


def test_the_same_against_itself_is_one() -> None:
    """A/A: the interval of the ratio holds 1 in at least 90 of 100 trials."""
    rng = np.random.default_rng(1)
    found = [ratio(rng, 1, 30, 1.0) for _ in range(100)]
    assert sum(one.low <= 1.0 <= one.high for one in found) >= 90


def test_two_percent_slower_is_seen() -> None:
    rng = np.random.default_rng(2)
    found = [ratio(rng, 1, 30, 1.02) for _ in range(100)]
    assert sum(one.low > 1.0 for one in found) >= 90
    assert all(one.value == pytest.approx(1.02, abs=0.02) for one in found)


def test_openings_tell_a_process_from_a_variant() -> None:
    """Processes that differ by 1.5 % by luck: one opening is sure of what is not there; twenty are not, and know the
    ratio to 1.5 %."""
    rng = np.random.default_rng(4)
    once = [ratio(rng, 1, 100, 1.0, luck=0.015) for _ in range(100)]
    often = [ratio(rng, 20, 5, 1.0, luck=0.015) for _ in range(100)]
    assert sum(one.low <= 1.0 <= one.high for one in once) < 50
    assert sum(one.low <= 1.0 <= one.high for one in often) >= 90
    assert np.median([one.high - one.low for one in often]) < 0.03
    assert (often[0].openings, often[0].pairs) == (20, 100)


@pytest.mark.parametrize("openings", [2, 3, 4, 8, 20])
@pytest.mark.parametrize("luck", [0.0, 0.03])
def test_the_interval_holds_however_few_the_openings(openings: int, luck: float) -> None:
    """95 % nominal, at least 88 of 100, whether processes differ or only their rounds do."""
    rng = np.random.default_rng(5)
    found = [ratio(rng, openings, 10, 1.0, luck=luck) for _ in range(100)]
    assert sum(one.low <= 1.0 <= one.high for one in found) >= 88
    assert all(0 < one.low <= one.value <= one.high for one in found)


def test_fewer_openings_widen_more() -> None:
    """By Student's quantile instead of the normal one; a single opening cannot be widened, since it shows no spread."""
    factors = [widening(openings) for openings in (2, 3, 8, 20, 1000)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(12.706 / 1.960 * 2**0.5)
    assert factors[-1] == pytest.approx(1.0, abs=1e-3)
    assert widening(1) == 1.0
    drawn = np.random.default_rng(6).standard_t(4, 200_000)
    assert STUDENT[3] == pytest.approx(np.quantile(drawn, 0.975), rel=0.02)


def test_unpaired_medians_would_not_have_seen_it() -> None:
    """Why pairs: the drift between two separate runs is far larger than what is looked for."""
    rng = np.random.default_rng(3)
    apart = []
    for _ in range(100):
        slower, _ = rounds(rng, 30, 1.02)
        _, other = rounds(rng, 30, 1.0)
        apart.append(np.median(slower) / np.median(other))
    assert np.std(apart) > 0.1


def test_settled_when_two_windows_agree() -> None:
    assert not settled([1.0, 1.0, 1.0], window=2, tolerance=0.05)
    assert settled([9.0, 1.0, 1.0, 1.0, 1.04], window=2, tolerance=0.05)
    assert not settled([2.0, 2.0, 1.0, 1.0], window=2, tolerance=0.05)
