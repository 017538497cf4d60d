"""What is shipped: a core that needs no training stack, one version, and wheels that say truthfully where they run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import onnxruntime
import pytest

import edgeadapt
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.ops import library

ROOT = Path(__file__).resolve().parents[2]
PI_GLIBC = 36  # Raspberry Pi OS and Debian 12: 2.36
LIBRARY = "edgeadapt/kernels/libedgeadapt_ops.so"
NOT_ON_A_DEVICE = (
    "accelerate", "datasets", "gguf", "huggingface_hub", "hydra", "omegaconf", "onnx", "onnx_ir", "onnxscript",
    "onnxruntime_genai", "optimum", "peft", "pypi_simple", "requests", "scipy", "sklearn", "torch", "transformers",
)  # fmt: skip

REFUSE = f"""
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_ON_A_DEVICE!r}:
            raise ModuleNotFoundError(f"{{name}} is not on a device", name=name)

sys.meta_path.insert(0, Refuse())
from edgeadapt import cli
"""

# Imports every module of the core and of bench, and shows every command's help.
IMPORT_ALL = f"""
import edgeadapt, edgeadapt_bench
count = 0
for package in (edgeadapt, edgeadapt_bench):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
for command in ([], ["train"], ["data"], ["export"], ["run"], ["bench"], ["inspect"], ["verify"]):
    try:
        cli.main([*command, "--help"])
    except SystemExit as finished:
        assert finished.code in (0, None), (command, finished.code)
loaded = {{name.partition(".")[0] for name in sys.modules}} & set({NOT_ON_A_DEVICE!r})
assert not loaded, loaded
assert count > 25, count
"""


def test_everything_a_device_needs_imports_without_the_training_stack() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSE + IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stage_whose_packages_are_missing_names_its_extra(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{REFUSE}cli.main(['train', 'run=demo'])"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"pip install 'edgeadapt\[train\]'", done.stderr), done.stderr


def test_the_version_has_one_source() -> None:
    assert importlib.metadata.version("edgeadapt") == edgeadapt.__version__


def test_extras_are_complete_and_the_core_is_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in project["dependencies"]}
    assert core == {"jinja2", "numpy", "onnxruntime", "psutil", "rich", "safetensors", "tokenizers", "typer"}
    extras = project["optional-dependencies"]
    engines = {"bench-genai", "bench-llama", "bench-openvino", "bench-torch"}
    parts = ("train", "nf4", "tracking", "evaluate", "export", "bench")
    assert set(extras) == {*parts, *engines, "bench-all", "all", "dev"}
    assert extras["all"] == [f"edgeadapt[{','.join(parts)}]"]
    assert extras["bench-all"] == [f"edgeadapt[bench,{','.join(sorted(engines))}]"]


def test_constraints_pin_every_direct_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(r.name): r for r in map(Requirement, (x for x in lines if x and not x.startswith("#")))}
    assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)) for pin in pins.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for wanted in map(Requirement, (*project["dependencies"], *extras)):
        if wanted.name != "edgeadapt":
            pinned = str(pins[canonicalize_name(wanted.name)].specifier).removeprefix("==")
            assert wanted.specifier.contains(pinned), f"{wanted}: constraints.txt has {pinned}"


class TestLibraryPath:
    """`edgeadapt.ops.library`: which native library a session registers."""

    def test_off_gives_none_and_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(library.SWITCH, "off")
        assert library.library_path() is None
        assert "function bodies" in str(library.why_absent())

    def test_a_named_file_is_taken(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        mine = tmp_path / "mine.so"
        mine.write_bytes(b"")
        monkeypatch.setenv(library.SWITCH, str(mine))
        assert library.library_path() == mine
        assert library.why_absent() is None

    def test_a_named_file_that_is_not_there_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(library.SWITCH, str(tmp_path / "none.so"))
        with pytest.raises(EdgeAdaptError, match=r"EDGEADAPT_OPS=.*none\.so: no such file"):
            library.library_path()

    def test_without_a_library_the_remedy_is_one_line(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(library.SWITCH, raising=False)
        monkeypatch.setattr(library, "_installed", lambda: tmp_path / "none.so")
        assert library.library_path() is None
        said = str(library.why_absent())
        assert "scripts/build-kernels" in said
        assert "\n" not in said


def build_wheel_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_wheel", ROOT / "scripts" / "build_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_platform_tag_is_the_newest_glibc_that_the_library_asks_for() -> None:
    found = ROOT / LIBRARY
    if not found.is_file():
        pytest.skip("no native library here: scripts/build-kernels")
    tag = build_wheel_script().platform_tag(found.read_bytes())
    match = re.fullmatch(r"manylinux_2_(\d+)_(x86_64|aarch64)", tag)
    assert match is not None, tag
    assert 17 <= int(match.group(1)) <= PI_GLIBC


def test_a_library_that_needs_more_than_libc_gets_no_tag() -> None:
    """Any big C++ extension will do: ONNX Runtime's own needs libstdc++."""
    foreign = next((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))
    with pytest.raises(ValueError, match="only libc and libm"):
        build_wheel_script().platform_tag(foreign.read_bytes())


# From here on wheels are built: from a copy, as a clone or an unpacked source archive would have it.


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("source") / "edgeadapt"
    leave = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "demo", "runs", "results", "__pycache__", ".*_cache", ".hypothesis", "*.so"
    )
    shutil.copytree(ROOT, target, ignore=leave)
    return target


