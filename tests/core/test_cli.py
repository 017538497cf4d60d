"""The command line: what every command shows, how it fails, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeadapt import __version__, cli
from edgeadapt.errors import CheckFailed, EdgeAdaptError
from edgeadapt.verify import Check, VerifyReport

COMMANDS = ("train", "evaluate", "methods", "export", "run", "bench", "data", "inspect", "verify")


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    shown = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, shown.out, shown.err


def test_without_words_the_commands_are_listed_and_the_road_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys)
    assert code == 0
    assert all(name in out for name in COMMANDS)
    shown = out[out.index("Examples:") :]
    assert all(f"  edgeadapt {name} " in shown for name in ("train", "export", "run", "bench"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_examples_of_its_own_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = called(capsys, command, "--help")
    assert code == 0
    assert f"edgeadapt {command}" in out[out.index("Examples:") :]


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "--version") == (0, f"edgeadapt {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), "bogus"),
        (("export", "--nope"), "--nope"),
        (("export", "--int8", "--int4"), "--int8 and --int4 exclude each other"),
        (("export", "nowhere"), "nowhere"),
        (("run", "nowhere", "text"), "nowhere"),
        (("bench", "nowhere", "--threads", "0"), "--threads"),
        (("inspect", "nowhere"), "nowhere"),
        (("verify", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = called(capsys, *words)
    assert (code, out) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1


def test_debug_anywhere_on_the_line_shows_the_error_itself(tmp_path: Path) -> None:
    with pytest.raises(EdgeAdaptError, match="nowhere"):
        cli.main(["verify", str(tmp_path / "nowhere"), "--debug"])


def test_a_failed_check_is_exit_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (Check("integrity", "2 files", "as listed", True), Check("parity", "0.9", "0.1", False))
    monkeypatch.setattr("edgeadapt.verify.verify", lambda bundle: VerifyReport(str(bundle), checks))
    code, _, error = called(capsys, "verify", "somewhere")
    assert (code, error) == (CheckFailed.exit_code, "edgeadapt: somewhere: 1 of 2 checks failed\n")
    assert code == 1


def test_an_interrupt_is_exit_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(bundle: Path) -> VerifyReport:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeadapt.verify.verify", interrupted)
    code, _, error = called(capsys, "verify", "somewhere")
    assert (code, error) == (130, "edgeadapt: interrupted\n")


def test_a_full_disk_names_the_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(bundle: Path) -> VerifyReport:
        raise OSError(28, "No space left on device", "here/model.onnx")

    monkeypatch.setattr("edgeadapt.verify.verify", full)
    code, _, error = called(capsys, "verify", "somewhere")
    assert (code, error) == (2, "edgeadapt: here/model.onnx: No space left on device\n")
