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
    """Give name → folder of what is to be served now.

    Raises
    ------
    InputError
        If a collection that was named has the name of one in the data folder.
    OutputError
        If there can be no data folder.
    """
    if config.data is None:
        return config.collections
    folder = DataFolder(config.data)
    made = {name: folder.collection(name) for name in folder.collections()}
    for name in config.collections.keys() & made.keys():
        raise InputError(f"collection {name!r} is in {config.data} already; give another name", field="collections")
    return {**made, **config.collections}


def check_places(config: ServeConfig) -> None:
    """Make sure that each collection that was named has an index; whether it is whole, a worker finds.

    Raises
    ------
    NotFoundError
        If one isn't there.
    InputError, OutputError
        As of `places_of`.
    """
    places_of(config)
    for folder in config.collections.values():
        with contextlib.suppress(FormatError, OSError):
            read_current(folder)
