"""Which directions run in which state under an energy budget, in integers: the bound holds by construction.

    items      (t, j): direction j of a model at token t, in state off, int8 or fp16
    utility    o_state = beta_state kappa z_{t, layer(j)} + b_{j, state},   beta = (-1, 0, 1)
    gain       over off:  g8 = kappa z + d8_j    g16 = 2 kappa z + d16_j    (d_state = b_state - b_off)
    cost       0, c8_j, c16_j femtojoules, integers, c16 > c8 > 0
    wanted     max sum of gains  with  sum of costs <= budget

For a price lambda each item takes argmax(gain - lambda cost), ties to the cheaper. An item climbs its states as the
price falls, along the upper hull of (cost, gain); the prices at which it climbs are linear in z:
    e8 = g8 / c8    e16 = g16 / c16    up = (g16 - g8) / (c16 - c8)
    e8 > e16        off -> int8 at e8, int8 -> fp16 at up            two steps, costs c8 and c16 - c8
    otherwise       off -> fp16 at e16                               one step, cost c16
so that a plan at price lambda is: every step whose price is above lambda. Its cost does not increase with lambda; 40
bisections of [0, the highest price] find the price, each looking only at the steps that are still undecided, and each
keeping an upper end that is affordable. One greedy fill takes further steps in (price, index) order where they fit (a
step needs the one below it).

Price plan and fill together are the greedy over all steps in (price, index) order, so that a larger budget never gives
less utility. The steps of a token or a few are sorted at once instead, which gives the same plan sooner.
`certificate` is weak duality: for any lambda >= 0 no plan's gain exceeds
    sum max_state(gain - lambda cost) + lambda budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import BudgetInfeasibleError, EdgeAdaptError

OFF, INT8, FP16 = 0, 1, 2
BISECTIONS = 40
BLOCK = 16
SAMPLE, MARGIN = 4096, 0.03  # steps that are looked at first; three standard errors of their share
SORTED = 8192  # so many steps are sorted sooner than bisected
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """states uint8 [T, J]; their cost, the budget that it keeps, and the price of the last femtojoule."""

    states: NDArray[np.uint8]
    cost: int
    budget: int
    price: float


@dataclass(frozen=True)
class Certificate:
    """How far a plan may be from the best one: gap >= 0 in utility, and relative to the unconstrained plan's gain."""

    gain: float
    gap: float
    relative: float


@dataclass(frozen=True)
class _Steps:
    """The two steps of every item, [2, T, J]: prices (minus infinity where there is no second) and costs; and whether
    the first one stops at int8, [T, J]."""

    prices: F64
    costs: I64
    halting: NDArray[np.bool_]


