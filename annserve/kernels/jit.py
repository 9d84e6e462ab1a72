"""The one decorator that compiles a kernel, and where compiled kernels are kept.

Invariants
----------
- Every ``@kernel`` has the same flags: nogil, NumPy error model, and the fast-math subset that keeps NaN and
  infinity (``reassoc`` lets sums vectorize, ``contract`` fuses multiply-add, ``nsz`` drops signed zero).
- numba notices edits of a kernel's own file only. The cache folder is therefore named by a hash of *all* kernel
  sources, the numba version and the bounds-check flag: a stale kernel can't be loaded.
- A kernel with floats that others call is inlined into them (``inline_kernel``). What is called across has a copy in
  each caller, each optimized in its own way, and a process takes the copy that it met first: one that compiles rounded
  sums otherwise than one that loads, in the sixth digit. What two kernels must compute to the same bit has no such
  liberty (``exact_kernel``).
- Kernels are serial: threads stand outside and call them with the GIL released. numba's default threading layer
  aborts the process when two callers meet.
- A kernel takes arrays and gives numbers. It makes no array, and gives none back: nobody would free it.

Set ``ANNSERVE_CACHE_DIR`` to move the cache (default ``~/.cache/annserve``).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_PACKAGE = Path(__file__).resolve().parent.parent


def _sources_hash() -> str:
    digest = hashlib.sha256()
    digest.update(numba.__version__.encode())
    digest.update(os.environ.get("NUMBA_BOUNDSCHECK", "0").encode())
    files = sorted({*_PACKAGE.glob("*/*kernels.py"), *_PACKAGE.glob("kernels/*.py")})
    for path in files:
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_dir() -> Path:
    root = os.environ.get("ANNSERVE_CACHE_DIR")
    base = Path(root) if root else Path.home() / ".cache" / "annserve"
    folder = base / "kernels" / _sources_hash()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    # A read-only home must not keep the program from running; it compiles anew in each process.
    return Path(tempfile.mkdtemp(prefix="annserve-kernels-"))


numba.config.CACHE_DIR = str(_cache_dir())  # type: ignore[attr-defined]

#: Without numba's own runtime: a kernel allocates nothing and counts no references, and code that would takes a third
#: of the time to compile. Nobody calls a kernel from C.
_FLAGS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
}
_FASTMATH = {"reassoc", "contract", "nsz"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel on first call for the types it meets; GIL released, result cached on disk."""
    return numba.njit(function, fastmath=_FASTMATH, **_FLAGS)


def inline_kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel that LLVM shall inline into its callers."""
    return numba.njit(function, fastmath=_FASTMATH, forceinline=True, **_FLAGS)


def view_kernel(function: Callable[..., Any]) -> Any:
    """Compile a few lines that give views of an array: written into their callers, since no call may give one back."""
    return numba.njit(function, fastmath=_FASTMATH, inline="always", **_FLAGS)


def exact_kernel(function: Callable[..., Any]) -> Any:
    """Compile a small kernel whose floats are computed as written, in each caller alike."""
    return numba.njit(function, forceinline=True, **_FLAGS)