def build(clone: Path, out: Path, *settings: str, **environment: str) -> tuple[Path, str]:
    """(the wheel, what the build said), with this environment's build tools."""
    settings = (*settings, f"-Cbuild-dir={out.parent / 'build'}")  # nothing cached from another test's build
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), *settings, str(clone)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=out.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), done.stdout + done.stderr


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_wheel_holds_the_packages_their_data_and_the_library(clone: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None or not (ROOT / "build" / "ort-headers").is_dir():
        pytest.skip("no C++ compiler or no headers here: scripts/build-kernels says how to get them")
    headers = f"-Ccmake.define.EDGEADAPT_ORT_INCLUDE={ROOT / 'build' / 'ort-headers'}"
    wheel, _ = build(clone, tmp_path / "dist", headers)

    assert re.fullmatch(rf"edgeadapt-{edgeadapt.__version__}-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        tag = build_wheel_script().platform_tag(archive.read(LIBRARY))
        record = next(name for name in names if name.endswith("RECORD"))
        metadata = archive.read(record.replace("RECORD", "METADATA")).decode()
    assert int(tag.split("_")[2]) <= PI_GLIBC
    assert "License-Expression: Apache-2.0" in metadata
    top = {name.split("/")[0] for name in names} - {record.split("/")[0]}
    assert top == {"edgeadapt", "edgeadapt_train", "edgeadapt_export", "edgeadapt_bench"}
    sources = {
        path.relative_to(clone / folder).as_posix()
        for folder in ("", "train", "export", "bench")
        for package in (clone / folder).glob("edgeadapt*")
        for path in package.rglob("*")
        if path.suffix in (".py", ".yaml") and path.is_file()
    }
    assert sources <= names
    assert any(name.startswith("edgeadapt_train/configs/") and name.endswith(".yaml") for name in names)
    assert not [name for name in names if name.endswith((".cc", ".h", ".map"))]


@pytest.mark.e2e
def test_without_a_compiler_the_wheel_is_pure_and_says_what_is_missing(clone: Path, tmp_path: Path) -> None:
    wheel, said = build(clone, tmp_path / "dist", CXX="/nonexistent/c++", CC="/nonexistent/cc")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "apt-get install g++" in said
    with zipfile.ZipFile(wheel) as archive:
        assert LIBRARY not in archive.namelist()
        assert "edgeadapt/cli.py" in archive.namelist()


@pytest.mark.e2e
def test_without_headers_the_wheel_is_pure_and_says_what_is_missing(clone: Path, tmp_path: Path) -> None:
    nowhere = "-Ccmake.define.CMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"
    wheel, said = build(clone, tmp_path / "dist", nowhere, f"-Ccmake.define.CMAKE_FIND_ROOT_PATH={tmp_path}")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "scripts/ort-headers" in said


@pytest.mark.e2e
def test_the_source_archive_can_build_everything(clone: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(clone)]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"CMakeLists.txt", "CMakePresets.json", "LICENSE", "scripts/ort-headers", "scripts/build-kernels"}
    assert needed <= names
    assert {f"edgeadapt/kernels/{path.name}" for path in (clone / "edgeadapt" / "kernels").iterdir()} <= names


def sources_for(tmp_path: Path, **files: str) -> str:
    """What scripts/ort-headers would ask, on a machine whose /etc/apt holds these files."""
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(files.pop("list", ""))
    for name, text in files.items():
        (parts / name.replace("_", ".")).write_text(text)
    (tmp_path / "apt.conf").write_text(f'Dir::Etc "{tmp_path}";\n')
    done = subprocess.run(
        [ROOT / "scripts" / "ort-headers", "--sources"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")},
    )
    return done.stdout if done.returncode == 0 else done.stderr


class TestHeaderSources:
    """scripts/ort-headers finds Debian's archive in the machine's own apt sources, whichever way they are written."""

    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "") if shutil.which("apt-get") else ""
    pytestmark = pytest.mark.skipif(not codename, reason="no apt here")

    def test_the_new_format_keeps_its_key_and_changes_the_suite(self, tmp_path: Path) -> None:
        stanza = f"Types: deb\nURIs: https://mirror.invalid/debian/\nSuites: {self.codename} {self.codename}-updates\n"
        security = f"Types: deb\nURIs: https://mirror.invalid/debian-security\nSuites: {self.codename}-security\n"
        rest = "Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        found = sources_for(tmp_path, a_sources=f"# comment\n{security}{rest}\n{stanza}{rest}")
        assert found.splitlines() == [
            "Types: deb",
            "URIs: https://mirror.invalid/debian/",
            "Suites: trixie",
            "Components: main",
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
        ]

    def test_the_one_line_format_of_raspberry_pi_os(self, tmp_path: Path) -> None:
        lines = f"# deb-src x\ndeb [arch=arm64] http://mirror.invalid/debian {self.codename} main contrib non-free\n"
        additions = f"deb http://other.invalid/raspberrypi {self.codename} main\n"
        found = sources_for(tmp_path, raspi_list=additions, list=lines)
        assert "URIs: http://mirror.invalid/debian\nSuites: trixie\n" in found

    def test_disabled_sources_are_left_alone_and_none_is_said_plainly(self, tmp_path: Path) -> None:
        stanza = (
            f"Enabled: no\nTypes: deb\nURIs: https://mirror.invalid/debian\nSuites: {self.codename}\nComponents: main\n"
        )
        assert "name no Debian archive" in sources_for(tmp_path, a_sources=stanza)
