"""How the command line shows events, tables and sizes.

Answers go to stdout, progress to stderr. On a terminal a stage is one line that is written over, with rate and time
left; elsewhere it is one line when it ends, and one every ten seconds while it lasts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from annserve.cli.interrupt import raise_if_interrupted
from annserve.events import Event, StageFinished, StageProgressed, StageStarted
from annserve.sizes import bytes_text


def duration_text(seconds: float) -> str:
    """Write a time as people read it: 75 → '1 min 15 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table of text columns, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        return "  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *(line(row) for row in cells)])


def tier_cells(name: str, size: float, n_rows: float) -> tuple[str, str, str]:
    """Give a RAM tier's name, its bytes and its bytes a row, for a table; no row has a share in the codebooks."""
    return name, bytes_text(size), "–" if name == "codebooks" else f"{size / n_rows:.2f}"


class Progress:
    """A listener that shows stages with rate and time left, on stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval = 0.1 if self._live else 10.0
        self._stage = StageStarted("")
        self._began = self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __call__(self, event: Event) -> None:
        """Show one event; end here if an interrupt was swallowed on the way."""
        raise_if_interrupted()
        now = time.monotonic()
        if isinstance(event, StageStarted):
            self._stage, self._began, self._shown, self._first = event, now, now, None
            if self._live:
                self._over(f"{event.stage:<12} …")
        elif isinstance(event, StageProgressed):
            self._first = self._first or (now, event.done)
            if now - self._shown >= self._interval:
                self._shown = now
                (self._over if self._live else self._write)(self._progress_text(event, *self._first, now))
        elif isinstance(event, StageFinished):
            note = f"  {event.note}" if event.note else ""
            self._write(f"{event.stage:<12} {event.seconds:8.1f} s{note}")

    def _progress_text(self, event: StageProgressed, began: float, before: int, now: float) -> str:
        # From the first sign of progress on: what a resumed stage had done before, or compiling took, is no rate.
        rate = (event.done - before) / max(now - began, 1e-6) or event.done / max(now - self._began, 1e-6)
        text = f"{event.stage:<12} {event.done:,}"
        if self._stage.total:
            share = event.done / self._stage.total
            left = (self._stage.total - event.done) / max(rate, 1e-9)
            text += f" / {self._stage.total:,} {self._stage.unit}  {share:.0%}  ETA {duration_text(left)}"
        return f"{text}  {rate:,.0f} {self._stage.unit}/s"

    def _over(self, text: str) -> None:
        """Write a line that the next one replaces; one that wraps couldn't be."""
        columns = os.get_terminal_size(self._stream.fileno()).columns or 80
        self._write(text[: columns - 1], end="\r")

    def _write(self, text: str, *, end: str = "\n") -> None:
        clear = "\x1b[2K" if self._live else ""
        self._stream.write(f"{clear}{text}{end}")
        self._stream.flush()
