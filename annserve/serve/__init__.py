"""The gRPC door: processes that answer searches, say what they serve, and stop without losing a call.

``supervisor`` keeps the processes, ``nursery`` makes them, ``worker`` is one; ``server`` is what answers in it.
``catalog`` is what is served, ``follow`` keeps it in step with the disk, ``schedule`` says which search runs when.
``search_service`` and ``admin_service`` are the two services; ``convert`` carries between messages and arrays;
``status`` turns errors into gRPC statuses. Deliberately absent: any arithmetic on vectors, and any knowledge of files.
"""

from annserve.serve.catalog import Catalog, Searchable
from annserve.serve.limits import Limits
from annserve.serve.server import Server, stop_signals
from annserve.serve.supervisor import Supervisor

__all__ = ["Catalog", "Limits", "Searchable", "Server", "Supervisor", "stop_signals"]
