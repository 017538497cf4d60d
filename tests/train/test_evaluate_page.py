"""The page of an evaluation: whole, self-contained, and readable in a browser, light and dark, wide and narrow."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeadapt_train.evaluation.report import evaluate
from edgeadapt_train.evaluation.style import SERIES
from tests.bench.chromium import PROGRAM, opened
from tests.train.stored_runs import stored_run

BROWSER = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: scripts/build-deps --browser")
LONG = "proposed-iter1-Llama-2-7B-HF-4-bit-QLoRA-7-B-parameters"


class Elements(HTMLParser):
    """Ids, and every address that the page could fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    tasks = tuple(f"task number {i}" for i in range(12))
    stored_run(root, LONG, level=0.8, tasks=tasks)
    stored_run(root, "baseline<b>", level=0.7, forgets=0.03, tasks=tasks)
    return evaluate([f"results_dir={root}", f"run_ids=[{LONG}, 'baseline<b>']"])[-1]


def test_it_fetches_nothing_and_every_id_is_its_own(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{name}" for name in found.ids}
    assert len(found.ids) == len(set(found.ids))
    assert "<b>" not in re.sub(r"<b>[^<]*</b>", "", text)
    assert len(text.encode()) < 2_000_000


def test_figures_take_the_pages_colours(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg class=\"plot\".*?</svg>", text, flags=re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--v0)" in drawings
    assert not any(colour in drawings for colour in SERIES)


def test_every_figure_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for title in ("Retained accuracy", "Forgetting", "Confusion: task number 0", "Paired differences", "Final scores"):
        assert f'aria-label="{title}' in text


@BROWSER
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_its_window(page: Path, width: int, dark: bool) -> None:
    with opened(page, width=width, dark=dark) as tab:
        assert tab.problems == []
        assert [address for address in tab.requests if not address.startswith("data:")] == [page.resolve().as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        size = "Math.min(...[...document.querySelectorAll('.plot text')].map(t => t.getBoundingClientRect().height))"
        assert tab.evaluate(size) >= 9
        if keep := os.environ.get("EDGEADAPT_SHOTS"):
            Path(keep, f"{width}-{dark}.png").write_bytes(tab.screenshot())
