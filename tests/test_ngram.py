"""N-gram models: formulas in exact fractions, other programs' figures, known sources, and every promised error."""

import copy
import math
import os
import pickle
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from arbook import conformance, data, ngram, objective
from arbook.guards import NotFittedError
from arbook.ngram import SMOOTHING, UNSEEN, NGramLM
from arbook.tokens import CharTokenizer, WordTokenizer
from conftest import ROOT, count_calls, unavailable
from hypothesis import given, settings
from hypothesis import strategies as st

START = "start"
SENTENCES = ["the cat sat", "the dog sat", "a cat sat", "the cat ran"]
WORDS = ["the", "cat", "sat", "</s>", "dog", "a", "ran"]
EOS = WORDS.index("</s>")
STREAM = [WORDS.index(w) for s in SENTENCES for w in [*s.split(), "</s>"]]

streams = st.integers(1, 5).flatmap(
    lambda v: st.tuples(st.just(v), st.lists(st.integers(0, v - 1), min_size=1, max_size=40))
)


def load(name):
    try:
        return data.splits(name)
    except data.DataNotFoundError:
        unavailable(f"{name} is not on this machine; set ARBOOK_DATA to its folder")


@pytest.fixture(scope="module")
def ptb():
    """Training ids, test ids, V, the id of the end, and the words of Penn Treebank."""
    parts = load("ptb")
    train, test = (
        part.replace("\n", " <eos> ").replace("<unk>", "[unk]")
        for part in (parts.train, parts.test)
    )
    words = WordTokenizer.train(train, split="whitespace", unk=None)
    ids = [words.encode_array(text) for text in (train, test)]
    return *ids, words.vocab_size, words.vocab.id("<eos>"), words.vocab


# --- an independent reference: dictionaries of tuples, exact fractions, straight from the formulas -------------------


def histories(stream, eos):
    """Yield what stands before each token since the start, oldest first, and the token."""
    history = [] if eos is None else [START]
    for token in stream:
        yield tuple(history), token
        history = [START] if token == eos else [*history, token]


class Reference:
    """The four estimators, one probability at a time."""

    def __init__(self, stream, order, V, smoothing, eos=None, k=Fraction(1)):
        self.order, self.V, self.smoothing, self.k = order, V, smoothing, k
        occurrences, left, edge = defaultdict(Counter), defaultdict(set), Counter()
        for history, token in histories(stream, eos):
            for n in range(1, min(order, len(history) + 1) + 1):
                gram = (*history[len(history) - n + 1 :], token)
                occurrences[n][gram] += 1
                if len(history) >= n:
                    left[gram].add(history[len(history) - n])
                else:
                    edge[gram] += 1
        self.counts = {n: dict(occurrences[n]) for n in range(1, order + 1)}
        if "kneser-ney" in smoothing:
            for n in range(1, order):
                self.counts[n] = {gram: len(left[gram]) + edge[gram] for gram in occurrences[n]}
        self.discounts = {n: self.estimate(Counter(c.values())) for n, c in self.counts.items()}

    def estimate(self, n):
        if self.smoothing == "kneser-ney":
            D = Fraction(n[1], n[1] + 2 * n[2]) if n[1] and n[2] else Fraction(1, 2)
            return D, D, D
        fallback = Fraction(1, 2), Fraction(1), Fraction(3, 2)
        if not (n[1] and n[2] and n[3]):
            return fallback
        Y = Fraction(n[1], n[1] + 2 * n[2])
        D = tuple(r - (r + 1) * Y * Fraction(n[r + 1], n[r]) for r in (1, 2, 3))
        return D if all(0 < d <= r for r, d in enumerate(D, 1)) else fallback

    def probability(self, token, history):
        return self.mix(token, history[max(len(history) - self.order + 1, 0) :])

    def mix(self, token, context):
        n = len(context) + 1
        row = {gram[-1]: c for gram, c in self.counts[n].items() if gram[:-1] == context}
        total, count = sum(row.values()), row.get(token, 0)
        if self.smoothing == "add-k":
            return Fraction(count + self.k, total + self.k * self.V)
        if self.smoothing == "mle":
            return Fraction(count, total) if total else self.mix(token, context[1:])
        lower = self.mix(token, context[1:]) if context else Fraction(1, self.V)
        if not total:
            return lower
        D = (0, *self.discounts[n])
        gamma = Fraction(sum(D[min(c, 3)] for c in row.values()), total)
        return Fraction(count - D[min(count, 3)], total) + gamma * lower


