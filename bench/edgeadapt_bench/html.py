"""A stored result as one page, with its styles, script and plots inside it: it opens anywhere and asks nobody.

Its content security policy forbids the page to fetch anything. A page of an emulated run has no figure in seconds: it
is made of rows that have none. What is drawn is chosen here; plots.py draws it, and page/ holds the frame.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeadapt_bench import plots, tables
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.results import FEWEST, Result
from edgeadapt_bench.units import digits, shown
from edgeadapt_bench.workloads import PHASES

_PHASES = {
    "load": ("Load", "the base graph, from its file to a session that is ready"),
    "prefill": ("Prefill", "the prompt, from its token ids to the first logits: time to first token"),
    "decode": ("Decode", "one further token, the greedy choice included"),
    "task_switch": ("Task switch", "another task of the same adapter, bound for a prompt"),
    "adapter_switch": ("Adapter switch", "an adapter's file read anew, and bound for a prompt"),
}
_ORDER = ("decode", "prefill", "task_switch", "adapter_switch", "load")  # what matters most comes first
_COLOURS = 7
_WEIGHTS = (".onnx.data", ".gguf", "model.safetensors", ".bin")  # of a bundle, and of other engines
_PARTS = ("weights", "graphs", "adapters", "tokenizer and the rest")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first; `more` are lines below it."""

    name: str
    value: str
    unit: str
    more: tuple[str, ...]


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


