"""The steps of a build: which are behind it, what each left in files, and how long and large it was.

A step is behind a build when ``checkpoint.json`` says so, which happens after all that it left is durable. Later steps
take their input from those files and from nothing else, in the process that made them as in one that resumes: a
build that was killed and resumed goes the very way of one that nobody disturbed.

::

    .build/checkpoint.json      sealed JSON: what was asked for, the steps behind, notes from within a step
    .build/<step>.bin           arrays that a step left (storage/FORMAT.md, container, magic ANNSTEPS)
    .build/<step>-0|1.bin       arrays that go with the notes from within it, in turns
    .build/rows.zarr, *.rows    rows, as staged and in the orders of later steps
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from annserve.design.options import BuildOptions
from annserve.errors import ConflictError
from annserve.events import Listener, StageFinished, StageStarted
from annserve.heap import return_what_is_free
from annserve.index.sealed import read_sealed, write_sealed
from annserve.storage.container import ContainerWriter, open_container
from annserve.vectors.fingerprint import fingerprint, fingerprint_of_file, what_changed
from annserve.vectors.source import VectorSource
from annserve.version import __version__

CHECKPOINT = "checkpoint.json"
#: How far a step has come is noted after so many seconds.
NOTE_SECONDS = 30.0
STEP_MAGIC = b"ANNSTEPS"


class Steps:
    """The steps of one build, in its working folder.

    Parameters
    ----------
    folder : Path
        Held by this build alone; what an earlier build left there is gone on with.
    asked : dict
        What decides the index, as plain values: ``annserve_version``, ``options``, and fingerprints of ``inputs``.
    listener : callable
        Hears of each step's beginning and end.

    Raises
    ------
    ConflictError
        If the folder's build was asked for something else; the message says what.
    CorruptionError
        If its checkpoint is damaged.
    """

    def __init__(self, folder: Path, asked: dict[str, Any], listener: Listener) -> None:
        self.folder = folder
        self.listener = listener
        self._path = folder / CHECKPOINT
        self._state: dict[str, Any] = {"asked": asked, "steps": [], "within": {}}
        if self._path.exists():
            self._state = read_sealed(self._path)
            _require_same(self._state["asked"], asked, folder)
        #: What unfinished steps had taken when this process began, and when the step that is being taken began.
        self._before = dict(self._state["within"])
        self._begun = {"seconds": 0.0, "cpu_seconds": 0.0}
        self._noted_at = time.monotonic()
        for behind in self._state["steps"]:
            listener(StageStarted(behind["name"]))
            listener(StageFinished(behind["name"], behind["seconds"], "done before"))

    def costs(self, of: str) -> dict[str, float]:
        """Give what each step behind took, in order: its ``seconds``, ``cpu_seconds`` or ``peak_rss_bytes``."""
        return {behind["name"]: behind[of] for behind in self._state["steps"]}

    def to_do(self, name: str) -> bool:
        """Whether a step isn't behind the build yet."""
        return all(behind["name"] != name for behind in self._state["steps"])

    def facts(self, name: str) -> dict[str, Any]:
        """Give what a step behind the build found out."""
        facts: dict[str, Any] = next(behind["facts"] for behind in self._state["steps"] if behind["name"] == name)
        return facts

    @contextmanager
    def step(
        self, name: str, total: int | None = None, unit: str = "rows", *, told: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Take a step: what the block leaves is durable when it ends, and then the step is behind the build.

        Gives a dict for what the step finds out, of plain values.

        `told` is False where the block tells the listener of stages of its own.
        """
        self._begun = {"seconds": time.monotonic(), "cpu_seconds": time.process_time()}
        self._noted_at = time.monotonic()
        return_what_is_free()
        _forget_peak_rss()
        if told:
            self.listener(StageStarted(name, total, unit))
        facts: dict[str, Any] = {}
        yield facts
        spent = self._spent(name)
        self._state["steps"].append({"name": name, **spent, "peak_rss_bytes": _peak_rss_bytes(), "facts": facts})
        self._state["within"].pop(name, None)
        write_sealed(self._path, self._state)
        for turn in (0, 1):
            (self.folder / f"{name}-{turn}.bin").unlink(missing_ok=True)
        if told:
            self.listener(StageFinished(name, spent["seconds"]))

    def note_is_due(self) -> bool:
        """Whether a step has gone on for long enough to note how far it has come."""
        return time.monotonic() - self._noted_at > NOTE_SECONDS

    def note(self, name: str, notes: dict[str, Any], **arrays: npt.NDArray[Any]) -> None:
        """Record how far the step that is being taken has come; what else it needs to go on is durable."""
        turn = 1 - int(self._state["within"].get(name, {}).get("turn", 1))
        if arrays:
            # Those of the note before stay until these are whole.
            self.keep(f"{name}-{turn}", **arrays)
        self._state["within"][name] = {**self._spent(name), "notes": notes, "turn": turn}
        write_sealed(self._path, self._state)
        self._noted_at = time.monotonic()

    def noted(self, name: str) -> dict[str, Any]:
        """Give the notes of an unfinished step; none if it is at its beginning."""
        notes: dict[str, Any] = self._state["within"].get(name, {}).get("notes", {})
        return notes

    def noted_arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays that went with these notes.

        Raises
        ------
        NotFoundError, CorruptionError
            If they aren't what was left.
        """
        return self.kept(f"{name}-{self._state['within'][name]['turn']}")

    def _spent(self, name: str) -> dict[str, float]:
        """Give the time that a step has taken, in this process and up to the last note of one before."""
        before = self._before.get(name, {"seconds": 0.0, "cpu_seconds": 0.0})
        now = {"seconds": time.monotonic(), "cpu_seconds": time.process_time()}
        return {of: round(before[of] + now[of] - self._begun[of], 3) for of in now}

    def keep(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        """Leave arrays for later steps, durable when this returns.

        Raises
        ------
        OutputError
            If the device refuses.
        """
        with ContainerWriter(self.folder / f"{name}.bin", STEP_MAGIC) as writer:
            for array_name, array in arrays.items():
                writer.add(array_name, array)

    def kept(self, name: str, *arrays: str) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays that a step left: those that are named, or all.

        Raises
        ------
        NotFoundError, CorruptionError
            If they aren't what was left.
        """
        with open_container(self.folder / f"{name}.bin", STEP_MAGIC, verify=arrays or True) as file:
            return {array: file.copy(array) for array in arrays or file.names}


def what_decides(source: VectorSource, options: BuildOptions) -> dict[str, Any]:
    """Say what decides an index; how many threads build it, in how much RAM, doesn't."""
    given = {name: getattr(options, name) for name in ("ids", "rerank_with", "disk", "calibrate_with")}
    apart = (*given, "threads", "ram_build", "scratch_limit")
    told = {name: value for name, value in asdict(options).items() if name not in apart}
    inputs = {"the input": fingerprint(source)}
    for name, path in given.items():
        if path is not None:
            inputs[name] = fingerprint_of_file(path)
    return {"annserve_version": __version__, "options": told, "inputs": inputs}


def unfinished_steps(folder: Path) -> list[str]:
    """Name the steps that a build in this working folder has behind it; none if there is no build.

    Raises
    ------
    CorruptionError
        If its checkpoint is damaged.
    """
    if not (folder / CHECKPOINT).exists():
        return []
    return [behind["name"] for behind in read_sealed(folder / CHECKPOINT)["steps"]]


def _require_same(before: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a build of something else."""
    differences = []
    if before["annserve_version"] != asked["annserve_version"]:
        differences.append(f"annserve {before['annserve_version']} began it, and this is {asked['annserve_version']}")
    for name in sorted({*before["options"], *asked["options"]}):
        was, now = before["options"].get(name), asked["options"].get(name)
        if was != now:
            differences.append(f"{name} was {was!r} and is {now!r}")
    for name in sorted({*before["inputs"], *asked["inputs"]}):
        was, now = before["inputs"].get(name), asked["inputs"].get(name)
        changed = what_changed(was, now) if was and now else None
        if changed:
            differences.append(f"{name} isn't what it was: {changed}")
    if differences:
        raise ConflictError(
            f"the unfinished build in {folder.parent} can't be gone on with: {'; '.join(differences)}; undo that, or "
            "give --restart to begin anew"
        )


def _forget_peak_rss() -> None:
    """Count the largest resident set from now on (proc(5), clear_refs); where that isn't allowed, from the start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss_bytes() -> int:
    """Give the largest resident set since ``_forget_peak_rss``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells VmHWM")
