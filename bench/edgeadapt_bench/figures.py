"""What a page draws of a result, section by section: which rows, and in which words. plots.py draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgeadapt_bench import plots, tables
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.blocks import blocks
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.results import FEWEST, Group, Result
from edgeadapt_bench.scaling import series
from edgeadapt_bench.units import in_words, shown

_COLOURS = 7
_PARTS = ("weights", "graphs", "adapters", "tokenizer and the rest")
_WEIGHTS = (".onnx.data", ".gguf", "model.safetensors", ".bin")  # of a bundle, and of other engines
_ALONE = 4  # so many points of a workload still have plots of their own; more are drawn as curves only

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A plot with its words; `legend` are classes and their names."""

    title: str
    says: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """Figures under one heading; `says` may stand for figures that cannot be drawn, and says why."""

    id: str
    title: str
    says: str
    figures: tuple[Figure, ...]


def native(result: Result) -> list[Section]:
    """Of a run that kept time."""
    drawn = [(phase, group) for phase in result.phases for group in _alone(result, phase)]
    spread = tuple(_distribution(result, phase, group) for phase, group in drawn)
    ratios = tuple(
        _forest(result, phase, group)
        for phase, group in drawn
        if any(row["ratio_to_bare"] for row in group.rows.values())
    )
    says = (
        "How long it took, every sample of it; left is faster. Dot and bar: the median and its 95 % interval, or [?] "
        "where too few samples would have to bear one. Ticks: where the slowest tenth and the slowest hundredth begin."
    )
    against = (
        "Paired ratios with their 95 % intervals: in every round both took their turns, so that what slows the machine "
        "down for a while cancels. Left of 1 is faster. Filled: by the wall clock. Hollow: the process's own computing "
        "time, which waiting for a busy machine does not lengthen."
    )
    return [
        *_scaling(result),
        Section("latency", "Latency", says, spread),
        *([Section("ratios", "Against the bare backbone", against, ratios)] if ratios else []),
        _memory(result),
        *_roofline(result),
    ]


def emulated(result: Result) -> list[Section]:
    """Of a run that counted."""
    says = (
        "User instructions of an emulated processor, the same every time. They are not a time, and nothing on this "
        "page is: no clock was read."
    )
    work = tuple(_work(result, phase, group) for phase in result.phases for group in _alone(result, phase))
    return [*_scaling(result), Section("work", "Work", says, work), _memory(result)]


def kinds(result: Result) -> dict[str, str]:
    """A class for every variant, the same in all plots; bare is grey."""
    return {name: f"v{1 + (number - 1) % _COLOURS if number else 0}" for number, name in enumerate(result.variants)}


def parts(sizes: Mapping[str, int]) -> dict[str, int]:
    """A bundle's bytes by what they are for."""
    found = dict.fromkeys(_PARTS, 0)
    for name, size in sizes.items():
        if name.startswith("adapters/"):
            found["adapters"] += size
        elif name.endswith(_WEIGHTS):
            found["weights"] += size
        elif name.endswith(".onnx"):
            found["graphs"] += size
        else:
            found["tokenizer and the rest"] += size
    return found


def per(phase: str, *, counted: bool) -> str:
    """What the figure of a phase is for, as it follows a heading."""
    if counted and phase == "prefill":
        return " per token"
    return PHASES[phase].unit[1:].replace("/", " per ")


def _alone(result: Result, phase: str) -> list[Group]:
    """The points of a phase that have plots of their own: all of a workload that has few, else its first and last."""
    found: dict[str, list[Group]] = {}
    for group in result.of(phase):
        found.setdefault(group.workload["name"], []).append(group)
    return [
        group for groups in found.values() for group in (groups if len(groups) <= _ALONE else [groups[0], groups[-1]])
    ]


def _rows(result: Result, group: Group) -> list[Row]:
    return [group.rows[name] for name in result.variants if name in group.rows]


def _title(result: Result, phase: str, group: Group) -> str:
    """A phase, and at which sizes where there are several."""
    groups = result.of(phase)
    names = {one.workload["name"] for one in groups}
    text = PHASES[phase].title + per(phase, counted=result.emulated)
    if len({in_words(one.workload) for one in groups}) > 1:
        text += f": {in_words(group.workload) if len(names) > 1 else _sizes(group, groups)}"
    return text + (f", {tables.counted(group.threads, 'thread')}" if len({one.threads for one in groups}) > 1 else "")


def _sizes(group: Group, groups: list[Group]) -> str:
    """The sizes that differ among points of one workload."""
    differ = [key for key in group.workload if len({one.workload[key] for one in groups}) > 1]
    return ", ".join(f"{key} {group.workload[key]}" for key in differ)


