"""A sealed page proves that it is whole, itself, and of its segment; anything else is told apart."""

from __future__ import annotations

import numpy as np
from oracles.storage import crc32c

from annserve.storage.page_kernels import BAD_CHECKSUM, WHOLE, WRONG_PAGE, check_seals, seal_pages

SALT = 0xFEED_BEEF


def states_of(pages, page_ids, salt=SALT):
    states = np.full(len(page_ids), 9, np.uint8)
    check_seals(pages, pages.view(np.uint32), np.asarray(page_ids, np.uint32), np.uint32(salt), states)
    return states.tolist()


def sealed(rng, n_pages, first):
    pages = rng.integers(0, 256, (n_pages, 4_096), dtype=np.uint8)
    seal_pages(pages.view(np.uint32), pages, first, np.uint32(SALT))
    return pages


def test_a_seal_is_checksum_number_and_salt_in_their_places(rng):
    pages = sealed(rng, 3, 7)
    for i, page in enumerate(pages):
        words = page[:16].view("<u4")
        assert (int(words[1]), int(words[3])) == (7 + i, SALT)
        assert int(words[0]) == crc32c(bytes(page[4:]))
    assert states_of(pages, [7, 8, 9]) == [WHOLE] * 3


def test_what_is_wrong_with_a_page_is_told_apart_and_the_others_are_checked_on(rng):
    pages = sealed(rng, 4, 0)
    pages[1, 4_000] ^= 1
    assert states_of(pages, [0, 1, 3, 3]) == [WHOLE, BAD_CHECKSUM, WRONG_PAGE, WHOLE]
    assert states_of(pages, [0, 1, 2, 3], SALT ^ 1) == [WRONG_PAGE, BAD_CHECKSUM, WRONG_PAGE, WRONG_PAGE]
