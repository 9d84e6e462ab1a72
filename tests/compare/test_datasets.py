"""Each layout is found by its name; a truth that isn't this set's is refused, whatever it claims."""

from __future__ import annotations

import json

import numpy as np
import pytest

from annserve.compare.datasets import Files, dataset_names, locate_dataset
from annserve.compare.prepare import prepare
from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.vectors.flat import write_truth
from annserve.vectors.truth import exact_neighbours

N, NQ, DIM, DEPTH = 300, 12, 6, 20


@pytest.fixture
def vectors(rng):
    base = rng.normal(size=(N, DIM)).astype(np.float32)
    return base, rng.normal(size=(NQ, DIM)).astype(np.float32)


def truth_of(vectors, metric="l2", rows=N):
    return exact_neighbours(vectors[0][:rows], vectors[1], DEPTH, metric, threads=1)


def ready(name, folder, tmp_path, k=10, rows=None, **options):
    return prepare(name, locate_dataset(name, [folder], **options), tmp_path / "cache", k=k, rows=rows)


def write_folder(folder, vectors, truth=None):
    folder.mkdir(parents=True)
    np.save(folder / "base.f32.npy", vectors[0])
    np.save(folder / "queries.f32.npy", vectors[1])
    if truth is not None:
        np.save(folder / "gt.ids.npy", truth[0].astype(np.int32))
        np.save(folder / "gt.distances.npy", truth[1])


def test_a_folder_is_recognised_by_its_names(tmp_path, vectors):
    ids, distances = truth_of(vectors)
    write_folder(tmp_path / "mine", vectors, (ids, distances))
    found = ready("mine", tmp_path, tmp_path, metric="l2")
    assert (found.rows, found.dim, found.dtype, found.metric) == (N, DIM, "float32", "l2")
    assert np.array_equal(found.truth.ids, ids)
    assert np.array_equal(found.base, vectors[0])
    assert dataset_names([tmp_path]) == ["mine"]


def test_an_ann_benchmarks_file_says_its_metric(tmp_path, vectors):
    h5py = pytest.importorskip("h5py")
    ids, distances = truth_of(vectors, "cosine")
    with h5py.File(tmp_path / "glove.hdf5", "w") as file:
        file.attrs["distance"] = "angular"
        for name, array in zip(("train", "test", "neighbors", "distances"), (*vectors, ids.astype("i4"), distances)):
            file[name] = array
    found = ready("glove", tmp_path, tmp_path)
    assert found.metric == "cosine"
    assert np.array_equal(found.base, vectors[0])
    assert np.array_equal(found.truth.ids, ids)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_a_vector_db_bench_folder_names_rows_by_id(tmp_path, vectors, n_parts):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    ids, _ = truth_of(vectors, "cosine")
    labels = np.random.default_rng(1).permutation(N) + 1_000
    folder = tmp_path / "wiki"
    folder.mkdir()

    def table(numbers, rows):
        return pa.table({"id": numbers, "emb": list(rows)})

    for part, numbers in enumerate(np.array_split(np.arange(N), n_parts)):
        name = "shuffle_train" + (f"-{part:02}-of-{n_parts:02}" if n_parts > 1 else "")
        pq.write_table(table(labels[numbers], vectors[0][numbers]), folder / f"{name}.parquet")
    pq.write_table(table(np.arange(NQ), vectors[1]), folder / "test.parquet")
    named = pa.table({"id": np.arange(NQ), "neighbors_id": [row.astype(np.int32) for row in labels[ids]]})
    pq.write_table(named, folder / "neighbors.parquet")
    found = ready("wiki", tmp_path, tmp_path)
    assert found.metric == "cosine"
    assert np.array_equal(found.base, vectors[0])
    assert np.array_equal(found.truth.ids, ids)
    if n_parts > 1:
        (folder / "shuffle_train-01-of-03.parquet").unlink()
        with pytest.raises(NotFoundError, match="should be 3 files, but there are 2"):
            ready("wiki", tmp_path, tmp_path)


@pytest.mark.parametrize("crop", [False, True])
def test_a_big_ann_set_is_found_at_its_size(tmp_path, monkeypatch, vectors, crop):
    from annserve.compare import datasets

    one = datasets.BIG_ANN["deep"]
    monkeypatch.setattr(datasets, "BIG_ANN", {"deep": one})
    folder = tmp_path / one.folder
    folder.mkdir()
    rows = 200

    def write(path, array):
        path.write_bytes(np.array(array.shape, "<u4").tobytes() + array.tobytes())

    write(folder / (f"{one.base}.crop_nb_10000000" if crop else one.base), vectors[0][: rows if crop else N])
    write(folder / one.queries, vectors[1])
    write_truth(folder / one.truths[10], *truth_of(vectors, rows=rows))
    files = locate_dataset("deep-10M", [tmp_path])
    assert files.rows == 10_000_000
    assert files.truth == str(folder / "deep-10M")
    small = Files(files.base, files.queries, files.truth, files.metric, rows=rows)
    found = prepare("deep-10M", small, tmp_path / "cache", k=10)
    assert found.rows == rows
    assert np.array_equal(found.base, vectors[0][:rows])
    assert found.truth.distances is not None
    assert "deep-10M" in dataset_names([tmp_path])


