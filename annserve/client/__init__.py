"""The remote doors: NumPy in, NumPy out, over gRPC. They load neither numba nor faiss, and know no file.

``client`` and ``aio`` are the same door for threads and for asyncio, ``admin`` is that for collections and jobs.
``parts`` cuts batches, ``retry`` says what is tried again and ``throttle`` what isn't even sent, ``channel`` how a
server is reached, ``convert`` and ``status`` translate.
"""

from annserve.client.admin import AdminClient
from annserve.client.aio import AsyncClient
from annserve.client.client import Client

__all__ = ["AdminClient", "AsyncClient", "Client"]
