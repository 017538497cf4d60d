"""Plots as inline SVG: text and shapes, no script, nothing to fetch. Colours are classes that the page's style sheet
gives a light and a dark value (edgeadapt_bench/page/page.css).

Every plot is a column of rows on one horizontal axis: a line with the row's name and figures, and its marks below. So
it is as narrow as a phone, and grows with its text on a wide screen. Every mark has a <title> that says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH = 400.0
LEFT, RIGHT = 4.0, WIDTH - 4.0
TEXT = 15.0  # from a row's top to its text's baseline
FOOT = 26.0  # height of the axis' figures
FEW = 40  # so many samples are drawn one by one, too
LOGARITHMIC = 6.0  # times from the smallest to the largest figure, from which on the axis is logarithmic
POINTS = 72  # of a density's outline
ASIDE = 0.15  # share of a curve's width that its figures take on the left


@dataclass(frozen=True)
class Axis:
    """From figures to places between LEFT and RIGHT. `ticks` have places and texts."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Place of a figure; one beyond an end is at that end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Figures in the axis' own measure: their logarithms if it is logarithmic."""
        return np.asarray(np.log(values) if self.logarithmic else values)


@dataclass(frozen=True)
class Bar:
    """Segments from left to right: (figure, class, words)."""

    name: str
    text: str
    segments: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class Interval:
    """A ratio with its interval, by the wall clock and, below it, of computing time: (value, low, high)."""

    name: str
    text: str
    kind: str
    wall: tuple[float, float, float]
    cpu: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Samples:
    """What was measured of one row; `interval` is that of the median, None where there are too few samples for one."""

    name: str
    text: str
    kind: str
    values: Sequence[float]
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Curve:
    """Estimates over a size: (size, value, low, high), rising; low = high = value where there is no interval."""

    name: str
    kind: str
    points: tuple[tuple[float, float, float, float], ...]


def bars(
    title: str, rows: Sequence[Bar], figure: Callable[[float], str], limit: tuple[float, str] | None = None
) -> str:
    """Bars from zero. `limit`: a figure that none can pass, drawn as a line, with its words."""
    totals = [sum(size for size, _, _ in row.segments) for row in rows]
    axis = linear(0.0, max([*totals, limit[0] if limit else 0.0]) * 1.02 or 1.0, figure)
    height = 42.0
    parts, labels = [], []
    for index, row in enumerate(rows):
        top = index * height
        labels.append(_label(top, row.name, row.text))
        place, total = axis.at(0.0), 0.0
        for size, kind, words in row.segments:
            total += size
            end = axis.at(total)
            parts.append(
                f'<rect class="{kind}" x="{place:.1f}" y="{top + 22:.1f}" width="{max(end - place, 0.6):.1f}" '
                f'height="13" rx="1.5"><title>{escape(words)}</title></rect>'
            )
            place = end
    bottom = len(rows) * height
    if limit is not None:
        parts.append(_line("limit", axis.at(limit[0]), 0.0, bottom, limit[1]))
    return _svg(title, [f"{row.name}: {row.text}" for row in rows], axis, bottom, [*parts, *labels])


def forest(title: str, rows: Sequence[Interval]) -> str:
    """Ratios on one axis, with a line at 1; far ends of intervals are cut where they would squeeze the rest."""
    estimates = [one for row in rows for one in (row.wall, row.cpu) if one is not None]
    middles = [value for value, _, _ in estimates]
    low = max(min([*(low for _, low, _ in estimates), 1.0]), min([*middles, 1.0]) * 0.7)
    high = min(max([*(high for _, _, high in estimates), 1.0]), max([*middles, 1.0]) * 1.4)
    room = max(0.06 * (high - low), 0.005)
    axis = scale(max(low - room, low / 2), high + room, lambda value: f"{value:.3g}")
    height = 50.0
    parts = [_line("one", axis.at(1.0), 0.0, len(rows) * height, "as fast as the bare backbone")]
    for index, row in enumerate(rows):
        top = index * height
        parts.append(_label(top, row.name, row.text))
        parts += _interval(axis, top + 27, row.kind, row.wall, f"{row.name}, wall clock {_said(row.wall)}")
        if row.cpu is not None:
            parts += _interval(axis, top + 39, f"{row.kind} hollow", row.cpu, f"{row.name}, computing {_said(row.cpu)}")
    return _svg(title, [f"{row.name}: {row.text}" for row in rows], axis, len(rows) * height, parts)


