"""Every error that annserve raises on purpose, as one tree.

::

    AnnserveError
    ├── InputError(ValueError)       the caller's data or option is wrong      INVALID_ARGUMENT     exit 2
    ├── NotFoundError(LookupError)   no such file, index, id or version        NOT_FOUND            exit 2
    ├── OutputError(OSError)         the output can't be written               FAILED_PRECONDITION  exit 2
    ├── FormatError
    │   ├── CorruptionError          checksum or invariant broken              DATA_LOSS            exit 3
    │   └── VersionError             written by another format version         FAILED_PRECONDITION  exit 3
    ├── AccessError                  no valid key was shown                    UNAUTHENTICATED      exit 2
    │   └── RoleError                the key doesn't allow it                  PERMISSION_DENIED    exit 2
    ├── ReadError(OSError)           the device failed to give the bytes       UNAVAILABLE          exit 3
    ├── ConflictError                another writer, or the version moved on   ABORTED              exit 4
    ├── BusyError                    refused at admission                      RESOURCE_EXHAUSTED   exit 4
    ├── ServerError                  the server can't be reached or failed     UNAVAILABLE          exit 4
    └── DeadlineError(TimeoutError)  the time given is spent                   DEADLINE_EXCEEDED    exit 4

A message says what is wrong, where, and what to do, with both values where two disagree. Facts that a program
may want are attributes too. A broken invariant of our own is an ``assert``, never one of these.
"""

from __future__ import annotations

import re
from pathlib import Path

#: The folder of an absolute path, where a word of a message begins with one.
_FOLDER = re.compile(r"(?<![^\s'\"(=])/(?:[^/\s'\"]+/)+")


class AnnserveError(Exception):
    """Root of the tree; carries what the doors need to report it.

    Attributes
    ----------
    grpc_status : str
        Name of the gRPC status code that a server answers with.
    exit_code : int
        Exit status of the command line.
    """

    grpc_status = "INTERNAL"
    exit_code = 1


class InputError(AnnserveError, ValueError):
    """The caller's data or option is wrong; `field` names it where one is at fault."""

    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(AnnserveError, LookupError):
    """There is no such file, index, id or version."""

    grpc_status = "NOT_FOUND"
    exit_code = 2


class OutputError(AnnserveError, OSError):
    """The output can't be written: no permission, no space, or something else is in its place."""

    grpc_status = "FAILED_PRECONDITION"
    exit_code = 2

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class FormatError(AnnserveError):
    """A file isn't what it claims to be; `path` and `offset` (bytes) say where."""

    grpc_status = "DATA_LOSS"
    exit_code = 3

    def __init__(self, message: str, *, path: Path | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset


class CorruptionError(FormatError):
    """A checksum or an invariant of a stored file doesn't hold."""


class VersionError(FormatError):
    """The file was written by another format version."""

    grpc_status = "FAILED_PRECONDITION"


class AccessError(AnnserveError):
    """The server doesn't know who asks: no key was shown, or none that it has."""

    grpc_status = "UNAUTHENTICATED"
    exit_code = 2


class RoleError(AccessError):
    """The key that was shown doesn't allow what was asked."""

    grpc_status = "PERMISSION_DENIED"


class ReadError(AnnserveError, OSError):
    """The device failed to give the bytes asked for; `path` and `offset` (bytes) say where."""

    grpc_status = "UNAVAILABLE"
    exit_code = 3

    def __init__(self, message: str, *, path: Path | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset


class ConflictError(AnnserveError):
    """Another writer holds the index, or the version moved on."""

    grpc_status = "ABORTED"
    exit_code = 4


class BusyError(AnnserveError):
    """Refused at admission; try again after `retry_after_ms`."""

    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = 4

    def __init__(self, message: str, *, retry_after_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ServerError(AnnserveError):
    """The server can't be reached, or failed for a reason of its own."""

    grpc_status = "UNAVAILABLE"
    exit_code = 4


class DeadlineError(AnnserveError, TimeoutError):
    """The time given is spent."""

    grpc_status = "DEADLINE_EXCEEDED"
    exit_code = 4


def without_folders(error: Exception) -> str:
    """Give an error's message with the names of this machine's files, but not where they lie: for callers elsewhere.

    What is wrong with a caller's own words is told in these.
    """
    message = str(error)
    if isinstance(error, InputError):
        return message
    path = getattr(error, "path", None)
    if isinstance(path, Path):
        message = message.replace(f"{path.parent}/", "")
    return _FOLDER.sub("", message)
