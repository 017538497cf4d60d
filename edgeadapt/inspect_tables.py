"""What `edgeadapt.inspect.describe` returns, as tables for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeadapt.manifest import PROTECTION

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    Titled = tuple[str, Table]


def render(found: Mapping[str, Any]) -> RenderableType:
    """The tables that a person reads, from what `describe` returned."""
    from rich.console import Group
    from rich.text import Text

    tables = _render_bundle(found) if found["kind"] == "bundle" else _render_run(found)
    return Group(*(part for title, table in tables for part in (Text(title, style="bold"), table)))


def _render_bundle(found: Mapping[str, Any]) -> list[Titled]:
    backbone = found["backbone"]
    facts = _pairs()
    facts.add_row("backbone", f"{backbone['id']} @ {backbone['revision']}")
    facts.add_row("precision", f"{found['precision']} for {found['device']}")
    facts.add_row("needs", f"onnxruntime >= {found['minimum_onnxruntime']}, opset {found['opset']}")
    facts.add_row("size", _size(found["bytes"]))
    for name, value in _flat(found["parity"]):
        facts.add_row(f"parity: {name}", f"{value:.6g}" if isinstance(value, float) else str(value))
    parts: list[Titled] = [("bundle " + found["path"], facts)]
    graphs = _table("graph", "file", "nodes>", "adapter sites", "adapter inputs", "weights>")
    for name, graph in found["graphs"].items():
        sites = ", ".join(f"{count} x {op.removeprefix('edgeadapt::')}" for op, count in graph["sites"].items())
        inputs = graph["adapter_inputs"]
        shown = ", ".join(port["name"] for port in inputs[:2]) + (f", ... ({len(inputs)})" if len(inputs) > 2 else "")
        weights = sum(graph["external_bytes"].values())
        graphs.add_row(name, graph["file"], str(graph["nodes"]), sites or "-", shown or "-", f"{weights:,}")
    parts.append(("graphs", graphs))
    for weights in found["weights"]:
        table = _table("offset>", "bytes>", "largest tensors")
        for one in weights["largest"]:
            table.add_row(f"{one['offset']:,}", f"{one['bytes']:,}", ", ".join(one["names"]))
        unused = f"{weights['unreferenced']:,} not referred to"
        parts.append((f"{weights['file']}: {weights['bytes']:,} bytes, {unused}", table))
    for adapter in found["adapters"]:
        title = f"adapter {adapter['name']}: {adapter['method']} ({adapter['variant']}), {adapter['kind']}"
        parts.append((title, _bytes_table(adapter["adapter_bytes"])))
        parts.append((f"tasks of {adapter['name']}", _tasks_table(adapter["tasks"])))
    return [*parts, ("files", _files_table(found["files"], found["unlisted"]))]


def _render_run(found: Mapping[str, Any]) -> list[Titled]:
    backbone = found["backbone"]
    facts = _pairs()
    facts.add_row("method", f"{found['method']} ({found['variant']})")
    facts.add_row("backbone", f"{backbone['id']} @ {backbone['revision']}")
    facts.add_row("sites", ", ".join(f"{name} {value}" for name, value in found["sites"].items()))
    facts.add_row("size", _size(found["bytes"]))
    parts: list[Titled] = [
        ("run " + found["path"], facts),
        ("adapter", _bytes_table(found["adapter_bytes"])),
        ("tasks", _tasks_table(found["tasks"])),
    ]
    tensors = _table("tensor", "dtype", "shape", "bytes>")
    for one in found["tensors"]:
        tensors.add_row(one["name"], one["dtype"], " x ".join(map(str, one["shape"])), f"{one['bytes']:,}")
    parts.append(("adapter.safetensors", tensors))
    if (scores := found["scores"]) is not None:
        names = scores["tasks"]
        table = _table("after", *(f"{name}>" for name in names))
        rows = [("(untrained)", scores["baseline"]), *zip(names, scores["matrix"], strict=True)]
        for name, row in rows:
            table.add_row(name, *("-" if score is None else f"{score:.3f}" for score in row))
        parts.append(("score on each task", table))
    return [*parts, ("files", _files_table(found["files"], ()))]


def _bytes_table(found: Mapping[str, Any]) -> Table:
    table = _table("term", "bytes>")
    for name, size in found["terms"].items():
        if name != PROTECTION:
            table.add_row(name, f"{size:,}")
    table.add_section()
    table.add_row("the method's formula", f"{found['method']:,}")
    if PROTECTION in found["terms"]:
        table.add_row("protection of earlier tasks", f"{found['terms'][PROTECTION]:,}")
    table.add_row("deployed", f"{found['deployed']:,} of {found['budget']:,}")
    table.add_section()
    table.add_row("training state", f"{found['training_state']:,}")
    table.add_row("training state with optimiser", f"{found['training_state_with_optimiser']:,}")
    return table


def _tasks_table(tasks: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("id>", "name", "kind", "answers")
    for number, task in enumerate(tasks):
        table.add_row(str(number), task["name"], task["kind"], ", ".join(task["choices"]) or "free text")
    return table


def _files_table(files: Iterable[Mapping[str, Any]], unlisted: Iterable[str]) -> Table:
    table = _table("file", "bytes>", "sha256")
    for one in files:
        table.add_row(one["name"], f"{one['bytes']:,}", one.get("sha256", "")[:16])
    for name in unlisted:
        table.add_row(name, "", "not listed, not used")
    return table


def _table(*columns: str) -> Table:
    """A table; a column whose name ends in '>' is aligned to the right. Texts are shown as they are, not as markup."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    class Plain(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(Text(one) if isinstance(one, str) else one for one in cells), **options)

    table = Plain(box=SIMPLE)
    for column in columns:
        table.add_column(Text(column.removesuffix(">")), justify="right" if column.endswith(">") else "left")
    return table


def _pairs() -> Table:
    table = _table("", "")
    table.show_header = False
    return table


def _flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{before}{name}.")
        else:
            yield before + name, item


def _size(count: int) -> str:
    return f"{count:,} bytes ({count / 1e6:.1f} MB)"
