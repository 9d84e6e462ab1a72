"""Expected recall: the least that delivers a target, on average and among even and uneven queries alike."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.calibrate.expected_recall import Curves, ends_of
from annserve.codes.rate import Rating

M, WIDTH = 4_000, 40


def some_queries(rng, k, bias=0.0, pages=(2, 30), m=M):
    """Give ratings of queries whose hits lie on few pages (uneven) to many (even), and the hits themselves.

    A page's worth is the chance of each of its hits, less `bias`.
    """
    evenness = rng.random(m)
    spread = pages[0] + evenness * (pages[1] - pages[0])
    worths = np.exp(-np.arange(WIDTH) / spread[:, None] * 3)
    worths *= k / worths.sum(axis=1, keepdims=True)
    hits = rng.binomial(k, np.clip(worths * (1 - bias) / k, 0, 1))
    order = rng.permuted(np.tile(np.arange(WIDTH), (m, 1)), axis=1)
    distances = np.ones((m, WIDTH), np.float32)
    distances[:, 0] = evenness
    nothing = np.zeros(m, np.int64)
    sizes = np.full(m, WIDTH)
    worths = np.take_along_axis(worths, order, axis=1).astype(np.float32)
    rating = Rating(order.astype(np.uint32), worths, distances, sizes, worths[:, 0], worths[:, 0], nothing, nothing)
    return rating, np.take_along_axis(hits, order, axis=1)


def halves(rating, hits):
    """Cut into two blocks."""
    cut = len(hits) // 2 + 3
    fields = vars(rating).values()
    blocks = [Rating(*(field[part] for field in fields)) for part in (slice(0, cut), slice(cut, None))]
    return blocks, [hits[:cut], hits[cut:]]


def recall_of(rating, hits, k, ends, values):
    """Read page by page, as the engine does."""
    recall = np.empty(len(hits))
    wanted = k * np.interp(rating.distances[:, 0], ends, values)
    for i in range(len(hits)):
        promised = found = 0.0
        for page in np.argsort(-rating.worths[i], kind="stable"):
            promised += rating.worths[i, page]
            found += hits[i, page]
            if promised >= wanted[i]:
                break
        recall[i] = found / k
    return recall


@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize("target", [0.8, 0.95])
@pytest.mark.parametrize("bias", [0.0, 0.03])
def test_even_and_uneven_queries_get_the_target_whatever_their_pages_promise(rng, k, target, bias):
    """Counted on other queries than those fitted to."""
    rating, hits = some_queries(rng, k, bias)
    blocks, hit_blocks = halves(rating, hits)
    ends = ends_of(blocks)
    np.testing.assert_allclose(ends, [0.05, 0.95], atol=0.02)
    values = Curves.of(blocks, hit_blocks, k).fit(ends, target)
    fresh, fresh_hits = some_queries(rng, k, bias)
    recall = recall_of(fresh, fresh_hits, k, ends, values)
    evenness = fresh.distances[:, 0]
    assert recall.mean() == pytest.approx(target, abs=0.015)
    # Amid the range a straight line misses by a little.
    for part in (evenness < 0.3, evenness > 0.7):
        assert recall[part].mean() == pytest.approx(target, abs=0.03)


def test_one_expected_recall_for_all_would_not_do(rng):
    """The test above has something to find: without evenness, uneven queries get far more than even ones."""
    rating, hits = some_queries(rng, 5)
    curves = Curves.of([rating], [hits], 5)
    one = np.array([0.5])
    recall = recall_of(rating, hits, 5, one, curves.fit(one, 0.9))
    evenness = rating.distances[:, 0]
    assert recall[evenness < 0.1].mean() > recall[evenness > 0.5].mean() + 0.02


def test_a_margin_is_one_standard_error(rng):
    rating, hits = some_queries(rng, 10)
    curves, ends = Curves.of([rating], [hits], 10), np.array([0.1, 0.9])
    plain = recall_of(rating, hits, 10, ends, curves.fit(ends, 0.9))
    more = recall_of(rating, hits, 10, ends, curves.fit(ends, 0.9, margin_queries=100))
    assert more.mean() - plain.mean() == pytest.approx(plain.std() / 10, abs=0.002)


def test_a_target_that_no_page_can_meet_takes_all_that_matters_and_no_more(rng):
    rating, hits = some_queries(rng, 10, bias=0.3)
    values = Curves.of([rating], [hits], 10).fit(np.array([0.1, 0.9]), 0.95)
    assert (values == 0.998).all()


def test_queries_that_are_all_alike_have_one_expected_recall(rng):
    rating, hits = some_queries(rng, 10)
    rating.distances[:, 0] = 0.7
    ends = ends_of([rating])
    assert ends == pytest.approx([0.7])
    assert Curves.of([rating], [hits], 10).fit(ends, 0.9).shape == (1,)


@pytest.mark.parametrize("least", [0.0, 0.85])
def test_one_limit_on_worth_gives_the_target_and_takes_fewer_pages(rng, least):
    """Pages counted by hand; none stops before its pages promise `least`."""
    rating, hits = some_queries(rng, 10)
    curves, ends = Curves.of([rating], [hits], 10), np.array([0.1, 0.9])
    enough = curves.fit_worth(ends, np.full(2, least), 0.9)
    order = np.argsort(-rating.worths, axis=1, kind="stable")
    worths, found = (np.take_along_axis(of, order, axis=1) for of in (rating.worths, hits))
    promised = np.cumsum(worths, axis=1)

    def counted(taken):
        taken = np.maximum(taken, 1)
        return np.cumsum(found, axis=1)[np.arange(M), taken - 1].mean() / 10, taken.mean()

    recall, pages = counted(np.maximum((worths > enough).sum(axis=1), (promised < 10 * least).sum(axis=1) + 1))
    plain, plain_pages = counted((promised / 10 < (curves_values := curves.fit(np.ones(1), 0.9))).sum(axis=1) + 1)
    assert curves_values.shape == (1,)
    assert recall == pytest.approx(0.9, abs=0.005)
    assert plain == pytest.approx(0.9, abs=0.005)
    assert pages < plain_pages
