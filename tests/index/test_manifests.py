"""The manifest comes back as it was, and nothing but a whole one of this format version is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annserve.errors import CorruptionError, NotFoundError, VersionError
from annserve.index import names
from annserve.index.manifest import FileEntry, Manifest, SegmentEntry, read_current
from annserve.index.sealed import write_sealed
from annserve.spec import IndexSpec
from annserve.storage.layout import FORMAT_VERSION

FILES = {name: FileEntry(4_096 * (i + 1), 2**32 - 1 - i) for i, name in enumerate(names.SEGMENT_FILES)}
MANIFEST = Manifest(
    3,
    IndexSpec(7, "float32", "ip", 8_192),
    0.1 + 0.2,
    (SegmentEntry("segment-000002", 10, 2, 5, 2**32 - 1, FILES),),
)


def write(folder, *, manifest=None, current=None):
    name = names.manifest_name(MANIFEST.snapshot)
    write_sealed(folder / name, MANIFEST.as_dict() if manifest is None else manifest)
    write_sealed(folder / names.CURRENT, current or {"format_version": FORMAT_VERSION, "manifest": name})


def test_a_manifest_comes_back_as_it_was(tmp_path):
    write(tmp_path)
    assert read_current(tmp_path) == MANIFEST
    assert MANIFEST.n_rows == 10


def test_a_manifest_of_several_segments_comes_back_as_it_was(tmp_path):
    """Under inner product each segment keeps the norm that its space was made with, as it grows and as it doesn't."""
    first = MANIFEST.segments[0]
    longer = MANIFEST.extended(replace(first, name="segment-000003"), 7.0)
    assert (longer.snapshot, longer.norm_max, longer.n_rows) == (4, 7.0, 20)
    both = longer.extended(replace(first, name="segment-000004"), 2.0)
    assert [both.norm_max_of(segment) for segment in both.segments] == [0.1 + 0.2, 7.0, 2.0]
    assert ["norm_max" in segment for segment in both.as_dict()["segments"]] == [True, False, True]
    write(tmp_path, manifest=both.as_dict())
    assert read_current(tmp_path) == both
    flat = replace(MANIFEST, spec=IndexSpec(7, "float32", "l2", 8_192)).extended(
        replace(first, name="segment-000009"), 9
    )
    assert "norm_max" not in str(flat.as_dict()["segments"])


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, 1.5])
def test_another_format_version_is_told_from_damage(tmp_path, version):
    write(tmp_path, manifest={**MANIFEST.as_dict(), "format_version": version})
    with pytest.raises(VersionError, match=r"manifest-000003\.json was written in format version"):
        read_current(tmp_path)
    write(tmp_path, current={"format_version": version, "manifest": "manifest-000003.json"})
    with pytest.raises(VersionError, match="CURRENT was written in format version"):
        read_current(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere/manifest-000001.json",
        "/etc/passwd",
        "manifest-000001.json/../../x",
        "manifest-1.json",
        "manifest-000001.json\n",
        "manifest-٠٠٠٠٠١.json",
        "",
        None,
        7,
        ["manifest-000003.json"],
    ],
)
def test_current_cannot_lead_out_of_the_folder(tmp_path, name):
    write(tmp_path, current={"format_version": FORMAT_VERSION, "manifest": name})
    with pytest.raises(CorruptionError, match="isn't a manifest's name"):
        read_current(tmp_path)


@pytest.mark.parametrize("name", ["../segment-000001", "segment-1", "/tmp", "segment-000001/..", "segment-٠٠٠٠٠١"])
def test_a_segment_cannot_lead_out_of_the_folder(tmp_path, name):
    content = MANIFEST.as_dict()
    content["segments"] = [{**content["segments"][0], "name": name}]
    write(tmp_path, manifest=content)
    with pytest.raises(CorruptionError, match="holds a wrong one"):
        read_current(tmp_path)


def without(name):
    content = MANIFEST.as_dict()
    del content[name]
    return content


def with_segment(**changes):
    content = MANIFEST.as_dict()
    return {**content, "segments": [{**content["segments"][0], **changes}]}


@pytest.mark.parametrize(
    "content",
    [
        without("snapshot"),
        without("spec"),
        without("norm_max"),
        without("segments"),
        {**MANIFEST.as_dict(), "segments": []},
        {**MANIFEST.as_dict(), "segments": 2 * [MANIFEST.as_dict()["segments"][0]]},
        {**MANIFEST.as_dict(), "segments": [None]},
        {**MANIFEST.as_dict(), "spec": {"dim": 7}},
        {**MANIFEST.as_dict(), "spec": {**MANIFEST.spec.as_dict(), "metric": "hamming"}},
        {**MANIFEST.as_dict(), "spec": {**MANIFEST.spec.as_dict(), "dim": "7"}},
        {**MANIFEST.as_dict(), "norm_max": "far"},
        with_segment(files={}),
        with_segment(files={**FILES, "../x": FILES["pages.bin"]}),
        with_segment(n_pages="5"),
        with_segment(n_heads=-1),
        with_segment(n_rows=0),
        with_segment(salt=2**32),
        with_segment(salt=1.5),
        with_segment(unknown=3),
        with_segment(norm_max="far"),
        with_segment(norm_max=-1.0),
        with_segment(norm_max=0.1 + 0.2),
    ],
)
def test_a_manifest_that_lacks_or_bends_a_field_is_refused(tmp_path, content):
    """Sealed correctly, so it's the work of a faulty writer: refused before anything trusts it."""
    content = {**content}
    if "segments" in content:
        content["segments"] = [
            {
                **entry,
                "files": {k: vars(v) if isinstance(v, FileEntry) else v for k, v in entry["files"].items()},
            }
            if entry
            else entry
            for entry in content["segments"]
        ]
    write(tmp_path, manifest=content)
    with pytest.raises(CorruptionError, match="holds a wrong one"):
        read_current(tmp_path)


def test_a_folder_without_an_index_says_what_it_lacks(tmp_path):
    with pytest.raises(NotFoundError, match="there is no index"):
        read_current(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="holds no index"):
        read_current(tmp_path)
    (tmp_path / names.BUILD_FOLDER).mkdir()
    with pytest.raises(NotFoundError, match="unfinished build"):
        read_current(tmp_path)


def test_a_manifest_that_current_names_and_is_not_there_is_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / names.manifest_name(MANIFEST.snapshot)).unlink()
    with pytest.raises(NotFoundError, match=r"manifest-000003\.json"):
        read_current(tmp_path)


def test_names_are_made_and_parsed_alike():
    for number in (1, 999_999, 1_000_000):
        assert names.is_manifest_name(names.manifest_name(number))
        assert names.is_segment_name(names.segment_name(number))
