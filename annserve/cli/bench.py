"""``annserve bench``: measure an index in this process or behind a server; the commands of jobs stand beside it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from annserve.cli import bench_cache, bench_jobs
from annserve.cli.render import Progress, table_text
from annserve.errors import InputError
from annserve.sizes import bytes_text

#: How far a delivered recall may fall short of its target: what the product promises.
_RECALL_SLACK = 0.01


@click.group("bench")
def command() -> None:
    """Measure recall, latency, pages and memory."""


for _one in (*bench_jobs.COMMANDS, *bench_cache.COMMANDS):
    command.add_command(_one)


@command.command("search")
@click.argument("index", required=False, type=click.Path(path_type=Path))
@click.option("--queries", required=True, help="File of query vectors.")
@click.option("--truth", required=True, help="File of the queries' exact neighbours (ids, nearest first).")
@click.option("--truth-distances", help="File of their distances or similarities, so that ties count.")
@click.option("--recall", default="0.90,0.95,0.98", show_default=True, help="Recall targets.")
@click.option("--threads", default="1,2", show_default=True, help="Numbers of concurrent callers.")
@click.option("-k", "--k", default=10, show_default=True, help="Results per query.")
@click.option("--repetitions", default=3, show_default=True, help="Passes over the queries for each load.")
@click.option("--io", default="auto", show_default=True, help="How pages are read (not with --address).")
@click.option("--address", help="HOST:PORT of a server to measure, in place of INDEX.")
@click.option("--json", "json_path", help="Write the report here; - for stdout, in place of the table.")
def search(
    index: Path | None,
    queries: str,
    truth: str,
    truth_distances: str | None,
    recall: str,
    threads: str,
    k: int,
    repetitions: int,
    io: str,
    address: str | None,
    json_path: str | None,
) -> None:
    """Measure searches of INDEX, or of the server at --address, one query per call.

    Every pair of a recall target and a number of threads is warmed up, then measured in turn, several times.
    """
    from annserve.measure.report import compose_report, report_text
    from annserve.measure.runner import WARM_UP_QUERIES, Load, run_loads
    from annserve.measure.summary import hold_against, summarize
    from annserve.measure.workload import load_workload
    from annserve.spec import K_MAX, check_k, check_recall_target

    if (index is None) == (address is None):
        raise InputError("say what to measure: either an INDEX folder or --address HOST:PORT", field="index")
    targets = [check_recall_target(target) for target in _numbers(recall, float, "recall")]
    loads = [Load(target, callers) for target in targets for callers in _numbers(threads, int, "threads")]
    workload = load_workload(queries, truth, truth_distances, k=check_k(k, K_MAX))
    with _report_file(json_path) as write_report, ExitStack() as stack:
        opened = _open_target(stack, index, address, io)
        facts = opened.target.info()
        passes = run_loads(
            opened.target,
            workload.queries,
            loads,
            k=k,
            repetitions=repetitions,
            witness=opened.witness,
            listener=Progress(),
        )
        records = [summarize(load, passes[load], workload.truth, k=k) for load in loads]
        predict = getattr(opened.target, "pages_predicted", lambda k, recall_target: None)
        records = [record | hold_against(record, predict(k, record["recall_target"])) for record in records]
        report = compose_report(
            records,
            index=facts,
            inputs=workload.inputs,
            settings={
                "k": k,
                "repetitions": repetitions,
                "warm_up_queries": WARM_UP_QUERIES,
                "io": io if address is None else None,
                "address": address,
            },
            memory=opened.memory | {"after_runs": opened.memory_now().as_dict()},
            command_line=shlex.join(["annserve", *sys.argv[1:]]),
            stored_at=index,
        )
        write_report(report_text(report))
    if json_path != "-":
        click.echo(_table(records, k))
        click.echo(_index_line(report["index"]))
    for note in _notes(report):
        click.echo(f"note: {note}", err=True)


class Opened(NamedTuple):
    """What is measured, whose counters tell what it uses, and its memory until now."""

    target: Any
    witness: Callable[[], Any]
    memory_now: Callable[[], Any]
    memory: dict[str, Any]


def _open_target(stack: ExitStack, index: Path | None, address: str | None, io: str) -> Opened:
    """Open the index or connect to the server; the memory before and after tells what opening took."""
    from annserve.measure.counters import memory_now, usage_now

    if address is not None:
        from annserve.client import Client
        from annserve.measure.server import find_server

        server = find_server(address)
        memory = {"before_runs": server.memory().as_dict()}
        return Opened(stack.enter_context(Client(address)), server.usage, server.memory, memory)
    # Imported first: the code of the engine is not the memory of the index.
    from annserve import collection

    assert index is not None
    before = memory_now().as_dict()
    target = stack.enter_context(collection.open(index, io=io))
    return Opened(target, usage_now, memory_now, {"before_open": before, "after_open": memory_now().as_dict()})


@contextmanager
def _report_file(json_path: str | None) -> Iterator[Callable[[str], None]]:
    """Give the function that writes the report; the file is claimed now, lest a long run end in a refusal."""
    if json_path is None:
        yield lambda text: None
    elif json_path == "-":
        yield lambda text: click.echo(text, nl=False)
    else:
        from annserve.storage.atomic import AtomicFile

        with AtomicFile(json_path) as file:

            def write(text: str) -> None:
                file.write(text.encode())
                file.commit()

            yield write


def _numbers(text: str, kind: Callable[[str], Any], option: str) -> list[Any]:
    """Parse ``0.90,0.95``; a number given twice is measured once."""
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--{option} is {text!r}; give numbers with commas between, as 1,2", field=option) from None
    if option == "threads" and min(numbers) < 1:
        raise InputError(f"--threads is {text!r}; each number must be at least 1", field=option)
    return list(dict.fromkeys(numbers))


def _table(records: list[dict[str, Any]], k: int) -> str:
    header = ["recall target", f"recall@{k}", "p5", "threads", "QPS", "±", "p50 µs", "p95 µs", "p99 µs"]
    header += ["pages", "foreseen", "reads", "KiB", "CPU µs"]
    rows = [
        (
            f"{record['recall_target']:g}",
            f"{record[f'recall_{k}_at_{k}']:.4f}",
            f"{record['recall_p5']:.2f}",
            record["threads"],
            f"{record['qps']:,.0f}",
            f"{record['qps_spread']:.0%}",
            *(f"{record[f'latency_us_{share}']:,.0f}" for share in ("p50", "p95", "p99")),
            _number(record["pages_read_mean"]),
            _number(record["pages_predicted"]),
            _number(record["reads_mean"]),
            _number(record["bytes_read_mean"], 1024),
            _number(record["cpu_us_mean"], decimals=0),
        )
        for record in records
    ]
    return table_text(header, rows)


def _index_line(facts: Mapping[str, Any]) -> str:
    disk, per_vector, seconds = (facts[name] for name in ("disk_bytes", "ram_bytes_per_vector", "build_seconds"))
    parts = [f"{facts['count'] or 0:,} × {facts['dim'] or '?'}"]
    parts += [f"{per_vector:.1f} B of RAM a vector"] if per_vector is not None else []
    parts += [f"{bytes_text(disk)} on disk"] if disk is not None else []
    parts += [f"built in {seconds:.0f} s"] if seconds is not None else []
    return ", ".join(parts)


def _number(value: float | None, unit: float = 1, decimals: int = 1) -> str:
    return "–" if value is None else f"{value / unit:,.{decimals}f}"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what makes the numbers doubtful."""
    from annserve.measure.faults import RATIO_SLACK, faults_of

    records = report["results"]
    k = report["settings"]["k"]
    for target, recall in sorted({(one["recall_target"], one[f"recall_{k}_at_{k}"]) for one in records}):
        if recall < target / 2:
            yield f"recall is {recall:.4f} at target {target:g}: is this the truth of this base and this metric?"
        elif recall < target - _RECALL_SLACK:
            yield f"recall is {recall:.4f} at target {target:g}, more than {_RECALL_SLACK} short of it"
    n_lists = report["inputs"]["truth"]["ties_cut"]
    if n_lists:
        yield f"{n_lists} lists of the truth end within a tie; a deeper truth may show a higher recall"
    ratios = [record["device_bytes_ratio"] for record in records if record["device_bytes_ratio"] is not None]
    if ratios and min(ratios) < 1 - RATIO_SLACK:
        yield f"the kernel read only {min(ratios):.2f} of those bytes: the page cache answered the rest"
    yield from dict.fromkeys(fault for record in records for fault in faults_of(record))
