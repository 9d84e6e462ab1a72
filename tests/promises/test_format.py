"""FORMAT.md is the truth about the bytes: its tables are compared with the code, its dumps with real files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from oracles import codes as oracle

import annserve
import annserve.storage
from annserve.codes.encode import decode, encode
from annserve.codes.layout import (
    CODE_BYTES_MAX,
    SCAN_SLACK_BYTES,
    Codebook,
    allocate_pages,
    pack_page,
    unflatten_postings,
)
from annserve.codes.rating_kernels import PAGES_FIRST
from annserve.codes.tiers import ENCODER_ARRAYS
from annserve.codes.vicinity_kernels import MEASURE_RANK
from annserve.codes.vicinity_layout import FLAG_VICINITY, VicinityLayout
from annserve.heads.layout import DEGREE, NO_HEAD, NODE_PAGE_BYTES, HeadNodes, NodeLayout, lay_out
from annserve.index import names
from annserve.index.manifest import FileEntry, Manifest, SegmentEntry, read_current
from annserve.index.raw_file import FACTS, RAW_MAGIC, raw_writer
from annserve.index.sealed import read_sealed
from annserve.index.segment import CODES_MAGIC, HEADS_MAGIC, PAGES_MAGIC, pages_writer, write_heads
from annserve.index.vicinities import VICINITIES_MAGIC, vicinities_writer
from annserve.metric import queries_to_space, rows_to_space
from annserve.pages.check import check_pages
from annserve.pages.layout import HEADER, PageLayout
from annserve.pages.pack import pack_pages
from annserve.pages.rows import quantize_rows
from annserve.raw.layout import RawLayout
from annserve.raw.pack import pack_raw_pages
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.read_plan import ReadPlan
from annserve.search.vicinity_plan import VicinityPlan
from annserve.spec import IndexSpec
from annserve.storage.container import ContainerWriter, open_container
from annserve.storage.layout import (
    BLOCK_BYTES,
    DTYPE_CODES,
    FORMAT_VERSION,
    HEADER_DTYPE,
    SECTION_DTYPE,
    SECTION_MAX,
)

GOLDEN = Path(__file__).parents[1] / f"golden/v{FORMAT_VERSION}"
SEGMENT = Path("index") / names.segment_name(1)
TEXT = (Path(annserve.storage.__file__).parent / "FORMAT.md").read_text()
TYPES = {"u8": "u1", "i8": "i1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "f32": "<f4"}


def section_of(heading):
    """Text below a heading, up to the next one of any depth."""
    start = TEXT.index(f"\n{heading}\n") + len(heading) + 2
    following = re.search(r"^#+ ", TEXT[start:], re.MULTILINE)
    return TEXT[start : start + following.start()] if following else TEXT[start:]


def table_of(heading):
    """Rows of the one table below a heading, as dicts by column."""
    lines = [line for line in section_of(heading).splitlines() if line.startswith("|")]
    columns, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(columns, (cell.replace("\\|", "|") for cell in row), strict=True)) for row in rows]


def hex_dump_of(heading):
    """Bytes that a dump below a heading shows: offset → 16 bytes."""
    found = re.findall(r"^([0-9a-f]{4}) ((?: +[0-9a-f]{8}){4})", section_of(heading), re.MULTILINE)
    assert found
    return {int(offset, 16): bytes.fromhex(content) for offset, content in found}


def assert_dump_is(dump, content):
    """Every line of the dump stands in the file, and every line left out is zero."""
    for at in range(0, len(content), 16):
        assert bytes(content[at : at + 16]) == dump.get(at, bytes(16)), f"at byte {at:#06x}"


def value(expression, **symbols):
    """Work out an offset or a length as FORMAT.md writes it, such as ``16 + 8c``."""
    python = re.sub(r"(?<=[0-9A-Za-z])(?=[A-Za-z])", "*", expression.replace("dim", "D")).replace("·", "*")
    return eval(python, {"__builtins__": {}}, symbols)


def assert_fields_are(table, dtype):
    """Names, offsets and lengths of a table's rows are those of a NumPy type."""
    assert [row["field"] for row in table] == list(dtype.names)
    for row in table:
        field, offset = dtype.fields[row["field"]][:2]
        assert (int(row["offset"]), int(row["bytes"])) == (offset, field.itemsize), row["field"]
        kind = row["type"].split(" ")[0]
        if kind in TYPES:
            assert field.base == np.dtype(TYPES[kind]), row["field"]


