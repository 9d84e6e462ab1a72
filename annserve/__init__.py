"""annserve: disk-backed vector search that chooses its pages before it reads them.

``open`` gives the embedded door (an index in this process), ``Client`` and ``AsyncClient`` the remote one,
``AdminClient`` that of whoever looks after a server. All are loaded on first use, so that ``import annserve`` costs
neither numba nor grpc. What they raise is in ``errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from annserve import errors
from annserve.version import __version__

if TYPE_CHECKING:
    from annserve.client import AdminClient, AsyncClient, Client
    from annserve.collection import Collection, open

__all__ = ["AdminClient", "AsyncClient", "Client", "Collection", "__version__", "errors", "open"]


def __getattr__(name: str) -> Any:
    """Load a door when it is first asked for."""
    if name in ("open", "Collection"):
        from annserve import collection

        return getattr(collection, name)
    if name in ("AdminClient", "AsyncClient", "Client"):
        from annserve import client

        return getattr(client, name)
    raise AttributeError(f"module 'annserve' has no attribute {name!r}")
