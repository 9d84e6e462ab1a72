"""Where the collections of a server lie: name → folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from annserve.config import ServeConfig
from annserve.errors import FormatError
from annserve.index.manifest import read_current


def places_of(config: ServeConfig) -> Mapping[str, Path]:
    """Give name → folder of what is to be served now."""
    return config.collections


def check_places(places: Mapping[str, Path]) -> None:
    """Make sure that an index is in each folder; whether it is whole, a worker finds, and serves the others.

    Raises
    ------
    NotFoundError
        If one isn't there.
    """
    for folder in places.values():
        with contextlib.suppress(FormatError, OSError):
            read_current(folder)
