"""Files of every format version are read by today's code, and give the answers that they gave when they were made.

``tools/make_golden.py`` made them; a folder of a released version is never changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import annserve
from annserve.index.snapshot import open_snapshot
from annserve.pages.check import check_rows
from annserve.pages.pack import pack_pages
from annserve.pages.rows import quantize_rows
from annserve.storage.container import open_container
from annserve.storage.layout import FORMAT_VERSION

HERE = Path(__file__).parent
FOLDERS = sorted(folder.parent for folder in HERE.glob("v*/*/index"))


def test_every_format_version_has_golden_files():
    assert {folder.parent.name for folder in FOLDERS} == {f"v{n}" for n in range(1, FORMAT_VERSION + 1)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_an_old_index_gives_its_old_answers(folder):
    """Ids exactly; distances to the last bits of float32, since processors add in different orders."""
    with annserve.open(folder / "index") as index:
        result = index.search(np.load(folder / "queries.npy"), 10, recall_target=1.0)
    np.testing.assert_array_equal(result.ids, np.load(folder / "ids.npy"))
    np.testing.assert_allclose(result.distances, np.load(folder / "distances.npy"), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_an_old_index_chooses_its_old_pages(folder):
    """The ids at 0.95, where codes or heads decide what is read; of queries whose answer hangs on no rounding."""
    with annserve.open(folder / "index") as index:
        result = index.search(np.load(folder / "queries.npy"), 10, recall_target=0.95)
        assert result.stats.pages_read.mean() < index.info()["pages"]
    np.testing.assert_array_equal(result.ids, np.load(folder / "ids_at_95.npy"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_packing_the_same_rows_gives_the_same_pages(folder):
    """Rows are taken in the order in which the old pages hold them, so that clustering may change."""
    position = {int(id_): row for row, id_ in enumerate(np.load(folder / "row_ids.npy"))}
    given = np.load(folder / "rows.npy")
    snapshot = open_snapshot(folder / "index")
    assert snapshot.manifest.n_rows == len(given)
    for segment in snapshot.segments:
        with open_container(segment.pages_path, b"ANNPAGES") as file:
            old = np.array(file.section("pages"))
        found, problems = check_rows(old, np.arange(len(old), dtype=np.uint32), segment.layout, segment.salt)
        assert problems == []
        ids = found.ids
        rows = given[[position[int(id_)] for id_ in ids]]
        counts = old[:, 8:10].copy().view("<u2")[:, 0].astype(np.int64)
        stored = quantize_rows(rows, segment.spec)
        replicas = np.add.reduceat(~found.at_home, np.cumsum(counts) - counts, dtype=np.int64)
        new = pack_pages(stored, ids, counts, segment.layout, first_page_id=0, salt=segment.salt, replicas=replicas)
        np.testing.assert_array_equal(new, old)
