"""How figures look, on paper and on a screen: one drawing, once as PDF and once as SVG inside the page.

In the page, the colours named here become those of its style sheet, which has a light and a dark value for each. Series
have the colours of Okabe and Ito, which colour-blind readers tell apart, and a mark of their own besides.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from edgeadapt.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 3.8  # inches: what a phone shows at the size that the text is set in
# From the colour in the drawing to the name of the page's variable.
INK, SOFT, LINE, CARD = "#14181f", "#566070", "#dfe3e9", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", CARD: "card", **{c: f"v{i}" for i, c in enumerate(SERIES)}}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
_ON_DARK, _ON_LIGHT = "#fefefe", "#010101"  # on coloured cells, the same in both modes
_LINKS = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeadapt",
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.color": SOFT,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Plot:
    """A drawing: what the page shows of it. `says`: a sentence below the title."""

    title: str
    says: str
    svg: str


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style."""
    with mpl.rc_context(_SETTINGS):
        yield


def blank(height: float) -> tuple[Figure, Axes]:
    """A figure of WIDTH by `height` inches, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def series(number: int) -> dict[str, Any]:
    """Colour, mark and dash of the series `number`, as arguments of a line."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": DASHES[number // len(SERIES) % len(DASHES)],
    }


def on_cell(share: float) -> str:
    """Colour of text on a cell of the sequential map, `share` of the way up."""
    return _ON_LIGHT if share > 0.55 else _ON_DARK


def laid_out(figure: Figure) -> Figure:
    """The figure with its parts where they stay: drawing it again does not move them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def write_pdf(path: Path, figures: Sequence[Figure]) -> None:
    """Figures as the pages of one PDF."""
    sink = io.BytesIO()
    with PdfPages(sink, metadata={"CreationDate": None}) as pages:
        for figure in figures:
            pages.savefig(figure, facecolor="white")
    write_atomic(path, sink.getvalue())


def svg(figure: Figure, title: str, name: str) -> str:
    """The figure as an SVG element of a page, where `name` is used once: ids begin with it."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", _FONT, text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    words = escape(title)
    opening = f'<svg class="plot" role="img" viewBox="{box[1]}" aria-label="{words}" {_LINKS}><title>{words}</title>'
    return opening + text[text.index(">") + 1 :]
