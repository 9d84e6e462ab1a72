"""Tests leave no call behind for the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from annserve.watch import calls


@pytest.fixture(autouse=True)
def no_call() -> Iterator[None]:
    token = calls._CURRENT.set(None)
    yield
    calls._CURRENT.reset(token)
