"""What a system says of itself in ``peer.toml``: its name, what it needs, what it can, what there is to tune.

::

    name          as it stands in tables
    about         one line: what kind of index, where it lies
    requirements  ["hnswlib==0.8.0"]; empty for annserve itself
    python        "3.11", if it needs a version of its own
    metrics       ["l2", "ip", "cosine"]
    row_types     ["float32", ...]
    lies          "ram", "mapped" or "disk"
    plans_itself  true if a recall target is all that it is told (then there is no [search])
    [build]       parameter → list of values; every combination is an index of its own
    [search]      parameter → list of numbers, of which more finds more and costs more; every combination is a setting
                  of each index, tried until one has recall to spare
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annserve.errors import InputError, NotFoundError
from annserve.spec import METRICS, ROW_TYPES

#: parameter → its values
Grid = Mapping[str, list[Any]]
Point = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """One peer.toml, checked; the fields are those of the file."""

    folder: Path
    name: str
    about: str
    requirements: tuple[str, ...] = ()
    python: str | None = None
    metrics: tuple[str, ...] = METRICS
    row_types: tuple[str, ...] = ROW_TYPES
    lies: str = "ram"
    plans_itself: bool = False
    build: Grid = field(default_factory=dict)
    search: Grid = field(default_factory=dict)

    def refuses(self, metric: str, dtype: str) -> str | None:
        """Say why this system can't take such vectors, or None if it can."""
        if metric not in self.metrics:
            return f"{self.name} doesn't know the metric {metric}"
        if dtype not in self.row_types:
            return f"{self.name} doesn't take rows of {dtype}"
        return None


def read_card(folder: Path) -> Card:
    """Read the peer.toml of a folder.

    Raises
    ------
    NotFoundError
        If there is none, or no adapter.py beside it.
    InputError
        If it isn't TOML or says something that isn't known.
    """
    path = folder / "peer.toml"
    for needed in (path, folder / "adapter.py"):
        if not needed.is_file():
            raise NotFoundError(f"there is no {needed}; a system is a folder with peer.toml and adapter.py")
    try:
        said = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} isn't TOML: {error}") from error
    for name in ("requirements", "metrics", "row_types"):
        if name in said:
            said[name] = tuple(said[name])
    for name in ("build", "search"):
        check_grid(said.get(name, {}), f"{path}: [{name}]")
    try:
        return Card(folder=folder, **said)
    except TypeError as error:
        raise InputError(f"{path}: {str(error).replace('Card.__init__() ', '')}") from error


def find_cards(folder: Path) -> dict[str, Card]:
    """Read the cards of all systems in a folder, by the names of their folders."""
    return {path.parent.name: read_card(path.parent) for path in sorted(folder.glob("*/peer.toml"))}


def check_grid(grid: Any, place: str) -> None:
    """Refuse a grid that isn't a table of lists."""
    if not isinstance(grid, dict):
        raise InputError(f"{place} must be a table of parameters")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{place}: {name} is {values!r}; give a list of at least one value")


def points(grid: Grid) -> list[Point]:
    """Give every combination of a grid's values; an empty grid has one point, the empty one."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
