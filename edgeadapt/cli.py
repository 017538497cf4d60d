"""The command line: one thin function per command. A stage is imported only when its command runs."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from edgeadapt import __version__
from edgeadapt.errors import CheckFailed, EdgeAdaptError, MissingExtra

app = typer.Typer(
    name="edgeadapt",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Adapters of a few tens of kilobytes: train them, export them to ONNX, run and measure them on a device.

    \b
    Examples:
      edgeadapt train run=demo results_dir=runs mode=full
      edgeadapt export --int8
      edgeadapt run bundle --task bbc_topics "Shares in the airline fell by a tenth."
      edgeadapt bench bundle --device rpi4
    """,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for a program to read.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads that one operation may use.")]


CORES = os.cpu_count() or 1
INTERRUPTED = 130


class Device(StrEnum):
    """What a bundle is exported for."""

    rpi4 = "rpi4"
    generic = "generic"


class Factors(StrEnum):
    """How wide the factors of a LoRA are on the device."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def _stage(module: str, extra: str) -> ModuleType:
    """Import a stage; say which extra brings it when a package that it needs is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(extra, error.name or module) from error


@app.callback(invoke_without_command=True)
def _edgeadapt(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"edgeadapt {__version__}")
        raise typer.Exit()


@app.command()
def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides: run=NAME results_dir=DIR mode=trial|full adapter=NAME key=value ..."),
    ] = None,
    cfg: Annotated[bool, typer.Option("--cfg", help="Print the resolved configuration and stop.")] = False,
) -> None:
    """Train an adapter on a stream of tasks.

    The run is written to results_dir/run_id. One that was cut short goes on where it was.

    \b
    Examples:
      edgeadapt train run=demo results_dir=runs mode=trial     a minute: does everything work here?
      edgeadapt train run=demo results_dir=runs mode=full      HIMALAYA on two tasks, one after the other
      edgeadapt train run=demo run_id=lora8 adapter=lora8      the same stream with LoRA of rank 8
      edgeadapt train run=demo tracking.mode=offline           Weights & Biases, to be sent by `wandb sync` later
      edgeadapt train run=demo search.trials=30 'search.space.lr={type: loguniform, low: 1e-3, high: 3e-2}'
                                                               30 trials on the validation split, then the run
      edgeadapt train --cfg run=demo                           print the resolved configuration and stop
    """
    _stage("edgeadapt_train.run", "train").train([*(overrides or []), *(["--cfg"] if cfg else [])])


@app.command()
def evaluate(
    words: Annotated[list[str], typer.Argument(help="key=value, with the keys below.")],
) -> None:
    """Say what finished runs come to, and how they compare.

    Writes metrics and figures of each run into results_dir/RUN, and of all of them together into
    results_dir/comparison: tables, paired tests, PDF files and one page. The paths are printed.

    A run is proposed, or a baseline, if its id says `proposed`, or `comparative` or `baseline`.

    \b
    Keys:
      results_dir=DIR           the directory of runs
      run_ids='["a","b"]'       which of them
      source=local|wandb        run directories, or runs at Weights & Biases
      project=P entity=E        where these are
      primary_metric=NAME       what the best runs are chosen by: retained_accuracy_auc
      bench='{a: FILE}'         what `bench --json` wrote of a run's bundle; without it, RUN/bench*.json

    \b
    Examples:
      edgeadapt evaluate results_dir=runs run_ids='["proposed-s0","baseline-s0"]'
      edgeadapt evaluate results_dir=runs run_ids='[demo]' bench='{demo: bench.json}'
      edgeadapt evaluate results_dir=out run_ids='[demo]' source=wandb project=edgeadapt entity=team
    """
    for path in _stage("edgeadapt_train.evaluation.report", "evaluate").evaluate(words):
        typer.echo(path)


