"""A job file: which data sets, which systems, which settings, which loads; and the runs that it comes to.

A run is one index: a data set, a system, and one point of its build grid. Its key is a hash of all that could
change its result, so that a result on disk is taken for done only if the same would be measured again. Its index
has a key of its own, of all that could change the index: other loads or targets are measured on the same build.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from annserve.compare.cards import Card, Point, check_grid, points
from annserve.compare.prepare import Prepared
from annserve.errors import InputError, NotFoundError
from annserve.measure.machine import hash_file
from annserve.measure.openloop import ARRIVALS
from annserve.spec import K_MAX, check_k

#: What a run's result is called; part of its key.
RESULT_FORMAT = "annserve-run-1"
#: Fewest queries of a pass that is cut short: enough for a 99th percentile, and recall within a point.
PASS_QUERIES_MIN = 250
#: Methods of an adapter that leave no trace in an index.
_ASKING = ("open", "configure", "search", "info", "close")
#: Rooms of the package that no answer depends on.
_NO_ENGINE = ("cli", "client", "compare", "measure", "rpc", "serve")


@dataclass(frozen=True)
class DatasetRequest:
    """One ``[[datasets]]`` of a job.

    Parameters
    ----------
    name : str
    path : str, optional
        Folder or file, relative to the job file; else the name is looked up.
    metric : str, optional
        Where the set doesn't say it.
    rows : int, optional
        Take only the first rows.
    queries : int, optional
        Take only so many queries, evenly spread.
    generate : table, optional
        Options of ``annserve generate``.
    """

    name: str
    path: str | None = None
    metric: str | None = None
    rows: int | None = None
    queries: int | None = None
    generate: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SystemRequest:
    """One ``[[systems]]`` of a job: a folder of adapters, and grids in place of those of its card.

    Parameters
    ----------
    peer : str
    label : str, optional
        Name in tables; what has a label of its own competes as a system of its own (another RAM budget, say).
    build, search : table
        Parameter → list of values; a parameter that isn't named keeps the values of the card.
    datasets : list of str, optional
        Only these sets.
    """

    peer: str
    label: str | None = None
    build: Mapping[str, list[Any]] = field(default_factory=dict)
    search: Mapping[str, list[Any]] = field(default_factory=dict)
    datasets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Loads:
    """How a chosen setting is asked.

    Parameters
    ----------
    threads : list of int
        Closed loop: so many callers.
    rounds : int
        Passes of each load; systems take turns, round after round.
    tuning_share : float
        Share of the queries by which settings are chosen; they are left out of every result.
    frontier : bool
        Whether settings that were best at no target, but at some recall, are measured too: once, one caller.
    pass_seconds : float
        About how long a pass with one caller may take: a slow system is asked fewer of the queries, evenly spread, but
        never fewer than `PASS_QUERIES_MIN`. 0 asks all.
    open_shares : list of float
        Open loop: rates as shares of the closed loop's throughput at most callers, at `open_recall_target`.
    open_recall_target : float
    open_seconds : float
        How long each rate is kept up.
    open_datasets : list of str
        Only these sets are asked in an open loop; none named: all.
    arrivals : str
        ``poisson`` or ``fixed``.
    cold : bool
        Whether the first pass after the page cache was emptied is measured too, once; not of systems in RAM, and at one
        target only of systems that read past it anyway.
    build_threads : int
        CPUs of a build.
    code_rows : int
        Rows of the small index that a process opens first, so that code isn't counted as memory of the index; 0
        opens none.
    ram_gib_limit : float
        Most memory of a system while it builds or answers; 0 for no limit.
    request_seconds_limit : float
        Most time of a build, or of one pass; a system that hangs is left out.
    """

    threads: tuple[int, ...] = (1,)
    rounds: int = 3
    tuning_share: float = 0.2
    frontier: bool = True
    pass_seconds: float = 0.0
    open_shares: tuple[float, ...] = ()
    open_recall_target: float = 0.95
    open_seconds: float = 5.0
    open_datasets: tuple[str, ...] = ()
    arrivals: str = "poisson"
    cold: bool = False
    build_threads: int = 2
    code_rows: int = 2_000
    ram_gib_limit: float = 0.0
    request_seconds_limit: float = 7_200.0

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, fine in (
                ("threads", bool(self.threads) and min(self.threads) >= 1),
                ("rounds", self.rounds >= 1),
                ("tuning_share", 0 < self.tuning_share < 1),
                ("open_shares", all(share > 0 for share in self.open_shares)),
                ("pass_seconds", self.pass_seconds >= 0),
                ("open_seconds", self.open_seconds > 0),
                ("arrivals", self.arrivals in ARRIVALS),
                ("build_threads", self.build_threads >= 1),
                ("code_rows", self.code_rows >= 0),
                ("ram_gib_limit", self.ram_gib_limit >= 0),
                ("request_seconds_limit", self.request_seconds_limit > 0),
            )
            if not fine
        ]
        if wrong:
            raise InputError(f"[loads]: {wrong[0]} is {getattr(self, wrong[0])!r}, which can't be", field=wrong[0])


@dataclass(frozen=True)
class Job:
    """A job file, checked.

    Attributes
    ----------
    path : Path
        The file; relative paths in it are relative to its folder.
    name : str
    k : int
    recall_targets : tuple of float
    datasets, systems, loads
        See there.
    data : tuple of Path
        Folders in which named sets are sought.
    """

    path: Path
    name: str
    k: int
    recall_targets: tuple[float, ...]
    datasets: tuple[DatasetRequest, ...]
    systems: tuple[SystemRequest, ...]
    loads: Loads
    data: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Run:
    """One index to be built, tuned and measured.

    Attributes
    ----------
    dataset : Prepared
    card : Card
    build : dict
        Its point of the build grid.
    search : tuple of dict
        Settings to choose from.
    job : Job
    label : str
        Name of the system in tables.
    """

    dataset: Prepared
    card: Card
    build: Point
    search: tuple[Point, ...]
    job: Job
    label: str

    @property
    def settings(self) -> dict[str, Any]:
        """All that could change the result, as plain values."""
        return {
            "format": RESULT_FORMAT,
            "dataset": {"name": self.dataset.name, "metric": self.dataset.metric, **self.dataset.hashes},
            "label": self.label,
            **self._system,
            "search": list(self.search),
            "k": self.job.k,
            "recall_targets": list(self.job.recall_targets),
            "loads": asdict(self.job.loads),
        }

    @property
    def key(self) -> str:
        """Hash of the settings."""
        return _hash(self.settings)

    @property
    def name(self) -> str:
        """Name of the result file, without suffix."""
        return f"{self.dataset.name}--{self.card.folder.name}--{self.key}"

    @property
    def build_name(self) -> str:
        """Name of the index: runs that differ only in what is asked of it share one."""
        told = {"base": self.dataset.hashes["base"], "metric": self.dataset.metric, **self._system}
        told |= {"adapter": hash_building(self.card.folder / "adapter.py")}
        key = _hash(told | {"code_rows": self.job.loads.code_rows})
        return f"{self.dataset.name}--{self.card.folder.name}--{key}"

    @property
    def _system(self) -> dict[str, Any]:
        """What makes an index of these rows."""
        return {
            "system": self.card.folder.name,
            "adapter": hash_file(self.card.folder / "adapter.py"),
            "requirements": list(self.card.requirements) or hash_engine(),
            "build": self.build,
        }


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def hash_building(adapter: Path) -> str:
    """Hash what an adapter's indexes depend on: all of it but the methods that only ask them."""
    tree = ast.parse(adapter.read_text())
    for part in ast.walk(tree):
        if isinstance(part, ast.ClassDef):
            part.body = [one for one in part.body if getattr(one, "name", None) not in _ASKING]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def hash_engine() -> str:
    """Hash the sources that annserve's own results depend on: all but the rooms that only ask, serve or show."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] not in _NO_ENGINE:
            digest.update(f"{place} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def read_job(path: Path) -> Job:
    """Read and check a job file.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InputError
        If it isn't TOML, lacks something or says something unknown; the table and the key are named.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no job file {path}; check the path")
    try:
        said = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} isn't TOML: {error}") from error
    known = {"name", "k", "recall_targets", "data", "loads", "datasets", "systems"}
    for key in said.keys() - known:
        raise InputError(f"{path}: {key} is unknown; a job has {', '.join(sorted(known))}", field=key)
    for key in ("datasets", "systems"):
        if not said.get(key):
            raise InputError(f"{path} names no {key}; add at least one [[{key}]]", field=key)
    for place, system in enumerate(said["systems"]):
        for grid in ("build", "search"):
            check_grid(system.get(grid, {}), f"{path}: [[systems]] {place + 1}: {grid}")
    targets = said.get("recall_targets", [0.90, 0.95, 0.98])
    for target in targets:
        if not 0 < target <= 1:
            raise InputError(f"{path}: recall_targets has {target}; each lies above 0, up to 1", field="recall_targets")
    return Job(
        path=path,
        name=str(said.get("name", path.stem)),
        k=check_k(said.get("k", 10), K_MAX),
        recall_targets=tuple(targets),
        datasets=tuple(_record(DatasetRequest, one, f"{path}: [[datasets]]") for one in said["datasets"]),
        systems=tuple(_record(SystemRequest, one, f"{path}: [[systems]]") for one in said["systems"]),
        loads=_record(Loads, said.get("loads", {}), f"{path}: [loads]"),
        data=tuple((path.parent / folder).resolve() for folder in said.get("data", [])),
    )


def runs_of(job: Job, dataset: Prepared, system: SystemRequest, card: Card) -> list[Run]:
    """Give a run for every point of a system's build grid.

    Raises
    ------
    InputError
        If the job names a parameter that the system doesn't have.
    """
    for grid, known in ((system.build, card.build), (system.search, card.search)):
        for name in grid.keys() - known.keys():
            raise InputError(f"{card.name} has no parameter {name}; it has {', '.join(known) or 'none'}", field=name)
    if card.plans_itself:
        settings = [{"recall_target": target} for target in job.recall_targets]
    else:
        settings = points({**card.search, **system.search})
    label = system.label or card.name
    return [Run(dataset, card, build, tuple(settings), job, label) for build in points({**card.build, **system.build})]


def _record(kind: type[Any], said: Any, place: str) -> Any:
    """Make a record from a table, naming what is missing or unknown."""
    known = {one.name for one in fields(kind)}
    for key in said.keys() - known:
        raise InputError(f"{place}: {key} is unknown; there are {', '.join(sorted(known))}", field=key)
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})
    except TypeError as error:
        raise InputError(f"{place}: {str(error).split('() ')[-1]}") from error