@pytest.mark.parametrize("smoothing", SMOOTHING)
@settings(max_examples=60)
@given(case=streams, other=st.lists(st.integers(0, 4), min_size=1, max_size=12), draw=st.data())
def test_probabilities_are_those_of_the_formulas(smoothing, case, other, draw):
    """S65, S94b: every token of any text, in float64 against exact fractions."""
    V, stream = case
    order = draw.draw(st.integers(1, 5))
    eos = draw.draw(st.none() | st.integers(0, V - 1))
    k = draw.draw(st.sampled_from([Fraction(1), Fraction(1, 8)]))
    other = [i % V for i in other]
    reference = Reference(stream, order, V, smoothing, eos, k)
    model = NGramLM(order, vocab_size=V, smoothing=smoothing, k=float(k), eos_id=eos).fit(stream)
    found = model.sentence_log_prob(other)
    assert found.shape == (len(other),) and found.dtype == np.float64
    expected = [float(reference.probability(w, h)) for h, w in histories(other, eos)]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12, atol=1e-300)
    if model.discounts_ is not None:
        exact = [[float(d) for d in reference.discounts[n]] for n in range(1, order + 1)]
        np.testing.assert_allclose(model.discounts_, exact, rtol=1e-12)


def test_kneser_ney_by_hand():
    """S94b: the four sentences of the chapter; 10 different pairs, 6 of them once and 2 twice."""
    model = NGramLM(2, vocab_size=7, smoothing="kneser-ney", eos_id=EOS).fit(STREAM)
    assert model.discounts_ == pytest.approx(np.array([[0.4] * 3, [0.6] * 3]), abs=1e-15)
    the_cat_sat = np.exp(model.sentence_log_prob([0, 1, 2]))
    one = (1 - 0.4) / 10 + 0.4 * 7 / 10 / 7  # a word with one neighbour; 10 pairs, 7 words
    two = (2 - 0.4) / 10 + 0.4 * 7 / 10 / 7
    the = (3 - 0.6) / 4 + 0.6 * 2 / 4 * one  # 3 of 4 sentences begin with it; they begin in 2 ways
    cat = (2 - 0.6) / 3 + 0.6 * 2 / 3 * two
    sat = (2 - 0.6) / 3 + 0.6 * 2 / 3 * two
    assert the_cat_sat == pytest.approx([the, cat, sat], abs=1e-15)


def test_discounts_by_hand():
    """S94b: Chen and Goodman's equation 26, and the fallback where a count of counts is 0."""
    counts = np.repeat([1, 2, 3, 4, 7], [10, 4, 3, 2, 5])
    Y = 10 / 18
    expected = [1 - 2 * Y * 4 / 10, 2 - 3 * Y * 3 / 4, 3 - 4 * Y * 2 / 3]
    assert ngram.modified_discounts(counts) == pytest.approx(np.array(expected), abs=1e-15)
    assert ngram.absolute_discount(counts) == pytest.approx(np.full(3, Y), abs=1e-15)
    assert expected[0] == pytest.approx(Y)
    for missing in (1, 2, 3):
        assert ngram.modified_discounts(counts[counts != missing]).tolist() == [0.5, 1, 1.5]
    assert ngram.modified_discounts(np.repeat([1, 2, 3], [1, 1, 50])).tolist() == [0.5, 1, 1.5]
    assert ngram.absolute_discount(counts[counts != 2]).tolist() == [0.5] * 3
    assert ngram.absolute_discount(np.zeros(0, np.int64)).tolist() == [0.5] * 3


# --- counting ---------------------------------------------------------------------------------------------------------


def test_the_bigram_of_counts_is_the_least_squares_fit_of_one_hot_tokens():
    """A8: chapters 4 and 5 estimate the same model, to 1e-12."""
    stream = np.random.default_rng(1).integers(9, size=5_000)
    model = NGramLM(2, vocab_size=9, smoothing="mle").fit(stream)
    table = np.exp(model(torch.arange(9)[:, None])[:, 0].numpy())
    assert np.abs(objective.fit_one_hot(stream, 1, 9)[0] - table).max() < 1e-12


