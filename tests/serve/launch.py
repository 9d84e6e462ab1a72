"""The ``annserve`` command with the fake engine in the place of ``annserve.collection``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fake

sys.modules["annserve.collection"] = fake

from annserve.cli.main import main  # noqa: E402

main()