@app.command()
def methods(as_json: JsonFlag = False) -> None:
    """List the adapters: equation, bytes, what is trained, where they run.

    Bytes are those of a new adapter on the shapes of SmolLM2-135M and MiniLM; no model is loaded.

    \b
    Examples:
      edgeadapt methods
      edgeadapt methods --json
    """
    stage = _stage("edgeadapt_train.methods", "train")
    found = stage.rows()
    _show([row.to_json() for row in found] if as_json else found, as_json, stage.table)


@app.command()
def retarget(
    run: Annotated[Path, typer.Argument(help="Finished run of adapter=unihyper.")],
    model: Annotated[str, typer.Option(help="The other backbone: a known name, a hub id or a folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run directory to write.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value on that run's configuration, such as steps=20.")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Carry over and score; tune nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Carry UniHyperLoRA's adapter over to a backbone that it never saw.

    Scores the backbone without it, then with it as it is, then after tuning half a kilobyte of it and the tasks' rows.
    The result is a run like any other: export it.

    \b
    Examples:
      edgeadapt retarget runs/minilm --model bert-base -o runs/bert
      edgeadapt retarget runs/demo --model path/to/folder -o runs/other steps=20
      edgeadapt retarget runs/demo --model path/to/folder -o runs/other --zero-shot --json
    """
    found = _stage("edgeadapt_train.retarget", "train").retarget(
        run, model, output, tune=not zero_shot, overrides=overrides or []
    )
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else found.summary())


@app.command()
def export(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory; without it, the newest finished run below --results-dir.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="4-bit weights in blocks of 32 (the default).")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Weights as they are.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle directory to write.")] = Path("bundle"),
    device: Annotated[Device, typer.Option(help="What the graph is laid out for.")] = Device.rpi4,
    merge: Annotated[bool, typer.Option("--merge", help="Fold a static adapter (LoRA) into the weights.")] = False,
    adapter_precision: Annotated[
        Factors, typer.Option(help="Of LoRA's factors: fp16 is exact too, int8 changes about 1 % of what they do.")
    ] = Factors.fp32,
    energy_budget: Annotated[
        float | None,
        typer.Option(help="HEST: share of the all-fp16 plan's energy that plans may spend; the run's if not given."),
    ] = None,
    results_dir: Annotated[Path, typer.Option(help="Where to look for the newest run.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Turn a run into a bundle.

    A bundle holds ONNX graphs, the adapter in small files of its own, the tokenizer and the parity figures.

    \b
    Examples:
      edgeadapt export --int8                      the newest run below ./runs, into ./bundle
      edgeadapt export runs/demo --int4 -o out     one run, 4-bit weights
      edgeadapt export runs/lora8 --merge          LoRA folded into the backbone's weights
      edgeadapt export synthetic:qwen3-0.6b -o out a published shape with random weights, to be measured elsewhere
      edgeadapt export runs/hest --energy-budget 0.6
    """
    chosen = [name for name, wanted in (("int8", int8), ("int4", int4), ("fp32", fp32)) if wanted]
    if len(chosen) > 1:
        raise EdgeAdaptError(f"--{chosen[0]} and --{chosen[1]} exclude each other; give one of them")
    from edgeadapt.backbones import SYNTHETIC
    from edgeadapt.rundir import newest

    if run is not None and str(run).startswith(SYNTHETIC):
        if fp32 or merge:
            raise EdgeAdaptError(f"{run}: random weights are int4 or int8, and there is no adapter to merge")
        made = _stage("edgeadapt_export.synthetic", "export")
        typer.echo(made.summary(str(run), output, made.synthesise(str(run), output, precision=(*chosen, "int4")[0])))
        return
    directory = run if run is not None else newest(results_dir)
    report = _stage("edgeadapt_export", "export").export(
        directory,
        output,
        precision=chosen[0] if chosen else "int4",
        device=device.value,
        merge=merge,
        factors=adapter_precision.value,
        energy_budget=energy_budget,
    )
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else report.summary())


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    prompt: Annotated[str, typer.Argument(help="The text; '-' reads standard input, a line at a time.")] = "-",
    task: Annotated[str | None, typer.Option(help="Ask as this task of the adapter.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Adapter to use; the one that knows the task if not given.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; higher is more varied.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample within this probability mass.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    threads: ThreadsOption = CORES,
    as_json: JsonFlag = False,
) -> None:
    """Ask a bundle.

    A classification task answers with a label and probabilities, a task of words with a label for each; anything else
    with text, as it is generated.

    \b
    Examples:
      edgeadapt run bundle --task bbc_topics "Shares in the airline fell by a tenth."
      edgeadapt run bundle "Write a haiku about the sea." --temperature 0.7
      cat lines.txt | edgeadapt run bundle --task tweet_sentiment - --json
    """
    from edgeadapt.runtime.answer import answer
    from edgeadapt.runtime.generate import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, max_new_tokens=max_new_tokens)
    answer(bundle, prompt, adapter=adapter, task=task, sampling=sampling, threads=threads, as_json=as_json)


class _BenchGroup(typer.core.TyperGroup):
    """`bench`, which measures unless its first word is one of its other commands. A bundle of that name is `./NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else [_MEASURE, *args])


_MEASURE = "measure"
bench = typer.Typer(cls=_BenchGroup, rich_markup_mode=None)
app.add_typer(bench, name="bench", help="Measure a bundle; compare and show stored results.")

CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write a line per row to this file.")]
MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="Write tables to this file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write one page with plots to this file.")]


@bench.command(_MEASURE)
def bench_measure(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")] = Path("bundle"),
    device: Annotated[
        str, typer.Option(help="Where to measure: host, board, rpi4, emulated or ssh://[USER@]HOST[:PORT].")
    ] = "host",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with, repeatable: bare, bodies, lora8-merged, lora8-unmerged, stock, "
            "onnxruntime-genai, llama.cpp, pytorch, openvino, another bundle; all that can run here."
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(help="What to measure, repeatable: NAME[:SIZE=NUMBER[,NUMBER...]...], as above."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Bound the whole run to 40 s.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Bound the whole run to so many minutes instead.")] = None,
    threads: Annotated[str, typer.Option(help="Threads that one operation may use; several: 1,2,4.")] = "1",
    cool_down: Annotated[
        float | None,
        typer.Option(help="Wait until the machine is at most so warm, in degrees Celsius, before opening."),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every row to this file.")] = None,
    csv_out: CsvOption = None,
    markdown_out: MarkdownOption = None,
    html_out: HtmlOption = None,
) -> None:
    """Measure a bundle beside its baselines.

    Variants take turns in one run; figures are paired ratios with intervals. BUNDLE may also be an encoder's .onnx
    file, or synthetic:NAME, a published shape with random weights, made once: smollm2-135m, qwen3-0.6b,
    tinyllama-1.1b, llama-2-7b. `bench compare` and `bench show` work on stored results.

    \b
    Devices:
      host        this machine
      board       this machine, a Raspberry Pi: an error on any other
      rpi4        this machine if it is a Raspberry Pi 4, otherwise emulated
      emulated    a Raspberry Pi 4's processor, emulated: user instructions and memory, and never a time
      ssh://...   a board that ssh reaches without asking: bundle and wheel are copied there, and the bench runs there.
                  Behind `?`, joined by `&`: python=PATH, an interpreter there that has edgeadapt; wheel=PATH, a wheel
                  here in place of one built from the source tree; config=PATH, another configuration for ssh

    \b
    Workloads, with their sizes (several numbers: each by itself, and every combination):
      generation      text behind a prompt                           prompt=64 output=8
      switch          another task, and an adapter's file read anew  prompt=64
      batch           several texts in lock-step                     rows=4 prompt=64 output=8
      mixed           a batch whose rows use different adapters      adapters=4 rows=4 prompt=64 output=8
      classification  a text, and the scores of all its labels       prompt=64 choices=4 length=2
      residents       many adapters in memory, changing among them   adapters=8 prompt=64
      embedding       texts through an encoder                       tokens=64 batch=1
    If none is named: generation and switch, or embeddings of several lengths where BUNDLE is an encoder.

    \b
    Examples:
      edgeadapt bench bundle --device host --json bench.json --html bench.html
      edgeadapt bench bundle --device emulated --baseline bare
      edgeadapt bench bundle --device ssh://pi@raspberrypi --cool-down 55 --json board.json
      edgeadapt bench bundle --quick --threads 1,2
      edgeadapt bench synthetic:tinyllama-1.1b --quick
      edgeadapt bench bundle --workload generation:prompt=16,64,256:output=32 --workload residents:adapters=1,8,64
      edgeadapt bench bundle --baseline bare --baseline other/bundle
      edgeadapt bench encoder.onnx --workload embedding:tokens=16,128:batch=1,8
      edgeadapt bench compare before.json after.json
      edgeadapt bench show bench.json --html bench.html
    """
    workloads = _stage("edgeadapt_bench.workloads", "bench")
    from edgeadapt.backbones import SYNTHETIC

    if str(bundle).startswith(SYNTHETIC):
        bundle = _stage("edgeadapt_export.synthetic", "export").kept(str(bundle))
    report = _stage("edgeadapt_bench.run", "bench").bench(
        bundle,
        device=device,
        baselines=baseline,
        workloads=workloads.parse(workload or ()),
        quick=quick,
        minutes=minutes,
        threads=workloads.numbers("--threads", threads),
        cool_down=cool_down,
        json_out=json_out,
    )
    results = _stage("edgeadapt_bench.results", "bench")
    found = results.checked(str(bundle), report.to_json())
    results.write(found, csv=csv_out, markdown=markdown_out, html=html_out)
    _console().print(_stage("edgeadapt_bench.terminal", "bench").table(found))


@bench.command("compare")
def bench_compare(
    before: Annotated[Path, typer.Argument(help="What `bench --json` wrote first.")],
    after: Annotated[Path, typer.Argument(help="What it wrote later.")],
    fail_over: Annotated[
        str | None, typer.Option(help="Exit with 1 if a figure got worse by more than this, such as 2%.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what changed from one stored result to another.

    Rows pair up by workload, variant, phase, precision and threads. Times come with intervals and fail only where the
    interval agrees; counts and bytes are compared as they are. Emulated and real rows are never compared.

    \b
    Examples:
      edgeadapt bench compare before.json after.json
      edgeadapt bench compare before.json after.json --fail-over 2%
      edgeadapt bench compare before.json after.json --json
    """
    results, stage = _stage("edgeadapt_bench.results", "bench"), _stage("edgeadapt_bench.compare", "bench")
    limit = None if fail_over is None else stage.limit(fail_over)
    found = stage.compare(results.load(before), results.load(after))
    _show(found.to_json(limit) if as_json else found, as_json, lambda found: found.table(limit))
    if limit is not None and (worse := found.worse_by(limit)):
        raise CheckFailed(f"{after}: {stage.said(worse, limit)}")


@bench.command("show")
def bench_show(
    result: Annotated[Path, typer.Argument(help="What `bench --json` wrote.")],
    csv_out: CsvOption = None,
    markdown_out: MarkdownOption = None,
    html_out: HtmlOption = None,
) -> None:
    """Show a stored result again, or write it as CSV, Markdown or a page.

    \b
    Examples:
      edgeadapt bench show bench.json
      edgeadapt bench show bench.json --html bench.html --csv bench.csv --markdown bench.md
    """
    results = _stage("edgeadapt_bench.results", "bench")
    found = results.load(result)
    if not results.write(found, csv=csv_out, markdown=markdown_out, html=html_out):
        typer.echo(_stage("edgeadapt_bench.tables", "bench").to_markdown(found), nl=False)


data = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
app.add_typer(data, name="data")


@data.callback()
def _data() -> None:
    """Make a stream's data; see what this machine can reach.

    \b
    Examples:
      edgeadapt data bigbench25 --out bigbench25
      edgeadapt data check cts25
    """


@data.command("bigbench25")
def data_bigbench25(
    out: Annotated[Path, typer.Option("--out", help="Directory to write.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="BIG-bench's source archive, or the folder that it unpacks to; or else fetched."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Cut the 25-task stream bigbench25 out of BIG-bench.

    Fetches BIG-bench 1.0.0 from the Python package index (358 MB, once), reads its JSON and runs none of its code.
    Every file is checked against its SHA-256. `edgeadapt train stream=bigbench25` does it by itself, in the cache.

    \b
    Examples:
      edgeadapt data bigbench25 --out bigbench25
      edgeadapt data bigbench25 --out bigbench25 --from bigbench-1.0.0.tar.gz
      edgeadapt train stream=bigbench25 stream.folder=bigbench25 'stream.tasks=[sports,fever]' run_id=two
    """
    stage = _stage("edgeadapt_train.streams.bigbench25", "train")
    stage.build(out, source)
    _show(stage.summary(out), as_json, stage.table)


class HubStream(StrEnum):
    """Streams that are read from the Hugging Face hub."""

    cts25 = "cts25"
    unihyper = "unihyper"


@data.command("check")
def data_check(
    stream: Annotated[HubStream, typer.Argument(help="Stream whose datasets are looked for.")],
    mirror: Annotated[Path | None, typer.Option(help="Folder with copies of the datasets, instead of the hub.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which tasks of a stream this machine can read, and at which revision.

    Asks the hub about every dataset and downloads none. Exit code 1 if one cannot be read.

    \b
    Examples:
      edgeadapt data check cts25
      edgeadapt data check cts25 --json
      edgeadapt data check cts25 --mirror copies     as stream.mirror=copies
    """
    stage = _stage("edgeadapt_train.streams.hub_check", "train")
    found = stage.check(stream.value, mirror)
    _show([row.to_json() for row in found] if as_json else found, as_json, stage.table)
    if missing := [row for row in found if not row.readable]:
        raise CheckFailed(f"{len(missing)} of the {len(found)} tasks of {stream.value} cannot be read here")


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="Bundle or run directory.")], as_json: JsonFlag = False) -> None:
    """Show what is inside, byte by byte.

    \b
    Examples:
      edgeadapt inspect bundle
      edgeadapt inspect runs/demo --json
    """
    from edgeadapt.inspect import describe, render

    found = describe(path)
    _show(found, as_json, render)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")] = Path("bundle"),
    as_json: JsonFlag = False,
) -> None:
    """Check a bundle on this machine.

    Integrity first, then that kernel, function body and reference agree here.

    \b
    Examples:
      edgeadapt verify bundle
      EDGEADAPT_OPS=off edgeadapt verify bundle     without the op library
    """
    from edgeadapt.verify import verify as check

    report = check(bundle)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _console().print(report.table())
    if not report.passed:
        raise CheckFailed(f"{bundle}: {report.failures} of {len(report.rows)} checks failed")


def _console() -> Any:
    from rich.console import Console

    return Console()


def _show(value: Any, as_json: bool, render: Any) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    else:
        _console().print(render(value))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 wrong usage or unusable input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in words
    if debug:  # accepted anywhere on the line
        words.remove("--debug")
    try:
        code = typer.main.get_command(app).main(words, prog_name="edgeadapt", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of an interrupt
            _fail("interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.exceptions.TyperException as error:
        if debug:
            raise
        _fail(error.format_message(), 2)
    except EdgeAdaptError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 2)


def _fail(message: str, code: int) -> None:
    print(f"edgeadapt: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