def test_mle_is_the_frequency_and_nothing_is_more_likely():
    """S65: a coin is a unigram model; and no table of pairs beats relative frequencies."""
    throws = [1, 1, 0, 1, 1, 0, 1, 1, 0, 1]
    coin = NGramLM(1, vocab_size=2, smoothing="mle").fit(throws)
    assert np.exp(coin.sentence_log_prob([0, 1])) == pytest.approx([0.3, 0.7], abs=1e-15)
    rng = np.random.default_rng(0)
    stream = rng.integers(3, size=200)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (stream[:-1], stream[1:]), 1)
    model = NGramLM(2, vocab_size=3, smoothing="mle").fit(stream)
    table = model(torch.arange(3)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(np.exp(table), pairs / pairs.sum(axis=1, keepdims=True), rtol=1e-14)
    best = (pairs * table).sum()
    for p in 0.95 * np.exp(table) + 0.05 * rng.dirichlet(np.ones(3), size=(500, 3)):
        assert (pairs * np.log(p)).sum() < best


def test_kneser_ney_alone_keeps_the_frequencies():
    """The constraint from which continuation counts follow: averaged over contexts, words keep their frequencies."""
    stream = np.random.default_rng(1).zipf(1.5, size=3_000) % 30
    ones, pairs = ngram.count_ngrams(stream, 2, vocab_size=30, eos_id=0)
    D = ngram.absolute_discount(pairs.continuations)[0]
    q = ones.continuations / ones.continuations.sum()
    own = np.bincount(pairs.keys % 30, weights=pairs.counts - D, minlength=30)
    np.testing.assert_allclose(own + q * D * len(pairs.keys), ones.counts, rtol=1e-12)


# --- the interface ----------------------------------------------------------------------------------------------------


def every_model(V=6, order=4, n=400):
    stream = np.random.default_rng(2).zipf(1.6, size=n) % V
    for smoothing in SMOOTHING:
        for eos in (None, 0):
            yield NGramLM(order, vocab_size=V, smoothing=smoothing, k=0.3, eos_id=eos).fit(stream)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_models_keep_the_promises_of_the_interface(order):
    """S1: parallel == incremental, causality, sums, batches; at every order and smoothing, with and without ends."""
    for model in every_model(order=order):
        assert max(conformance.check_conformance(model).values()) < 1e-12
        assert model.context_length is None and not list(model.parameters())


def test_scores_are_the_same_numbers_by_every_way():
    for model in every_model():
        ids = torch.from_numpy(np.random.default_rng(3).integers(6, size=(3, 20)))
        logits, scores = model(ids), model.log_prob(ids)
        assert logits.shape == (3, 20, 6) and logits.dtype == torch.float64
        assert torch.equal(logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0], scores)
        for row, expected in zip(ids, scores, strict=True):
            assert np.array_equal(model.sentence_log_prob(row)[1:], expected.numpy())
        targets = ids.roll(-1, 1).masked_fill(ids == 3, -100)
        for reduction in ("mean", "sum", "none"):
            loss = model.loss(ids, targets, reduction)
            dense = objective.autoregressive_loss(logits, targets, reduction)
            torch.testing.assert_close(loss, dense, rtol=1e-12, atol=1e-12)


def test_the_state_is_the_last_tokens_only():
    for model in every_model(order=4):
        _, state = model.step(torch.zeros(2, 9, dtype=torch.int64), model.init_state(2))
        assert state.shape == (2, 3)
    unigram = NGramLM(1, vocab_size=3).fit([0, 1, 2])
    assert unigram.step(torch.zeros(2, 5, dtype=torch.int64), unigram.init_state(2))[1].shape == (
        2,
        0,
    )


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (None, TypeError, "token ids, as init_state returns it, got NoneType"),
        (torch.zeros(2, 2), TypeError, "got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.bool), TypeError, "got torch.bool"),
        (torch.zeros(3, 2, dtype=torch.int64), ValueError, r"shape \(2, m\).*another batch"),
        (torch.zeros(2, 3, dtype=torch.int64), ValueError, "m at most 2, got .*another model"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"got \(2,\)"),
        (torch.full((2, 2), 7), ValueError, r"state\[0, 0\] is 7"),
        (torch.full((2, 1), -1), ValueError, "is -1"),  # the mark of an absent context, inside
    ],
)
def test_states_that_are_none_are_refused(state, error, message):
    """An id out of range would become the key of another n-gram, and a wrong number."""
    with pytest.raises(error, match=message):
        fitted().step(torch.zeros(2, 4, dtype=torch.int64), state)


def test_states_and_targets_may_be_of_any_integer_type():
    """In 8 bits -100, the mark of an ignored target, is 156, which is a token."""
    model = NGramLM(3, vocab_size=200).fit(np.arange(200).repeat(2))
    ids, targets = torch.tensor([[3, 9, 156]]), torch.tensor([[9, 156, 156]])
    _, state = model.step(ids, model.init_state(1))
    expected = model.step(ids, state)[0]
    assert torch.equal(model.step(ids.to(torch.uint8), state.to(torch.uint8))[0], expected)
    for reduction in ("none", "sum", "mean"):
        loss = model.loss(ids, targets, reduction)
        assert torch.equal(model.loss(ids, targets.to(torch.uint8), reduction), loss)
        assert (loss > 0).all()


def test_what_is_added_may_be_any_real_number_and_is_checked_everywhere():
    ids = torch.tensor([STREAM])
    models = [
        NGramLM(2, vocab_size=7, smoothing="add-k", k=k).fit(STREAM)
        for k in (0.5, np.float32(0.5), Fraction(1, 2))
    ]
    assert all(torch.equal(model(ids), models[0](ids)) for model in models)
    with pytest.raises(ValueError, match="k must be a positive finite number, got 0"):
        ngram.add_k(ngram.count_ngrams(STREAM, 2, vocab_size=7), 7, 0)


def test_models_survive_copies_and_can_be_fitted_side_by_side():
    stream = np.random.default_rng(0).integers(0, 30, 2_000)
    expected = NGramLM(4, vocab_size=30).fit(stream).sentence_log_prob(stream)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: NGramLM(4, vocab_size=30).fit(stream), range(4)))
    for model in (*models, copy.deepcopy(models[0]), pickle.loads(pickle.dumps(models[0]))):
        assert np.array_equal(model.sentence_log_prob(stream), expected)


