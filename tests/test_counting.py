"""Counting n-grams: against dictionaries, and look-ups that tell what is unseen from what cannot be."""

import numpy as np
from arbook import counting
from arbook.counting import ABSENT, UNSEEN
from arbook.ngram import NGramLM
from hypothesis import given
from hypothesis import strategies as st
from test_ngram import EOS, START, Reference, fitted, streams


@given(streams, st.integers(1, 6), st.booleans())
def test_counts_are_those_of_a_dictionary(case, order, with_end):
    """Keys spell the n-grams, whatever the order; suffixes and continuations are those of the definition."""
    V, stream = case
    eos = V - 1 if with_end else None
    reference = Reference(stream, order, V, "mle", eos)
    levels = counting.count_ngrams(stream, order, vocab_size=V, eos_id=eos)
    assert len(levels) == order and levels[0].counts.sum() == len(stream)
    spelled = [(w,) for w in range(V)] + [(START,)]
    for n, level in enumerate(levels, start=1):
        shorter, below = spelled, {gram: i for i, gram in enumerate(spelled)}
        if n > 1:
            spelled = [(*shorter[key // V], key % V) for key in level.keys.tolist()]
            assert level.contexts.tolist() == (level.keys // V).tolist()
            assert level.n_contexts == len(shorter)
            assert level.suffixes.tolist() == [below[gram[1:]] for gram in spelled]
            assert dict(zip(spelled, level.counts.tolist(), strict=True)) == reference.counts[n]
        assert (np.diff(level.keys) > 0).all() and (level.continuations <= level.counts).all()


@given(st.lists(st.integers(0, 2**62), max_size=50))
def test_ranks_are_those_of_unique(values):
    """The packed sort, and the other one where key and position do not fit into 64 bits."""
    for keys in (
        np.array(values, dtype=np.int64),
        np.array([v % 7 for v in values], dtype=np.int64),
    ):
        distinct, ranks, firsts = counting.rank_keys(keys)
        expected, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        assert np.array_equal(distinct, expected) and np.array_equal(ranks, inverse.ravel())
        assert np.array_equal(firsts, first)
        found = counting.find_keys(distinct, np.append(keys, -5))
        assert np.array_equal(found, np.append(inverse.ravel(), UNSEEN))


def test_keys_do_not_overflow_where_digits_would():
    """A million ids and order 8 would need 160 bits."""
    V, rng = 1_000_000, np.random.default_rng(0)
    phrase = rng.integers(V - 50, V, size=60)
    model = NGramLM(8, vocab_size=V).fit(np.tile(phrase, 3))
    levels = model.levels
    assert all((np.diff(level.keys) > 0).all() for level in levels)
    assert max(level.keys[-1] for level in levels) < 180 * V + V**2
    again = model.sentence_log_prob(np.tile(phrase, 2))
    assert np.exp(again[10:]).min() > 0.2


def test_contexts_without_an_ngram_are_told_apart():
    levels = fitted(4).levels
    ids = np.array([[0, 1, 2, 3, 6, 6]])
    third = list(counting.follow(levels, ids, 7, EOS))[1]
    assert third[3][0, 0] == ABSENT and third[3][0, 4] == ABSENT and third[3][0, 5] == UNSEEN
    assert third[3][0, 2] >= 0
