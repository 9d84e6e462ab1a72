"""A byte that isn't what was published is an error, never a wrong answer."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise

import numpy as np
import pytest

import annserve
from annserve.errors import CorruptionError, NotFoundError, VersionError
from annserve.index import names
from annserve.index.manifest import read_current
from annserve.index.publish import describe_segment, publish
from annserve.index.segment import CODES_MAGIC, HEADS_MAGIC, write_heads
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_segment
from annserve.storage.checksum import crc32c
from annserve.storage.container import ContainerWriter, open_container

SEGMENT = "segment-000001"
QUERY = np.linspace(-1, 1, 400, dtype=np.float32)


def answer(folder):
    """Open, and search all pages: ids and distances."""
    with annserve.open(folder, threads=1) as index:
        result = index.search(QUERY, 60, recall_target=1.0)
        return result.ids, result.distances


def verify(folder):
    segment = open_snapshot(folder).segments[0]
    verify_segment(segment).raise_if_broken(folder)


def places(path):
    """Which bytes to flip: all of a small file; of a larger one a stride, and all around its boundaries."""
    size = path.stat().st_size
    if path.suffix == ".json" or path.name == names.CURRENT:
        return range(size)
    chosen = set(range(300)) | set(range(0, size, max(509, size // 200)))
    if path.name != names.CODES:
        for block in range(0, size + 1, 4_096):
            chosen.update(range(block - 5, block + 20))
    magic = path.read_bytes()[:8]
    with open_container(path, magic) as file:
        for name in file.names:
            start, n_bytes = file.extent(name)
            chosen.update((*range(start, start + 8), *range(start + n_bytes - 8, start + n_bytes + 8)))
    return sorted(at for at in chosen if 0 <= at < size)


@pytest.mark.parametrize(
    "file",
    [
        names.CURRENT,
        "manifest-000001.json",
        *(f"{SEGMENT}/{name}" for name in (names.HEADS, names.CODES, names.PLAN, names.REPORT)),
    ],
)
def test_a_flipped_byte_of_a_file_is_found_when_the_index_is_opened(copy_index, file):
    folder = copy_index("flipped")
    path = folder / file
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as handle:
        for at in places(path):
            os.pwrite(handle.fileno(), bytes([whole[at] ^ (1 + at % 255)]), at)
            with pytest.raises((CorruptionError, VersionError)) as caught:
                open_snapshot(folder)
            assert caught.value.path is not None
            os.pwrite(handle.fileno(), whole[at : at + 1], at)
    answer(folder)


def test_a_flipped_byte_of_the_pages_is_found_by_search_and_by_verify(copy_index):
    folder = copy_index("flipped")
    path = folder / SEGMENT / names.PAGES
    whole = path.read_bytes()
    answer(folder)
    with open(path, "r+b", buffering=0) as handle:
        for number, at in enumerate(places(path)):
            os.pwrite(handle.fileno(), bytes([whole[at] ^ (1 + at % 255)]), at)
            # Opening a reader costs a millisecond; both ways see the same bytes, so they take turns.
            with pytest.raises((CorruptionError, VersionError)):
                (answer if number % 2 else verify)(folder)
            os.pwrite(handle.fileno(), whole[at : at + 1], at)
    verify(folder)


def test_a_page_in_the_place_of_another_is_found(copy_index):
    folder = copy_index("swapped")
    path = folder / SEGMENT / names.PAGES
    with open_container(path, b"ANNPAGES") as file:
        start, _ = file.extent("pages")
    content = bytearray(path.read_bytes())
    first, second = content[start : start + 4_096], content[start + 4_096 : start + 8_192]
    content[start : start + 8_192] = second + first
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="another place or index"):
        answer(folder)
    with pytest.raises(CorruptionError, match="3 problems: page 0: it is page 1 of"):
        verify(folder)


def test_a_segment_of_another_index_is_found(copy_index, tmp_path):
    """Pages of a like index of the same size, with a good checksum each."""
    other, folder = copy_index("other"), copy_index("mixed")
    pages = folder / SEGMENT / names.PAGES
    content = bytearray((other / SEGMENT / names.PAGES).read_bytes())
    for start in range(4_096, len(content), 4_096):
        content[start + 12] ^= 1
        content[start : start + 4] = crc32c(bytes(content[start + 4 : start + 4_096])).to_bytes(4, "little")
    pages.write_bytes(content)
    with pytest.raises(CorruptionError, match="another place or index"):
        answer(folder)


@pytest.mark.parametrize("file", [*names.SEGMENT_FILES, names.CODES])
@pytest.mark.parametrize("change", ["missing", "short", "long", "empty", "folder", "another"])
def test_a_file_that_is_not_the_one_published_is_found(copy_index, file, change):
    folder = copy_index("changed")
    path = folder / SEGMENT / file
    content = path.read_bytes()
    if change in ("missing", "folder"):
        path.unlink()
    if change == "folder":
        path.mkdir()
    elif change != "missing":
        path.write_bytes(
            {
                "short": content[:-1],
                "long": content + b"\0",
                "empty": b"",
                "another": bytes(reversed(content)),
            }[change]
        )
    with pytest.raises(CorruptionError) as caught:
        answer(folder)
    assert caught.value.path == path


def test_a_segment_folder_that_is_missing_is_found(copy_index):
    folder = copy_index("changed")
    shutil.rmtree(folder / SEGMENT)
    with pytest.raises(CorruptionError, match="is missing"):
        answer(folder)


def test_files_that_no_manifest_names_change_nothing(copy_index, whole_index):
    folder = copy_index("crowded")
    (folder / "notes.txt").write_text("hello")
    (folder / "CURRENT.tmp").write_bytes(b"half a")
    (folder / "manifest-000002.json").write_bytes(b"not yet")
    (folder / "segment-000002").mkdir()
    for first, second in zip(answer(folder), answer(whole_index)):
        np.testing.assert_array_equal(first, second)


def republish(folder):
    """Describe the files as they are now: what a faulty writer would have published."""
    manifest = read_current(folder)
    entry = manifest.segments[0]
    facts = {"n_rows": entry.n_rows, "n_heads": entry.n_heads, "n_pages": entry.n_pages, "salt": entry.salt}
    entry = describe_segment(folder, SEGMENT, **facts)
    publish(folder, type(manifest)(2, manifest.spec, manifest.norm_max, (entry,)))


@pytest.mark.parametrize("file", [names.HEADS, names.CODES, names.PAGES])
def test_a_file_of_another_format_version_is_told_from_damage(copy_index, file):
    folder = copy_index("newer")
    path = folder / SEGMENT / file
    content = bytearray(path.read_bytes())
    content[8:12] = (2).to_bytes(4, "little")
    content[12:16] = bytes(4)
    content[12:16] = crc32c(bytes(content[:4_096])).to_bytes(4, "little")
    path.write_bytes(content)
    republish(folder)
    with pytest.raises(VersionError, match=f"{file} was written in format version 2"):
        answer(folder)


def rewrite_heads(folder, change):
    """Write heads.bin anew with one thing changed, correctly sealed, and publish it."""
    segment = open_snapshot(folder).segments[0]
    facts = {"heads": segment.heads, "page_offsets": segment.page_offsets, "radii": segment.radii}
    change(facts)
    write_heads(folder / SEGMENT / names.HEADS, **facts)
    republish(folder)


def rewrite_codes(folder, change):
    """Write codes.bin anew with one array changed, correctly sealed, and publish it."""
    segment = open_snapshot(folder).segments[0]
    path = folder / SEGMENT / names.CODES
    arrays = {name: np.array(array) for name, array in segment.codes.as_arrays().items()}
    change(arrays)
    with ContainerWriter(path, CODES_MAGIC) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    republish(folder)


def lose_a_page(arrays):
    for name in ("page_constants", "page_spreads", "row_counts", "row_factors"):
        arrays[name] = arrays[name][:-1]
    arrays["page_codes"] = arrays["page_codes"][: -((int(arrays["p.field_nibble"].max()) + 2) // 2)]
    code_bytes = (int(arrays["r.field_nibble"].max()) + 2) // 2
    arrays["row_codes"] = arrays["row_codes"][: -code_bytes * arrays["row_factors"].shape[2]]


def forget_the_slack(arrays):
    arrays["row_codes"] = arrays["row_codes"][:-1]


def overfill_a_page(arrays):
    arrays["row_counts"][0] = arrays["row_factors"].shape[2] + 1


def lead_a_field_astray(arrays):
    arrays["r.field_shift"][0] = 4


def shorten_spreads(arrays):
    arrays["e.spreads"] = arrays["e.spreads"][:-1]


def widen_counts(arrays):
    arrays["row_counts"] = arrays["row_counts"].astype(np.int64)


@pytest.mark.parametrize(
    "change",
    [lose_a_page, forget_the_slack, overfill_a_page, lead_a_field_astray, shorten_spreads, widen_counts],
)
def test_codes_that_lead_astray_are_refused_when_opened(copy_index, change):
    """Every checksum is right; a kernel that trusted the arrays would read outside of them."""
    folder = copy_index("astray")
    rewrite_codes(folder, change)
    with pytest.raises(CorruptionError):
        open_snapshot(folder)


def drop_last_page(facts):
    facts["page_offsets"] = facts["page_offsets"][:-1]


def cross_offsets(facts):
    facts["page_offsets"] = facts["page_offsets"].copy()
    facts["page_offsets"][1] = facts["page_offsets"][-1] + 1


def lead_entry_astray(facts):
    heads = facts["heads"]
    facts["heads"] = type(heads)(heads.layout, heads.nodes, heads.n_heads, heads.n_heads, heads.scale, heads.dtype)


def lead_link_astray(facts):
    facts["heads"].nodes.view(np.uint32)[0] = facts["heads"].n_heads


def shorten_radii(facts):
    facts["radii"] = facts["radii"][:-1]


@pytest.mark.parametrize("change", [drop_last_page, cross_offsets, lead_entry_astray, lead_link_astray, shorten_radii])
def test_heads_that_lead_astray_are_refused_when_opened(copy_index, change):
    """Every checksum is right; a kernel that trusted the numbers would read outside of its arrays."""
    folder = copy_index("astray")
    rewrite_heads(folder, change)
    with pytest.raises(CorruptionError, match="doesn't fit its manifest"):
        open_snapshot(folder)


def test_the_heads_file_has_the_sections_that_format_names(whole_index):
    with open_container(whole_index / SEGMENT / names.HEADS, HEADS_MAGIC) as file:
        assert {"nodes", "entry", "scale", "page_offsets", "radii"} <= set(file.names)
        extents = [file.extent(name) for name in file.names]
    assert all(first + n_bytes <= second for (first, n_bytes), (second, _) in pairwise(extents))


def test_a_folder_without_an_index_is_no_index(tmp_path):
    with pytest.raises(NotFoundError):
        annserve.open(tmp_path)