def test_lists_arrays_and_tensors_are_the_same_text():
    expected = NGramLM(3, vocab_size=7, eos_id=EOS).fit(STREAM).sentence_log_prob(STREAM)
    for make in (np.array, torch.tensor, tuple, lambda x: np.array(x, dtype=np.uint8)):
        model = NGramLM(3, vocab_size=7, eos_id=EOS).fit(make(STREAM))
        assert np.array_equal(model.sentence_log_prob(make(STREAM)), expected)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_probabilities_sum_to_one_after_any_context(smoothing):
    """S94b: to 1e-10, in seen and unseen contexts; also what no n-gram holds."""
    rng = np.random.default_rng(4)
    stream = rng.zipf(1.3, size=20_000) % 500
    for eos in (None, 0):
        model = NGramLM(4, vocab_size=500, smoothing=smoothing, k=0.01, eos_id=eos).fit(stream)
        seen = np.lib.stride_tricks.sliding_window_view(stream, 5)[::250]
        contexts = torch.from_numpy(np.concatenate([seen, rng.integers(500, size=seen.shape)]))
        total = model(contexts).exp().sum(-1)
        assert (total - 1).abs().max() < 1e-10
        found = [grams for *_, grams in ngram.follow(model.levels, contexts.numpy(), 500, eos)]
        assert (found[-1] >= 0).any() and (found[-1] == UNSEEN).any()


def test_unseen_contexts_follow_the_documented_rule():
    """Maximum likelihood takes the longest end of the context that occurred; add-k is uniform there."""
    stream = [0, 1, 0, 2, 0, 1]
    mle = NGramLM(3, vocab_size=4, smoothing="mle").fit(stream)
    for unseen in ([3, 0], [0, 0], [1, 3, 0]):
        assert torch.equal(mle(torch.tensor([unseen]))[:, -1], mle(torch.tensor([[0]]))[:, 0])
    assert mle.sentence_log_prob([0, 0])[1] == -np.inf
    assert mle.sentence_log_prob([3])[0] == -np.inf
    add = NGramLM(3, vocab_size=4, smoothing="add-k").fit(stream)
    assert add(torch.tensor([[3, 0]]))[0, 1].exp() == pytest.approx(np.full(4, 0.25), abs=1e-15)


def test_no_ngram_crosses_the_end_of_a_sentence():
    """The end is predicted once per sentence, the start never; order of sentences does not matter."""
    ends = [i for i, token in enumerate(STREAM) if token == EOS]
    sentences = [STREAM[a + 1 : b + 1] for a, b in zip([-1, *ends], ends, strict=False)]
    for smoothing in SMOOTHING:
        model = NGramLM(3, vocab_size=7, smoothing=smoothing, eos_id=EOS).fit(STREAM)
        apart = np.concatenate([model.sentence_log_prob(sentence) for sentence in sentences])
        assert np.array_equal(model.sentence_log_prob(STREAM), apart)
        turned = [token for sentence in sentences[::-1] for token in sentence]
        other = NGramLM(3, vocab_size=7, smoothing=smoothing, eos_id=EOS).fit(turned)
        np.testing.assert_allclose(other.sentence_log_prob(STREAM), apart, rtol=1e-13)


def test_orders_beyond_the_length_of_the_text_add_nothing():
    for smoothing in SMOOTHING:
        for eos in (None, 1):
            short, long = (
                NGramLM(n, vocab_size=2, smoothing=smoothing, eos_id=eos).fit([0]) for n in (3, 6)
            )
            assert short.sentence_log_prob([0]) == pytest.approx(long.sentence_log_prob([0]))
            assert max(conformance.check_conformance(long).values()) < 1e-12


# --- figures of other programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("smoothing", "order", "perplexity"),
    [
        ("mle", 1, 639.3008),
        ("modified-kneser-ney", 2, 185.7049),
        ("modified-kneser-ney", 3, 148.2815),
        ("modified-kneser-ney", 4, 142.7156),
        ("modified-kneser-ney", 5, 141.1862),
        ("kneser-ney", 3, 150.602),
        ("kneser-ney", 5, 143.512),
    ],
)
def test_penn_treebank_has_kenlms_perplexities(ptb, smoothing, order, perplexity):
    """S94a, S94b, E3, E4: the modified ones are KenLM's own output, to 1e-4 (Mikolov's thesis: 148.3 and 141.2)."""
    train, test, V, eos, _ = ptb
    assert (len(train), len(test), V) == (929_589, 82_430, 10_000)
    model = NGramLM(order, vocab_size=V, smoothing=smoothing, eos_id=eos).fit(train)
    scores = model.sentence_log_prob(test)
    assert objective.perplexity(-scores) == pytest.approx(perplexity, rel=1e-5)


