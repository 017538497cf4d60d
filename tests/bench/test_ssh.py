"""--device ssh://...: against a real OpenSSH server on loopback that behaves, and ones that do not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import edgeadapt
import edgeadapt_bench
from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import results, workloads
from edgeadapt_bench.devices.ssh import address
from edgeadapt_bench.devices.ssh.address import Address
from edgeadapt_bench.devices.ssh.connection import Connection
from edgeadapt_bench.devices.ssh.device import RemoteReport, SshDevice
from edgeadapt_bench.devices.ssh.payload import payload_of
from edgeadapt_bench.run import bench, bench_words
from tests.bench.sshd import ABSENT, Board, serve
from tests.exported import Exported

needs_sshd = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (openssh-server)")
BARE = ["bare"]
QUICK = ["--quick", "--workload", "generation:prompt=4:output=1"]
AGENT = Path(address.__file__).with_name("agent.py")
SOURCES = os.pathsep.join({str(Path(str(package.__file__)).parents[1]) for package in (edgeadapt, edgeadapt_bench)})


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with serve(tmp_path / "board", PYTHONPATH=SOURCES) as found:
        yield found


def device(board: Board, **options: str | Path) -> SshDevice:
    """With an interpreter that has edgeadapt, unless other options say where it comes from."""
    options = options or {"python": sys.executable}
    return SshDevice(address.parse(board.address(**options)), progress=lambda *_: None)


def refused(device: SshDevice, bundle: Path) -> str:
    """The one line that says why nothing was measured."""
    with pytest.raises(EdgeAdaptError) as caught:
        device.bench(bundle, BARE, QUICK, tell=lambda _: None)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(device.address))
    return text


def nothing_runs(board: Board) -> None:
    for _ in range(100):
        if not board.running():
            break
        time.sleep(0.1)
    assert board.running() == []
    assert board.stored("runs") == []


@needs_sshd
def test_rows_come_back_from_the_board(board: Board, exported: Exported) -> None:
    bundle, other, told = exported("himalaya", "int4"), exported("lora"), []

    report = device(board).bench(bundle, [*BARE, str(other)], QUICK, tell=told.append)

    assert isinstance(report, RemoteReport)
    document = report.to_json()
    found = results.checked("there", document)
    assert found.device["name"] == str(device(board).address)
    bundles = {row["variant"]: row["bundle"] for row in found.rows}
    assert bundles == {"bare": str(bundle), "himalaya": str(bundle), other.name: str(other)}
    assert set(document["sizes"]) == {str(bundle), str(other)}
    assert str(board.cache) not in json.dumps(document)
    assert not found.emulated
    assert any(line.startswith("measuring") for line in told)
    nothing_runs(board)


@needs_sshd
def test_what_is_there_already_is_not_sent_again(board: Board, exported: Exported) -> None:
    bundle = exported("himalaya", "int4")
    with Connection(device(board).address, print) as there:
        device(board)._copied(there, payload_of(bundle))
    sent: list[str] = []
    again = SshDevice(device(board).address, progress=lambda what, *_: sent.append(what))
    with Connection(again.address, print) as there:
        path = Path(again._copied(there, payload_of(bundle)))
    assert sent == []
    assert (path / "model.onnx.data").read_bytes() == (bundle / "model.onnx.data").read_bytes()


@needs_sshd
def test_a_connection_that_drops_while_sending_is_gone_on_with(board: Board, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    digest, size = hashlib.sha256(big.read_bytes()).hexdigest(), big.stat().st_size

    def drop(done: int) -> None:
        if done > size // 2:
            board.hang_up()

    with Connection(device(board).address, print) as there:
        there.doing = "sending big"
        with pytest.raises(EdgeAdaptError, match="the connection was lost while sending big; ask again: nothing is"):
            there.put(big, digest, size, 0, drop)
    nothing_runs(board)

    with Connection(device(board).address, print) as there:
        start = there.ask("have", files={digest: size})["have"][digest]
        assert 0 < start < size
        assert there.put(big, digest, size, start, lambda _: None)
    assert board.stored("objects") == [digest]


@needs_sshd
def test_a_connection_that_drops_while_measuring_leaves_nothing_running(board: Board, exported: Exported) -> None:
    def drop(line: str) -> None:
        if line.startswith("measuring"):
            assert any("edgeadapt bench" in running for running in board.running())
            board.hang_up()

    with pytest.raises(EdgeAdaptError, match="the connection was lost while measuring"):
        device(board).bench(exported("himalaya", "int4"), BARE, QUICK, tell=drop)
    nothing_runs(board)


@needs_sshd
def test_a_file_that_was_spoilt_on_the_way_is_sent_again(board: Board, exported: Exported) -> None:
    bundle = exported("himalaya", "int4")
    payload = payload_of(bundle)
    folder = board.cache / "ssh" / "objects"
    folder.mkdir(parents=True)
    (folder / f"{payload.digests[f'{bundle.name}/model.onnx.data']}.part").write_bytes(b"spoilt")
    with Connection(device(board).address, print) as there:
        path = Path(device(board)._copied(there, payload))
    assert (path / "model.onnx.data").read_bytes() == (bundle / "model.onnx.data").read_bytes()


@needs_sshd
def test_two_benches_at_once_are_refused(board: Board, exported: Exported) -> None:
    with Connection(device(board).address, print):
        text = refused(device(board), exported("himalaya", "int4"))
    assert text.endswith("another `edgeadapt bench` is at work there; wait until it has ended")


@needs_sshd
def test_a_full_disk_is_told_and_not_left_full(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/board/cache"
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here, so no small file system can be mounted")
    more = f"ForceCommand unshare -rm sh -c '{mount} && eval \"$SSH_ORIGINAL_COMMAND\"'"
    big = tmp_path / "big"
    big.write_bytes(bytes(4 << 20))
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    with serve(tmp_path / "board", more) as board:
        board.cache.mkdir()
        there = device(board)
        with (
            pytest.raises(EdgeAdaptError, match=r"the disk there is full \(1 MB free at .*\); free some space there"),
            Connection(there.address, print) as agent,
        ):
            there._put(agent, {digest: big})


@needs_sshd
def test_a_wrong_host_key_is_refused(board: Board, exported: Exported) -> None:
    other = (board.folder / "user_key.pub").read_text()
    board.knows(f"[127.0.0.1]:{board.port} {other}")
    text = refused(device(board), exported("himalaya", "int4"))
    assert "its host key is not the one in known_hosts" in text
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in text


@needs_sshd
def test_an_unknown_host_is_refused(board: Board, exported: Exported) -> None:
    board.knows("")
    text = refused(device(board), exported("himalaya", "int4"))
    assert "its host key is not in known_hosts; log in once (ssh -p" in text


@needs_sshd
def test_a_key_that_the_board_does_not_accept(board: Board, exported: Exported) -> None:
    (board.folder / "user_key.pub").write_text("")
    assert "it accepts no key of yours; give it one (ssh-copy-id" in refused(device(board), exported())


@needs_sshd
def test_a_board_without_python(tmp_path: Path, exported: Exported) -> None:
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "board", PATH=tmp_path / "empty") as board:
        text = refused(SshDevice(Address("127.0.0.1", None, board.port, config=board.folder / "config")), exported())
    assert "there is no python3 there: sudo apt install python3 python3-venv" in text


@needs_sshd
def test_an_interpreter_there_without_edgeadapt(board: Board, tmp_path: Path, exported: Exported) -> None:
    bare = sys._base_executable  # type: ignore[attr-defined]
    assert "there has no edgeadapt; install it" in refused(device(board, python=bare), exported())


@needs_sshd
def test_the_wheel_is_installed_there_once(tmp_path: Path, exported: Exported) -> None:
    """The board's own packages stand for an index, so that nothing is downloaded."""
    wheel = pure_wheel(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    site = sysconfig.get_path("purelib")
    settings = {"PATH": f"{tools}:/usr/bin:/bin", "PYTHONPATH": site, "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    bundle = exported("himalaya", "int4")
    with serve(tmp_path / "board", **settings) as board:
        there = device(board, wheel=wheel)
        told: list[str] = []
        with Connection(there.address, told.append) as agent:
            first = there._python(agent, told.append)
        assert told == ["making a virtual environment there", f"installing {wheel.name} there, with what it needs"]
        report = there.bench(bundle, BARE, QUICK, tell=told.append)
        assert board.stored("python") == [hashlib.sha256(wheel.read_bytes()).hexdigest()]
        assert told.count("making a virtual environment there") == 1
        where = subprocess.run(
            [first, "-c", "import edgeadapt; print(edgeadapt.__file__)"],
            cwd=tmp_path,
            env={"PYTHONPATH": site},
            capture_output=True,
            text=True,
            check=True,
        )
        assert where.stdout.startswith(str(board.cache))
        assert {row["variant"] for row in report.to_json()["rows"]} == {"bare", "himalaya"}
        nothing_runs(board)


@needs_sshd
def test_a_wheel_that_cannot_be_installed(tmp_path: Path, exported: Exported) -> None:
    wheel = tmp_path / "edgeadapt-0.0-py3-none-any.whl"
    wheel.write_bytes(b"no zip")
    with serve(tmp_path / "board", PIP_NO_INDEX="1") as board:
        text = refused(device(board, wheel=wheel), exported())
        assert "pip cannot install the wheel there" in text
        nothing_runs(board)
        assert board.stored("python") == []


@needs_sshd
def test_an_agent_that_fails_is_told_of(board: Board, exported: Exported) -> None:
    store = board.cache / "ssh"
    store.parent.mkdir()
    store.write_text("in the way")
    assert "/ssh/objects: Not a directory" in refused(device(board), exported())


def test_nobody_listens(exported: Exported) -> None:
    text = refused(SshDevice(Address("127.0.0.1", port=1)), exported())
    assert "nothing listens there; switch SSH on" in text


def test_there_is_no_ssh_here(exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(SshDevice(Address("pi")), exported()).endswith("apt-get install openssh-client")


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="no such bundle directory"):
        SshDevice(Address("pi")).bench(tmp_path / "none", BARE, QUICK, tell=print)


def test_a_graph_is_sent_with_its_data(exported: Exported) -> None:
    bundle = exported("himalaya", "int4")
    payload = payload_of(bundle / "bare.onnx")
    assert set(payload.digests) == {"bare.onnx", "model.onnx.data"}
    assert payload.entry == "bare.onnx"


def test_a_bundle_keeps_its_name_there(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = exported("himalaya", "int4")
    monkeypatch.chdir(bundle)
    assert payload_of(Path()) == payload_of(bundle)
    assert payload_of(bundle).entry == bundle.name


def agent(store: Path, *changes: tuple[str, str]) -> subprocess.Popen[str]:
    """An agent of this machine, its source changed."""
    source = AGENT.read_text()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    command = [sys.executable, "-c", source]
    environment = {**os.environ, "EDGEADAPT_CACHE": str(store), "PYTHONPATH": SOURCES}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_an_old_python_there_is_told(tmp_path: Path) -> None:
    found, _ = agent(tmp_path, ("OLDEST = (3, 11)", "OLDEST = (9, 0)")).communicate()
    assert "and edgeadapt needs 3.11; name another (?python=PATH)" in json.loads(found)["error"]


def test_an_agent_that_hears_nothing_ends_what_it_started(tmp_path: Path) -> None:
    """A connection may be lost without either end being told."""
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    sleeper.chmod(0o755)
    with agent(tmp_path, ("SILENCE_S = 60.0", "SILENCE_S = 0.5")) as running:
        assert running.stdin is not None
        running.stdin.write(json.dumps({"op": "bench", "python": str(sleeper), "words": []}) + "\n")
        running.stdin.flush()
        assert running.wait(20) == 0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "ssh" / "runs").exists()


def test_a_request_means_the_same_there() -> None:
    asked = workloads.parse(["generation:prompt=16,64:output=2", "residents:adapters=3"])
    words = bench_words(asked, [1, 2], quick=True, cool_down=55.0)
    assert words[:5] == ["--quick", "--threads", "1,2", "--cool-down", "55"]
    assert words[5::2] == ["--workload"] * 3
    assert workloads.parse(words[6::2]) == asked


@needs_sshd
def test_the_command_line_takes_an_address(board: Board, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "board.json"
    bench(
        exported("himalaya", "int4"),
        device=board.address(python=sys.executable),
        baselines=BARE,
        workloads=workloads.parse(["generation:prompt=4:output=1"]),
        quick=True,
        json_out=out,
        tell=lambda _: None,
    )
    found = results.load(out)
    assert found.device["name"].startswith("ssh://")
    assert {row["phase"] for row in found.rows} == {"load", "prefill", "decode"}
    nothing_runs(board)


def test_addresses() -> None:
    found = address.parse("ssh://pi@board.local:2222?python=/opt/bin/python3")
    assert found == Address("board.local", "pi", 2222, "/opt/bin/python3")
    assert (str(found), found.destination) == ("ssh://pi@board.local:2222", "-p 2222 pi@board.local")
    assert str(address.parse("ssh://[fe80::1]")) == "ssh://[fe80::1]"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ssh://", "this is not understood"),
        ("ssh://-oProxyCommand=x", "is no host"),
        ("ssh://-l@pi", "'-l' is no user"),
        ("ssh://pi:secret@board", "a password is not understood"),
        ("ssh://pi/home", "this is not understood"),
        ("ssh://pi:99999", "Port out of range"),
        ("ssh://pi?colour=red", "?colour is not understood"),
        ("ssh://pi?python=", "?python is not understood"),
        ("ssh://pi?wheel=/none.whl", "wheel=/none.whl: no such file here"),
    ],
)
def test_what_is_no_address(word: str, said: str) -> None:
    with pytest.raises(EdgeAdaptError) as caught:
        address.parse(word)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def pure_wheel(folder: Path) -> Path:
    """edgeadapt as a wheel without kernels, put together by the binary distribution format's specification."""
    name = f"edgeadapt-{edgeadapt.__version__}"
    path = folder / f"{name}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(path, "w") as archive:

        def add(where: str, data: bytes) -> None:
            archive.writestr(where, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{where},sha256={digest},{len(data)}")

        for package in (edgeadapt, edgeadapt_bench):
            root = Path(str(package.__file__)).parent
            for source in sorted(root.rglob("*")):
                if source.is_file() and source.suffix in (".py", ".json", ".css", ".html", ".js", ""):
                    add(f"{root.name}/{source.relative_to(root)}", source.read_bytes())
        add(
            f"{name}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: edgeadapt\nVersion: {edgeadapt.__version__}\n".encode(),
        )
        add(
            f"{name}.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{name}.dist-info/RECORD", "\n".join([*record, f"{name}.dist-info/RECORD,,", ""]))
    return path
