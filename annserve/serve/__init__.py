"""The gRPC door: a server that answers searches, says what it serves, and stops without losing a call.

``server`` binds, starts and stops; ``search_service`` and ``admin_service`` are the two services, ``catalog`` what they
serve; ``convert`` carries between messages and arrays; ``status`` turns errors into gRPC statuses. Deliberately absent:
any arithmetic on vectors, and any knowledge of files.
"""

from annserve.serve.catalog import Searchable
from annserve.serve.limits import Limits
from annserve.serve.server import Server, stop_signals

__all__ = ["Limits", "Searchable", "Server", "stop_signals"]