def test_discounts_of_penn_treebank_are_kenlms(ptb):
    """As `lmplz -o 5` prints them. It miscounts the last single word, so the first row agrees to 0.003 only."""
    train, _, V, eos, _ = ptb
    found = NGramLM(5, vocab_size=V, eos_id=eos).fit(train).discounts_
    kenlm = [
        [0.25656, 0.82888, 1.26492],
        [0.727802, 1.09876, 1.4713],
        [0.868879, 1.25462, 1.44822],
        [0.942828, 1.38314, 1.43173],
        [0.959671, 1.3879, 1.24171],
    ]
    np.testing.assert_allclose(found[1:], kenlm[1:], atol=1e-5)
    np.testing.assert_allclose(found[0], kenlm[0], atol=3e-3)


def test_bits_per_character_are_not_the_logarithm_of_a_word_perplexity(ptb):
    """S95, E2."""
    train, test, V, eos, _ = ptb
    scores = NGramLM(3, vocab_size=V, eos_id=eos).fit(train).sentence_log_prob(test)
    bits = -scores.sum() / np.log(2)
    assert bits / len(test) == pytest.approx(7.212, abs=5e-4)
    assert bits / len(load("ptb").test) == pytest.approx(1.3213, abs=5e-5)


def test_distributions_over_ten_thousand_words_sum_to_one(ptb):
    train, test, V, eos, _ = ptb
    model = NGramLM(5, vocab_size=V, eos_id=eos).fit(train)
    ids = torch.from_numpy(test[:200].reshape(10, 20))
    assert (model(ids).exp().sum(-1) - 1).abs().max() < 1e-10
    logits, state = model.step(ids[:1], model.init_state(1))
    sizes = set()
    for _ in range(50):
        logits, state = model.step(logits[:, -1].argmax(-1)[:, None], state)
        sizes.add(tuple(state.shape))
    assert sizes == {(1, 4)}  # a step reads the context, however much came before it


def test_characters_of_tiny_shakespeare_have_the_loss_to_beat():
    """Modified Kneser-Ney of order 7: 1.5165 nats on the last tenth, and no other order is better."""
    parts = load("tinyshakespeare")
    chars = CharTokenizer.train(parts.train + parts.valid)
    train, valid = map(chars.encode_array, (parts.train, parts.valid))
    loss = {
        n: -NGramLM(n, vocab_size=65).fit(train).sentence_log_prob(valid).mean() for n in (6, 7, 8)
    }
    assert loss[7] == pytest.approx(1.5165, abs=5e-5) and loss[7] < min(loss[6], loss[8])


# --- NLTK as a peer ---------------------------------------------------------------------------------------------------


def nltk_fit(model, sentences):
    from nltk.lm.preprocessing import padded_everygram_pipeline

    grams, vocabulary = padded_everygram_pipeline(model.order, sentences)
    model.fit(grams, vocabulary)
    return model


def nltk_case(rng, n=60):
    """Sentences as lists of words, as one stream of ids, and the size that NLTK's vocabulary will have."""
    sentences = [[f"w{i}" for i in rng.integers(8, size=rng.integers(1, 7))] for _ in range(n)]
    stream = [i for s in sentences for i in [*(int(word[1:]) for word in s), 8]]
    return sentences, stream, 8 + 3  # and <s>, </s>, <UNK>


