"""The table that these benchmarks are for: bytes per second of each kernel beside what the memory gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.kernels.rows import Row

ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Put a row into the table at the end."""
    return request.config.stash[ROWS].append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("bytes per second, one thread, through onnxruntime")
    head = f"{'workload':<36} {'kernel':<11} {'MB':>8} {'us':>10} {'GB/s':>8} {'limit':>8} {'':>6}"
    terminalreporter.write_line(head)
    for row in rows:
        terminalreporter.write_line(row.line())