def test_the_bundled_set_needs_no_folder(tmp_path):
    found = prepare("stdlib-minilm", locate_dataset("stdlib-minilm", []), tmp_path, k=10)
    assert (found.rows, found.metric, found.truth.depth) == (10_000, "cosine", 100)


def test_a_generated_set_is_made_once(tmp_path):
    options = {"count": 400, "dim": 5, "intrinsic_dim": 4, "queries": 10, "k": 20, "clusters": 5, "metric": "ip"}
    first = locate_dataset("made", [], generated=options, cache=tmp_path)
    stamp = (tmp_path / "generated").stat().st_mtime_ns
    assert locate_dataset("made", [], generated=options, cache=tmp_path) == first
    assert (tmp_path / "generated").stat().st_mtime_ns == stamp
    assert prepare("made", first, tmp_path, k=10).metric == "ip"
    with pytest.raises(InputError, match="generate"):
        locate_dataset("made", [], generated={"count": 3, "dim": 2, "depth": 9}, cache=tmp_path)


def test_the_truth_of_a_part_is_computed_and_kept(tmp_path, vectors):
    write_folder(tmp_path / "mine", vectors, truth_of(vectors))
    half = ready("mine", tmp_path, tmp_path, rows=150, metric="l2")
    ids, _ = truth_of(vectors, rows=150)
    assert np.array_equal(half.truth.ids[:, :DEPTH], ids)
    (kept,) = (tmp_path / "cache/truths").iterdir()
    stamp = kept.stat().st_mtime_ns
    ready("mine", tmp_path, tmp_path, rows=150, metric="l2")
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda vectors: (truth_of(vectors)[0][:, :5], None), "lists 5 neighbours a query, but k is 10"),
        (lambda vectors: (truth_of(vectors)[0][:-1], None), "has 11 rows, but there are 12 queries"),
        (lambda vectors: (truth_of(vectors, "ip")[0], None), "nearer under l2"),
        (lambda vectors: (truth_of(vectors, rows=150)[0], None), "nearer under l2"),
        (lambda vectors: (truth_of(vectors)[0] + N, None), "the base has 300 rows"),
    ],
    ids=["k too small", "other queries", "other metric", "part of the base", "beyond the base"],
)
def test_a_truth_of_something_else_is_refused(tmp_path, vectors, spoil, says):
    ids, _ = spoil(vectors)
    write_folder(tmp_path / "mine", vectors, (ids, np.zeros_like(ids, np.float32)))
    (tmp_path / "mine/gt.distances.npy").unlink()
    with pytest.raises(InputError, match=says):
        ready("mine", tmp_path, tmp_path, metric="l2")


def test_a_metric_that_nobody_says_is_asked_for(tmp_path, vectors):
    write_folder(tmp_path / "mine", vectors)
    with pytest.raises(InputError, match="doesn't say its metric"):
        ready("mine", tmp_path, tmp_path)
    (tmp_path / "mine/synthetic.json").write_text(json.dumps({"metric": "ip"}))
    assert ready("mine", tmp_path, tmp_path).metric == "ip"


def test_some_queries_are_taken_evenly_with_their_truth(tmp_path, vectors):
    write_folder(tmp_path / "mine", vectors, truth_of(vectors))
    files = locate_dataset("mine", [tmp_path], metric="l2")
    some = prepare("mine", files, tmp_path, k=10, n_queries=5)
    chosen = [0, 2, 4, 7, 9]
    assert np.array_equal(some.queries, vectors[1][chosen])
    assert np.array_equal(some.truth.ids, truth_of(vectors)[0][chosen])
    with pytest.raises(InputError, match="has 12 queries, but 13"):
        prepare("mine", files, tmp_path, k=10, n_queries=13)


def test_what_is_no_set_is_named(tmp_path, vectors):
    with pytest.raises(NotFoundError, match=r"no data set 'x' in .*There are: none"):
        locate_dataset("x", [tmp_path])
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="isn't a data set"):
        locate_dataset("x", [tmp_path])
    with pytest.raises(InputError, match="metric 'l3'"):
        locate_dataset("x", [tmp_path], metric="l3")
    write_folder(tmp_path / "mine", vectors)
    with pytest.raises(InputError, match="300 rows, but 301"):
        ready("mine", tmp_path, tmp_path, rows=301, metric="l2")


def test_a_crop_cut_short_is_refused(tmp_path):
    path = tmp_path / "base.1B.u8bin.crop_nb_10000000"
    path.write_bytes(np.array([5, 4], "<u4").tobytes() + bytes(19))
    np.save(tmp_path / "q.npy", np.zeros((1, 4), np.uint8))
    with pytest.raises(CorruptionError, match="which take 28 bytes, but it has 27"):
        prepare("x", Files(str(path), str(tmp_path / "q.npy"), None, "l2"), tmp_path, k=1)
