"""A flipped byte in any file of an index is an error, or changes nothing that is answered: never a wrong answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, files_of

import annserve as product
from annserve.errors import CorruptionError, FormatError
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_index

N_PLACES = 60


def answers(folder: Path, queries: np.ndarray) -> list[bytes]:
    """Open, search at every target, and give all that came back as bytes."""
    with product.open(folder, threads=1) as index:
        found = [index.search(queries, 10, recall_target=target) for target in (0.8, 0.95, 1.0)]
    return [part.tobytes() for result in found for part in (result.ids, result.distances)]


def proven(folder: Path) -> None:
    verify_index(open_snapshot(folder)).raise_if_broken(folder)


def places(files: dict[str, bytes]) -> list[tuple[str, int, int]]:
    """Give (file, byte, bits to flip): first and last byte of each file, and seeded random ones over all."""
    rng = np.random.default_rng(404)
    chosen = [(name, at, 1) for name, content in files.items() for at in (0, len(content) - 1)]
    for _ in range(N_PLACES):
        name = sorted(files)[rng.integers(len(files))]
        chosen.append((name, int(rng.integers(len(files[name]))), int(rng.integers(1, 256))))
    return chosen


def test_a_flipped_byte_in_any_file_is_found_and_never_a_wrong_answer(copied_index, small_rows):
    """Verification must find each one. A search may answer without touching it, but then must answer the same."""
    queries = small_rows[::40]
    right = answers(copied_index, queries)
    files = files_of(copied_index)
    assert len(files) == 7
    unseen, unnamed = [], []
    for name, at, bits in places(files):
        path = copied_index / name
        content = bytearray(files[name])
        content[at] ^= bits
        path.write_bytes(content)
        try:
            assert answers(copied_index, queries) == right, f"byte {at} of {name} changed an answer"
        except FormatError as error:
            unnamed += [] if str(path) in str(error) else [str(error)]
        try:
            proven(copied_index)
            unseen.append((name, at))
        except FormatError:
            pass
        path.write_bytes(files[name])
    assert unseen == unnamed == []
    proven(copied_index)


def test_every_page_is_guarded(copied_index, small_rows):
    """One byte in each page in turn: a search that reads every page names the file, and verify the page."""
    segment = open_snapshot(copied_index).segments[0]
    path, content = segment.pages_path, segment.pages_path.read_bytes()
    for page in range(segment.n_pages):
        at = segment.pages_offset + page * 4_096 + (page * 997) % 4_096
        spoiled = bytearray(content)
        spoiled[at] ^= 0x10
        path.write_bytes(spoiled)
        with product.open(copied_index) as index, pytest.raises(CorruptionError, match=r"pages\.bin"):
            index.search(small_rows[:2], 5, recall_target=1.0)
        ended = annserve("verify", copied_index)
        assert ended.code == 3
        assert f"page {page}: checksum" in ended.out, ended.out
    path.write_bytes(content)
    assert annserve("verify", copied_index).code == 0


@pytest.mark.parametrize("name", ["heads.bin", "pages.bin", "plan.json", "report.json"])
def test_a_file_that_is_cut_or_gone_is_an_error_that_names_it(copied_index, name):
    path = copied_index / "segment-000001" / name
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"", content + b"\0", None):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        for command in ("inspect", "verify"):
            ended = annserve(command, copied_index)
            assert ended.code == 3
            assert name in ended.error
            assert "build the index anew" in ended.error


def test_pages_of_another_index_are_refused(copied_index, small_rows, tmp_path):
    """Whole, of the same size and with sound checksums, but not the pages that these heads point to."""
    np.save(tmp_path / "other.npy", small_rows[::-1] * 2)
    assert annserve("build", tmp_path / "other.npy", "--out", tmp_path / "other").code == 0
    other = tmp_path / "other" / "segment-000001" / "pages.bin"
    mine = copied_index / "segment-000001" / "pages.bin"
    assert other.stat().st_size == mine.stat().st_size
    mine.write_bytes(other.read_bytes())
    with pytest.raises(CorruptionError), product.open(copied_index) as index:
        index.search(small_rows[:2], 5)


def test_an_index_that_was_moved_opens(small_index, copied_index, small_rows):
    """Paths inside are relative."""
    assert answers(copied_index.rename(copied_index.with_name("elsewhere")), small_rows[:9]) == answers(
        small_index, small_rows[:9]
    )