class Allocator:
    """The directions of one model.

    Args:
        layer: [J], which of the scores each direction takes.
        offsets: b [J, 3] for (off, int8, fp16).
        costs: [J, 2] integer femtojoules of (int8, fp16).
        kappa: what a score counts.
    """

    def __init__(self, layer: I64, offsets: F64, costs: I64, kappa: float) -> None:
        if costs.dtype != np.int64 or costs.shape != (len(layer), 2) or offsets.shape != (len(layer), 3):
            raise EdgeAdaptError(f"{len(layer)} directions need costs [J, 2] int64 and offsets [J, 3]")
        if not (costs[:, 0] > 0).all() or not (costs[:, 1] > costs[:, 0]).all():
            raise EdgeAdaptError("a direction's fp16 state must cost more than its int8 state, and that more than 0")
        self._layer = layer
        self._c8, self._c16 = costs.T.copy()
        self._c_up = self._c16 - self._c8
        wide = offsets.astype(np.float64)
        self._kappa, self._d8, self._d16 = kappa, wide[:, INT8] - wide[:, OFF], wide[:, FP16] - wide[:, OFF]
        self._lines = [
            (slope * kappa / cost, offset / cost)
            for slope, offset, cost in (
                (1, self._d8, self._c8),
                (2, self._d16, self._c16),
                (1, self._d16 - self._d8, self._c_up),
            )
        ]

    @property
    def full_cost(self) -> int:
        """What one token costs with every direction in fp16."""
        return int(self._c16.sum())

    def cost(self, states: NDArray[np.uint8]) -> int:
        """Femtojoules of states [T, J]."""
        return int(((states == INT8) * self._c8).sum() + ((states == FP16) * self._c16).sum())

    def unbounded(self, scores: F64) -> Plan:
        """Every item's best state."""
        return self.allocate(scores, len(scores) * self.full_cost)

    def allocate(self, scores: F64, budget: int) -> Plan:
        """The plan for scores z [T, layers] within `budget` femtojoules. Raises BudgetInfeasibleError below zero."""
        if budget < 0:
            raise BudgetInfeasibleError(
                f"the energy budget is {-budget:,} fJ less than what is fixed; give a larger one"
            )
        steps = self._steps(scores)
        if steps.prices.size <= SORTED:
            taken, spent, price = _sorted(steps, budget)
            return Plan(_states(taken, steps.halting), spent, budget, price)
        price, spent = _price(steps.prices.ravel(), steps.costs.ravel(), budget)
        states = _states(steps.prices > price, steps.halting)
        for index, cost, state in _fill(steps, states, price, budget - spent):
            states.flat[index] = state
            spent += cost
        return Plan(states, spent, budget, price)

    def certificate(self, scores: F64, plan: Plan) -> Certificate:
        """The optimality gap of a plan for these scores."""
        z = self._kappa * self._gather(scores)
        g8, g16 = z + self._d8, 2 * z + self._d16
        gain = float(g8[plan.states == INT8].sum() + g16[plan.states == FP16].sum())
        best = np.maximum(0, np.maximum(g8 - plan.price * self._c8, g16 - plan.price * self._c16)).sum()
        gap = max(0.0, float(best) + plan.price * plan.budget - gain)
        free = float(np.maximum(0, np.maximum(g8, g16)).sum())
        return Certificate(gain, gap, gap / free if free > 0 else 0.0)

    def _gather(self, scores: F64) -> F64:
        return np.asarray(scores[:, self._layer], dtype=np.float64)

    def _steps(self, scores: F64) -> _Steps:
        shape = (len(scores), len(self._layer))
        prices, costs = np.empty((2, *shape)), np.empty((2, *shape), np.int64)
        halting = np.empty(shape, np.bool_)
        costs[1] = self._c_up
        for at in range(0, len(scores), BLOCK):  # as many tokens at a time as stay in the cache
            rows = slice(at, at + BLOCK)
            z = self._gather(scores[rows])
            e8, e16, up = (z * slope + offset for slope, offset in self._lines)
            halts = np.greater(e8, e16, out=halting[rows])
            np.maximum(e8, e16, out=prices[0, rows])
            np.minimum(up, e8, out=up)  # rounding must not put a step's price above that of the one below
            prices[1, rows] = np.where(halts, up, -np.inf)
            costs[0, rows] = np.where(halts, self._c8, self._c16)
        return _Steps(prices, costs, halting)


