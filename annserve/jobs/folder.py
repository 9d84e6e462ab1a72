"""What lies where under the data folder of a server; every path there is made here, of names that are checked.

::

    NAME/            index of the collection NAME
    inputs/          files of vectors that jobs may read; whoever runs the server puts them there
    jobs/            what is known of each job
"""

from __future__ import annotations

import re
from pathlib import Path

from annserve.errors import InputError, NotFoundError, OutputError
from annserve.spec import check_collection_name

INPUTS, JOBS = "inputs", "jobs"
#: Names that no collection may have.
RESERVED = (INPUTS, JOBS)

#: One name, not a path; no pattern either, and nothing that an option or a member of a file begins with.
_INPUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class DataFolder:
    """The folder under which a server keeps collections that it makes.

    Parameters
    ----------
    path : Path
        Made if it isn't there.

    Raises
    ------
    OutputError
        If it can't be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            for place in (self.path, self.path / INPUTS, self.path / JOBS):
                place.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path} can't hold collections: {error.strerror}; choose another --data", path=path
            ) from error

    @property
    def jobs(self) -> Path:
        """Where jobs are recorded."""
        return self.path / JOBS

    def collection(self, name: str) -> Path:
        """Give the folder of a collection, which may not exist.

        Raises
        ------
        InputError
            If no collection can have that name.
        """
        if check_collection_name(name) in RESERVED:
            raise InputError(f"{name!r} is kept for the server's own files; choose another name", field="collection")
        return self.path / name

    def collections(self) -> list[str]:
        """Give the names of the collections that there are, in order."""
        found = []
        for entry in self.path.iterdir():
            try:
                self.collection(entry.name)
            except InputError:
                continue
            if entry.is_dir() and not entry.is_symlink():
                found.append(entry.name)
        return sorted(found)

    def input(self, name: str, field: str = "input") -> Path:
        """Give the path of an input.

        Raises
        ------
        InputError
            If that is no name of an input.
        NotFoundError
            If there is none of that name.
        """
        if not _INPUT_NAME.fullmatch(name):
            raise InputError(
                f"{field} is {name[:70]!r}; give the name of a file or folder in {INPUTS}/, of letters, digits, '.', "
                "'_' and '-'",
                field=field,
            )
        path = self.path / INPUTS / name
        if not path.exists():
            raise NotFoundError(f"there is no {field} {name!r}; put it into {INPUTS}/ of the server's data folder")
        return path

    def without_path(self, text: str) -> str:
        """Take the data folder's own place out of a message, which is nobody's business but the server's."""
        return text.replace(f"{self.path}/{INPUTS}/", "").replace(f"{self.path}/", "")
