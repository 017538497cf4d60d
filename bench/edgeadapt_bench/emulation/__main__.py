"""python -m edgeadapt_bench.emulation MODEL: user instructions and peak memory on an emulated Cortex-A72."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import write_json
from edgeadapt_bench.emulation import boots, profile_report, static_cycles, sysroot, user
from edgeadapt_bench.emulation import profile as profiling
from edgeadapt_bench.emulation.counts import Counts
from edgeadapt_bench.emulation.job import Job, Kind

app = typer.Typer(add_completion=False)


@app.command()
def count(  # noqa: PLR0917 - a command's parameters are its options
    model: Annotated[Path, typer.Argument(help="Bundle directory, or a graph's .onnx file.")],
    graph: Annotated[str, typer.Option(help="Which of a bundle's graphs: bare, model, lora8, ...")] = "bare",
    ops: Annotated[str, typer.Option(help="The aarch64 libedgeadapt_ops.so, or off: function bodies.")] = "off",
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 64,
    tokens: Annotated[int, typer.Option(help="Decoded tokens that are counted (two more go before them).")] = 3,
    prefills: Annotated[int, typer.Option(help="How often the prompt is run; the last run counts.")] = 2,
    plain: Annotated[bool, typer.Option("--plain", help="Not a decoder: run the graph on generated inputs.")] = False,
    by_node: Annotated[
        bool, typer.Option("--by-node", help="Also: instructions per operator and node of the last run.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="Instead: hot functions and blocks of load, prefill, decode or forward.")
    ] = None,
    show: Annotated[int, typer.Option(help="With --profile: hottest blocks whose assembly is shown.")] = 4,
    verify: Annotated[
        bool, typer.Option("--verify", help="Instead: edgeadapt verify there, kernel against reference.")
    ] = False,
    repeat: Annotated[
        int, typer.Option("--boots", min=1, help="Boot so often; counts that differ between boots are an error.")
    ] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the counts to this file.")] = None,
) -> None:
    """Count a model's user instructions per phase on an emulated Cortex-A72, one thread. Never a time.

    \b
    Examples:
      python -m edgeadapt_bench.emulation bundle --ops build/aarch64/libedgeadapt_ops.so --json counts.json
      python -m edgeadapt_bench.emulation bundle/bare.onnx --ops off --prompt 8 --by-node
      python -m edgeadapt_bench.emulation minilm.onnx --plain --prompt 32
      python -m edgeadapt_bench.emulation bundle --ops build/aarch64/libedgeadapt_ops.so --boots 3
      python -m edgeadapt_bench.emulation bundle --ops build/aarch64/libedgeadapt_ops.so --profile decode
      python -m edgeadapt_bench.emulation bundle --ops build/aarch64/libedgeadapt_ops.so --verify
    """
    library = None if ops == "off" else Path(ops)
    if library is not None and not library.is_file():
        raise EdgeAdaptError(f"--ops {ops}: no such file; give an aarch64 library, or off")
    path = Bundle.open(model).graph(graph) if (model / MANIFEST).is_file() else model
    if not path.is_file():
        raise EdgeAdaptError(f"{model}: neither a bundle nor a graph")
    kind: Kind = "graph" if plain else "decoder"
    job = Job(path.name, kind, library is not None, prompt, tokens, prefills, by_node=by_node)
    system = sysroot.prepare(say)
    if verify:
        done = user.run(["-m", "edgeadapt", "verify", str(model.resolve())], system, library=library)
        print(done.stdout, end="")
        if done.returncode:
            raise EdgeAdaptError(f"edgeadapt verify ended with {done.returncode} there: {user.last_words(done)}")
        return
    if profile is not None:
        found_functions = profiling.profile(replace(job, profiled=profile), path, library, system)
        cycles = static_cycles.estimate([block for item in found_functions for block in item.blocks])
        print("\n".join(profile_report.lines(found_functions, cycles, show=show)))
        if json_out is not None:
            write_json(json_out, profile_report.to_json(found_functions, cycles))
        return
    answers, seconds = boots.measure(job, path, library, system, boots=repeat, tell=say)
    found = Counts(str(model), path.name, job, system.versions(), answers[0])
    print(found.table())
    if repeat > 1:
        print(f"{repeat} boots agree to the last instruction and byte")
    if json_out is not None:
        emulator = {"boots": repeat, "seconds_per_boot": [round(one, 1) for one in seconds]}
        write_json(json_out, {**found.to_json(), "emulator": emulator})


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    try:
        app()
    except EdgeAdaptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
