"""The bundle: what is written is read; whatever is damaged, foreign or hostile is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeadapt.bundle import AdapterEntry, Bundle, BundleManifest, FileEntry, published_bundle, seal, version_of
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import encode
from edgeadapt.tensors import serialise
from tests.core import bundles
from tests.core.bundles import external, graph, make, manifest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def rewrite(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file, and make the manifest agree: a hostile bundle has right hashes."""
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(data)
    found = json.loads((bundle / "edgeadapt.json").read_text())
    found["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "edgeadapt.json").write_text(json.dumps(found))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads((bundle / "edgeadapt.json").read_text())
    change(found)
    (bundle / "edgeadapt.json").write_text(json.dumps(found))


def refused(bundle: Path, reason: str) -> None:
    with pytest.raises(EdgeAdaptError, match=reason) as error:
        Bundle.open(bundle)
    assert "\n" not in str(error.value)


def test_what_was_written_is_read(bundle: Path) -> None:
    found = Bundle.open(bundle)
    assert replace(found.manifest, files={}) == manifest()
    assert found.graph("model") == bundle / "model.onnx"
    assert found.adapter("lora").parts[0].blocks[1].offset == 8
    assert found.adapter("demo").bytes.method == 90
    assert found.path("adapters/demo/direction.onnx").is_file()
    assert (
        found.size
        == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        - (bundle / "edgeadapt.json").stat().st_size
    )


def test_names_that_it_does_not_have_are_answered_with_those_it_has(bundle: Path) -> None:
    found = Bundle.open(bundle)
    for ask, reason in (
        (lambda: found.graph("lora8"), "no graph 'lora8'; it has: model, bare"),
        (lambda: found.adapter("x"), "no adapter 'x'; it holds: demo, lora"),
        (lambda: found.path("edgeadapt.json"), "not in the list of files"),
        (lambda: found.path("../../etc/passwd"), "not in the list of files"),
    ):
        with pytest.raises(EdgeAdaptError, match=reason):
            ask()


def test_every_single_damaged_file_is_noticed(bundle: Path) -> None:
    for name in Bundle.open(bundle).manifest.files:
        path = bundle / name
        data = path.read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        path.write_bytes(changed)
        refused(bundle, f"{path.name}: its SHA-256 is")
        path.write_bytes(data[:-1])
        refused(bundle, f"{path.name}: has {len(data) - 1:,} bytes")
        path.unlink()
        refused(bundle, f"{path.name}: named by the manifest, but there is no such file")
        path.write_bytes(data)
    Bundle.open(bundle)


def test_a_big_bundle_opens_fast_the_second_time(tmp_path: Path) -> None:
    with published_bundle(tmp_path / "bundle") as building:
        bundles.fill(building)
        with (building / "model.onnx.data").open("r+b") as sink:
            sink.truncate(90_000_000)
        seal(building, manifest())
    started = time.perf_counter()
    Bundle.open(tmp_path / "bundle")
    assert time.perf_counter() - started < 0.25


def with_scales(manifest: dict[str, Any]) -> None:
    part = manifest["adapters"][1]["parts"][0]
    part["scales_input"] = "lora.0.scales"
    for block in part["blocks"]:
        block["scales"] = "none"
    manifest["adapters"][1]["inputs"].append("lora.0.scales")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(format=9), "format version 9; this edgeadapt reads version 3: update edgeadapt"),
        (lambda m: m.update(format=1), "reads version 3: make it again with this edgeadapt"),
        (lambda m: m.pop("format"), "has no format version"),
        (lambda m: m.update(format=1.0), "has no format version"),
        (lambda m: m.update(precision="int3"), "precision: 'int3' is none of fp32, int8, int4"),
        (lambda m: m.update(precision=["int4"]), "precision: .* is none of"),
        (lambda m: m.update(opset="21"), "opset: expected an integer"),
        (lambda m: m.update(opset=0), "opset is 0"),
        (lambda m: m.update(minimum_onnxruntime="newest"), "'newest' is not a version"),
        (lambda m: m.update(extra=1), "unknown field 'extra'"),
        (lambda m: m.update(files={}), "list of files is empty"),
        (lambda m: m["files"].update({"edgeadapt.json": m["files"]["model.onnx"]}), "lists edgeadapt.json itself"),
        (lambda m: m["files"].update({"../x": m["files"]["model.onnx"]}), "does not stay inside"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["model.onnx"]}), "does not stay inside"),
        (lambda m: m["files"].update({"adapters/../model.onnx": m["files"]["model.onnx"]}), "does not stay inside"),
        (lambda m: m["files"].update({"adapters": m["files"]["model.onnx"]}), "no such file"),
        (lambda m: m["files"]["model.onnx"].update(sha256="0" * 63), "is not a SHA-256"),
        (lambda m: m["files"]["model.onnx"].update(size=True), "size: expected an integer"),
        (lambda m: m["files"].pop("model.onnx.data"), "begins like native code"),
        (lambda m: m["files"].pop("model.onnx"), "'model.onnx' is used but not in the list"),
        (lambda m: m["graphs"].pop("model"), "no graph is called 'model'"),
        (lambda m: m["graphs"].update(bare="../bare.onnx"), "'../bare.onnx' is used but not in the list"),
        (lambda m: m["adapters"].append(m["adapters"][0]), "two adapters have the same name: demo, lora, demo"),
        (lambda m: m["adapters"][0].update(name="../up"), "adapter '../up'"),
        (lambda m: m["adapters"][0].update(kind="merged"), "adapter demo: a graph of its own"),
        (lambda m: m["adapters"][1].update(parts=[]), "adapter lora: parts are what"),
        (lambda m: m["adapters"][1].update(inputs=["x"]), "fill other inputs"),
        (lambda m: m["adapters"][1]["parts"][0]["blocks"][0].update(offset=5), "do not fit at column 5 of 12"),
        (lambda m: m["adapters"][1]["parts"][0]["blocks"][0].update(offset=-1), "starts outside"),
        (lambda m: m["adapters"][1]["parts"][0]["blocks"][0].update(a="nothing"), r"nothing \[\] .* do not fit"),
        (lambda m: m["adapters"][1]["parts"][0]["blocks"][0].update(scales="q.s"), "all of its blocks have scales"),
        (with_scales, "q.A is F16 and q.B is F16; int8 alone has scales"),
        (lambda m: m["backbone"].update(eos=[320]), "outside the vocabulary"),
        (lambda m: m["backbone"].update(num_layers=-1), "num_layers is -1"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit(bundle, change)
    refused(bundle, reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not acceptable JSON"),
        (b'{"format": 1, "format": 1}', "a key appears twice"),
        (b'{"format": NaN}', "NaN is not a number"),
        (b"[]", "has no format version"),
        (b"\x80\x04\x95", "not acceptable JSON"),
        (b'{"format": 1}' + b" " * (9 << 20), "larger than 8 MiB"),
    ],
)
def test_a_garbage_manifest_is_refused(bundle: Path, data: bytes, reason: str) -> None:
    (bundle / "edgeadapt.json").write_bytes(data)
    refused(bundle, reason)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("libevil.so", b"anything"),
        ("libevil.so.1.2", b"anything"),
        ("adapters/demo/EVIL.DLL", b"anything"),
        ("weights.pkl", b"anything"),
        ("pytorch_model.pt", b"anything"),
        ("array.npy", b"anything"),
        ("README.md", b"\x7fELF\x02\x01\x01"),
        ("tokenizer.model", b"MZ\x90\x00"),
        ("notes.txt", b"\xcf\xfa\xed\xfe"),
        ("notes", b"\x80\x04\x95\x10\x00"),
        ("pytorch_model.bin", b"PK\x03\x04"),
    ],
)
def test_native_code_and_pickles_are_refused_listed_or_not(bundle: Path, name: str, data: bytes, listed: bool) -> None:
    if listed:
        rewrite(bundle, name, data)
    else:
        (bundle / name).write_bytes(data)
    refused(bundle, r"(native code and pickles have no place|begins like native code)")


