"""From a job to result files: every run goes through its stages, and every round takes all runs in turn.

So the passes of two systems alternate, A B A B, and a machine that slows down hurts all alike. What was done stays
done (`annserve.compare.stages`): a job that was interrupted goes on where it was, and indexes can be built long before
they are asked. A data set or a system that fails is told, noted in ``job.json`` beside the results, and left; the rest
of the job goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from annserve.compare.builds import BuiltIndex
from annserve.compare.cards import find_cards
from annserve.compare.datasets import locate_dataset
from annserve.compare.environments import python_for
from annserve.compare.job import DatasetRequest, Job, Run, runs_of
from annserve.compare.prepare import Prepared, prepare
from annserve.compare.results import read_results
from annserve.compare.stages import ActiveRun
from annserve.errors import AnnserveError, NotFoundError
from annserve.events import Listener, ignore
from annserve.measure.faults import faults_of
from annserve.measure.report import report_text
from annserve.storage.atomic import write_atomically


@dataclass(frozen=True)
class Places:
    """Folders of a job.

    Attributes
    ----------
    results : Path
        Where result files go.
    work : Path
        Indexes and unfinished runs; may be removed at any time, at the price of doing them again.
    cache : Path
        Staged bases, truths, virtual environments: shared by jobs.
    peers : Path
        Folder of adapters.
    data : tuple of Path
        Where named data sets are sought, before the job's own folders.
    """

    results: Path
    work: Path
    cache: Path
    peers: Path
    data: tuple[Path, ...] = ()


@dataclass
class Outcome:
    """What came of a job.

    Attributes
    ----------
    done, kept : list of str
        Names of runs that were measured now, and of those whose result was there.
    built : list of str
        Names of runs whose index is there, where no more was asked for.
    faults : dict
        Run → what is wrong with its answers or its counts.
    left_out : dict
        Data set or run → why.
    """

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def run_job(
    job: Job, places: Places, *, builds_only: bool = False, keep_builds: bool = False, listener: Listener = ignore
) -> Outcome:
    """Measure all that a job names.

    Parameters
    ----------
    job : Job
    places : Places
    builds_only : bool
        Build every index, ask nothing.
    keep_builds : bool
        Leave the indexes in the work folder, to be asked again.
    listener : Listener
        Told of every stage of every run.

    Raises
    ------
    AnnserveError
        Only if nothing can be done at all: unknown systems, folders that can't be written.
    """
    cards = find_cards(places.peers)
    for system in job.systems:
        if system.peer not in cards:
            raise NotFoundError(
                f"there is no system {system.peer!r} in {places.peers}; there are {', '.join(cards) or 'none'}"
            )
    places.results.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    runs = [run for run in _plan(job, places, outcome, listener) if not _has_result(run, places, outcome)]
    active = _begin(runs, places, outcome)
    rounds = range(1, job.loads.rounds + 1)
    active = [one for one in active if _attempt(one, lambda one: one.build(listener), outcome)]
    _note(job, places, outcome, finished=False)
    if builds_only:
        outcome.built += [one.run.name for one in active]
        return outcome
    steps: list[Callable[[ActiveRun], None]] = [
        lambda one: one.tune(listener),
        *(lambda one, number=number: one.measure(number, listener) for number in rounds),
        lambda one: one.compose(places.results),
    ]
    for step in steps:
        active = [one for one in active if _attempt(one, step, outcome)]
        _note(job, places, outcome, finished=False)
    for one in active:
        outcome.done.append(one.run.name)
        if not keep_builds:
            one.built.remove()
    for name in outcome.done + outcome.kept:
        (result,) = read_results(places.results / f"{name}.json")
        chosen = (record for record in result["results"] if record["chosen_for"])
        said = dict.fromkeys(fault for record in chosen for fault in faults_of(record))
        if said:
            outcome.faults[name] = list(said)
    _note(job, places, outcome, finished=True)
    return outcome


def _plan(job: Job, places: Places, outcome: Outcome, listener: Listener) -> list[Run]:
    """Prepare data sets and list the runs; what can't be had is noted."""
    cards = find_cards(places.peers)
    runs: list[Run] = []
    for request in job.datasets:
        try:
            dataset = _dataset(job, request, places, listener)
        except AnnserveError as error:
            outcome.left_out[request.name] = str(error)
            continue
        for system in job.systems:
            card = cards[system.peer]
            if system.datasets is not None and request.name not in system.datasets:
                continue
            refusal = card.refuses(dataset.metric, dataset.dtype)
            if refusal is not None:
                outcome.left_out[f"{request.name}--{system.peer}"] = refusal
                continue
            runs += runs_of(job, dataset, system, card)
    return runs


def _dataset(job: Job, request: DatasetRequest, places: Places, listener: Listener) -> Prepared:
    files = locate_dataset(
        request.name,
        (*places.data, *job.data),
        path=None if request.path is None else (job.path.parent / request.path).resolve(),
        metric=request.metric,
        generated=request.generate,
        cache=places.cache,
        listener=listener,
    )
    return prepare(
        request.name,
        files,
        places.cache,
        k=job.k,
        rows=request.rows,
        n_queries=request.queries,
        listener=listener,
    )


def _has_result(run: Run, places: Places, outcome: Outcome) -> bool:
    if not (places.results / f"{run.name}.json").exists():
        return False
    outcome.kept.append(run.name)
    return True


def _begin(runs: Sequence[Run], places: Places, outcome: Outcome) -> list[ActiveRun]:
    """Find an interpreter for every run; a system that can't be had is noted, and asked for once only."""
    refused: dict[str, str] = {}
    active = []
    for run in runs:
        peer = run.card.folder.name
        if peer not in refused:
            try:
                built = BuiltIndex(run, python_for(run.card, places.cache), places.work / "builds" / run.build_name)
                active.append(ActiveRun(run, built, places.work / run.name))
                continue
            except AnnserveError as error:
                refused[peer] = str(error)
        outcome.left_out[run.name] = refused[peer]
    return active


def _attempt(one: ActiveRun, step: Callable[[ActiveRun], None], outcome: Outcome) -> bool:
    """Take a step; a failure ends this run only."""
    try:
        step(one)
    except AnnserveError as error:
        outcome.left_out[one.run.name] = str(error)
        one.discard()
        return False
    return True


def _note(job: Job, places: Places, outcome: Outcome, *, finished: bool) -> None:
    """Write job.json: what was asked, and what was left out and why."""
    text = report_text(
        {
            "name": job.name,
            "job": job.path.read_text(),
            "finished": finished,
            "done": sorted(outcome.done + outcome.kept),
            "left_out": outcome.left_out,
            "faults": outcome.faults,
        }
    )
    write_atomically(places.results / "job.json", text.encode())
