#!/usr/bin/python3.11 -I
"""Process 1 of the guest: mount what programs expect, switch address randomisation off, run the command, power off.

Standard library only; it is copied to /init and never imported.
"""

import ctypes
import json
import os


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, place in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev"), (b"tmpfs", b"/tmp")):
        os.makedirs(place, exist_ok=True)
        libc.mount(kind, place, kind, 0, None)
    console = os.open("/dev/console", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(console, stream)
    with open("/proc/sys/kernel/randomize_va_space", "w", encoding="ascii") as switch:
        switch.write("0")
    environment = {
        "PATH": "/usr/bin",
        "PYTHONPATH": "/app:/site",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OPENSSL_armcap": "1",  # NEON alone: this emulated processor has instructions for hashes that a Pi 4's lacks
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
    }
    child = os.fork()
    if child == 0:
        with open("/command.json", encoding="utf-8") as text:
            command = json.load(text)
        os.execve(command[0], command, environment)
    _, status = os.waitpid(child, 0)
    print("@@" + json.dumps({"event": "end", "code": os.waitstatus_to_exitcode(status)}), flush=True)
    os.sync()
    libc.reboot(0x4321FEDC)  # LINUX_REBOOT_CMD_POWER_OFF


if __name__ == "__main__" and os.getpid() == 1:  # anywhere else this would mount over a machine's own /tmp
    main()