def distributions(title: str, rows: Sequence[Samples], figure: Callable[[float], str]) -> str:
    """Density above a base line; on it the interval of the median as a bar, the median as a dot, p90 and p99 as ticks.

    The axis ends where the slowest 2 % of a row begin, unless they lie near; how many lie beyond is written there.
    """
    arrays = [np.asarray(row.values, dtype=np.float64) for row in rows]
    low = min(float(values.min()) for values in arrays)
    ends = [_end(values) for values in arrays]
    high = max([*ends, *(row.interval[1] for row in rows if row.interval)])
    room = 0.04 * (high - low) or 0.05 * high
    axis = scale(max(low - room, low * 0.8), high + room, figure)
    drop, height = (52.0, 70.0) if any(row.interval for row in rows) else (30.0, 46.0)
    parts = []
    for index, (row, values) in enumerate(zip(rows, arrays, strict=True)):
        top, base = index * height, index * height + drop
        parts.append(_label(top, row.name, row.text))
        parts.append(f'<path class="base" d="M{LEFT} {base}H{RIGHT}"/>')
        inside = values[values <= axis.high]
        if row.interval is not None and np.ptp(values) > 0:
            parts.append(_density(axis, inside, base, 28.0, row))
        if len(values) <= FEW:
            kind, size = (f"{row.kind} sample", 2.2) if row.interval else (f"{row.kind} point", 4)
            parts += [f'<circle class="{kind}" cx="{axis.at(x):.1f}" cy="{base}" r="{size}"/>' for x in inside]
        p50, p90, p99 = (float(one) for one in np.quantile(values, (0.5, 0.9, 0.99)))
        for name, value in (("p90", p90), ("p99", p99)):
            if value <= axis.high and len(values) >= 10:
                parts.append(_line(f"{row.kind} tick", axis.at(value), base - 7, base + 7, f"{name} {figure(value)}"))
        if row.interval is not None:
            words = f"{row.name}: median {figure(p50)} [{figure(row.interval[0])} {figure(row.interval[1])}]"
            parts += _interval(axis, base, row.kind, (p50, *row.interval), words)
        beyond = len(values) - len(inside)
        if beyond:
            words = f"{beyond} slower, up to {figure(float(values.max()))} →"
            parts.append(f'<text class="beyond" x="{RIGHT}" y="{base + 13}" text-anchor="end">{escape(words)}</text>')
    return _svg(title, [f"{row.name}: {row.text}" for row in rows], axis, len(rows) * height, parts)


