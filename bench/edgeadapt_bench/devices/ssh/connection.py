"""An agent on a board, at the other end of OpenSSH's own client.

The client checks the board's key against known_hosts and asks nobody for a password: BatchMode, StrictHostKeyChecking.
All that it may complain of becomes one line with the remedy.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.devices.ssh.address import Address

_AGENT = Path(__file__).with_name("agent.py")
# Reads the agent's source, whose length is the first line, and runs it: no file is needed on the board for that.
_BOOTSTRAP = 'import sys;n=int(sys.stdin.buffer.readline());exec(compile(sys.stdin.buffer.read(n),"agent","exec"))'
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ControlPath": "none",
}
_HEARTBEAT_S, _PATIENCE_S = 10.0, 10.0
_NOT_FOUND, _FAILED = 127, 255  # of a shell that does not find a program; of ssh itself
_BLOCK = 1 << 18


class Connection:
    """A conversation with the agent, from `with` to its end. Raises EdgeAdaptError, one line, for all that fails.

    Args:
        address: the board's.
        say: called with each line that is told there.
    """

    def __init__(self, address: Address, say: Callable[[str], None]) -> None:
        self._address, self._say = address, say
        self.doing: str | None = None  # for the line that says when the connection was lost

    def __enter__(self) -> Connection:
        self._complaints = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                bufsize=0,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise EdgeAdaptError(f"{self._address}: there is no ssh here: apt-get install openssh-client") from None
        try:
            source = _AGENT.read_bytes()
            self._send(b"%d\n" % len(source) + source)
            self.board = self._answer()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        """Hang up; the agent then ends what it has started."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer; what the agent says in between is handed on."""
        self._send(json.dumps({"op": op, **arguments}).encode() + b"\n")
        return self._answer()

    def put(self, path: Path, sha256: str, size: int, start: int, show: Callable[[int], None]) -> bool:
        """Send a file's bytes from `start`; whether what is there now has that hash. `show` is told how far it is."""
        self._send(json.dumps({"op": "put", "sha256": sha256, "size": size, "start": start}).encode() + b"\n")
        with path.open("rb") as source:
            source.seek(start)
            left = size - start
            while left and (piece := source.read(min(left, _BLOCK))):
                if not self._send(piece):
                    break
                left -= len(piece)
                show(size - left)
        return bool(self._answer()["kept"])

    def _command(self) -> list[str]:
        address = self._address
        options = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
        if address.config:
            options += ["-F", str(address.config)]
        if address.port:
            options += ["-p", str(address.port)]
        if address.user:
            options += ["-l", address.user]
        python = shlex.quote(address.python or "python3")
        return ["ssh", "-T", *options, "--", address.host, f"{python} -c {shlex.quote(_BOOTSTRAP)}"]

    def _send(self, data: bytes) -> bool:
        """Whether it could be sent. What the other end said before it stopped listening is still to be read."""
        assert self._process.stdin is not None
        left = memoryview(data)
        try:
            while left:
                left = left[self._process.stdin.write(left) :]
        except BrokenPipeError:
            return False
        return True

    def _answer(self) -> dict[str, Any]:
        for line in self._lines():
            try:
                found = dict(json.loads(line))
            except (TypeError, ValueError):
                continue  # a login script there may print
            if "error" in found:
                raise EdgeAdaptError(f"{self._address}: {found['error']}")
            if "say" not in found:
                return found
            self._say(found["say"])
        code = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().decode("utf-8", "replace")
        raise EdgeAdaptError(f"{self._address}: {explain(self._address, said, code, self.doing)}")

    def _lines(self) -> Iterator[bytes]:
        """Lines until the other end closes. While none comes, it is told that there is still somebody here: an empty
        line, which is no request."""
        assert self._process.stdout is not None
        handle, rest = self._process.stdout.fileno(), b""
        while True:
            if not select.select([handle], [], [], _HEARTBEAT_S)[0]:
                self._send(b"\n")
                continue
            piece = os.read(handle, _BLOCK)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines


def explain(address: Address, said: str, code: int, doing: str | None) -> str:
    """What went wrong and the remedy, in one line: from what `ssh` complained of, its exit code, and what was under
    way; None if the agent had not answered yet."""
    to = address.destination
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if doing is not None and code != _FAILED:
        return f"its side ended with {code} while {doing}: {last}"
    if doing is not None:
        return (
            f"the connection was lost while {doing}; ask again: nothing is left running there, and what had arrived is "
            "not sent again"
        )
    if code == _NOT_FOUND:
        return f"there is no {address.python or 'python3'} there: sudo apt install python3 python3-venv"
    known = {
        "REMOTE HOST IDENTIFICATION HAS CHANGED": (
            "its host key is not the one in known_hosts: it was set up anew, or it is another machine; if you know "
            f"why, forget the old key (ssh-keygen -R {_entry(address)}) and log in once (ssh {to}) to see the new one"
        ),
        "Host key verification failed": (
            f"its host key is not in known_hosts; log in once (ssh {to}) and compare the key's fingerprint"
        ),
        "Connection refused": "nothing listens there; switch SSH on (sudo systemctl enable --now ssh) or give its port",
        "Could not resolve hostname": "no such host; check its name, or give its address",
        "Permission denied": f"it accepts no key of yours; give it one (ssh-copy-id {to})",
        "Connection timed out": "it does not answer; check its address, and that it is switched on",
        "No route to host": "it does not answer; check its address, and that it is switched on",
    }
    for mark, line in known.items():
        if mark in said:
            return line
    return f"ssh ended with {code}: {last}"


def _entry(address: Address) -> str:
    """How known_hosts names a board."""
    return f"'[{address.host}]:{address.port}'" if address.port not in (None, 22) else address.host
