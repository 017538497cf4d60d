"""Runs a small Python program that a model wrote, to see whether it ends well. A guard against accidents.

Each program gets a process of its own, without site-packages and environment variables, in an empty directory, with
    time        `seconds` of computing, twice that on the clock; then it and what it started is killed
    memory      `megabytes` of address space          files       1 MB each, 32 open          core dumps   none
    processes   none                                  network     none, in a namespace of its own, where `unshare` works
Opening files for writing, removing and renaming, starting programs and opening connections are refused by Python's
audit hooks.

What it is NOT: a defence against a program that means harm. Audit hooks can be got around from Python; the program runs
as the user, may read what the user may read, and shares the kernel; root is exempt from the limit on processes; without
namespaces (`isolated()` says so) only the hooks keep it off the network. Score models whose training data you do not
trust in a virtual machine that may be thrown away.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache

SECONDS, MEGABYTES = 5, 1024
_UNSHARE = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")

# Reads a word and a program; says the word at the end. So an early exit, however polite, is no success.
_LAUNCHER = """
import os, resource, sys

seconds, megabytes = int(sys.argv[1]), int(sys.argv[2])
word, program = sys.stdin.buffer.readline(), sys.stdin.buffer.read()
answer = os.dup(1)
for target in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), target)
for limit, most in (
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_AS, megabytes << 20),
    (resource.RLIMIT_FSIZE, 1 << 20),
    (resource.RLIMIT_NOFILE, 32),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (most, most))

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")

def refuse(event, arguments, writes=WRITES, reads=READS):
    if event == "open":
        refused = arguments[2] is not None and arguments[2] & writes
    else:
        refused = event.startswith(("os.", "shutil.", "subprocess.", "socket.", "ctypes.")) and event not in reads
    if refused:
        raise PermissionError(event)

sys.addaudithook(refuse)
del sys.argv[1:]
exec(compile(program, "program", "exec"), {"__name__": "__main__"})
os.write(answer, word)
"""


def passes(program: str, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Whether the program runs to its end without an error, within its limits."""
    word = secrets.token_hex(16)
    command = [sys.executable, "-I", "-S", "-B", "-c", _LAUNCHER, str(seconds), str(megabytes)]
    with tempfile.TemporaryDirectory(prefix="edgeadapt-sandbox-") as place:
        process = subprocess.Popen(
            [*(("unshare", *_UNSHARE) if isolated() else ()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=place,
            env={"HOME": place, "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(f"{word}\n{program}".encode(errors="surrogatepass"), timeout=2 * seconds)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
            said, _ = process.communicate()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
    return said.decode(errors="replace").strip() == word


@cache
def isolated() -> bool:
    """Whether programs get namespaces of their own here: no network, and nothing outlives its first process."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", *_UNSHARE, "true"], capture_output=True, check=False)
    return tried.returncode == 0
