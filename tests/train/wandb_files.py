"""Weights & Biases in tests: its own run file read back, and its API with runs that a test puts there: as an object
(`Project`), and over HTTP, for wandb's own client (`served`).

`stored(folder)` is what run-ID.wandb of an offline run says.

    file    = ":W&B"  magic u16  version u8, then blocks of 32 KiB as LevelDB's log has them
    record  = crc32 u32  length u16  kind u8  payload        kind 1: whole; 2, 3, 4: first, middle and last piece
A payload is a `Record` of W&B's protocol. A block's last bytes, too few for a header, are zero.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _PIECE = 7, 32768, 7


@dataclass
class Stored:
    """What a run file says."""

    id: str = ""
    name: str = ""
    project: str = ""
    host: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def stored(folder: Path) -> Stored:
    """The run in an offline-run-* folder."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    found = Stored()
    for payload in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.name, found.project, found.host = run.run_id, run.display_name, run.project, run.host
            _update(found.config, run.config.update)
        elif kind == "config":
            _update(found.config, record.config.update)
        elif kind == "summary":
            _update(found.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            found.history.append(row)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *above, last = list(item.nested_key) or [item.key]
        place = target
        for key in above:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, pieces = _HEADER, b""
    while place + _PIECE <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _PIECE:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        pieces += data[place + _PIECE : place + _PIECE + length]
        place += _PIECE + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


@dataclass
class Remote:
    """A run as wandb's API hands it out, from a run directory and what the tracker is told at its end."""

    id: str
    display_name: str
    config: Mapping[str, Any]
    summary_metrics: Mapping[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)

    def scan_history(self, keys: list[str]) -> Iterable[Mapping[str, Any]]:
        return [{key: row[key] for key in keys} for row in self.history if all(key in row for key in keys)]


@dataclass
class Project:
    """The API, asked for runs of one project."""

    path: str
    known: list[Remote]

    def runs(self, path: str, filters: dict[str, Any]) -> Iterable[Remote]:
        if path != self.path:
            raise ValueError(f"Could not find project {path}")
        wanted = {name for one in filters["$or"] for name in one.values()}
        return [run for run in self.known if {run.id, run.display_name} & wanted]


@contextmanager
def served(project: Project) -> Iterator[str]:
    """The project over HTTP, as far as wandb.Api asks to list runs and read their history; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/graphql":
                self.send_error(404)
                return
            asked = json.loads(body)
            answer = json.dumps({"data": _answer(project, asked["query"], asked.get("variables") or {})}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _answer(project: Project, query: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if "viewer" in query:
        return {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}}}
    path = f"{given['entity']}/{given['project']}"
    if "runs(" in query:
        edges = [{"node": _node(run), "cursor": run.id} for run in project.runs(path, json.loads(given["filters"]))]
        found = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": found}}
    (run,) = (run for run in project.known if run.id in given.values())
    if "sampledHistory" in query:
        spec = json.loads(given["spec"])
        return {"project": {"run": {"sampledHistory": [run.scan_history(spec["keys"])]}}}
    last = max(row["_step"] for row in run.history)
    parquet = {"parquetUrls": [], "liveData": []}
    return {"project": {"run": {**_node(run), "historyKeys": {"lastStep": last}, "parquetHistory": parquet}}}


def _node(run: Remote) -> dict[str, Any]:
    """A run as the server describes it."""
    return {
        "id": run.id,
        "name": run.id,
        "displayName": run.display_name,
        "projectId": "1",
        "state": "finished",
        "tags": [],
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "historyLineCount": len(run.history),
        "user": {"name": "me", "username": "me"},
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "summaryMetrics": json.dumps(run.summary_metrics),
        "systemMetrics": "{}",
        **dict.fromkeys(("sweepName", "group", "jobType", "commit", "description", "notes")),
    }
