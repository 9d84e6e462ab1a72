"""The stages of one run; each is skipped if what it leaves in the work folder is there.

=========  ===========================================================================================
stage      what it leaves
=========  ===========================================================================================
build      the index (`annserve.compare.builds`), which other runs may share
tune       ``tune.json``: every setting once that isn't outdone, on the tuning queries, one caller
measure    ``round-N.json`` and its passes: every load once; cold ones and the frontier in the first round
compose    the result file (`annserve.compare.compose`); the work folder goes
=========  ===========================================================================================

Build, tuning, and each round run in processes of their own, so that nothing but the files of the index goes from
one to the next. The tuning queries are a fixed share of all queries and count in no result.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.compare.builds import BuiltIndex, told
from annserve.compare.cards import Point
from annserve.compare.choose import cheapest, frontier, outdone, pages_of
from annserve.compare.compose import compose_result
from annserve.compare.job import PASS_QUERIES_MIN, Run
from annserve.compare.passes import load_pass
from annserve.compare.prepare import spread
from annserve.compare.process import Worker
from annserve.events import Listener
from annserve.measure.report import report_text
from annserve.measure.runner import WARM_UP_QUERIES, Load, Pass
from annserve.measure.summary import summarize
from annserve.storage.atomic import write_atomically

#: Fixes which queries tune, and when queries arrive.
_SEED = 17
_FIRST_ROUND = 1


@dataclass(frozen=True)
class ActiveRun:
    """A run under way.

    Attributes
    ----------
    run : Run
    built : BuiltIndex
        Its index.
    folder : Path
        Its work folder.
    """

    run: Run
    built: BuiltIndex
    folder: Path

    def build(self, listener: Listener) -> None:
        """Build the index in a process that ends with it."""
        self.built.build(listener)

    def tune(self, listener: Listener) -> None:
        """Ask the tuning queries once under every setting that may be the best at some target."""
        if (self.folder / "tune.json").exists():
            return
        job = self.run.job
        rows, _ = self._split()
        truth = self.run.dataset.truth.of(rows)
        tuned: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        with told(listener, f"tune {self.run.name}"), self.built.worker(1, 1) as worker:
            queries = self._queries("tuning", rows)
            self._open(worker, queries)
            for point in self.run.search:
                if not self.run.card.plans_itself and outdone(point, tuned, max(job.recall_targets), job.k):
                    continue
                ask: dict[str, Any] = {
                    "load": "closed",
                    "point": point,
                    "threads": 1,
                    "recall_target": self._target_of(point),
                }
                one = self._ask(worker, ask, queries, "tuning.npz")[0]
                record = summarize(Load(ask["recall_target"], 1), [one], truth, k=job.k)
                record.pop("passes")
                tuned.append({"point": point, "pages": pages_of(record, self.run.card.lies)[0], **record})
        self._keep("tune.json", tuned)

    def measure(self, number: int, listener: Listener) -> None:
        """Ask every load once."""
        name = f"round-{number}.json"
        if (self.folder / name).exists():
            return
        loads = self.run.job.loads
        asks = self._asks() if number == _FIRST_ROUND else [dict(one) for one in self._repeated()]
        with told(listener, f"round {number} {self.run.name}"):
            memory: dict[str, Any] = {}
            if number == _FIRST_ROUND and loads.cold and self.run.card.lies != "ram":
                asks += self._cold(asks)
            for ask in (one for one in asks if one["load"] == "cold"):
                self._ask_cold(ask, self._pass_name(number, ask))
            with self.built.worker(max(loads.threads), 1) as worker:
                opened = self._open(worker, self._measured(asks[0]))
                for ask in (one for one in asks if one["load"] == "closed"):
                    passed, memory = self._ask(worker, ask, self._measured(ask), self._pass_name(number, ask))
                    ask["qps"] = len(passed.latency_us) / passed.seconds
                if number == _FIRST_ROUND:
                    asks += self._open_asks(asks)
                for ask in (one for one in asks if one["load"] == "open"):
                    self._ask(worker, ask, self._measured(ask), self._pass_name(number, ask))
        memory = {
            "before_open": opened["memory_before"],
            "after_open": opened["memory_after"],
            "after_runs": memory,
        }
        self._keep(name, {"asks": asks, "memory": memory, "info": opened["info"], "open_seconds": opened["seconds"]})

    def compose(self, results: Path) -> None:
        """Judge all passes, write the result file, and clean up."""
        rounds = [self._kept(f"round-{number}.json") for number in range(1, self.run.job.loads.rounds + 1)]
        _, rows = self._split()
        answered = []
        for ask in rounds[0]["asks"]:
            n_passes = len(rounds) if ask in self._repeated() else 1
            passes = [load_pass(self.folder / self._pass_name(number + 1, ask)) for number in range(n_passes)]
            answered.append((ask, rows[spread(len(rows), ask["queries"])], passes))
        result = compose_result(self.run, self.built, self._kept("tune.json"), answered, rounds[-1])
        write_atomically(results / f"{self.run.name}.json", report_text(result).encode())
        self.discard()

    def discard(self) -> None:
        """Remove the work folder, and what is left of an index that wasn't finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.built.done:
            self.built.remove()

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
                "queries": self._n_queries(tuned[place]["latency_us_mean"]),
                "chosen_for": targets.get(place, []),
                "recall_target": self._target_of(tuned[place]["point"], targets.get(place)),
            }
            for place, threads in pairs
        ]

    def _n_queries(self, latency_us: float) -> int:
        """Say how many queries a pass may ask, from what one took in tuning."""
        _, rows = self._split()
        limit = self.run.job.loads.pass_seconds
        fitting = math.ceil(limit * 1e6 / latency_us) if limit else len(rows)
        return min(len(rows), max(PASS_QUERIES_MIN, fitting))

    def _repeated(self) -> list[dict[str, Any]]:
        """List what is asked in every round: what was chosen for a target, at the rates of the first round."""
        first = self._kept(f"round-{_FIRST_ROUND}.json")["asks"]
        return [ask for ask in first if ask["chosen_for"] and ask["load"] != "cold"]

    def _cold(self, asks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """List the cold loads; what reads past the page cache is always cold, so one of its targets shows it."""
        first = min(self.run.job.loads.threads)
        chosen = [{**ask, "load": "cold"} for ask in asks if ask["chosen_for"] and ask["threads"] == first]
        return chosen[:1] if self.run.card.lies == "disk" else chosen

    def _ask_cold(self, ask: dict[str, Any], out: str) -> None:
        """Ask once after the page cache was emptied of the index; the small index has warmed the code."""
        self.built.evict()
        queries = self._measured(ask)
        with self.built.worker(ask["threads"], 1) as worker:
            self._open(worker, queries)
            # Opening reads, and read-ahead reads more.
            self.built.evict()
            self._ask(worker, ask, queries, out, warm_up=0)

    def _open_asks(self, asks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """List the open loads, at shares of what the closed loop gave."""
        loads = self.run.job.loads
        if loads.open_datasets and self.run.dataset.name not in loads.open_datasets:
            return []
        full = [ask for ask in asks if ask["load"] == "closed" and ask["threads"] == max(loads.threads)]
        base = [ask for ask in full if loads.open_recall_target in ask["chosen_for"]]
        return [
            {
                **{name: ask[name] for name in ("point", "chosen_for", "recall_target", "threads", "queries")},
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

    def _measured(self, ask: dict[str, Any]) -> Path:
        """Give the file of the queries that are asked."""
        _, rows = self._split()
        return self._queries(f"measured-{ask['queries']}", rows[spread(len(rows), ask["queries"])])

    def _pass_name(self, number: int, ask: dict[str, Any]) -> str:
        names = {key: ask.get(key) for key in ("load", "point", "threads", "share")}
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]
        return f"round-{number}-{digest}.npz"

    def _keep(self, name: str, facts: Any) -> None:
        write_atomically(self.folder / name, report_text(facts).encode())

    def _kept(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())