def _states(taken: NDArray[np.bool_], halting: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """States of the steps that are taken [2, T, J]: FP16 where nothing halts at INT8 or the second step is taken."""
    return np.asarray(taken[0].astype(np.uint8) + (taken[0] & (taken[1] | ~halting)), dtype=np.uint8)


def _sorted(steps: _Steps, budget: int) -> tuple[NDArray[np.bool_], int, float]:
    """The steps that are taken, their cost, and the price of the first one that is not, by sorting the prices.

    Both steps of an item stand side by side, so that equal prices are taken by item, and an item's first step first.
    """
    prices, costs = (part.reshape(2, -1).T.ravel() for part in (steps.prices, steps.costs))
    order = np.argsort(-prices)
    spent = costs[order].cumsum()
    reached = int(spent.searchsorted(budget, side="right"))
    price = max(0.0, float(prices[order[reached]])) if reached < len(order) else 0.0
    taken = prices > price
    dearer = np.count_nonzero(taken)
    left = budget - int(spent[dearer - 1]) if dearer else budget
    if price > 0:
        equal = np.flatnonzero(prices == price)
        sums = costs[equal].cumsum()
        fit = int(sums.searchsorted(left, side="right"))
        taken[equal[:fit]] = True
        left -= int(sums[fit - 1]) if fit else 0
        while True:
            open_ = ~taken & (prices > 0) & (costs <= left)
            open_[1::2] &= taken[0::2]
            if not open_.any():
                break
            best = int(np.where(open_, prices, -np.inf).argmax())
            taken[best] = True
            left -= int(costs[best])
    return taken.reshape(-1, 2).T.reshape(steps.prices.shape), budget - left, price


def _price(prices: F64, costs: I64, budget: int) -> tuple[float, int]:
    """The lowest affordable price that the bisections find, and what the steps above it cost."""
    total = int((costs * (prices > 0)).sum())
    if total <= budget:
        return 0.0, total
    bracket = _Bracket(prices, costs, budget, 0.0, float(prices.max()))
    if len(prices) > 16 * SAMPLE:
        every = len(prices) // SAMPLE
        for price in _guesses(prices[::every], costs[::every], budget / total):
            bracket.divide(price)
    for _ in range(BISECTIONS):
        bracket.forget()
        if len(bracket.prices) < 2:  # the last one is too dear at any price between
            break
        bracket.divide((bracket.low + bracket.high) / 2)
    return bracket.high, bracket.spent


def _guesses(prices: F64, costs: I64, wanted: float) -> list[float]:
    """Two prices that the wanted share of the cost probably lies between, from a sample of the steps. Right or not,
    they only save the bisections from looking at all steps."""
    order = np.argsort(-prices)[: np.count_nonzero(prices > 0)]
    shares = np.cumsum(costs[order])
    if not len(order):
        return []
    at = np.searchsorted(shares, np.array([wanted - MARGIN, wanted + MARGIN]) * float(shares[-1]))
    return [float(prices[order[min(int(place), len(order) - 1)]]) for place in at]


@dataclass
class _Bracket:
    """The price lies in [low, high]: the steps above `low` are too dear, those above `high` cost `spent`."""

    prices: F64  # of the steps that are not decided; those above them cost `decided`
    costs: I64
    budget: int
    low: float
    high: float
    spent: int = 0
    decided: int = 0

    def divide(self, price: float) -> None:
        """Move one of the ends to a price between them."""
        if not self.low < price < self.high:
            return
        cost = self.decided + int((self.costs * (self.prices > price)).sum())
        if cost <= self.budget:
            self.high, self.spent = price, cost
        else:
            self.low = price

    def forget(self) -> None:
        """Leave out the steps that are decided: those above `high` and those not above `low`."""
        at = np.flatnonzero((self.prices > self.low) & (self.prices <= self.high))
        self.prices, self.costs, self.decided = self.prices[at], self.costs[at], self.spent


def _fill(steps: _Steps, states: NDArray[np.uint8], price: float, left: int) -> Iterator[tuple[int, int, int]]:
    """(flat index, cost, new state) of each further step that is taken, the dearest first, while it fits."""
    first, second = steps.prices.reshape(2, -1)
    cost_first, cost_second = steps.costs.reshape(2, -1)
    halting = steps.halting.ravel()
    at = np.flatnonzero((first <= price) & (first > 0) & (cost_first <= left))
    climbing = np.flatnonzero((states.ravel() == INT8) & (second > 0) & (cost_second <= left))
    if not len(at) and not len(climbing):
        return
    at, climbing = _affordable(at, first, cost_first, left), _affordable(climbing, second, cost_second, left)
    after = at[halting[at] & (second[at] > 0)]
    order = [(-first[i], i, 0, cost_first[i], INT8 if halting[i] else FP16) for i in at.tolist()]
    order += [(-second[i], i, 1, cost_second[i], FP16) for i in (*climbing.tolist(), *after.tolist())]
    waiting = set(after.tolist())  # second steps whose first one is not taken yet
    for _, index, step, cost, state in sorted(order):
        if cost > left or (step == 1 and index in waiting):
            continue
        left -= int(cost)
        waiting.discard(index)
        yield index, int(cost), state


def _affordable(at: I64, prices: F64, costs: I64, left: int) -> I64:
    """Those of the steps `at` that a greedy fill can come to: of each cost the best, as many as fit."""
    kept = []
    for cost in np.unique(costs[at]).tolist():
        same, most = at[costs[at] == cost], left // cost
        if len(same) > most:
            values = prices[same]
            worst = np.partition(values, len(values) - most)[len(values) - most]
            better, equal = same[values > worst], same[values == worst]
            same = np.concatenate([better, equal[: most - len(better)]])
        kept.append(same)
    return np.concatenate(kept) if kept else at