def test_harmless_files_beside_are_let_alone(bundle: Path) -> None:
    (bundle / "README.md").write_text("made by hand")
    (bundle / "empty").touch()
    Bundle.open(bundle)


def test_links_and_pipes_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes((bundle / "model.onnx.data").read_bytes())
    (bundle / "more").symlink_to(tmp_path)
    refused(bundle, "more: links are not allowed")
    (bundle / "more").unlink()
    os.mkfifo(bundle / "pipe")
    refused(bundle, "pipe: a device, socket or pipe")
    (bundle / "pipe").unlink()
    (bundle / "model.onnx.data").unlink()
    (bundle / "model.onnx.data").symlink_to(tmp_path / "data")
    refused(bundle, r"model\.onnx\.data: links are not allowed")


@pytest.mark.parametrize("place", ["genai_config.json", "adapters/demo/genai_config.json"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_configuration_that_names_a_library_is_refused(bundle: Path, place: str, listed: bool) -> None:
    value = {"model": {"decoder": {"session_options": [{"custom_ops_library": "libx.so"}]}}}
    if not listed and place == "genai_config.json":
        edit(bundle, lambda found: found["files"].pop(place))
    if listed:
        rewrite(bundle, place, json.dumps(value).encode())
    else:
        (bundle / place).write_text(json.dumps(value))
    refused(bundle, "names a native library")


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../outside.data", "", "adapters/../model.onnx.data", "missing.data", "*/_ORT_MEM_ADDR_/*"],
)
def test_weights_outside_the_bundle_are_refused(bundle: Path, location: str) -> None:
    rewrite(bundle, "bare.onnx", graph(external("w", location, 0, 64)))
    refused(bundle, r"bare\.onnx: tensor 'w' lies in .*, which is no listed file beside the graph")


def test_weights_beyond_the_end_of_their_file_are_refused(bundle: Path) -> None:
    rewrite(bundle, "bare.onnx", graph(external("w", "model.onnx.data", 64, 64)))
    refused(bundle, r"tensor 'w' lies beyond the end of model\.onnx\.data")


def test_garbage_under_a_right_hash_is_refused(bundle: Path) -> None:
    good = (bundle / "bare.onnx").read_bytes()
    rewrite(bundle, "bare.onnx", b"\x80\x04 not a model")
    refused(bundle, r"bare\.onnx: not a well-formed ONNX file")
    rewrite(bundle, "bare.onnx", good)
    factors = (bundle / "adapters/lora/adapter.safetensors").read_bytes()
    rewrite(bundle, "adapters/lora/adapter.safetensors", b"\x80\x04\x95\x00\x00\x00\x00\x00 pickle")
    refused(bundle, "not a safetensors file")
    rewrite(bundle, "adapters/lora/adapter.safetensors", factors + b"tail")
    refused(bundle, "not a sound safetensors file")
    rewrite(bundle, "adapters/lora/adapter.safetensors", serialise({"q.A": np.ones((3,), np.float16)}))
    refused(bundle, "do not fit")


def test_a_second_key_in_any_configuration_is_refused(bundle: Path) -> None:
    rewrite(bundle, "config.json", b'{"a": 1, "a": 2}')
    refused(bundle, r"config\.json: not acceptable JSON")


def test_a_directory_that_is_no_bundle_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such bundle directory")
    (tmp_path / "photo.jpg").touch()
    refused(tmp_path, "has no edgeadapt.json")
    with pytest.raises(EdgeAdaptError, match="so it is not replaced"):
        make(tmp_path)
    assert (tmp_path / "photo.jpg").exists()


def test_a_bundle_that_a_reader_would_refuse_is_never_published(tmp_path: Path) -> None:
    old = make(tmp_path / "bundle")

    def publish(steps: Callable[[Path], object]) -> None:
        with published_bundle(old) as building:
            bundles.fill(building)
            steps(building)

    def hostile(building: Path) -> None:
        (building / "bare.onnx").write_bytes(graph(external("w", "/etc/passwd", 0, 64)))
        seal(building, manifest())

    with pytest.raises(EdgeAdaptError, match="lies in '/etc/passwd'"):
        publish(hostile)
    with pytest.raises(EdgeAdaptError, match="was not sealed"):
        publish(lambda building: None)
    Bundle.open(old)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_kinds_of_adapters_that_contradict_themselves_are_refused() -> None:
    direction = manifest().adapters[0]
    for change in ({"graph": None}, {"weights": "x"}, {"inputs": ()}, {"tasks": (bundles.TASK, bundles.TASK)}):
        with pytest.raises(EdgeAdaptError, match="adapter demo"):
            replace(direction, **change)  # type: ignore[arg-type]
    merged = replace(direction, kind="merged", graph=None, inputs=())
    assert isinstance(merged, AdapterEntry)


def test_versions_compare_as_numbers() -> None:
    assert version_of("1.9") < version_of("1.10") < version_of("1.10.1")
    for text in ("1", "1.x", "", "1..2", "1.2.3.4.5", "1.-2", "1.\u0662", "9" * 30):
        with pytest.raises(EdgeAdaptError, match="is not a version"):
            version_of(text)


WORDS = st.sampled_from(["", "model.onnx", "..", "/", "int4", "demo", "a" * 64]) | st.text(max_size=4)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 40) | st.floats(-1, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_one_value_of_the_manifest_changed_gives_a_bundle_or_one_clean_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Walk to a random place in the manifest and put a random value there."""
    bundle = tmp_path / "bundle"
    if not bundle.exists():
        make(bundle)
    whole = encode(replace(manifest(), files=_files(bundle)))
    place = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 3)) == 0:
            place[key] = data.draw(VALUE)
            break
        place = inner
    (bundle / "edgeadapt.json").write_text(json.dumps(whole))
    said = ""
    try:
        assert isinstance(Bundle.open(bundle).manifest, BundleManifest)
    except EdgeAdaptError as error:
        said = str(error)
    assert "\n" not in said


def _files(bundle: Path) -> dict[str, FileEntry]:
    paths = [path for path in bundle.rglob("*") if path.is_file() and path.name != "edgeadapt.json"]
    return {
        path.relative_to(bundle).as_posix(): FileEntry(
            path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in paths
    }
