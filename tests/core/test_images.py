"""docker/: what its files say, since nothing here can build them; what they call is run by tests and CI."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted((ROOT / "docker").glob("*/Dockerfile"))
PINNED = re.compile(r"[a-z0-9./-]+:[a-z]+-\d{8}-slim@sha256:[0-9a-f]{64}")


@dataclass
class Stage:
    """One FROM and the instructions behind it, as (word, rest)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [rest for found, rest in self.steps if found == word]


def stages(path: Path) -> list[Stage]:
    text = re.sub(r"\\\n", " ", path.read_text())
    found: list[Stage] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word == "FROM":
            match = re.fullmatch(r"(?:--platform=\S+ )?(\S+)(?: AS (\S+))?", rest)
            assert match is not None, line
            found.append(Stage(match[1], match[2] or ""))
        else:
            found[-1].steps.append((word, rest.strip()))
    return found


@pytest.fixture(params=IMAGES, ids=lambda path: path.parent.name)
def image(request: pytest.FixtureRequest) -> list[Stage]:
    return stages(request.param)


def test_there_is_an_image_for_the_board_and_one_for_training() -> None:
    assert [path.parent.name for path in IMAGES] == ["rpi", "train"]


def test_bases_are_pinned_by_digest(image: list[Stage]) -> None:
    for stage in image:
        assert stage.base == "scratch" or PINNED.fullmatch(stage.base), stage.base


def test_what_builds_an_image_is_left_behind(image: list[Stage]) -> None:
    *builders, last = image
    assert builders
    known = {stage.name for stage in builders}
    copied = [shlex.split(rest) for rest in last.of("COPY")]
    assert copied
    assert all(words[0].startswith("--from=") and words[0].removeprefix("--from=") in known for words in copied)
    assert not any("build-deps" in step or "g++" in step for step in last.of("RUN"))


def test_nothing_runs_as_root(image: list[Stage]) -> None:
    (user,) = image[-1].of("USER")
    uid, _, gid = user.partition(":")
    assert int(uid) >= 1000
    assert int(gid) >= 1000
    order = [word for word, _ in image[-1].steps]
    assert "RUN" not in order[order.index("USER") :]


def test_package_lists_do_not_stay(image: list[Stage]) -> None:
    for step in image[-1].of("RUN"):
        if "apt-get" in step:
            assert "--no-install-recommends" in step
            assert step.endswith("rm -rf /var/lib/apt/lists/*")


def test_scripts_that_are_called_are_there_and_in_the_context(image: list[Stage]) -> None:
    called = {
        word for stage in image for step in stage.of("RUN") for word in step.split() if word.startswith("scripts/")
    }
    assert called
    for script in called:
        assert os.access(ROOT / script, os.X_OK), script
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    for part in ("scripts", "edgeadapt", "bench", "pyproject.toml", "constraints.txt", "CMakeLists.txt"):
        assert f"!{part}" in sent
        assert (ROOT / part).exists()


def test_the_training_image_sees_the_gpu() -> None:
    (settings,) = stages(ROOT / "docker" / "train" / "Dockerfile")[-1].of("ENV")
    assert "NVIDIA_VISIBLE_DEVICES=all" in settings
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in settings
