"""The processes of a server, from its settings to its end, without losing a call.

``supervisor`` keeps them, ``nursery`` makes them, ``worker`` is one, ``server`` the gRPC server in it. ``places`` says
what is to be served, ``run_folder`` is where processes tell each other how they are, ``control`` where they ask for
changes, ``shown`` the page that tells people. Deliberately absent: what a call is answered with, which the rooms below
decide.
"""

from annserve.serve.server import Server, stop_signals
from annserve.serve.supervisor import Supervisor

__all__ = ["Server", "Supervisor", "stop_signals"]