def test_nltk_has_the_same_mle_and_lidstone_probabilities():
    """For pairs; NLTK pads longer contexts with several start symbols, and ours has one."""
    lm = pytest.importorskip("nltk.lm")
    sentences, stream, V = nltk_case(np.random.default_rng(5))
    cases = [
        ("mle", lm.MLE(2), 1),
        ("add-k", lm.Lidstone(0.3, 2), 0.3),
        ("add-k", lm.Laplace(2), 1),
    ]
    for smoothing, peer, k in cases:
        nltk_fit(peer, sentences)
        assert len(peer.vocab) == V
        model = NGramLM(2, vocab_size=V, smoothing=smoothing, k=k, eos_id=8).fit(stream)
        found = np.exp(model.sentence_log_prob(stream))
        names = [f"w{i}" for i in range(8)] + ["</s>"]
        expected = [
            peer.score(names[w], ["<s>" if h[-1] == START else names[h[-1]]])
            for h, w in histories(stream, 8)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nltk_has_the_same_kneser_ney_pairs_with_a_fixed_discount(monkeypatch):
    """NLTK neither estimates discounts nor takes one from single words; with its choices, the numbers are equal."""
    lm = pytest.importorskip("nltk.lm")
    sentences, stream, _ = nltk_case(np.random.default_rng(6))
    peer = nltk_fit(lm.KneserNeyInterpolated(2, discount=0.7), sentences)
    chosen = iter([np.zeros(3), np.full(3, 0.7)])
    monkeypatch.setattr(ngram, "absolute_discount", lambda counts: next(chosen))
    model = NGramLM(2, vocab_size=9, smoothing="kneser-ney", eos_id=8).fit(stream)
    names = [f"w{i}" for i in range(8)] + ["</s>"]
    for context in range(8):
        ours = model(torch.tensor([[context]]))[0, 0].exp()
        expected = [peer.score(name, [names[context]]) for name in names]
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_counting_takes_no_more_calls_for_a_longer_text_and_nltk_takes_many_per_word():
    """A9, no. 20: why it is faster. The times are compared in `bench/ngram.py`."""
    lm = pytest.importorskip("nltk.lm")
    ours, theirs, words = [], [], []
    for n in (100, 500):
        sentences, stream, V = nltk_case(np.random.default_rng(7), n=n)
        words.append(len(stream))
        ours.append(count_calls(NGramLM(3, vocab_size=V, eos_id=8).fit, stream))
        theirs.append(count_calls(nltk_fit, lm.KneserNeyInterpolated(3), sentences))
    assert ours[1] < 1.5 * ours[0] and ours[1] < words[1]
    assert all(calls > 50 * n for calls, n in zip(theirs, words, strict=True))


def test_the_picture_of_the_discounts_shows_what_the_library_computes():
    """Each bar is cut as the estimate of its order has it, and what is taken is the bar below."""
    svg = ElementTree.parse(ROOT / "nbs" / "pictures" / "discount.svg").getroot()
    space, bars = "{http://www.w3.org/2000/svg}", {}
    for one in svg.iter(f"{space}rect"):
        bars.setdefault(one.get("y"), []).append(float(one.get("width")) + 1.5)
    written = [text.text for text in svg.iter(f"{space}text") if text.get("text-anchor")]
    cells = list(zip(written[::2], map(float, written[1::2]), strict=True))
    names = ["end" if word == "</s>" else word for word in WORDS]
    counts = ngram.count_ngrams(STREAM, 2, vocab_size=7, eos_id=EOS)
    single, double = ngram.kneser_ney(counts, 7, modified=False)[1][:, 0]
    first = {"sat": 2 - double, "ran": 1 - double, "taken": 2 * double}
    second = {w: n - single for w, n in zip(names, counts[0].continuations.tolist(), strict=True)}
    second["taken"] = 7 * single
    shown = [dict(cells[:3]), dict(cells[3:11]), dict(cells[11:])]
    for found, expected in zip(shown, (first, second, dict.fromkeys(names, single)), strict=True):
        assert found == pytest.approx(expected, abs=1e-12)
    for widths, found in zip(bars.values(), shown, strict=True):
        shares = np.array(list(found.values())) / sum(found.values())
        np.testing.assert_allclose(np.array(widths) / 400, shares, atol=1e-3)
    kept = [shown[i]["sat"] / sum(shown[i].values()) for i in range(3)]
    by_picture = kept[0] + 1.2 / 3 * (kept[1] + 2.8 / 10 * kept[2])
    model = NGramLM(2, vocab_size=7, smoothing="kneser-ney", eos_id=EOS).fit(STREAM)
    after_cat = model.sentence_log_prob([WORDS.index("cat"), WORDS.index("sat")])[1]
    assert math.exp(after_cat) == pytest.approx(by_picture, abs=1e-12)


# --- sources with a known entropy -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain():
    source = data.sources()["markov"]
    with np.errstate(divide="ignore"):
        return (
            source,
            -np.log(source.transition),
            source.sample(120_000, rng=np.random.default_rng(0)),
        )


def test_the_true_model_meets_the_floor(chain):
    """S96: within 3 standard errors that account for the dependence along the chain."""
    source, surprise, ids = chain
    assert ngram.chain_mean(source.transition, surprise) == pytest.approx(
        source.entropy_rate, rel=1e-12
    )
    error = ngram.chain_deviation(source.transition, surprise) / math.sqrt(len(ids) - 1)
    assert abs(-source.log_prob(ids).mean() - source.entropy_rate) < 3 * error


def test_the_deviation_is_the_sum_of_all_covariances(chain):
    """The asymptotic variance by its definition: the variance, plus twice the covariance at every distance."""
    source, surprise, _ = chain
    P, pi = source.transition, source.stationary
    values = np.where(P > 0, surprise, 0)
    excess = (P * values).sum(axis=1) - source.entropy_rate  # E[value | state before] - mean
    variance = pi @ (P * values**2).sum(axis=1) - source.entropy_rate**2
    ahead, total = excess, variance
    for _ in range(2_000):
        total += 2 * (pi[:, None] * P * (values - source.entropy_rate) * ahead).sum()
        ahead = P @ ahead
    found = ngram.chain_deviation(P, surprise)
    assert found == pytest.approx(math.sqrt(total), rel=1e-10)
    independent = np.full((2, 2), 0.5)
    assert ngram.chain_deviation(independent, [[0, 1], [0, 1]]) == pytest.approx(0.5, abs=1e-12)


def test_perplexities_differ_by_the_kl_rate(chain):
    """S96: PPL_q / PPL_p = exp(KL rate), analytically for a bigram q, and as measured; within 2 % of the floor."""
    source, surprise, ids = chain
    model = NGramLM(2, vocab_size=27).fit(ids[:60_000])
    cost = -model(torch.arange(27)[:, None])[:, 0].numpy()
    P, log_P = source.transition, -np.where(np.isfinite(surprise), surprise, 0)
    kl_rate = (source.stationary[:, None] * P * (log_P + cost)).sum()
    ratio = math.exp(ngram.chain_mean(P, cost)) / math.exp(source.entropy_rate)
    assert ratio == pytest.approx(math.exp(kl_rate), rel=1e-12) and 1 < ratio < 1.02
    measured = -model.sentence_log_prob(ids[60_000:])[1:].mean()
    error = ngram.chain_deviation(P, cost) / math.sqrt(60_000 - 1)
    assert abs(measured - source.entropy_rate - kl_rate) < 3 * error


def test_no_order_goes_below_the_floor_of_its_memory():
    """S96: on the grammar each order comes close to the lowest loss of any model with its memory."""
    grammar, rng = data.sources()["grammar"], np.random.default_rng(8)
    index = {word: i for i, word in enumerate((*grammar.words, data.END))}
    train, test = (
        [index[w] for s in grammar.sample(8_000, rng=rng) for w in (*s, data.END)] for _ in range(2)
    )
    for order in (1, 2, 3, 5):
        model = NGramLM(order, vocab_size=len(index), eos_id=len(index) - 1).fit(train)
        gap = -model.sentence_log_prob(test).mean() - grammar.conditional_entropy(order - 1)
        assert -0.03 < gap < 0.03


# --- files ------------------------------------------------------------------------------------------------------------


def fitted(order=3, **options):
    return NGramLM(order, vocab_size=7, eos_id=EOS, **options).fit(STREAM)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("k", [1e308, 1e307, 1.7e308, 1e300, 1e-300, 5e-324, 1e-320])
def test_added_counts_of_any_size_give_the_fraction(k, order):
    """(c + k) / (C + kV) in exact arithmetic, whatever a float could hold of it on the way."""
    V, ids = 27, [0, 1, 2, 0, 1, 0, 3]
    model = NGramLM(order, vocab_size=V, smoothing="add-k", k=k).fit(ids)
    text = [0, 1, 2, 1, 5, 5, 0]
    found = model.sentence_log_prob(text)
    for t in range(order - 1, len(text)):
        context, gram = text[t - order + 1 : t], text[t - order + 1 : t + 1]
        grams = [ids[i : i + order] for i in range(len(ids) - order + 1)]
        c, C = grams.count(gram), sum(g[:-1] == context for g in grams)
        p = (c + Fraction(k)) / (C + Fraction(k) * V)
        expected = math.log(p.numerator) - math.log(p.denominator)
        assert found[t] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("smoothing", SMOOTHING)
@pytest.mark.parametrize("eos", [None, EOS])
def test_saved_models_come_back_exactly(tmp_path, smoothing, eos):
    model = NGramLM(3, vocab_size=7, smoothing=smoothing, k=0.2, eos_id=eos).fit(STREAM)
    model.save(tmp_path / "m.npz")
    again = NGramLM.load(tmp_path / "m.npz")
    ids = np.random.default_rng(10).integers(7, size=100)
    assert np.array_equal(again.sentence_log_prob(ids), model.sentence_log_prob(ids))
    assert repr(again) == repr(model) and again.k == model.k and again.eos_id == eos
    assert again.discounts_ is None or np.array_equal(again.discounts_, model.discounts_)
    assert (again.discounts_ is None) == (smoothing in ("mle", "add-k"))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    fitted().save(path)
    whole = path.read_bytes()
    torn = [whole[:n] for n in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (*torn, flipped, b"\x80\x04K\x01.", b"not a model"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold a valid NGramLM"):
            NGramLM.load(path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="does not hold a valid NGramLM"):
        NGramLM.load(path)
    with pytest.raises(FileNotFoundError):
        NGramLM.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys_2", lambda keys: keys[::-1]),
        ("keys_2", lambda keys: keys + 1_000),
        ("keys_3", lambda keys: keys[:-1]),
        ("log_prob_2", lambda logs: logs + 5),
        ("log_prob_2", lambda logs: logs * np.nan),
        ("log_backoff_3", lambda logs: logs[1:]),
        ("log_backoff_2", lambda logs: logs.astype(np.float32)),
        ("keys_1", lambda keys: keys[:-1]),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(tmp_path, name, change):
    path = tmp_path / "m.npz"
    fitted().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, name: change(arrays[name])})
    with pytest.raises(ValueError, match="does not hold a valid NGramLM"):
        NGramLM.load(path)


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    fitted().save(tmp_path / "m.npz")
    fitted().write_arpa(tmp_path / "m.arpa", WORDS)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for write in (
        lambda: fitted(2).save(tmp_path / "m.npz"),
        lambda: fitted(2).write_arpa(tmp_path / "m.arpa", WORDS),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# --- what is refused --------------------------------------------------------------------------------------------------

BAD_IDS = [
    ([0, 7], ValueError, r"ids\[1\] is 7; it must be between 0 and 6"),
    ([-1], ValueError, "is -1"),
    ([], ValueError, "at least one token"),
    ([0.5], TypeError, "must be integers"),
    (np.array([1.0, 2.0]), TypeError, "must be integers"),
    ([True], TypeError, "must be integers"),
    ("the cat", TypeError, "got text"),
    ([[0, 1]], ValueError, "one-dimensional"),
    (torch.tensor([0.5]), TypeError, "must be integers"),
    (torch.zeros(2, 2, dtype=torch.int64), ValueError, "one-dimensional"),
]


@pytest.mark.parametrize(("ids", "error", "message"), BAD_IDS)
def test_ids_that_are_none_are_refused(ids, error, message):
    for call in (NGramLM(2, vocab_size=7).fit, fitted().sentence_log_prob):
        with pytest.raises(error, match=message):
            call(ids)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": 0}, ValueError, "order must be at least 1, got 0"),
        ({"order": 2.0}, TypeError, "order"),
        ({"vocab_size": 0}, ValueError, "vocab_size"),
        ({"vocab_size": "ten"}, TypeError, "vocab_size"),
        ({"smoothing": "good-turing"}, ValueError, "modified-kneser-ney, kneser-ney, add-k, mle"),
        ({"k": 0}, ValueError, "k must be a positive finite number, got 0"),
        ({"k": -1.0}, ValueError, "k must be"),
        ({"k": math.nan}, ValueError, "k must be"),
        ({"k": math.inf}, ValueError, "k must be"),
        ({"k": "1"}, ValueError, "k must be"),
        ({"k": True}, ValueError, "k must be"),
        ({"eos_id": 7}, ValueError, "eos_id must be None or between 0 and 6, got 7"),
        ({"eos_id": -1}, ValueError, "eos_id"),
        ({"eos_id": 1.0}, TypeError, "eos_id"),
    ],
)
def test_options_that_make_no_model_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        NGramLM(**{"order": 2, "vocab_size": 7, **options})


