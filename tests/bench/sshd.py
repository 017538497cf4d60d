"""A real OpenSSH server on loopback, for tests: its own host key, its own list of keys, a high port, no privileges."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psutil

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
ABSENT = [name for name, found in (("sshd", SSHD), ("ssh", shutil.which("ssh"))) if not found]
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv {environment}
{more}
"""
_CLIENT = """
IdentityFile {folder}/user_key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
"""


@dataclass(frozen=True)
class Board:
    """A machine that ssh reaches at `port`; it keeps its cache below `cache`."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def address(self, **options: str | Path) -> str:
        """What --device takes, with the test's own keys."""
        words = urlencode({"config": self.folder / "config", **options}, safe="/")
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}?{words}"

    def knows(self, text: str) -> None:
        """Replace the client's known_hosts."""
        (self.folder / "known_hosts").write_text(text)

    def hang_up(self) -> None:
        """End the processes that serve its connections, and nothing else: as when the network goes."""
        for process in psutil.Process(self.server.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                if process.name().startswith("sshd"):
                    process.kill()

    def running(self) -> list[str]:
        """The command lines of what was started there and has not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("EDGEADAPT_CACHE") == str(self.cache) and process.name() != "sshd":
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def stored(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.cache / "ssh" / folder).glob("*"))


@contextmanager
def serve(folder: Path, more: str = "", **environment: str | Path) -> Iterator[Board]:
    """A server whose programs have `environment`; `more` lines of its configuration."""
    folder.mkdir()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation wants it; a service would make it
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = " ".join(
        f'"{name}={value}"' for name, value in {"EDGEADAPT_CACHE": folder / "cache", **environment}.items()
    )
    (folder / "sshd_config").write_text(_CONFIG.format(port=port, folder=folder, environment=words, more=more))
    (folder / "config").write_text(_CLIENT.format(folder=folder))
    assert SSHD is not None
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    board = Board(folder, port, server)
    board.knows(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    try:
        _await(port, server, folder / "log")
        yield board
    finally:
        board.hang_up()
        server.terminate()
        server.wait()


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not answer: {log.read_text()}")
