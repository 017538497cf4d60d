"""A Cortex-A72 without a board: what a model costs there in user instructions and memory, the same number every time.

system mode    a whole arm64 Linux in QEMU, one virtual processor that retires one instruction per virtual nanosecond
               (`-cpu cortex-a72 -icount shift=0`); the guest reads its own perf counter, as a program on a board would.
               Counts and the guest's peak memory; two boots agree to the last instruction.        machine, guest
user mode      the same job under qemu-aarch64 with a plugin that counts basic blocks: where the instructions go, and
               a static estimate of cycles. For diagnosis, never for a row.              hot_blocks, static_cycles

An instruction count is not a time: nothing here ever yields milliseconds. `python -m edgeadapt_bench.emulation --help`.
"""