def test_a_model_that_counted_nothing_says_so(tmp_path):
    model, ids = NGramLM(2, vocab_size=7), torch.zeros(1, 3, dtype=torch.int64)
    for call in (
        lambda: model.sentence_log_prob([0]),
        lambda: model(ids),
        lambda: model.log_prob(ids),
        lambda: model.loss(ids, ids),
        lambda: model.step(ids, model.init_state(1)),
        lambda: model.save(tmp_path / "m.npz"),
    ):
        with pytest.raises(NotFittedError, match="not fitted"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = fitted()
    before = model.sentence_log_prob(STREAM)
    with pytest.raises(ValueError):
        model.fit([9])
    assert np.array_equal(model.sentence_log_prob(STREAM), before)


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([[0, 1]], TypeError),
        (torch.zeros(3, dtype=torch.int64), ValueError),
        (torch.zeros(1, 2), TypeError),
        (torch.tensor([[0, 7]]), ValueError),
        (torch.zeros(1, 0, dtype=torch.int64), ValueError),
    ],
)
def test_batches_that_are_none_are_refused(ids, error):
    model = fitted()
    for call in (model, model.log_prob, lambda x: model.step(x, model.init_state(1))):
        with pytest.raises(error, match="ids"):
            call(ids)
    with pytest.raises(ValueError, match="at least 2 positions"):
        model.log_prob(torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="targets"):
        model.loss(torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), 7))


