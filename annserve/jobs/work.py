"""What a job does: one command of ``annserve``, its options checked before it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from annserve.design.options import BuildOptions
from annserve.errors import InputError, NotFoundError
from annserve.index import names
from annserve.jobs.folder import DataFolder
from annserve.spec import METRICS

#: Kind of work → its options, named as those of the command line.
KINDS: dict[str, tuple[str, ...]] = {
    "build": ("input", "metric", "column", "ids", "ram", "codes", "rerank", "skip_invalid", "calibrate_with", "seed"),
    "append": ("input", "ids", "column", "skip_invalid"),
    "compact": (),
    "verify": ("queries",),
}
#: Options that name inputs.
_INPUTS = ("input", "ids", "calibrate_with")
_TEXT_CHARS_MAX = 256
_QUERIES_MAX = 100_000

#: Nothing of the folder in which the server was started is ever imported (-P).
PROGRAM = (sys.executable, "-P", "-m", "annserve")


@dataclass(frozen=True)
class Work:
    """One kind of work, and its options where they aren't the command's own defaults."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, folder: DataFolder, collection: str) -> None:
        """Refuse what the command would refuse later, and what only a server must.

        Raises
        ------
        InputError
            If an option is wrong.
        NotFoundError
            If the collection or an input isn't there.
        """
        assert set(self.options) <= set(KINDS[self.kind]), self
        for name, value in self.options.items():
            if name in _INPUTS:
                folder.input(value, name)
            elif isinstance(value, str) and (len(value) > _TEXT_CHARS_MAX or not value.isprintable()):
                raise InputError(f"{name} must be at most {_TEXT_CHARS_MAX} printable characters", field=name)
        if self.kind in ("build", "append") and "input" not in self.options:
            raise InputError(f"input is missing; name what lies in {folder.path.name}/inputs", field="input")
        if self.kind == "build":
            if self.options.get("metric", METRICS[0]) not in METRICS:
                raise InputError(f"metric must be one of {', '.join(METRICS)}", field="metric")
            BuildOptions(**{name: value for name, value in self.options.items() if name not in _INPUTS})
        if not 0 <= self.options.get("queries", 0) <= _QUERIES_MAX:
            raise InputError(f"queries is {self.options['queries']}; take 0 to {_QUERIES_MAX}", field="queries")
        place = folder.collection(collection)
        if not place.is_dir():
            raise NotFoundError(f"there is no collection {collection!r} of this server's own; create it first")
        has_index = (place / names.CURRENT).exists()
        if self.kind == "build" and has_index:
            raise InputError(
                f"{collection!r} has an index already; append to it, or build another collection", field="collection"
            )
        if self.kind != "build" and not has_index:
            raise InputError(f"{collection!r} has no index yet; build one first", field="collection")

    def command(self, folder: DataFolder, collection: str, *, resumed: bool, threads: int) -> list[str]:
        """Give the command that does it; every value is glued to its flag, so that none can pose as another."""
        index = str(folder.collection(collection))
        source = [str(folder.input(self.options["input"]))] if "input" in self.options else []
        flags = []
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            if name == "input" or value is False:
                continue
            told = str(folder.input(value, name)) if name in _INPUTS else value
            flags.append(flag if value is True else f"{flag}={told}")
        if self.kind == "build":
            # A job that begins anew was asked for by somebody who could have continued the old one.
            flags += [f"--out={index}", "--resume" if resumed else "--restart"]
        else:
            source.insert(0, index)
        if self.kind != "verify":
            flags.append(f"--threads={threads}")
        return [*PROGRAM, self.kind, *source, *flags, "--events=-"]
