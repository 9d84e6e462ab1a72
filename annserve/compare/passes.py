"""A pass on its way from the process that answered to the one that judges: an npz file without objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from annserve.measure.runner import Pass
from annserve.results import SearchStats


def save_pass(path: Path, one: Pass) -> None:
    """Write a pass; the file appears whole."""
    known = (one.cpu_seconds, one.device_bytes_read)
    scalars = [one.seconds, *(-1.0 if value is None else value for value in known)]
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez(
            file,
            latency_us=one.latency_us,
            ids=one.ids,
            distances=one.distances,
            counts=np.stack([one.counts[name] for name in SearchStats.COUNTS]),
            scalars=np.array(scalars, np.float64),
        )
    partial.rename(path)


def load_pass(path: Path) -> Pass:
    """Read what `save_pass` wrote."""
    with np.load(path, allow_pickle=False) as file:
        seconds, cpu_seconds, device = (float(value) for value in file["scalars"])
        return Pass(
            seconds=seconds,
            latency_us=file["latency_us"],
            ids=file["ids"],
            distances=file["distances"],
            counts=dict(zip(SearchStats.COUNTS, file["counts"])),
            cpu_seconds=None if cpu_seconds < 0 else cpu_seconds,
            device_bytes_read=None if device < 0 else int(device),
        )
