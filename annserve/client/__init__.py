"""The remote door: NumPy in, NumPy out, over gRPC. It loads neither numba nor faiss, and knows no file."""

from annserve.client.client import Client

__all__ = ["Client"]
