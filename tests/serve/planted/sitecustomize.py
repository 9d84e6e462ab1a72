"""Python imports this when it starts, in every process of a server: the fake engine stands for annserve.collection."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fake

sys.modules["annserve.collection"] = fake
