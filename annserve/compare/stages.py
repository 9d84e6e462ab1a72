"""The stages of one run; each is skipped if what it leaves in the work folder is there.

=========  ===========================================================================================
stage      what it leaves
=========  ===========================================================================================
build      ``index/``, ``build.json``: seconds, CPU, peak memory, bytes on disk
tune       ``tune.json``: every setting once, on the tuning queries, one caller
measure    ``round-N.json`` and its passes: every load once
compose    the result file; the work folder goes
=========  ===========================================================================================

Build, tuning, and each round run in processes of their own, so that nothing but the files of the index goes from
one to the next. The tuning queries are a fixed share of all queries and count in no result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.compare.cards import Point
from annserve.compare.choose import cheapest, frontier, pages_of
from annserve.compare.environments import versions_of
from annserve.compare.job import RESULT_FORMAT, Run
from annserve.compare.passes import load_pass
from annserve.compare.process import Worker
from annserve.compare.worker import INDEX
from annserve.events import Listener, StageFinished, StageStarted
from annserve.measure.machine import describe_machine, describe_software, find_commit
from annserve.measure.openloop import Schedule, rows_asked
from annserve.measure.report import report_text
from annserve.measure.runner import WARM_UP_QUERIES, Load, Pass
from annserve.measure.summary import summarize
from annserve.measure.truth import Truth
from annserve.storage.atomic import write_atomically

#: Fixes which queries tune, and when queries arrive.
_SEED = 17
_GIB = 1 << 30


@dataclass(frozen=True)
class ActiveRun:
    """A run under way.

    Attributes
    ----------
    run : Run
    python : Path
        The interpreter that has its system.
    folder : Path
        Its work folder.
    """

    run: Run
    python: Path
    folder: Path

    @property
    def _index(self) -> Path:
        return self.folder / INDEX

    def build(self, listener: Listener) -> None:
        """Build the index in a process that ends with it."""
        if (self.folder / "build.json").exists():
            return
        self.discard()
        self.folder.mkdir(parents=True)
        threads = self.run.job.loads.build_threads
        with _told(listener, f"build {self.run.name}"), self._worker(threads, threads) as worker:
            facts = worker.ask(
                "build", base=str(self.run.dataset.base_path.resolve()), code_rows=self.run.job.loads.code_rows
            )
        facts["disk_bytes"] = _folder_bytes(self._index)
        self._keep("build.json", facts)

    def tune(self, listener: Listener) -> None:
        """Ask the tuning queries once under every setting."""
        if (self.folder / "tune.json").exists():
            return
        rows, _ = self._split()
        truth = _part(self.run.dataset.truth, rows)
        tuned = []
        with _told(listener, f"tune {self.run.name}"), self._worker(1, 1) as worker:
            queries = self._queries("tuning", rows)
            self._open(worker, queries)
            for point in self.run.search:
                ask: dict[str, Any] = {
                    "load": "closed",
                    "point": point,
                    "threads": 1,
                    "recall_target": self._target_of(point),
                }
                one = self._ask(worker, ask, queries, "tuning.npz")[0]
                record = summarize(Load(ask["recall_target"], 1), [one], truth, k=self.run.job.k, in_process=True)
                record.pop("passes")
                tuned.append({"point": point, "pages": pages_of(record, self.run.card.lies)[0], **record})
        self._keep("tune.json", tuned)

    def measure(self, number: int, listener: Listener) -> None:
        """Ask every load once."""
        name = f"round-{number}.json"
        if (self.folder / name).exists():
            return
        _, rows = self._split()
        queries = self._queries("measured", rows)
        loads = self.run.job.loads
        cores = max(loads.threads)
        asks = self._asks()
        with _told(listener, f"round {number} {self.run.name}"):
            memory: dict[str, Any] = {}
            if loads.cold:
                asks += self._cold(asks)
            for ask in (one for one in asks if one["load"] == "cold"):
                self._ask_cold(ask, queries, self._pass_name(number, ask))
            with self._worker(cores, 1) as worker:
                opened = self._open(worker, queries)
                for ask in (one for one in asks if one["load"] == "closed"):
                    passed, memory = self._ask(worker, ask, queries, self._pass_name(number, ask))
                    ask["qps"] = len(passed.latency_us) / passed.seconds
                for ask in self._open_asks(number, asks):
                    asks.append(ask)
                    self._ask(worker, ask, queries, self._pass_name(number, ask))
        memory = {
            "before_open": opened["memory_before"],
            "after_open": opened["memory_after"],
            "after_runs": memory,
        }
        self._keep(name, {"asks": asks, "memory": memory, "info": opened["info"], "open_seconds": opened["seconds"]})

    def compose(self, results: Path) -> None:
        """Judge all passes, write the result file, and clean up."""
        run = self.run
        rounds = [self._kept(f"round-{number}.json") for number in range(1, run.job.loads.rounds + 1)]
        _, rows = self._split()
        records = []
        for ask in rounds[0]["asks"]:
            passes = [load_pass(self.folder / self._pass_name(number + 1, ask)) for number in range(len(rounds))]
            asked = rows
            if ask["load"] == "open":
                asked = rows[rows_asked(Schedule(**ask["schedule"]), len(rows))]
            load = Load(ask["recall_target"], ask["threads"])
            record = summarize(load, passes, _part(run.dataset.truth, asked), k=run.job.k, in_process=True)
            told = {name: ask[name] for name in ("load", "point", "chosen_for") if name in ask}
            if ask["load"] == "open":
                told |= {"rate": ask["schedule"]["rate"], "rate_share": ask["share"]}
            records.append(told | record)
        build, last = self._kept("build.json"), rounds[-1]
        text = report_text(
            {
                "format": RESULT_FORMAT,
                "key": run.key,
                "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
                "dataset": {
                    "name": run.dataset.name,
                    "metric": run.dataset.metric,
                    "count": run.dataset.rows,
                    "dim": run.dataset.dim,
                    "dtype": run.dataset.dtype,
                    "queries": len(rows),
                    "sha256": run.dataset.hashes,
                    "ties_cut": run.dataset.truth.ties_cut(run.job.k),
                },
                "system": {
                    "name": run.label,
                    "peer": run.card.folder.name,
                    "about": run.card.about,
                    "lies": run.card.lies,
                    "versions": dict(versions_of(run.card, self.python)),
                    "build": run.build,
                },
                "settings": run.settings,
                "commit": find_commit(),
                "versions": describe_software(),
                "machine": describe_machine(self._index),
                "built": build | {"open_seconds": last["open_seconds"]},
                "memory": last["memory"] | {"ram_bytes": _ram_bytes(last["memory"])},
                "info": last["info"],
                "tuned": self._kept("tune.json"),
                "results": records,
            }
        )
        write_atomically(results / f"{run.name}.json", text.encode())
        shutil.rmtree(self.folder, ignore_errors=True)

    def _asks(self) -> list[dict[str, Any]]:
        """List the closed loads: each target's choice under every number of callers, then the frontier."""
        run, loads = self.run, self.run.job.loads
        tuned = self._kept("tune.json")
        targets: dict[int, list[float]] = {}
        for target in run.job.recall_targets:
            if run.card.plans_itself:
                place = next(i for i, one in enumerate(tuned) if one["point"]["recall_target"] == target)
            else:
                place = cheapest(tuned, target, run.job.k)
            targets.setdefault(place, []).append(target)
        pairs = [(place, threads) for place in targets for threads in loads.threads]
        if loads.frontier:
            pairs += [(place, loads.threads[0]) for place in frontier(tuned, run.job.k) if place not in targets]
        return [
            {
                "load": "closed",
                "point": tuned[place]["point"],
                "threads": threads,
                "chosen_for": targets.get(place, []),
                "recall_target": self._target_of(tuned[place]["point"], targets.get(place)),
            }
            for place, threads in pairs
        ]

    def _cold(self, asks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        first = min(self.run.job.loads.threads)
        return [{**ask, "load": "cold"} for ask in asks if ask["chosen_for"] and ask["threads"] == first]

    def _ask_cold(self, ask: dict[str, Any], queries: Path, out: str) -> None:
        """Ask once after the page cache was emptied of the index; the small index has warmed the code."""
        _evict(self._index)
        with self._worker(ask["threads"], 1) as worker:
            self._open(worker, queries)
            # Opening reads, and read-ahead reads more.
            _evict(self._index)
            self._ask(worker, ask, queries, out, warm_up=0)

    def discard(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open_asks(self, number: int, asks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """List the open loads; their rates are those of the first round, so that rounds can be compared."""
        loads = self.run.job.loads
        if number > 1:
            return [dict(ask) for ask in self._kept("round-1.json")["asks"] if ask["load"] == "open"]
        full = [ask for ask in asks if ask["load"] == "closed" and ask["threads"] == max(loads.threads)]
        base = [ask for ask in full if loads.open_recall_target in ask["chosen_for"]]
        return [
            {
                **{name: ask[name] for name in ("point", "chosen_for", "recall_target", "threads")},
                "load": "open",
                "share": share,
                "schedule": {
                    "rate": ask["qps"] * share,
                    "count": max(1, round(ask["qps"] * share * loads.open_seconds)),
                    "arrivals": loads.arrivals,
                    "seed": _SEED,
                },
            }
            for ask in base[:1]
            for share in loads.open_shares
        ]

    def _open(self, worker: Worker, queries: Path) -> dict[str, Any]:
        return worker.ask(
            "open",
            queries=str(queries),
            k=self.run.job.k,
            point=self.run.search[0],
            code=bool(self.run.job.loads.code_rows),
        )

    def _ask(
        self, worker: Worker, ask: dict[str, Any], queries: Path, out: str, warm_up: int = WARM_UP_QUERIES
    ) -> tuple[Pass, dict[str, Any]]:
        said = worker.ask(
            "ask",
            queries=str(queries),
            k=self.run.job.k,
            point=ask["point"],
            recall_target=ask["recall_target"],
            threads=ask["threads"],
            schedule=ask.get("schedule"),
            warm_up=warm_up,
            out=str(self.folder / out),
        )
        return load_pass(self.folder / out), said["memory"]

    def _worker(self, cores: int, library_threads: int) -> Worker:
        return Worker(
            self.run.card,
            self.python,
            self.folder,
            metric=self.run.dataset.metric,
            parameters=self.run.build,
            cores=cores,
            library_threads=library_threads,
            ram_bytes_limit=int(self.run.job.loads.ram_gib_limit * _GIB),
        )

    def _target_of(self, point: Point, chosen_for: Sequence[float] | None = None) -> float:
        """Say which recall is asked for: the setting's own, or the highest that it was chosen for."""
        return float(point.get("recall_target", max(chosen_for) if chosen_for else self.run.job.recall_targets[0]))

    def _split(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Part the queries into those that tune and those that count, the same for every system."""
        n_queries = len(self.run.dataset.queries)
        n_tuning = min(max(1, round(n_queries * self.run.job.loads.tuning_share)), n_queries - 1)
        order = np.random.default_rng(_SEED).permutation(n_queries)
        return np.sort(order[:n_tuning]), np.sort(order[n_tuning:])

    def _queries(self, name: str, rows: npt.NDArray[np.int64]) -> Path:
        path = self.folder / f"{name}.npy"
        np.save(path, self.run.dataset.queries[rows])
        return path

    def _pass_name(self, number: int, ask: dict[str, Any]) -> str:
        names = {key: ask.get(key) for key in ("load", "point", "threads", "share")}
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]
        return f"round-{number}-{digest}.npz"

    def _keep(self, name: str, facts: Any) -> None:
        write_atomically(self.folder / name, report_text(facts).encode())

    def _kept(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def _part(truth: Truth, rows: npt.NDArray[np.int64]) -> Truth:
    """Give the truth of some queries, in their order."""
    distances = None if truth.distances is None else truth.distances[rows]
    return replace(truth, ids=truth.ids[rows], distances=distances)


def _ram_bytes(memory: Mapping[str, Any]) -> int | None:
    """Give what opening and searching added to the process: proportional, so that mapped pages count."""
    after, before = memory["after_runs"].get("pss_bytes"), memory["before_open"].get("pss_bytes")
    return None if after is None or before is None else max(0, after - before)


def _folder_bytes(folder: Path) -> int:
    """Give the bytes that files take on the device, holes left out."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _evict(folder: Path) -> None:
    """Push the files of a folder out of the page cache; pages that a process maps stay."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


@contextmanager
def _told(listener: Listener, stage: str) -> Iterator[None]:
    began = time.monotonic()
    listener(StageStarted(stage))
    yield
    listener(StageFinished(stage, time.monotonic() - began))
