"""The doors as tests use them: the command line in this process or in its own, and the files of an index."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from annserve.cli.main import main

COMMAND = [sys.executable, "-m", "annserve"]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong; the test fails if there are more or none."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        return lines[0]


def annserve(*arguments: object) -> Ended:
    """Run a command in this process, which saves an import; whatever it doesn't handle fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["annserve", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


def annserve_process(*arguments: object, **options: object) -> Ended:
    """Run a command in a process of its own, as a user does."""
    end = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        **options,  # type: ignore[call-overload]
    )
    return Ended(end.returncode, end.stdout, end.stderr)


def build_index(source: Path, folder: Path, *options: object) -> Path:
    """Build in this process; give the folder."""
    ended = annserve("build", source, "--out", folder, "--threads", 2, *options)
    assert ended.code == 0, ended.err
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def search_files(folder: Path) -> dict[str, bytes]:
    """Give the files that decide answers: heads, codes, pages, plan. The report holds times, which differ."""
    kept = ("heads.bin", "codes.bin", "pages.bin", "plan.json")
    return {name: content for name, content in files_of(folder).items() if name.endswith(kept)}
