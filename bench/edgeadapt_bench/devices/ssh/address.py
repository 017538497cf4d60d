"""Where a board is: ssh://[USER@]HOST[:PORT][?python=PATH][&wheel=PATH][&config=PATH]

python    an interpreter there that has edgeadapt already; otherwise its python3 makes an environment for the wheel
wheel     a wheel here for the board; otherwise one is built from this source tree
config    a configuration file for ssh here, in place of ~/.ssh/config
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from edgeadapt.errors import EdgeAdaptError

SCHEME = "ssh://"
_FORM = "ssh://[USER@]HOST[:PORT], and ?python=, ?wheel= or ?config= with a path"


@dataclass(frozen=True)
class Address:
    """A board that OpenSSH can reach."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str | None = None
    wheel: Path | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        for what, name in (("host", self.host), ("user", self.user)):
            if name is not None and (not name or name.startswith("-") or not name.isprintable() or " " in name):
                raise EdgeAdaptError(f"--device ssh://: {name!r} is no {what}; give {_FORM}")
        for name, path in (("wheel", self.wheel), ("config", self.config)):
            if path is not None and not path.is_file():
                raise EdgeAdaptError(f"--device {self}: {name}={path}: no such file here")

    def __str__(self) -> str:
        """Without the options: what rows name the device by."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    @property
    def destination(self) -> str:
        """As OpenSSH's commands are given it, by a person who types them."""
        port = f"-p {self.port} " if self.port else ""
        return f"{port}{self.user + '@' if self.user else ''}{self.host}"


def parse(word: str) -> Address:
    """Raises EdgeAdaptError for what is no such address."""
    try:
        parts = urlsplit(word)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EdgeAdaptError(f"--device {word}: {error}; give {_FORM}") from None
    unknown = [name for name, path in options.items() if name not in ("python", "wheel", "config") or not path]
    if unknown or parts.path not in ("", "/") or parts.password or parts.fragment or not host:
        why = f"?{unknown[0]}" if unknown else "a password" if parts.password else "this"
        raise EdgeAdaptError(f"--device {word}: {why} is not understood; give {_FORM}")
    wheel, config = (Path(options[name]).expanduser() if name in options else None for name in ("wheel", "config"))
    return Address(host, parts.username, port, options.get("python"), wheel, config)