def _distribution(result: Result, phase: str, group: Group) -> Figure:
    colours = kinds(result)
    rows = _rows(result, group)
    figure = _unit_of([row["p50"] for row in rows])
    drawn = [
        plots.Samples(
            row["variant"],
            _median(row, figure),
            colours[row["variant"]],
            [sample for opening in row["samples"] for sample in opening],
            None if row["n"] < FEWEST else (row["low"], row["high"]),
        )
        for row in rows
    ]
    title, says = _title(result, phase, group), PHASES[phase].says
    counted = {(row["n"], len(row["samples"])) for row in rows}
    samples = ", ".join(f"{n} samples in {tables.counted(openings, 'opening')}" for n, openings in sorted(counted))
    svg = plots.distributions(f"{title}: distribution of the latency of each variant", drawn, figure)
    return Figure(title, f"{says[0].upper()}{says[1:]}. {samples}.", Markup(svg))


def _unit_of(medians: list[float]) -> Callable[[float], str]:
    """Writes seconds in the unit that suits the smallest of these medians."""
    size, name = next(((size, name) for size, name in ((1.0, "s"), (1e-3, "ms")) if min(medians) >= size), (1e-6, "µs"))
    return lambda value: f"{value / size:.3g} {name}" if value < 1000 * size else f"{value / size:,.0f} {name}"


def _median(row: Row, figure: Callable[[float], str]) -> str:
    interval = f"[{figure(row['low'])} {figure(row['high'])}]" if row["n"] >= FEWEST else "[?]"
    return f"{shown(row['p50'], 's')} {interval}"


def _forest(result: Result, phase: str, group: Group) -> Figure:
    colours = kinds(result)
    rows = [row for row in _rows(result, group) if row["ratio_to_bare"] is not None]
    drawn = [
        plots.Interval(
            row["variant"],
            tables.ratio(row["ratio_to_bare"]),
            colours[row["variant"]],
            ends(row["ratio_to_bare"]),
            None if row["cpu_ratio_to_bare"] is None else ends(row["cpu_ratio_to_bare"]),
        )
        for row in rows
    ]
    title = _title(result, phase, group)
    pairs = sorted({(row["ratio_to_bare"]["pairs"], row["ratio_to_bare"]["openings"]) for row in rows})
    says = ", ".join(f"{tables.counted(n, 'pair')} in {tables.counted(openings, 'opening')}" for n, openings in pairs)
    return Figure(title, f"{says}.", Markup(plots.forest(f"{title}: ratio to the bare backbone", drawn)))


def ends(ratio: Row) -> tuple[float, float, float]:
    """Value and interval; the value alone, three times, where there are too few pairs for one."""
    value, low, high = (float(ratio[end]) for end in ("value", "low", "high"))
    return (value, low, high) if ratio["pairs"] >= FEWEST else (value, value, value)


def _scaling(result: Result) -> list[Section]:
    """What grew with what; nothing where no size took two values."""
    colours = kinds(result)
    drawn = []
    figure: Callable[[float], str]
    for one in (one for block in blocks(result) for one in series(block)):
        if one.phase is None:
            title, figure = f"Memory held{one.at}", _bytes
        else:
            title = PHASES[one.phase].title + per(one.phase, counted=result.emulated) + one.at
            figure = _count if result.emulated else _unit_of([value for _, _, (value, _, _) in one.points])
        legend = tuple((colours[name], name) for name in one.variants)
        drawn.append(Figure(title, f"{one.over[0].upper()}{one.over[1:]}.", one.svg(title, colours, figure), legend))
    says = "User instructions" if result.emulated else "Medians with their 95 % intervals"
    return (
        [Section("scaling", "What it grows with", f"{says}, over every size that was varied.", tuple(drawn))]
        if drawn
        else []
    )


def _memory(result: Result) -> Section:
    process = "the process without a model"
    model = "with opening and running it"
    several = len({item["threads"] for item in result.memory}) > 1
    peaks = []
    for item in result.memory:
        if item["workload"] is not None:
            continue
        rest, increase = item["peak_bytes"] - item["increase_bytes"], item["increase_bytes"]
        segments = (
            (increase, "s0", f"{model}: {shown(increase, 'bytes')}"),
            (rest, "s3", f"{process}: {shown(rest, 'bytes')}"),
        )
        text = f"{shown(item['peak_bytes'], 'bytes')}, {shown(increase, 'bytes')} of it the model's"
        name = f"{item['variant']}, {tables.counted(item['threads'], 'thread')}" if several else item["variant"]
        peaks.append(plots.Bar(name, text, segments))
    disk = []
    for bundle in result.document["sizes"]:
        found = parts(result.files(bundle))
        files = tuple(
            (size, f"s{number}", f"{name}: {shown(size, 'bytes')}") for number, (name, size) in enumerate(found.items())
        )
        disk.append(plots.Bar(bundle.rstrip("/").rpartition("/")[2], shown(sum(found.values()), "bytes"), files))
    legend = (("s0", "model"), ("s3", process))
    says = "Peak of each variant's own process (VmHWM), never the machine's total."
    figures = []
    if peaks:
        svg = plots.bars("Peak memory of each variant's process", peaks, _bytes)
        figures.append(Figure("Memory", says, Markup(svg), legend))
    if any(bar.segments for bar in disk):
        svg = plots.bars("Size of each bundle on disk", disk, _bytes)
        sizes = tuple((f"s{number}", name) for number, name in enumerate(_PARTS))
        figures.append(Figure("On disk", _adapter_bytes(result), Markup(svg), sizes))
    return Section("memory", "Memory and size", "", tuple(figures))


