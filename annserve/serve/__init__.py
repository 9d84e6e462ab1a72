"""The gRPC door: a server that answers searches, says what it serves, and stops without losing a call.

``server`` binds, starts and stops; ``service`` holds the two services; ``convert`` carries between messages
and arrays; ``status`` turns errors into gRPC statuses. Deliberately absent: any arithmetic on vectors, and
any knowledge of files.
"""

from annserve.serve.server import Server, stop_signals
from annserve.serve.service import Limits, Searchable

__all__ = ["Limits", "Searchable", "Server", "stop_signals"]