def test_the_container_tables_are_its_types():
    assert_fields_are(table_of("### Header block"), HEADER_DTYPE)
    assert_fields_are(table_of("### Section entry"), SECTION_DTYPE)
    codes = {int(row["code"]): np.dtype(row["type"]) for row in table_of("### Element types")}
    assert {code: dtype.newbyteorder("<") for code, dtype in codes.items()} == DTYPE_CODES
    assert f"{BLOCK_BYTES:,} bytes" in section_of("### Header block")
    assert f"{SECTION_MAX} section entries" in section_of("### Header block")


def test_the_container_dump_is_a_real_file(tmp_path):
    path = tmp_path / "f"
    with ContainerWriter(path, b"ANNHEADS") as writer:
        writer.add("a", np.array([1, 2], np.uint16))
    assert_dump_is(hex_dump_of("### A header worked by hand"), path.read_bytes())


@pytest.mark.parametrize("row_type", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("dim", [1, 3, 128, 5_000])
def test_the_page_table_is_the_page_layout(row_type, dim):
    spec = IndexSpec(dim, row_type, "l2")
    layout, table = PageLayout.of(spec), {row["field"]: row for row in table_of("### Page")}
    assert_fields_are(table_of("### Page")[: len(HEADER.names)], HEADER)
    symbols = {"c": layout.capacity, "F": 4 if layout.has_factors else 0, "D": dim}
    offset_of = {name: value(row["offset"], **symbols) for name, row in table.items()}
    assert offset_of["ids"] == layout.ids_offset
    assert offset_of["scales"] == layout.factors_offset
    assert offset_of["errors"] == layout.factors_offset + symbols["F"] * layout.capacity
    assert offset_of["rows"] == layout.rows_offset
    end = 0
    for row in table.values():
        assert value(row["offset"], **symbols) == end, row["field"]
        end += value(row["bytes"], **symbols)
    slot = (16 if layout.has_factors else 8) + dim
    assert end <= spec.page_bytes
    assert layout.capacity == (spec.page_bytes - 16) // slot


def test_the_page_dump_is_a_real_page():
    spec = IndexSpec(3, "float32", "l2")
    rows = np.array([[127, -127, 0], [2.54, 1.27, 0]], np.float32)
    pages = pack_pages(
        quantize_rows(rows, spec),
        np.array([7, 258], np.uint64),
        np.array([2]),
        PageLayout.of(spec),
        first_page_id=5,
        salt=0x5EEDCAFE,
    )
    assert_dump_is(hex_dump_of("### A page worked by hand"), pages[0])


@pytest.mark.parametrize(("page_bytes", "code_bytes"), [(4_096, 1), (4_096, 20), (8_192, 128)])
def test_the_vicinity_table_is_the_vicinity_layout(page_bytes, code_bytes):
    layout = VicinityLayout(page_bytes, 30, code_bytes)
    table = table_of("### Vicinity")
    assert [row["field"] for row in table] == list(layout.dtype.names)
    symbols = {"v": layout.capacity, "b": code_bytes}
    end = 0
    for row in table:
        field, offset = layout.dtype.fields[row["field"]][:2]
        at, n_bytes = (value(row[name].replace("b'", "b"), **symbols) for name in ("offset", "bytes"))
        assert (at, n_bytes) == (offset, field.itemsize) == (end, n_bytes), row["field"]
        end += n_bytes
    assert end <= page_bytes < end + code_bytes + 6
    flags = next(row for row in table if row["field"] == "flags")
    assert flags["meaning and invariant"].startswith(f"{FLAG_VICINITY};")


@pytest.mark.parametrize("dim", [1, 4, 129, 4_001])
def test_the_node_table_is_the_node_layout(dim):
    table = {row["field"]: row for row in table_of("### Node")}
    layout = NodeLayout(dim)
    assert value(table["neighbours"]["bytes"]) == 4 * layout.degree == 4 * DEGREE
    assert value(table["vector"]["offset"], D=dim) == 4 * layout.degree
    assert value(table["padding"]["offset"], D=dim) <= layout.stride <= value(table["padding"]["offset"], D=dim) + 3
    assert layout.stride % 4 == 0
    assert layout.page_bytes % NODE_PAGE_BYTES == 0
    assert f"0x{NO_HEAD:X}" in table["neighbours"]["meaning and invariant"]


@pytest.mark.parametrize(("row_type", "dim"), [("float16", 384), ("float32", 768), ("uint8", 1), ("float32", 32_768)])
def test_the_raw_page_table_is_its_layout(row_type, dim):
    layout = RawLayout(IndexSpec(dim, row_type, "l2"), own=False)
    *fields, rows = table_of("### Raw page")
    plain = [(field["field"], TYPES[field["type"]], int(field["offset"])) for field in fields]
    dtype = layout.page_dtype
    assert plain == [(name, dtype.fields[name][0].str, dtype.fields[name][1]) for name in dtype.names[:-1]]
    assert dtype.names[-1] == rows["field"]
    assert dtype.fields["rows"][1] == int(rows["offset"])
    symbols = {"c": layout.capacity, "e": layout.dtype.itemsize, "D": dim}
    assert dtype.fields["rows"][0].itemsize == value("c·e·D", **symbols)
    assert rows["bytes"] == "ceD"
    assert layout.page_bytes == dtype.itemsize == -(-(16 + layout.row_bytes) // 4_096) * 4_096
    assert layout.capacity == (layout.page_bytes - 16) // layout.row_bytes


def test_the_raw_page_dump_is_a_real_page():
    layout = RawLayout(IndexSpec(3, "float16", "l2"), own=True)
    row = np.array([[1, -2, 0.5]], np.float16)
    pages = pack_raw_pages(row, np.array([1_361]), layout, first_page_id=2, n_pages=1, salt=0x5EEDCAFE)
    assert_dump_is(hex_dump_of("### A raw page worked by hand"), pages[0])


def test_the_facts_of_raw_rows_are_those_of_their_table():
    assert tuple(row["fact"] for row in table_of("### Facts")) == FACTS


def assert_sections_are(table, path, magic):
    with open_container(path, magic) as file:
        assert [row["section"] for row in table] == list(file.names)
        for row in table:
            array = file.section(row["section"])
            assert array.dtype == np.dtype(row["type"]), row["section"]
            assert array.ndim == row["shape"].count("×") + 1, row["section"]


def test_the_section_tables_are_those_of_the_files(tmp_path):
    layout = NodeLayout(3)
    nodes = lay_out(np.zeros((2, 3), np.uint8), np.full((2, DEGREE), NO_HEAD, np.uint32), layout)
    heads = HeadNodes(layout, nodes, 2, 0, 1.0, np.dtype(np.uint8))
    write_heads(tmp_path / "h", heads, np.array([0, 1, 2]), np.zeros(2, np.float32))
    assert_sections_are(table_of("## heads.bin"), tmp_path / "h", HEADS_MAGIC)
    with pages_writer(tmp_path / "p", 4_096) as writer:
        writer.append(np.zeros((3, 4_096), np.uint8))
        writer.end()
    assert_sections_are(table_of("## pages.bin"), tmp_path / "p", PAGES_MAGIC)
    with raw_writer(tmp_path / "r", RawLayout(IndexSpec(3, "float32", "l2"), own=True)) as writer:
        writer.append(np.zeros((3, 4_096), np.uint8))
        writer.end()
    assert_sections_are(table_of("## raw.bin"), tmp_path / "r", RAW_MAGIC)
    for name in ("uint8-l2", "float32-cosine"):
        assert_sections_are(table_of("## codes.bin"), GOLDEN / name / SEGMENT / names.CODES, CODES_MAGIC)
    with vicinities_writer(tmp_path / "v", VicinityLayout(4_096, 30, 20)) as writer:
        writer.append(np.zeros((3, 4_096), np.uint8))
        writer.end()
    assert_sections_are(table_of("## vicinities.bin"), tmp_path / "v", VICINITIES_MAGIC)
    magics = {"heads": HEADS_MAGIC, "codes": CODES_MAGIC, "pages": PAGES_MAGIC, "raw": RAW_MAGIC}
    magics["vicinities"] = VICINITIES_MAGIC
    for heading, magic in ((f"## {name}.bin", magic) for name, magic in magics.items()):
        assert f"magic `{magic.decode()}`" in section_of(heading)


@pytest.mark.parametrize("name", ["uint8-l2", "float32-cosine"])
def test_shapes_of_codes_are_what_their_table_says(name):
    """Symbols are worked out from the sections that define them; all others must agree."""
    spec = read_current(GOLDEN / name / "index").spec
    with open_container(GOLDEN / name / SEGMENT / names.CODES, CODES_MAGIC) as file:
        arrays = {section: np.array(file.section(section)) for section in file.names}
    symbols = {
        "n_pages": len(arrays["page_constants"]),
        "b": (int(arrays["p.field_nibble"].max()) + 2) // 2,
        "b'": (int(arrays["r.field_nibble"].max()) + 2) // 2,
        "c": spec.page_capacity,
        "D": spec.space_dim,
        "m": arrays["p.synthesis"].shape[0],
        "m'": arrays["r.synthesis"].shape[0],
        "f": len(arrays["p.f_component"]),
        "f'": len(arrays["r.f_component"]),
        "32": SCAN_SLACK_BYTES,
    }
    for row in table_of("## codes.bin"):
        shape = []
        for extent in row["shape"].split(" × "):
            terms = [np.prod([symbols.get(s) or int(s) for s in term.split(" · ")]) for term in extent.split(" + ")]
            shape.append(sum(terms))
        assert arrays[row["section"]].shape == tuple(shape), row["section"]
    assert (arrays["row_counts"] <= spec.page_capacity).all()
    assert int(arrays["p.field_nibble"].max()) in (2 * symbols["b"] - 2, 2 * symbols["b"] - 1)
    assert f"1 … {CODE_BYTES_MAX}" in section_of("## codes.bin")
    assert " and ".join(f"`{section}`" for section in ENCODER_ARRAYS) in section_of("## codes.bin")


def test_codes_lie_as_their_table_says():
    codes = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    pages = allocate_pages(2, 4, 5)
    pack_page(codes, pages, 1)
    flat, (c, code_bytes) = pages.base, (5, 4)
    table = {row["field"]: row for row in table_of("### Code")}
    for i in range(code_bytes):
        at = code_bytes * c + value(table["byte_i"]["offset"], i=i, c=c)
        assert flat[at : at + c].tolist() == [*codes[:, i], 0, 0]
    assert value(table["byte_0"]["offset"]) == 0
    assert value(table["byte_1"]["offset"], c=c) == c
    assert len(flat) == 2 * code_bytes * c + SCAN_SLACK_BYTES


def test_the_code_dump_is_a_real_code():
    counts = np.arange(16.0)
    book = Codebook(
        mean=np.array([1, 0], np.float32),
        analysis=np.eye(2, dtype=np.float32),
        synthesis=np.eye(2, dtype=np.float32),
        field_component=np.array([0, 0, 1], np.int32),
        field_nibble=np.array([0, 1, 1], np.int32),
        field_shift=np.array([0, 0, 1], np.int32),
        field_bits=np.array([4, 1, 3], np.int32),
        field_levels=np.array([counts, 16 * counts.clip(max=1), counts.clip(max=7) - 4], np.float32),
    )
    residual = np.array([[22, 2]], np.float32)
    code = encode(book, residual)
    assert_dump_is(hex_dump_of("### A code worked by hand"), code[0].tobytes().ljust(16, b"\0"))
    np.testing.assert_array_equal(decode(book, code), residual)


@pytest.mark.parametrize("name", ["uint8-l2", "float32-cosine"])
def test_distances_by_codes_are_what_the_formulas_say(name):
    """Against the rows themselves: estimates are off by about one error, and centroids are about the rows' mean."""
    with annserve.open(GOLDEN / name / "index") as index:
        segment = index._snapshot.segments[0]
    tiers, spec = segment.codes, segment.spec
    with open_container(segment.pages_path, PAGES_MAGIC) as file:
        pages = np.array(file.section("pages"))
    ids, _ = check_pages(pages, np.arange(len(pages), dtype=np.uint32), segment.layout, segment.salt)
    place = {int(id_): row for row, id_ in enumerate(np.load(GOLDEN / name / "row_ids.npy"))}
    rows = rows_to_space(np.load(GOLDEN / name / "rows.npy"), spec, 0.0)[[place[int(i)] for i in ids]].astype(float)
    page = np.repeat(np.arange(len(pages)), tiers.row_counts)
    slot = np.concatenate([np.arange(count) for count in tiers.row_counts])
    head = np.repeat(np.arange(segment.heads.n_heads), np.diff(segment.page_offsets.astype(int)))
    page_codes = unflatten_postings(tiers.page_codes, tiers.page_book.code_bytes, segment.page_offsets)
    centroids = segment.heads.vectors()[head] * segment.heads.scale + decode(tiers.page_book, page_codes)
    codes = tiers.row_codes[:-SCAN_SLACK_BYTES].reshape(len(pages), -1, spec.page_capacity)[page, :, slot]
    constant, shrink = tiers.row_factors[page, 0, slot], tiers.row_factors[page, 1, slot]
    estimate = tiers.estimate
    errors = []
    for query in queries_to_space(np.load(GOLDEN / name / "queries.npy"), spec, 0.0).astype(float):
        lengths = ((query - centroids) ** 2).sum(axis=1)[page]
        inner = oracle.products(tiers.row_book, codes, query - estimate.origin, estimate.gains)
        found = estimate.distance_scale * lengths + estimate.constant_min + estimate.constant_step * constant
        found -= 2 * estimate.shrinks[shrink] * inner
        error = estimate.spreads[shrink] * lengths**estimate.spread_power
        errors.append((((rows - query) ** 2).sum(axis=1) - found) / error)
    near = np.abs(np.concatenate(errors))
    assert 0.3 < np.median(near) < 1.5


def fields_of(content, prefix=""):
    """Paths of an object's fields, as FORMAT.md writes them."""
    found = set()
    for name, inner in content.items():
        here = f"{prefix}{name}"
        found.add(here)
        if name == "files":
            found |= fields_of(next(iter(inner.values())), f"{here}{{}}.")
        elif isinstance(inner, dict):
            found |= fields_of(inner, f"{here}.")
        elif isinstance(inner, list | tuple) and inner and isinstance(inner[0], dict):
            found |= fields_of(inner[0], f"{here}[].")
    return found


def test_the_field_tables_are_those_of_the_json_files():
    files = {name: FileEntry(1, 2) for name in (*names.SEGMENT_FILES, *names.OPTIONAL_FILES)}
    entry = SegmentEntry("segment-000001", 1, 1, 1, 0, files, norm_max=0.5)
    manifest = Manifest(1, IndexSpec(3, "uint8", "l2"), 1.0, (entry,))
    assert {row["field"] for row in table_of("### Manifest")} == fields_of(manifest.as_dict())
    current = read_sealed(GOLDEN / "uint8-l2/index" / names.CURRENT)
    assert {row["field"] for row in table_of("### CURRENT")} == set(current)
    for heading, plan, name in (
        ("### plan.json, with codes", ReadPlan, "uint8-l2"),
        ("### plan.json, with codes on the SSD", VicinityPlan, "uint8-l2-codes-on-ssd"),
        ("### plan.json, without codes", ProbePlan, "int8-ip-without-codes"),
        ("### plan.json, with replicas", ReachPlan, "float32-l2-replicas"),
    ):
        written = set(read_sealed(GOLDEN / name / SEGMENT / names.PLAN))
        described = {row["field"]: row["meaning and invariant"] for row in table_of(heading)}
        assert set(described) == {field.name for field in dataclasses.fields(plan)}
        may_be_absent = {field for field, meaning in described.items() if meaning.startswith("where present")}
        assert set(described) - may_be_absent <= written <= set(described)
    assert f"the first {PAGES_FIRST} pages" in section_of("### plan.json, with codes")
    assert f"Of fewer than {MEASURE_RANK} pages" in section_of("### plan.json, with codes on the SSD")


def test_every_file_of_a_segment_may_be_listed_and_only_optional_ones_may_not():
    row = next(row for row in table_of("### Manifest") if row["field"] == "segments[].files")
    always, optional = row["meaning and invariant"].split("; ")
    assert set(re.findall(r"[a-z]+\.[a-z]+", always)) == set(names.SEGMENT_FILES)
    assert set(re.findall(r"[a-z]+\.[a-z]+", optional)) == set(names.OPTIONAL_FILES)
    more = {
        "uint8-l2": {names.CODES},
        "uint8-l2-codes-on-ssd": {names.CODES, names.VICINITIES},
        "int8-ip-without-codes": set(),
        "float16-cosine-raw": {names.CODES, names.RAW},
    }
    for name, optional in more.items():
        listed = set(read_current(GOLDEN / name / "index").segments[0].files)
        assert listed == set(names.SEGMENT_FILES) | optional


def test_every_file_of_an_index_is_in_the_picture_and_covered():
    picture = section_of("## The index folder")
    covered = [row["file"] for row in table_of("### What covers each byte")]
    files = [names.HEADS, names.CODES, names.VICINITIES, names.PAGES, names.RAW, names.PLAN, names.REPORT]
    assert set(files) == {*names.SEGMENT_FILES, *names.OPTIONAL_FILES}
    assert covered == [names.CURRENT, "manifest", *files, names.REPORT_PAGE]
    for name in files:
        assert f"{names.segment_name(1)}/{name}" in picture
    assert names.manifest_name(1) in picture
    assert names.BUILD_FOLDER + "/" in picture


def test_the_version_table_ends_with_the_version_that_is_written():
    versions = [int(row["version"]) for row in table_of("## Format versions")]
    assert versions == list(range(1, FORMAT_VERSION + 1))
    assert f"`FORMAT_VERSION` is {FORMAT_VERSION} " in TEXT