def curves(title: str, rows: Sequence[Curve], figure: Callable[[float], str], over: str) -> str:
    """One line per curve, from zero up; the size below, logarithmic where it spans much. Sizes that were measured are
    the ticks."""
    places = sorted({point[0] for row in rows for point in row.points})
    most = max(high for row in rows for _, _, _, high in row.points)
    spanning = places[-1] / places[0] >= LOGARITHMIC
    first, final = (math.log(end) if spanning else end for end in (places[0], places[-1]))
    span = (final - first) / (1 - ASIDE - 0.04)
    ends = (first - ASIDE * span, final + 0.04 * span)
    low, high = (math.exp(end) if spanning else end for end in ends)
    axis = Axis(low, high, spanning, tuple((place, f"{place:g}") for place in places))
    levels = linear(0.0, most * 1.04 or 1.0, figure)
    bottom = 210.0

    def height(value: float) -> float:
        return bottom - (bottom - 20.0) * value / levels.high

    parts = []
    for value, text in levels.ticks:
        y = height(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        if value:
            parts.append(f'<text class="axis" x="{LEFT}" y="{y - 4:.1f}">{escape(text)}</text>')
    for row in rows:
        marks = [(axis.at(place), height(value)) for place, value, _, _ in row.points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in marks)
        parts.append(f'<path class="{row.kind} curve" d="M{line}"/>')
        for (x, y), (place, value, least, greatest) in zip(marks, row.points, strict=True):
            interval = "" if least == greatest else f" [{figure(least)} {figure(greatest)}]"
            words = escape(f"{row.name}, {over} {place:g}: {figure(value)}{interval}")
            if least < greatest:
                bar = f"M{x:.1f} {height(least):.1f}V{height(greatest):.1f}"
                parts.append(f'<path class="{row.kind} interval" d="{bar}"><title>{words}</title></path>')
            parts.append(
                f'<circle class="{row.kind} point" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{words}</title></circle>'
            )
    said = [
        f"{row.name}: {', '.join(f'{figure(value)} at {place:g}' for place, value, _, _ in row.points)}" for row in rows
    ]
    return _svg(title, said, axis, bottom, parts)


def _end(values: np.ndarray) -> float:
    """Where the slowest 2 % begin, the slowest one at least; all of them where they lie near, or samples are few."""
    most = float(values.max())
    return most if len(values) < 10 else min(most, float(np.quantile(values, 0.98, method="lower")) * 1.08)


def scale(low: float, high: float, figure: Callable[[float], str]) -> Axis:
    """Linear, or logarithmic where the figures span more than LOGARITHMIC."""
    if low <= 0 or high / low < LOGARITHMIC:
        return linear(low, high, figure)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    return Axis(low, high, True, tuple((tick, figure(tick)) for tick in ticks))


def linear(low: float, high: float, figure: Callable[[float], str]) -> Axis:
    """Four to seven ticks at 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    ticks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(low, high, False, tuple((tick, figure(tick)) for tick in ticks))


def _density(axis: Axis, values: np.ndarray, base: float, height: float, row: Samples) -> str:
    """Outline of a Gaussian kernel density (Silverman's rule on the smaller of deviation and quartile range)."""
    spread = axis.spread(values)
    quartiles = np.quantile(spread, (0.25, 0.75))
    low, high = (float(end) for end in axis.spread(np.array([axis.low, axis.high])))
    width = 0.9 * min(float(spread.std()), float(np.ptp(quartiles)) / 1.34 or np.inf) * len(spread) ** -0.2
    width = max(width, (high - low) / 200)
    places = np.linspace(max(low, spread.min() - 3 * width), min(high, spread.max() + 3 * width), POINTS)
    density = np.exp(-0.5 * ((places[:, None] - spread) / width) ** 2).sum(axis=1)
    density /= density.max()
    xs = LEFT + (RIGHT - LEFT) * (places - low) / (high - low)
    outline = " ".join(f"{x:.1f} {base - height * y:.1f}" for x, y in zip(xs, density, strict=True))
    words = escape(f"{row.name}: {len(row.values)} samples")
    shape = f"M{xs[0]:.1f} {base}L{outline}L{xs[-1]:.1f} {base}Z"
    return f'<path class="{row.kind} density" d="{shape}"><title>{words}</title></path>'


def _interval(axis: Axis, y: float, kind: str, estimate: tuple[float, float, float], words: str) -> Iterable[str]:
    value, low, high = estimate
    words = escape(words)
    yield f'<path class="{kind} interval" d="M{axis.at(low):.1f} {y}H{axis.at(high):.1f}"><title>{words}</title></path>'
    yield f'<circle class="{kind} point" cx="{axis.at(value):.1f}" cy="{y}" r="4"><title>{words}</title></circle>'


def _said(estimate: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f} {:.3f}]".format(*estimate)


def _line(kind: str, x: float, top: float, bottom: float, words: str) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"><title>{escape(words)}</title></path>'


def _label(top: float, name: str, text: str) -> str:
    y = top + TEXT
    return (
        f'<text class="name" x="{LEFT}" y="{y}">{escape(name)}</text>'
        f'<text class="figure" x="{RIGHT}" y="{y}" text-anchor="end">{escape(text)}</text>'
    )


def _svg(title: str, rows: Sequence[str], axis: Axis, bottom: float, parts: Sequence[str]) -> str:
    """The plot around its marks: the grid behind them, the axis' figures below, and all of it in words."""
    grid, figures, last = [], [], -math.inf
    for value, text in axis.ticks:
        x = axis.at(value)
        grid.append(f'<path class="grid" d="M{x:.1f} 0V{bottom:.1f}"/>')
        half = 3.6 * len(text)
        place = min(max(x, LEFT + half), RIGHT - half)
        if place - half > last + 6:
            figures.append(
                f'<text class="axis" x="{place:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{escape(text)}</text>'
            )
            last = place + half
    words = escape("; ".join(rows))
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH:.0f} {bottom + FOOT:.0f}" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{words}</desc>{''.join(grid)}{''.join(parts)}{''.join(figures)}</svg>"
    )
