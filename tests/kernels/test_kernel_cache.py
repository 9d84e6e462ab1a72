"""The compiled kernels that are loaded are those of the sources at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
