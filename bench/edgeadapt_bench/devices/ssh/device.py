"""--device ssh://[USER@]HOST[:PORT]: bundle and wheel are copied to a board, the bench runs there, its rows come back.

    1. the board's key is checked, and an agent started there that ends with the connection (connection.py, agent.py)
    2. what is not there yet is copied, by its hash: what a lost connection left is gone on with
    3. the wheel is installed in an environment of its own, unless the address names an interpreter
    4. `edgeadapt bench --device board` runs there (`host` on what is no Raspberry Pi); its progress is shown here
    5. its document comes back, bundles called by their paths here; what was started there has ended

Copied files and environments stay there, in its cache, for the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeadapt import __version__
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of
from edgeadapt.progress import Progress, transfer
from edgeadapt_bench.baselines import ALL, COMPETITORS, own
from edgeadapt_bench.devices.board import BOARD
from edgeadapt_bench.devices.ssh.address import Address
from edgeadapt_bench.devices.ssh.connection import Connection
from edgeadapt_bench.devices.ssh.payload import Payload, payload_of
from edgeadapt_bench.devices.ssh.wheel import wheel_for

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RemoteReport:
    """One run that another machine measured: its own document."""

    document: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(self.document)


@dataclass(frozen=True)
class SshDevice:
    """A board at an address."""

    address: Address
    progress: Progress | None = None

    def bench(self, bundle: Path, baselines: Sequence[str], options: Sequence[str], tell: Tell) -> RemoteReport:
        """Measure there.

        Args:
            baselines: as `edgeadapt bench --baseline` takes them; bundles are copied, too.
            options: further words for `edgeadapt bench`, which mean the same there as here.

        Raises:
            EdgeAdaptError: one line; after a lost connection the next call goes on where this one was.
        """
        known = {ALL, *own.NAMED, *(competitor.name for competitor in COMPETITORS)}
        paths = [bundle, *(Path(name) for name in baselines if name not in known and Path(name).exists())]
        payloads = {str(path): payload_of(path) for path in paths}
        with Connection(self.address, tell) as board:
            python = self._python(board, tell)
            there = {path: self._copied(board, payload) for path, payload in payloads.items()}
            words = [there[str(bundle)], "--device", self._word(board), *options]
            for name in baselines:
                words += ["--baseline", name if name in known else there.get(str(Path(name)), name)]
            board.doing = "measuring"
            document = board.ask("bench", python=python, words=words)["report"]
        return RemoteReport(self._here(document, {there[path]: path for path in there}))

    @staticmethod
    def _word(board: Connection) -> str:
        return BOARD if board.board["model"].startswith("Raspberry Pi") else "host"

    def _python(self, board: Connection, tell: Tell) -> str:
        """The interpreter there that has edgeadapt."""
        if self.address.python is not None:
            found = board.ask("version")
            if found["version"] != __version__:
                raise EdgeAdaptError(
                    f"{self.address}: {found['python']} there has edgeadapt {found['version']}, and here it is "
                    f"{__version__}: install the same, or leave out ?python= to have it installed"
                )
            return str(found["python"])
        wheel = self.address.wheel or wheel_for(board.board["machine"], tell)
        digest = sha256_of(wheel)
        self._put(board, {digest: wheel})
        board.doing = "installing edgeadapt there"
        return str(board.ask("install", sha256=digest, name=wheel.name)["python"])

    def _copied(self, board: Connection, payload: Payload) -> str:
        """Where it lies there."""
        self._put(board, payload.files)
        board.doing = "putting the bundle together there"
        found = board.ask("bundle", sha256=payload.identity, files=dict(payload.digests))["path"]
        return f"{found}/{payload.entry}"

    def _put(self, board: Connection, files: Mapping[str, Path]) -> None:
        """Send what is not there yet, by its hash."""
        sizes = {digest: path.stat().st_size for digest, path in files.items()}
        board.doing = "looking what is there"
        have = board.ask("have", files=sizes)["have"]
        with transfer(self.progress) as show:
            for digest, path in files.items():
                size, start = sizes[digest], int(have[digest])
                if start == size and size:
                    continue
                what = f"{self.address}: {path.name}"
                board.doing = f"sending {path.name}"
                told = lambda done, what=what, size=size: show(what, done, size)  # noqa: E731
                if not board.put(path, digest, size, start, told) and not board.put(path, digest, size, 0, told):
                    raise EdgeAdaptError(f"{path}: changed while it was sent, or is not what its manifest says")

    def _here(self, document: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
        """The document as a run here would have it: bundles by their paths here, the device by its address."""

        def row(found: Mapping[str, Any]) -> dict[str, Any]:
            there = found["bundle"]
            here = paths.get(there, there)
            return {**found, "bundle": here, "note": found["note"].replace(there, here)}

        return {
            **document,
            "device": {**document["device"], "name": str(self.address)},
            "rows": [row(found) for found in document["rows"]],
            "memory": [row(found) for found in document["memory"]],
            "sizes": {paths.get(bundle, bundle): files for bundle, files in document["sizes"].items()},
        }
