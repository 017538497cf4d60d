"""The page of a run: what it holds, and how it behaves in a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeadapt_bench import plots
from edgeadapt_bench.html import to_html
from edgeadapt_bench.results import checked
from tests.bench.chromium import PROGRAM, opened
from tests.bench.documents import emulated, native

BROWSER = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: scripts/build-deps --browser")
LIMIT = 1_000_000  # bytes of a page
DOCUMENTS = {
    "native": native({"himalaya": 1.004, "lora8-unmerged": 1.05, "stock": 9.0}),
    "one opening": native(openings=1),
    "emulated": emulated(),
}


class Elements(HTMLParser):
    """Counts elements, and keeps every address that a page could fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] = self.found.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(params=DOCUMENTS)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "bench.html"
    path.write_text(to_html(checked("x", DOCUMENTS[request.param])), encoding="utf-8")
    return path


def html(document: dict[str, Any]) -> str:
    return to_html(checked("x", document))


def test_the_page_is_whole_small_and_fetches_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    assert found.open == []
    assert len(text.encode()) < LIMIT
    assert found.addresses == ["data:,"]
    assert "url(" not in text
    assert "default-src &#39;none&#39;" in text


def test_a_long_run_still_makes_a_small_page() -> None:
    many = {f"adapter {number}": 1 + number / 100 for number in range(12)}
    assert len(html(native(many, openings=3, rounds=40)).encode()) < LIMIT


def test_every_kind_of_plot_is_there() -> None:
    text = html(DOCUMENTS["native"])
    for title in ("distribution of the latency", "ratio to the bare backbone", "Peak memory", "on disk",
                  "Bytes of weights per second"):  # fmt: skip
        assert re.search(rf"<title>[^<]*{title}", text)
    counts = html(DOCUMENTS["emulated"])
    assert re.search(r"<title>Decode per token: user instructions", counts)


def test_a_page_of_counts_has_no_time() -> None:
    text = re.sub(r"<(style|script)>.*?</\1>", "", html(emulated()), flags=re.DOTALL)
    shown = re.sub(r"<[^>]*>", " ", text)
    assert "emulated: counts, never times" in shown
    assert not re.search(r"\d\s*(ms|µs|s|seconds?|tokens/s)\b", shown)
    assert not re.search(r"latency|p50|p90|tokens/s", shown, re.IGNORECASE)


def test_without_a_measured_bandwidth_the_roofline_says_why_it_is_not_there() -> None:
    document = native()
    document["memory_bandwidth"] = []
    text = html(document)
    assert "Left out: this file does not say how fast the machine reads its memory" in text
    assert "Bytes of weights per second" not in text


def test_names_are_text_and_never_markup() -> None:
    text = html(native({"<script>alert(1)</script>": 1.1, 'a"b&c': 1.2}))
    assert "<script>alert" not in text
    assert Elements(text).open == []


def test_a_run_that_is_not_valid_says_so_first() -> None:
    document = native()
    document["problems"] = ["the clock moved by -20%"]
    text = html(document)
    assert text.index("the clock moved by -20%") < text.index("<main>")


def test_few_samples_are_dots_without_an_interval() -> None:
    svg = plots.distributions("x", [plots.Samples("a", "", "v1", [1.0, 2.0], None)], str)
    assert svg.count("<circle") == 2
    assert "interval" not in svg
    assert "density" not in svg


def test_an_axis_has_figures_that_are_round_and_within() -> None:
    for low, high in ((0.0, 1.0), (0.97, 1.03), (17.2, 1234.5), (3e-4, 5e-4), (5.0, 5.0001)):
        axis = plots.linear(low, high, str)
        assert 2 <= len(axis.ticks) <= 7
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick, _ in axis.ticks)
    axis = plots.scale(1.0, 1000.0, "{:g}".format)
    assert [text for _, text in axis.ticks] == ["1", "3", "10", "30", "100", "300", "1000"] or len(axis.ticks) <= 6
    assert plots.LEFT <= axis.at(0.1) < axis.at(30) < axis.at(1e6) <= plots.RIGHT


@BROWSER
def test_it_opens_without_a_word_on_the_console(page: Path) -> None:
    with opened(page) as tab:
        assert tab.problems == []
        assert tab.requests == [page.as_uri()]
        drawn = tab.evaluate(
            "[...document.querySelectorAll('svg.plot')].map(one => one.getBoundingClientRect().height)"
        )
        assert len(drawn) >= 5
        assert min(drawn) > 50
        unnamed = "[...document.querySelectorAll('svg')].filter(one => !one.querySelector('title')?.textContent).length"
        assert tab.evaluate(unnamed) == 0


@BROWSER
def test_tables_sort_both_ways_by_any_column(page: Path) -> None:
    with opened(page) as tab:
        for column in range(tab.evaluate("document.querySelector('thead tr').cells.length")):
            keys = (
                f"document.querySelectorAll('thead tr')[0].cells[{column}].querySelector('button').click();"
                f"[...document.querySelector('tbody').rows].map(row => row.cells[{column}].dataset.key)"
            )
            up, down = tab.evaluate(keys), tab.evaluate(keys)
            assert up == sorted(up, key=number_or_text)
            assert [number_or_text(key) for key in down] == [
                number_or_text(key) for key in sorted(up, key=number_or_text)
            ][::-1]
            state = f"document.querySelector('thead tr').cells[{column}].getAttribute('aria-sort')"
            assert tab.evaluate(state) == "descending"
        assert tab.evaluate("document.querySelectorAll('table')[0].querySelectorAll('[aria-sort]').length") == 1
        assert tab.problems == []


@BROWSER
@pytest.mark.parametrize("width", [340, 390, 1200])
def test_nothing_is_wider_than_the_screen(page: Path, width: int) -> None:
    with opened(page, width=width, height=800) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        sizes = (
            "[...document.querySelectorAll('svg.plot text')].map(one => parseFloat(getComputedStyle(one).fontSize) "
            "* one.ownerSVGElement.getBoundingClientRect().width / one.ownerSVGElement.viewBox.baseVal.width)"
        )
        assert min(tab.evaluate(sizes)) >= 9  # CSS pixels


@BROWSER
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(page: Path, dark: bool) -> None:
    """WCAG AA: 4.5 to 1 for every text, and 3 to 1 for what is drawn."""
    with opened(page, dark=dark) as tab:
        names = ("page", "card", "ink", "soft", "accent", "good", "good-back", "bad", "bad-back", "note", "note-back")
        names += (*(f"v{number}" for number in range(8)), "s0", "s1", "s2")
        colours = {name: luminance(tab.evaluate(
            "(() => { const one = document.createElement('i'); document.body.append(one);"
            f"one.style.color = 'var(--{name})'; return getComputedStyle(one).color; }})()"
        )) for name in names}  # fmt: skip
    assert (colours["page"] < 0.1) == dark
    for text, back in (("ink", "page"), ("ink", "card"), ("soft", "page"), ("soft", "card"), ("accent", "card"),
                       ("good", "good-back"), ("bad", "bad-back"), ("note", "note-back")):  # fmt: skip
        assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    for name in names[11:]:
        assert contrast(colours[name], colours["card"]) >= 3, name


def number_or_text(key: str) -> tuple[int, float, str]:
    try:
        return 0, float(key), ""
    except ValueError:
        return 1, 0.0, key


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
