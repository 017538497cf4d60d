"""A stored result as one page, with its styles, script and plots inside it: it opens anywhere and asks nobody.

Its content security policy forbids the page to fetch anything. A page of an emulated run has no figure in seconds: it
is made of rows that have none. What is drawn is chosen in figures.py; plots.py draws it, and page/ holds the frame.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgeadapt_bench import figures, tables
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.blocks import blocks
from edgeadapt_bench.figures import ends, parts, per
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.results import Group, Result
from edgeadapt_bench.units import digits, in_words, shown

Row = Mapping[str, Any]
_WHO = ("variant", "phase", "workload", "threads")
_TILES = ("decode", "prefill", "classify", "embed", "task_switch")


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first; `more` are lines below it."""

    name: str
    value: str
    unit: str
    more: tuple[str, ...]


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
        sections=figures.emulated(result) if result.emulated else figures.native(result),
        tables=_tables(result),
        facts=_facts(result),
        notes=tables.notes(result),
        chips=_chips(result),
    )


def _page(name: str) -> str:
    return files("edgeadapt_bench").joinpath("page", name).read_text(encoding="utf-8")


def _chips(result: Result) -> list[str]:
    """What the whole run has in common, in a few words each."""
    threads = [str(count) for count in dict.fromkeys(row["threads"] for row in result.rows)]
    return [
        f"{' and '.join(threads)} thread{'' if threads == ['1'] else 's'}",
        *dict.fromkeys(row["precision"] for row in result.rows),
        *(block.title for block in blocks(result)[:3]),
        result.document["started"][:10],
    ]


def _rows(result: Result) -> Iterator[tuple[str, Group, Row]]:
    for phase in result.phases:
        for group in result.of(phase):
            yield from ((phase, group, group.rows[name]) for name in result.variants if name in group.rows)


def _tiles(result: Result) -> list[Tile]:
    """Of the first adapter, or of the backbone where there is none."""
    name = next((row["variant"] for row in result.rows if row["adapter"] is not None), result.variants[0])
    tiles = []
    for phase in _TILES:
        group = next((group for group in result.of(phase) if name in group.rows), None)
        if group is None:
            continue
        row, bare, title = group.rows[name], group.rows.get(BARE), PHASES[phase].title
        unit_of = per(phase, counted=result.emulated).replace(" per ", "/")
        if result.emulated:
            number, _, unit = shown(row["instructions"], "instructions").partition(" ")
            against = (
                [] if bare is None or bare is row else [f"{row['instructions'] / bare['instructions']:.4f} x bare"]
            )
            tiles.append(Tile(title, number, f"{unit} instructions{unit_of}", tuple(against)))
            continue
        number, _, unit = shown(row["p50"], "s").partition(" ")
        more = [f"{digits(1 / row['p50'])} tokens/s"] if phase == "decode" else []
        more += [f"{tables.ratio(row['ratio_to_bare'])} x bare"] if row["ratio_to_bare"] else []
        tiles.append(Tile(title, number, f"{unit}{unit_of}", tuple(more)))
    for item in result.memory:
        if item["variant"] == name and item["workload"] is None and not any(tile.name == "On disk" for tile in tiles):
            number, _, unit = shown(item["peak_bytes"], "bytes").partition(" ")
            tiles.append(
                Tile("Peak memory", number, unit, (f"{shown(item['increase_bytes'], 'bytes')} of it the model's",))
            )
            size = sum(result.files(item["bundle"]).values())
            if size:
                number, _, unit = shown(size, "bytes").partition(" ")
                adapters = parts(result.files(item["bundle"]))["adapters"]
                tiles.append(
                    Tile("On disk", number, unit, (f"{shown(adapters, 'bytes')} of it adapters",) if adapters else ())
                )
    return tiles


def _tables(result: Result) -> list[Table]:
    return [_counts(result)] if result.emulated else [_latencies(result), *_ratio_tables(result)]


def _origin(phase: str, group: Group, row: Row) -> list[Cell]:
    """Who, what and where: the first columns of every table."""
    where = in_words(group.workload)
    cells = [Cell(row["variant"], row["variant"]), Cell(PHASES[phase].title, list(PHASES).index(phase))]
    return [*cells, Cell(where, where), Cell(str(group.threads), group.threads)]


def _latencies(result: Result) -> Table:
    keys = ("p50", "low", "high", "p90", "p99", "mean", "minimum", "maximum", "deviation")
    names = ("median", "95 % from", "to", "p90", "p99", "mean", "min", "max", "deviation")
    rows = [
        (
            *_origin(phase, group, row),
            Cell(str(row["n"]), row["n"]),
            *(Cell(digits(row[key] * 1e3), row[key]) for key in keys),
        )
        for phase, group, row in _rows(result)
    ]
    return Table("Latency in milliseconds; decode per token", (*_WHO, "samples", *names), tuple(rows))


def _ratio_tables(result: Result) -> list[Table]:
    rows = []
    for phase, group, row in _rows(result):
        if row["ratio_to_bare"] is None:
            continue
        cells = _origin(phase, group, row)
        for key in ("ratio_to_bare", "cpu_ratio_to_bare"):
            interval = (None, None, None) if row[key] is None else ends(row[key])
            cells += [Cell("-", "") if end is None else Cell(f"{end:.4f}", end) for end in interval]
        rows.append(tuple(cells))
    head = (*_WHO, "wall clock", "from", "to", "computing time", "from", "to")
    return [Table("Paired ratios to the bare backbone, with 95 % intervals", head, tuple(rows))] if rows else []


def _counts(result: Result) -> Table:
    rows = []
    for phase, group, row in _rows(result):
        count, bare = row["instructions"], group.rows.get(BARE)
        against = None if bare is None else count / bare["instructions"]
        share = Cell("-", "") if against is None else Cell(f"{against:.5f}", against)
        rows.append((*_origin(phase, group, row), Cell(f"{count:,.0f}", count), share, Cell(row["ops"], row["ops"])))
    head = (*_WHO, "instructions", "x bare", "ops")
    return Table("User instructions; prefill and decode per token", head, tuple(rows))


def _facts(result: Result) -> list[tuple[str, str]]:
    """What a reader needs in order to believe the figures, or to measure them again."""
    device, row = result.device, result.rows[0]
    memory = device["memory_bytes"]
    clock = device["clock_range_mhz"]
    facts = [
        ("Device", f"{device['name']} ({device['id']}){', emulated' * result.emulated}"),
        ("Model", device["model"]),
        ("Processor", f"{device['cpu']}, {device['architecture']}, {tables.counted(device['cores'], 'core')}"),
        ("Clock", clock if isinstance(clock, str) else f"{clock[0]:g} to {clock[1]:g} MHz"),
        ("Governor", device["governor"]),
        ("Memory", shown(memory, "bytes") if memory else "as much as each model needs"),
        ("System", f"{device['system']}, Linux {device['kernel']}, {device['libc']}"),
        ("Versions", ", ".join(f"{name} {text}" for name, text in row["versions"].items())),
        ("Workloads", "; ".join(_workloads(result))),
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


def _workloads(result: Result) -> list[str]:
    """Each with what its sizes were."""
    found = []
    for block in blocks(result):
        values = [
            f"{name} {', '.join(str(value) for value in sorted({entry.sizes[place] for entry in block.entries}))}"
            for place, name in enumerate(block.vary)
        ]
        found.append("; ".join([block.title, *values]))
    return found
