"""Every file name of an index, made and parsed here and nowhere else. All paths are relative to the index folder.

::

    CURRENT                     names the manifest of the published version
    manifest-000001.json        names the files of that version, with lengths and checksums
    segment-000001/heads.bin    heads, navigation graph, posting table (RAM)
    segment-000001/codes.bin    codes of pages and rows (RAM); absent where an index has none
    segment-000001/vicinities.bin  codes of the rows near each page (SSD); absent where RAM holds all codes, or none
    segment-000001/pages.bin    posting pages (SSD)
    segment-000001/raw.bin      raw rows for a second look (SSD); absent where an index keeps none
    segment-000001/plan.json    what calibration found
    segment-000001/report.json  how the build went
    report.html                 the report of the newest segment, to be looked at; nothing reads it
    .build/                     staging of an unfinished build; removed when it is published
"""

from __future__ import annotations

import re

CURRENT = "CURRENT"
BUILD_FOLDER = ".build"
HEADS, PAGES, PLAN, REPORT = "heads.bin", "pages.bin", "plan.json", "report.json"
CODES, VICINITIES = "codes.bin", "vicinities.bin"
RAW = "raw.bin"
REPORT_PAGE = "report.html"
#: Files that every segment has, and those that it may have.
SEGMENT_FILES = (HEADS, PAGES, PLAN, REPORT)
OPTIONAL_FILES = (CODES, VICINITIES, RAW)
#: Files whose pages each carry their own checksum.
PAGED_FILES = (PAGES, VICINITIES, RAW)

_MANIFEST = re.compile(r"manifest-[0-9]{6,}\.json")
_SEGMENT = re.compile(r"segment-[0-9]{6,}")


def manifest_name(snapshot: int) -> str:
    """Name the manifest of a snapshot."""
    return f"manifest-{snapshot:06d}.json"


def segment_name(number: int) -> str:
    """Name the folder of a segment."""
    return f"segment-{number:06d}"


def segment_number(name: str) -> int:
    """Give the number that `segment_name` made a name of."""
    return int(name.removeprefix("segment-"))


def is_manifest_name(name: str) -> bool:
    """Whether a name is one that `manifest_name` makes, and so can't lead out of the index folder."""
    return _MANIFEST.fullmatch(name) is not None


def is_segment_name(name: str) -> bool:
    """Whether a name is one that `segment_name` makes."""
    return _SEGMENT.fullmatch(name) is not None
