"""Where the collections of a server lie: name → folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from annserve.config import ServeConfig
from annserve.errors import FormatError, InputError
from annserve.index.manifest import read_current
from annserve.jobs import DataFolder


def places_of(config: ServeConfig) -> Mapping[str, Path]:
    """Give name → folder of what is to be served now; what was named goes before a folder of its name.

    Raises
    ------
    OutputError
        If there can be no data folder.
    """
    return {**_made(config), **config.collections}


def check_places(config: ServeConfig) -> None:
    """Make sure that each collection that was named has an index; whether it is whole, a worker finds.

    Raises
    ------
    NotFoundError
        If one isn't there.
    InputError
        If it has the name of one in the data folder.
    OutputError
        As of `places_of`.
    """
    for name in config.collections.keys() & _made(config).keys():
        raise InputError(f"collection {name!r} is in {config.data} already; give another name", field="collections")
    for folder in config.collections.values():
        with contextlib.suppress(FormatError, OSError):
            read_current(folder)


def _made(config: ServeConfig) -> Mapping[str, Path]:
    """Give those of the data folder."""
    if config.data is None:
        return {}
    folder = DataFolder(config.data)
    return {name: folder.collection(name) for name in folder.collections()}
