"""Keys that fall the same way in every run: a set of the table that runs full gives up an answer, by chance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from annserve.lookaside import lookaside


@pytest.fixture(autouse=True, scope="package")
def one_secret():
    with pytest.MonkeyPatch.context() as patch:
        # In this module alone: tests of other folders may come in between.
        patch.setattr(lookaside, "secrets", SimpleNamespace(token_bytes=lambda n_bytes: bytes(range(n_bytes))))
        yield
