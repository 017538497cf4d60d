"""What runs on a board while it is measured over SSH: sent there as text, needs nothing but Python's standard library.

One JSON object per line each way, on standard input and output; an answer per request. `say` lines may come before an
answer, an `error` is the last line of all.

    have     files {sha256: size}              -> bytes that are there already {sha256: n}
    put      sha256, size, from; then bytes    -> kept: whether what is there now has that hash
    bundle   sha256, files {name: sha256}      -> path
    install  sha256, name                      -> python: the interpreter of an environment with that wheel
    version                                    -> python, version: of the edgeadapt that this interpreter has
    bench    python, words                     -> report

It keeps, below $EDGEADAPT_CACHE or ~/.cache/edgeadapt, in ssh/:

    objects/SHA256[.part]    files by what they hold; partial ones are gone on with the next time
    bundles/SHA256/          bundles, by all that is in them: hard links to objects
    python/SHA256/           virtual environments, by the wheel in them
    runs/                    what a run needs while it lasts

Whatever it starts ends with it; and it ends when the connection does, or says nothing for a minute.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SILENCE_S = 60.0  # the other end says something every ten
OLDEST = (3, 11)
MARK = "edgeadapt: "  # before the one line that an error is


class Refused(Exception):
    """Something that cannot be done here; its text is for the user."""


class Gone(Exception):
    """The other end."""


class Agent:
    """Answers requests until standard input ends."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._source = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - unbuffered: select() must see all

    def serve(self) -> None:
        self._folder("objects")
        lock = open(self._store / "lock", "w")  # noqa: SIM115 - held until this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("another `edgeadapt bench` is at work there; wait until it has ended") from None
        self._sweep()  # after a loss of power
        tell(ready=True, machine=platform.machine(), model=_text("/proc/device-tree/model"))
        answers: dict[str, Callable[..., dict[str, object]]] = {
            "have": self.have,
            "put": self.put,
            "bundle": self.bundle,
            "install": self.install,
            "version": self.version,
            "bench": self.bench,
        }
        try:
            for line in iter(self._source.readline, b""):
                if line.strip():
                    request = json.loads(line.decode())
                    tell(**answers[request.pop("op")](**request))
        finally:
            self._sweep()

    def have(self, files: dict[str, int]) -> dict[str, object]:
        found = {}
        for name, size in files.items():
            whole, part = self._object(name), self._part(name)
            if whole.is_file() and whole.stat().st_size == size:
                found[name] = size
            else:
                found[name] = min(part.stat().st_size, size - 1) if part.is_file() and size else 0
        return {"have": found}

    def put(self, sha256: str, size: int, start: int) -> dict[str, object]:
        part = self._part(sha256)
        try:
            with part.open("r+b" if start else "wb", buffering=0) as sink:
                sink.truncate(start)
                sink.seek(start)
                left = size - start
                while left:
                    piece = self._source.read(min(left, 1 << 18))
                    if not piece:
                        raise Gone
                    left -= len(piece)
                    while piece:
                        piece = piece[sink.write(piece) :]
                os.fsync(sink.fileno())
        except OSError:
            part.unlink()  # a disk that is full stays so otherwise
            raise
        if _sha256(part) != sha256:
            part.unlink()
            return {"kept": False}
        part.rename(self._object(sha256))
        return {"kept": True}

    def bundle(self, sha256: str, files: dict[str, str]) -> dict[str, object]:
        target = self._folder("bundles") / sha256
        if not target.is_dir():
            building = Path(tempfile.mkdtemp(dir=str(self._folder("runs"))))
            for name, source in files.items():
                (building / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(str(self._object(source)), str(building / name))
            building.rename(target)
        return {"path": str(target)}

    def install(self, sha256: str, name: str) -> dict[str, object]:
        target = self._folder("python") / sha256
        if not target.is_dir():
            building = Path(tempfile.mkdtemp(dir=str(self._folder("runs"))))
            wheel = building / name
            os.link(str(self._object(sha256)), str(wheel))
            tell(say="making a virtual environment there")
            code, said = self._program([sys.executable, "-m", "venv", str(building)])
            if code:
                raise Refused("no virtual environment can be made there: sudo apt install python3-venv" + _quoted(said))
            tell(say=f"installing {name} there, with what it needs")
            pip = [str(building / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            code, said = self._program([*pip, str(wheel)])
            if code:
                raise Refused(
                    "pip cannot install the wheel there; connect the board to a package index, or name an interpreter "
                    "there that has edgeadapt (?python=PATH)" + _quoted(said)
                )
            building.rename(target)
        return {"python": str(target / "bin" / "python")}

    def version(self) -> dict[str, object]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return {"python": sys.executable, "version": version("edgeadapt")}
        except PackageNotFoundError:
            raise Refused(
                f"{sys.executable} there has no edgeadapt; install it, or name another (?python=PATH)"
            ) from None

    def bench(self, python: str, words: list[str]) -> dict[str, object]:
        folder = Path(tempfile.mkdtemp(dir=str(self._folder("runs"))))
        out = folder / "report.json"
        command = [python, "-m", "edgeadapt", "bench", *words, "--json", str(out)]
        code, said = self._program(command, folder, _tell_progress)
        if code:
            raise Refused(said[len(MARK) :] if said.startswith(MARK) else "the bench there failed" + _quoted(said))
        return {"report": json.loads(out.read_text(encoding="utf-8"))}

    def _program(
        self, command: list[str], cwd: Path | None = None, hear: Callable[[str], object] | None = None
    ) -> tuple[int, str]:
        """Run a program: its exit code and the last line that it said on standard error; `hear` is given each.

        It ends, with all that it has started, when this call does.
        """
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, cwd=cwd and str(cwd), start_new_session=True
        )
        assert child.stderr is not None
        stderr, heard, last, rest = child.stderr.fileno(), time.monotonic(), "", b""
        try:
            while True:
                ready, _, _ = select.select([0, stderr], [], [], min(5.0, SILENCE_S))
                if 0 in ready:
                    if not os.read(0, 4096):
                        raise Gone
                    heard = time.monotonic()
                if time.monotonic() - heard > SILENCE_S:
                    raise Gone
                if stderr in ready:
                    piece = os.read(stderr, 65536)
                    if not piece:
                        break
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, (line.decode("utf-8", "replace").strip() for line in lines)):
                        if hear is not None:
                            hear(line)
                        last = line
            if child.wait() and "No space left on device" in last:
                raise OSError(errno.ENOSPC, last)
            return child.returncode, last
        finally:
            _end(child)

    def _sweep(self) -> None:
        shutil.rmtree(str(self._store / "runs"), ignore_errors=True)

    def _object(self, sha256: str) -> Path:
        return self._store / "objects" / sha256

    def _part(self, sha256: str) -> Path:
        return self._store / "objects" / (sha256 + ".part")

    def _folder(self, name: str) -> Path:
        folder = self._store / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _tell_progress(line: str) -> None:
    if not line.startswith(MARK):
        tell(say=line)


def tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _end(child: subprocess.Popen) -> None:
    """End a program and all of its group: politely, then by force."""
    for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, how)
        except ProcessLookupError:
            return
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for piece in iter(lambda: source.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _quoted(said: str) -> str:
    return ": " + said if said else ""


def main() -> None:
    if sys.version_info < OLDEST:
        found = platform.python_version()
        tell(error=f"its Python is {found}, and edgeadapt needs 3.11; name another (?python=PATH)")
        return
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))
    cache = os.environ.get("EDGEADAPT_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "edgeadapt"
    )
    store = Path(cache).expanduser() / "ssh"
    try:
        Agent(store).serve()
    except Refused as refused:
        tell(error=str(refused))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(str(store)).free
            tell(error=f"the disk there is full ({free / 1e6:.0f} MB free at {store}); free some space there")
        else:
            tell(error=f"{error.filename or store}: {error.strerror}")
    except Gone:
        pass


if __name__ == "__main__":
    main()