@dataclass(frozen=True)
class Cell:
    """Text of a table, and what it sorts by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Table:
    """`head`: names of the columns; the first column names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def to_html(result: Result) -> str:
    """The page, one string of HTML."""
    environment = Environment(
        loader=PackageLoader("edgeadapt_bench", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _page("page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        result=result,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
        style=Markup(_page("page.css")),
        script=Markup(script),
        tiles=_tiles(result),
        sections=_emulated(result) if result.emulated else _native(result),
        tables=_tables(result),
        facts=_facts(result),
        notes=tables.notes(result),
        first=result.rows[0],
    )


def _page(name: str) -> str:
    return files("edgeadapt_bench").joinpath("page", name).read_text(encoding="utf-8")


def _kinds(result: Result) -> dict[str, str]:
    """A class for every variant, the same in all plots; bare is grey."""
    return {name: f"v{1 + (number - 1) % _COLOURS if number else 0}" for number, name in enumerate(result.variants)}


def _native(result: Result) -> list[Section]:
    phases = [phase for phase in _ORDER if result.of(phase)]
    spread = tuple(_distribution(result, phase) for phase in phases)
    ratios = tuple(
        _forest(result, phase) for phase in phases if any(row["ratio_to_bare"] for row in _rows(result, phase))
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
        Section("latency", "Latency", says, spread),
        *([Section("ratios", "Against the bare backbone", against, ratios)] if ratios else []),
        _memory(result),
        _roofline(result),
    ]


def _emulated(result: Result) -> list[Section]:
    says = (
        "User instructions of an emulated processor, the same every time. They are not a time, and nothing on this "
        "page is: no clock was read."
    )
    work = tuple(_work(result, phase) for phase in ("decode", "prefill", "load") if result.of(phase))
    return [Section("work", "Work", says, work), _memory(result)]


def _rows(result: Result, phase: str) -> list[Row]:
    found = result.of(phase)
    return [found[name] for name in result.variants if name in found]


def _distribution(result: Result, phase: str) -> Figure:
    kinds = _kinds(result)
    rows = _rows(result, phase)
    figure = _unit_of([row["p50"] for row in rows])
    drawn = [
        plots.Samples(
            row["variant"],
            _median(row, figure),
            kinds[row["variant"]],
            [sample for opening in row["samples"] for sample in opening],
            None if row["n"] < FEWEST else (row["low"], row["high"]),
        )
        for row in rows
    ]
    title, says = _PHASES[phase]
    per = " per token" if phase == "decode" else ""
    counted = {(row["n"], len(row["samples"])) for row in rows}
    samples = ", ".join(f"{n} samples in {tables.counted(openings, 'opening')}" for n, openings in sorted(counted))
    svg = plots.distributions(f"{title}{per}: distribution of the latency of each variant", drawn, figure)
    return Figure(f"{title}{per}", f"{says[0].upper()}{says[1:]}. {samples}.", Markup(svg))


def _unit_of(medians: list[float]) -> Callable[[float], str]:
    """Writes seconds in the unit that suits the smallest of these medians."""
    size, name = next(((size, name) for size, name in ((1.0, "s"), (1e-3, "ms")) if min(medians) >= size), (1e-6, "µs"))
    return lambda value: f"{value / size:.3g} {name}" if value < 1000 * size else f"{value / size:,.0f} {name}"


def _median(row: Row, figure: Callable[[float], str]) -> str:
    interval = f"[{figure(row['low'])} {figure(row['high'])}]" if row["n"] >= FEWEST else "[?]"
    return f"{shown(row['p50'], 's')} {interval}"


def _forest(result: Result, phase: str) -> Figure:
    kinds = _kinds(result)
    rows = [row for row in _rows(result, phase) if row["ratio_to_bare"] is not None]
    drawn = [
        plots.Interval(
            row["variant"],
            tables.ratio(row["ratio_to_bare"]),
            kinds[row["variant"]],
            _ends(row["ratio_to_bare"]),
            None if row["cpu_ratio_to_bare"] is None else _ends(row["cpu_ratio_to_bare"]),
        )
        for row in rows
    ]
    title = _PHASES[phase][0]
    pairs = sorted({(row["ratio_to_bare"]["pairs"], row["ratio_to_bare"]["openings"]) for row in rows})
    says = ", ".join(f"{tables.counted(n, 'pair')} in {tables.counted(openings, 'opening')}" for n, openings in pairs)
    return Figure(title, f"{says}.", Markup(plots.forest(f"{title}: ratio to the bare backbone", drawn)))


def _ends(ratio: Row) -> tuple[float, float, float]:
    """Value and interval; the value alone, three times, where there are too few pairs for one."""
    value, low, high = (float(ratio[end]) for end in ("value", "low", "high"))
    return (value, low, high) if ratio["pairs"] >= FEWEST else (value, value, value)


def _memory(result: Result) -> Section:
    process = "the process without a model"
    model = "with opening and running it"
    peaks = []
    for item in result.memory:
        rest, increase = item["peak_bytes"] - item["increase_bytes"], item["increase_bytes"]
        segments = (
            (increase, "s0", f"{model}: {shown(increase, 'bytes')}"),
            (rest, "s3", f"{process}: {shown(rest, 'bytes')}"),
        )
        text = f"{shown(item['peak_bytes'], 'bytes')}, {shown(increase, 'bytes')} of it the model's"
        peaks.append(plots.Bar(item["variant"], text, segments))
    disk = []
    for bundle in result.document["sizes"]:
        parts = _parts(result.files(bundle))
        files = tuple(
            (size, f"s{number}", f"{name}: {shown(size, 'bytes')}") for number, (name, size) in enumerate(parts.items())
        )
        disk.append(plots.Bar(bundle.rstrip("/").rpartition("/")[2], shown(sum(parts.values()), "bytes"), files))
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


def _parts(sizes: Mapping[str, int]) -> dict[str, int]:
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


def _adapter_bytes(result: Result) -> str:
    said = []
    for bundle in result.document["sizes"]:
        parts = _parts(result.files(bundle))
        if parts["adapters"]:
            share = parts["adapters"] / sum(parts.values())
            said.append(f"{shown(parts['adapters'], 'bytes')} of it ({share:.2%}) are adapters")
    return f"Every file of a bundle. {'; '.join(dict.fromkeys(said))}." if said else "Every file of a bundle."


def _bytes(value: float) -> str:
    return f"{value / 1e6:.4g} MB" if value else "0"


def _roofline(result: Result) -> Section:
    title = "Memory bandwidth"
    if result.bandwidth is None:
        says = "Left out: this file does not say how fast the machine reads its memory."
        return Section("roofline", title, says, ())
    roof = result.bandwidth
    rows = []
    for row in _rows(result, "decode"):
        size = _weights(result, row)
        if size:
            reached = size / row["p50"]
            words = f"{row['variant']}: {shown(size, 'bytes')} in {shown(row['p50'], 's')}"
            text = f"{reached / 1e9:.2f} GB/s, {reached / roof:.0%}"
            rows.append(plots.Bar(row["variant"], text, ((reached, _kinds(result)[row["variant"]], words),)))
    if not rows:
        return Section("roofline", title, "Left out: this file does not say how large the weights are.", ())
    limit = f"{roof / 1e9:.2f} GB/s"
    svg = plots.bars(
        f"Bytes of weights per second while decoding, against {limit} that memory gives",
        rows,
        lambda value: f"{value / 1e9:.3g} GB/s" if value else "0",
        (roof, f"memory gives {limit}"),
    )
    says = (
        "A token needs every weight once, so memory bounds decoding: size of the graph's files divided by the median "
        f"time of a token. The dashed line is what this machine read at best before the run, {limit}. Weights that "
        "stay in a processor's cache may pass it."
    )
    return Section("roofline", title, says, (Figure("Decode, against the roof", "", Markup(svg)),))


def _weights(result: Result, row: Row) -> int:
    """Bytes of a row's graph and of its bundle's weights; 0 where the file does not list them."""
    sizes = result.files(row["bundle"])
    weights = sum(size for name, size in sizes.items() if name.endswith(_WEIGHTS))
    return weights + sizes.get(f"{row['graph']}.onnx", 0)


def _work(result: Result, phase: str) -> Figure:
    kinds, bare = _kinds(result), result.of(phase).get(BARE)
    per = "" if phase == "load" else " per token"
    drawn = []
    for row in _rows(result, phase):
        text = shown(row["instructions"], "instructions")
        if bare is not None and row is not bare:
            text += f", {row['instructions'] / bare['instructions']:.4f} x bare"
        words = f"{row['variant']}: {row['instructions']:,.0f} user instructions{per}"
        drawn.append(plots.Bar(row["variant"], text, ((row["instructions"], kinds[row["variant"]], words),)))
    title, says = _PHASES[phase]
    what = "the whole prompt, its instructions divided by its tokens" if phase == "prefill" else says
    svg = plots.bars(f"{title}: user instructions{per} of each variant", drawn, _count)
    return Figure(f"{title}{per}", f"{what[0].upper()}{what[1:]}.", Markup(svg))


def _count(value: float) -> str:
    return f"{value / 1e6:.4g} M" if value else "0"


def _tiles(result: Result) -> list[Tile]:
    """Of the first adapter, or of the backbone where there is none."""
    name = next((row["variant"] for row in result.rows if row["adapter"] is not None), result.variants[0])
    found = {phase: result.of(phase)[name] for phase in PHASES if name in result.of(phase)}
    tiles = []
    for phase in ("decode", "prefill", "task_switch"):
        if phase not in found:
            continue
        row = found[phase]
        per = "/token" if phase == "decode" or (phase == "prefill" and result.emulated) else ""
        if result.emulated:
            number, _, unit = shown(row["instructions"], "instructions").partition(" ")
            bare = result.of(phase).get(BARE)
            against = (
                [] if bare is None or bare is row else [f"{row['instructions'] / bare['instructions']:.4f} x bare"]
            )
            tiles.append(Tile(_PHASES[phase][0], number, f"{unit} instructions{per}", tuple(against)))
            continue
        number, _, unit = shown(row["p50"], "s").partition(" ")
        more = [f"{digits(1 / row['p50'])} tokens/s"] if phase == "decode" else []
        more += [f"{tables.ratio(row['ratio_to_bare'])} x bare"] if row["ratio_to_bare"] else []
        tiles.append(Tile(_PHASES[phase][0], number, f"{unit}{per}", tuple(more)))
    for item in result.memory:
        if item["variant"] == name:
            number, _, unit = shown(item["peak_bytes"], "bytes").partition(" ")
            tiles.append(
                Tile("Peak memory", number, unit, (f"{shown(item['increase_bytes'], 'bytes')} of it the model's",))
            )
            size = sum(result.files(item["bundle"]).values())
            if size:
                number, _, unit = shown(size, "bytes").partition(" ")
                adapters = _parts(result.files(item["bundle"]))["adapters"]
                tiles.append(
                    Tile("On disk", number, unit, (f"{shown(adapters, 'bytes')} of it adapters",) if adapters else ())
                )
    return tiles


def _tables(result: Result) -> list[Table]:
    return [_counts(result)] if result.emulated else [_latencies(result), *_ratio_tables(result)]


def _latencies(result: Result) -> Table:
    keys = ("p50", "low", "high", "p90", "p99", "mean", "minimum", "maximum", "deviation")
    names = ("median", "95 % from", "to", "p90", "p99", "mean", "min", "max", "deviation")
    rows = []
    for phase in _ORDER:
        for row in _rows(result, phase):
            cells = [Cell(row["variant"], row["variant"]), Cell(_PHASES[phase][0], _ORDER.index(phase))]
            cells += [Cell(str(row["n"]), row["n"])]
            rows.append((*cells, *(Cell(digits(row[key] * 1e3), row[key]) for key in keys)))
    return Table("Latency in milliseconds; decode per token", ("variant", "phase", "samples", *names), tuple(rows))


def _ratio_tables(result: Result) -> list[Table]:
    rows = []
    for phase in _ORDER:
        for row in _rows(result, phase):
            if row["ratio_to_bare"] is None:
                continue
            cells = [Cell(row["variant"], row["variant"]), Cell(_PHASES[phase][0], _ORDER.index(phase))]
            for key in ("ratio_to_bare", "cpu_ratio_to_bare"):
                ends = (None, None, None) if row[key] is None else _ends(row[key])
                cells += [Cell("-", "") if end is None else Cell(f"{end:.4f}", end) for end in ends]
            rows.append(tuple(cells))
    head = ("variant", "phase", "wall clock", "from", "to", "computing time", "from", "to")
    return [Table("Paired ratios to the bare backbone, with 95 % intervals", head, tuple(rows))] if rows else []


def _counts(result: Result) -> Table:
    rows = []
    for phase in _ORDER:
        bare = result.of(phase).get(BARE)
        for row in _rows(result, phase):
            count = row["instructions"]
            against = None if bare is None else count / bare["instructions"]
            rows.append(
                (
                    Cell(row["variant"], row["variant"]),
                    Cell(_PHASES[phase][0], _ORDER.index(phase)),
                    Cell(f"{count:,.0f}", count),
                    Cell("-", "") if against is None else Cell(f"{against:.5f}", against),
                    Cell(row["ops"], row["ops"]),
                )
            )
    head = ("variant", "phase", "instructions", "x bare", "ops")
    return Table("User instructions; prefill and decode per token", head, tuple(rows))


def _facts(result: Result) -> list[tuple[str, str]]:
    """What a reader needs in order to believe the figures, or to measure them again."""
    device, row = result.device, result.rows[0]
    work = row["workload"]
    memory = device["memory_bytes"]
    clock = device["clock_range_mhz"]
    decoded = "" if result.emulated else f", {work['decode_tokens']} decoded in a turn"
    facts = [
        ("Device", f"{device['name']} ({device['id']}){', emulated' * result.emulated}"),
        ("Model", device["model"]),
        ("Processor", f"{device['cpu']}, {device['architecture']}, {tables.counted(device['cores'], 'core')}"),
        ("Clock", clock if isinstance(clock, str) else f"{clock[0]:g} to {clock[1]:g} MHz"),
        ("Governor", device["governor"]),
        ("Memory", shown(memory, "bytes") if memory else "as much as each model needs"),
        ("System", f"{device['system']}, Linux {device['kernel']}, {device['libc']}"),
        ("Versions", ", ".join(f"{name} {text}" for name, text in row["versions"].items())),
        ("Workload", f"{work['name']}, prompt of {work['prompt_tokens']} tokens{decoded}, batch {work['batch']}"),
        ("Precision", ", ".join(dict.fromkeys(row["precision"] for row in result.rows))),
        ("Started", result.document["started"]),
    ]
    facts = [(name, text) for name, text in facts if text != "unknown"]
    if not result.emulated:
        before, after = (result.document["conditions"][when] for when in ("before", "after"))
        facts.append(("Took", f"{result.document['seconds']:.0f} s{', bounded (--quick)' * result.document['quick']}"))
        for name, key, unit in (("Load average", "load_average", ""), ("Temperature", "temperature_c", " °C"),
                                ("Clock at work", "clock_mhz", " MHz")):  # fmt: skip
            if "unknown" not in (before[key], after[key]):
                facts.append((name, f"{before[key]:.1f}{unit} before, {after[key]:.1f}{unit} after"))
        if before["throttled"] != "unknown":
            facts.append(("Throttle bits", f"{before['throttled']} before, {after['throttled']} after"))
    for bundle, digest in dict.fromkeys((item["bundle"], item["bundle_sha256"]) for item in result.rows):
        facts.append(("Bundle", f"{bundle}, sha256 {digest[:16]}…"))
    if device["features"]:
        facts.append(("Features", " ".join(device["features"])))
    return facts