def test_values_of_a_chain_must_fit_it():
    P = [[0.5, 0.5], [0.5, 0.5]]
    for call in (ngram.chain_mean, ngram.chain_deviation):
        with pytest.raises(ValueError, match=r"values must have the shape \(2, 2\)"):
            call(P, [0.0, 1.0])
        with pytest.raises(ValueError, match="nan"):
            call(P, [[math.nan, 0], [0, 0]])
        with pytest.raises(ValueError, match="sum to 1"):
            call([[0.5, 0.4], [0.5, 0.5]], np.zeros((2, 2)))
    assert ngram.chain_mean(P, [[math.inf, 0], [0, 0]]) == math.inf
    with pytest.raises(ValueError, match="finite"):
        ngram.chain_deviation(P, [[math.inf, 0], [0, 0]])


def test_a_table_of_levels_is_a_whole_model_wherever_it_comes_from():
    class Given(ngram.BackOffLM):
        """A table that somebody else has estimated."""

        def fit(self, levels):
            self.levels = tuple(levels)
            return self

    counted = NGramLM(3, vocab_size=7, eos_id=EOS).fit(STREAM)
    table = Given(3, vocab_size=7, eos_id=EOS)
    ids = torch.tensor(STREAM)[None]
    with pytest.raises(NotFittedError, match="this Given is not fitted yet"):
        table(ids)
    table.fit(counted.levels)
    assert torch.equal(table(ids), counted(ids))
    assert np.array_equal(table.sentence_log_prob(STREAM), counted.sentence_log_prob(STREAM))
    assert max(conformance.check_conformance(table).values()) < 1e-12
