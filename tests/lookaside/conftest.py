"""Keys that fall the same way in every run: a set of the table that runs full gives up an answer, by chance."""

from __future__ import annotations

import pytest

from annserve.lookaside import lookaside


@pytest.fixture(autouse=True, scope="package")
def one_secret():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookaside.secrets, "token_bytes", lambda n_bytes: bytes(range(n_bytes)))
        yield