def _adapter_bytes(result: Result) -> str:
    said = []
    for bundle in result.document["sizes"]:
        found = parts(result.files(bundle))
        if found["adapters"]:
            share = found["adapters"] / sum(found.values())
            said.append(f"{shown(found['adapters'], 'bytes')} of it ({share:.2%}) are adapters")
    return f"Every file of a bundle. {'; '.join(dict.fromkeys(said))}." if said else "Every file of a bundle."


def _bytes(value: float) -> str:
    return f"{value / 1e6:.4g} MB" if value else "0"


def _roofline(result: Result) -> list[Section]:
    """None for a run in which nothing was decoded."""
    groups = [group for group in result.of("decode") if group.workload["name"] == "generation"]
    if not groups:
        return []
    title = "Memory bandwidth"
    if not result.bandwidth:
        says = "Left out: this file does not say how fast the machine reads its memory."
        return [Section("roofline", title, says, ())]
    first = {group.threads: group for group in reversed(groups) if group.threads in result.bandwidth}
    figures = [_roof(result, group, result.bandwidth[threads]) for threads, group in sorted(first.items())]
    if None in figures:
        return [Section("roofline", title, "Left out: this file does not say how large the weights are.", ())]
    says = (
        "A token needs every weight once, so memory bounds decoding: size of the graph's files divided by the median "
        "time of a token. The dashed line is what this machine read at best before the run. Weights that stay in a "
        "processor's cache may pass it."
    )
    return [Section("roofline", title, says, tuple(figure for figure in figures if figure is not None))]


def _roof(result: Result, group: Group, roof: float) -> Figure | None:
    rows = []
    for row in _rows(result, group):
        size = _weights(result, row)
        if size:
            reached = size / row["p50"]
            words = f"{row['variant']}: {shown(size, 'bytes')} in {shown(row['p50'], 's')}"
            text = f"{reached / 1e9:.2f} GB/s, {reached / roof:.0%}"
            rows.append(plots.Bar(row["variant"], text, ((reached, kinds(result)[row["variant"]], words),)))
    if not rows:
        return None
    limit = f"{roof / 1e9:.2f} GB/s"
    svg = plots.bars(
        f"Bytes of weights per second while decoding, against {limit} that memory gives",
        rows,
        lambda value: f"{value / 1e9:.3g} GB/s" if value else "0",
        (roof, f"memory gives {limit}"),
    )
    says = f"{tables.counted(group.threads, 'thread')}: memory gives {limit}."
    return Figure("Decode, against the roof", says, Markup(svg))


def _weights(result: Result, row: Row) -> int:
    """Bytes of a row's graph and of its bundle's weights; 0 where the file does not list them."""
    sizes = result.files(row["bundle"])
    weights = sum(size for name, size in sizes.items() if name.endswith(_WEIGHTS))
    return weights + sizes.get(f"{row['graph']}.onnx", 0)


def _work(result: Result, phase: str, group: Group) -> Figure:
    colours, bare = kinds(result), group.rows.get(BARE)
    drawn = []
    for row in _rows(result, group):
        text = shown(row["instructions"], "instructions")
        if bare is not None and row is not bare:
            text += f", {row['instructions'] / bare['instructions']:.4f} x bare"
        words = f"{row['variant']}: {row['instructions']:,.0f} user instructions{per(phase, counted=True)}"
        drawn.append(plots.Bar(row["variant"], text, ((row["instructions"], colours[row["variant"]], words),)))
    title, says = _title(result, phase, group), PHASES[phase].says
    what = "the whole prompt, its instructions divided by its tokens" if phase == "prefill" else says
    svg = plots.bars(f"{title}: user instructions of each variant", drawn, _count)
    return Figure(title, f"{what[0].upper()}{what[1:]}.", Markup(svg))


def _count(value: float) -> str:
    return f"{value / 1e6:.4g} M" if value else "0"
