"""The compiled kernels that are loaded are those of the sources at hand, and answer as those just compiled."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher

import annserve
from annserve.kernels import jit


def test_the_cache_folder_changes_with_any_kernel_source(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "room").mkdir()
    (tmp_path / "kernels" / "a.py").write_text("one")
    (tmp_path / "room" / "kernels.py").write_text("one")
    (tmp_path / "room" / "second_kernels.py").write_text("one")
    (tmp_path / "room" / "other.py").write_text("one")
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "0")
    first = jit._sources_hash()
    (tmp_path / "room" / "other.py").write_text("two")
    assert jit._sources_hash() == first
    for kernels in (tmp_path / "room" / "kernels.py", tmp_path / "room" / "second_kernels.py"):
        kernels.write_text("two")
        assert jit._sources_hash() != first
        kernels.write_text("one")
        assert jit._sources_hash() == first
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert jit._sources_hash() != first


def test_numba_keeps_its_cache_where_it_is_told(tmp_path):
    environment = {**os.environ, "ANNSERVE_CACHE_DIR": str(tmp_path)}
    code = "from annserve.kernels import jit; import numba; print(numba.config.CACHE_DIR, jit._sources_hash())"
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    folder, name = answer.stdout.split()
    assert Path(folder) == tmp_path / "kernels" / name


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, monkeypatch):
    """A file stands where the folder should be: a temporary folder takes its place."""
    (tmp_path / "kernels").write_text("in the way")
    monkeypatch.setenv("ANNSERVE_CACHE_DIR", str(tmp_path))
    folder = jit._cache_dir()
    assert folder.name.startswith("annserve-kernels-")
    folder.rmdir()


def test_what_a_kernel_calls_is_written_into_it():
    """Else a process takes the copy that it met first, and rounds by it; kernels of storage have no floats."""
    kernels = set()
    for module in pkgutil.walk_packages(annserve.__path__, "annserve."):
        if module.name.endswith("kernels") or module.name.startswith("annserve.kernels."):
            found = vars(importlib.import_module(module.name)).values()
            kernels |= {value for value in found if isinstance(value, Dispatcher)}
    assert len(kernels) > 50
    called_across = {
        f"{kernel.py_func.__name__} calls {name}"
        for kernel in kernels
        for name in kernel.py_func.__code__.co_names
        if isinstance(called := kernel.py_func.__globals__.get(name), Dispatcher)
        and not called.py_func.__module__.startswith("annserve.storage.")
        and not called.targetoptions.get("forceinline")
        and called.targetoptions.get("inline") != "always"
    }
    assert not called_across


_RATED = """
import sys
import numpy as np
from codes.test_rating import made
from annserve.codes.rate import Rater
rng = np.random.default_rng(3)
offsets = np.arange(0, 97, 16, dtype=np.uint32)
tiers, heads, _ = made(rng, offsets, 30, 12, 64)
queries = rng.normal(0, 9, (40, 64)).astype(np.float32)
ids = np.tile(np.arange(6, dtype=np.int32), (40, 1))
distances = np.square(queries[:, None] - heads).sum(axis=2)
rating = Rater(tiers, offsets).rate(queries, ids, distances, 10, pages_max=96)
print(rating.worths.tobytes().hex(), rating.bars.tobytes().hex())
"""


def test_a_process_that_compiles_rates_as_one_that_loads(tmp_path):
    """To the last bit of what calibration fits its plan to."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "ANNSERVE_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", _RATED]
    compiling, loading = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
        for _ in range(2)
    )
    assert len(compiling) > 40 * 96 * 8
    assert compiling == loading
