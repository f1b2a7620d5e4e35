"""Sources of text with the entropy that they claim."""

import itertools
from collections import Counter

import numpy as np
import pytest
from arbook import sources
from hypothesis import given, settings
from hypothesis import strategies as st


def all_sequences(n_symbols, length):
    """Every sequence as a row."""
    return np.array(list(itertools.product(range(n_symbols), repeat=length)))  # (V^T, T)


@settings(max_examples=25)
@given(n_symbols=st.integers(2, 4), n_successors=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_entropy_of_a_markov_source_agrees_with_the_sum_over_all_sequences(
    n_symbols, n_successors, seed
):
    source = sources.MarkovSource.random(
        n_symbols, min(n_symbols, n_successors), rng=np.random.default_rng(seed)
    )
    entropies = []
    for length in (4, 5):
        rows = all_sequences(n_symbols, length)
        log_p = np.log(np.maximum(source.stationary[rows[:, 0]], 1e-300)) + [
            source.log_prob(row).sum() for row in rows
        ]
        p = np.exp(log_p)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        entropies.append(-np.sum(p[p > 0] * log_p[p > 0]))
    # one more symbol adds the entropy rate, float64
    assert entropies[1] - entropies[0] == pytest.approx(source.entropy_rate, abs=1e-11)


@settings(max_examples=50)
@given(n_symbols=st.integers(1, 30), n_successors=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_random_sources_have_the_asked_number_of_successors(n_symbols, n_successors, seed):
    n_successors = min(n_symbols, n_successors)
    source = sources.MarkovSource.random(n_symbols, n_successors, rng=np.random.default_rng(seed))
    again = sources.MarkovSource.random(n_symbols, n_successors, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(source.transition, again.transition)
    assert ((source.transition > 0).sum(axis=1) == n_successors).all()
    # the balance of every symbol, float64
    np.testing.assert_allclose(source.stationary @ source.transition, source.stationary, rtol=1e-12)
    assert 0 <= source.entropy_rate <= np.log(n_successors) + 1e-12


def test_stationary_shares_are_accurate_where_states_are_almost_cut_off():
    # By hand: in balance, 3e-17 pi_0 = 1e-17 pi_1. A solver of (I - P) sees 1 - 1 = 0 here.
    a, b = 3e-17, 1e-17
    P = np.array([[1 - a, a], [b, 1 - b]])
    np.testing.assert_allclose(sources.stationary_distribution(P), [0.25, 0.75], rtol=1e-15)


def test_a_periodic_chain_has_its_stationary_distribution():
    ring = sources.MarkovSource(np.roll(np.eye(5), 1, axis=1))
    np.testing.assert_allclose(ring.stationary, 0.2, rtol=1e-15)
    assert ring.entropy_rate == 0
    ids = ring.sample(12, rng=np.random.default_rng(0))
    assert (np.diff(ids) % 5 == 1).all() and (ring.log_prob(ids) == 0).all()


def test_samples_follow_the_transition_probabilities():
    source = sources.sources()["markov"]
    ids = source.sample(200_000, rng=np.random.default_rng(11))
    assert ids.dtype == np.int64 and ids.shape == (200_000,)
    n = len(source)
    pairs = np.bincount(ids[:-1] * n + ids[1:], minlength=n * n).reshape(n, n)
    expected = pairs.sum(axis=1, keepdims=True) * source.transition
    assert (pairs[source.transition == 0] == 0).all()
    used = expected > 5
    chi2 = np.sum((pairs[used] - expected[used]) ** 2 / expected[used])
    degrees = used.sum() - n
    # a chi-square variable has mean d and variance 2 d; 4 standard deviations, fixed seed
    assert abs(chi2 - degrees) < 4 * np.sqrt(2 * degrees)


def test_the_first_symbol_is_drawn_from_the_stationary_distribution():
    weather = sources.sources()["weather"]
    first = [weather.sample(1, rng=np.random.default_rng(seed))[0] for seed in range(3_000)]
    error = np.sqrt(5 / 36 / 3_000)
    assert abs(np.mean(first) - 1 / 6) < 4 * error


def test_the_true_model_scores_the_entropy_rate_of_the_markov_source():
    source = sources.sources()["markov"]
    ids = source.sample(1_000_001, rng=np.random.default_rng(12))
    # means of 100 blocks: neighbouring symbols are dependent, blocks of 10,000 hardly
    blocks = -source.log_prob(ids).reshape(100, -1).mean(axis=1)
    error = blocks.std(ddof=1) / 10
    assert abs(blocks.mean() - source.entropy_rate) < 3 * error
    assert error < 0.002


def test_a_sample_is_the_same_for_the_same_seed_and_impossible_steps_have_no_probability():
    source = sources.sources()["markov"]
    one, other = (source.sample(500, rng=np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    i, j = np.argwhere(source.transition == 0)[0]
    assert source.log_prob([i, j]).tolist() == [-np.inf]
    assert source.log_prob([i]).shape == (0,)


def test_symbols_are_written_with_the_alphabet():
    assert sources.sources()["weather"].decode([0, 1, 1]) == "srr"
    assert len(sources.sources()["markov"].decode(np.arange(27))) == 27
    with pytest.raises(ValueError, match="no alphabet"):
        sources.MarkovSource(np.eye(1)).decode([0])


@pytest.mark.parametrize(
    "transition, message",
    [
        ([[0.5, 0.5]], "square"),
        (np.zeros((0, 0)), "square"),
        ([[0.5, 0.4], [0.5, 0.5]], "row 0 sums to 0.9"),
        ([[1.5, -0.5], [0.5, 0.5]], "not negative"),
        ([[np.nan, 1], [0.5, 0.5]], "finite"),
        (np.eye(3), "reducible"),
        ([[0.5, 0.5], [0, 1]], "reducible"),
        ([[1, 0], [0.5, 0.5]], "reducible"),
    ],
)
def test_a_matrix_that_is_no_chain_is_refused(transition, message):
    with pytest.raises(ValueError, match=message):
        sources.MarkovSource(transition)
    with pytest.raises(ValueError, match=message):
        sources.stationary_distribution(transition)


@pytest.mark.parametrize(
    "ids, error, message",
    [
        ([0, 2], ValueError, r"\[0, 2\), got 0 to 2"),
        ([-1, 0], ValueError, "got -1 to 0"),
        ([0.0, 1.0], TypeError, "dtype float64"),
        ([True, False], TypeError, "dtype bool"),
        ([[0, 1]], ValueError, "one-dimensional"),
        (np.array([], dtype=int), ValueError, "not empty"),
    ],
)
def test_symbols_outside_the_source_are_refused(ids, error, message):
    for method in (sources.sources()["weather"].log_prob, sources.sources()["weather"].decode):
        with pytest.raises(error, match=message):
            method(ids)


def test_bad_requests_to_sources_name_the_argument():
    weather, grammar = sources.sources()["weather"], sources.sources()["grammar"]
    rng = np.random.default_rng(0)
    for call, error, message in (
        (lambda: weather.sample(0, rng=rng), ValueError, "n must be at least 1, got 0"),
        (lambda: weather.sample(2.0, rng=rng), TypeError, "n must be an integer"),
        (lambda: weather.sample(True, rng=rng), TypeError, "n must be an integer"),
        (lambda: weather.sample(2, rng="0"), TypeError, r"rng must be a numpy\.random\.Generator"),
        (lambda: weather.sample(2, rng=True), TypeError, r"rng must be a numpy\.random\.Generator"),
        (lambda: weather.sample(2, rng=-1), ValueError, "rng must be at least 0"),
        (lambda: grammar.sample(0, rng=rng), ValueError, "n_sentences must be at least 1"),
        (lambda: grammar.sample(1, rng=None), TypeError, r"rng must be a numpy\.random\.Generator"),
        (lambda: grammar.sentence_log_prob("the cat"), TypeError, "sequence of words"),
        (lambda: grammar.conditional_entropy(-1), ValueError, "order must be at least 0"),
        (lambda: sources.MarkovSource.random(3, 4, rng=rng), ValueError, "n_successors"),
        (lambda: sources.MarkovSource.random(0, 1, rng=rng), ValueError, "n_symbols"),
        (lambda: sources.MarkovSource(np.eye(1), alphabet="ab"), ValueError, "1 different symbols"),
        (
            lambda: sources.MarkovSource(np.full((2, 2), 0.5), alphabet="aa"),
            ValueError,
            "different",
        ),
        (lambda: sources.MarkovSource(np.full((2, 2), 0.5), alphabet=[0, 1]), TypeError, "strings"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_seed_is_a_generator_for_every_source():
    fresh = lambda: np.random.default_rng(7)  # noqa: E731
    for source in sources.sources().values():
        for n in (1, 40):
            assert list(source.sample(n, rng=7)) == list(source.sample(n, rng=fresh()))
    by_seed, by_generator = (sources.MarkovSource.random(9, 3, rng=rng) for rng in (7, fresh()))
    np.testing.assert_array_equal(by_seed.transition, by_generator.transition)


def test_what_a_source_knows_cannot_be_changed():
    source = sources.sources()["markov"]
    for array in (source.transition, source.stationary):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    P = np.full((2, 2), 0.5)
    source = sources.MarkovSource(P)
    P[:] = np.eye(2)
    assert source.entropy_rate == pytest.approx(np.log(2)) and source.transition[0, 1] == 0.5


@st.composite
def finite_grammars(draw):
    """A random automaton without loops: arcs lead to later states only."""
    n_states = draw(st.integers(1, 5))
    rules = {}
    for s in range(n_states):
        # the next state is always reached, so every state is; the last one only ends
        targets = [s + 1] + draw(st.lists(st.integers(s + 1, n_states), max_size=3))
        odds = draw(st.lists(st.integers(1, 9), min_size=len(targets), max_size=len(targets)))
        ends = [t for t in targets if t == n_states]
        arcs = [
            sources.Arc("abcd"[i], odds[i] / sum(odds), str(t))
            for i, t in enumerate(targets)
            if t < n_states
        ]
        if ends:
            share = sum(odds[i] for i, t in enumerate(targets) if t == n_states) / sum(odds)
            arcs.append(sources.Arc(sources.END, share))
        rules[str(s)] = arcs
    return sources.GrammarSource(rules)


@settings(max_examples=60)
@given(grammar=finite_grammars())
def test_entropy_of_a_grammar_agrees_with_the_sum_over_all_sentences(grammar):
    everything = list(grammar.sentences(len(grammar.rules)))
    p = np.array([probability for _, probability in everything])
    lengths = np.array([len(words) + 1 for words, _ in everything])
    assert len({words for words, _ in everything}) == len(everything)  # the words tell the path
    assert p.sum() == pytest.approx(1, abs=1e-12)
    log_p = [grammar.sentence_log_prob(words) for words, _ in everything]
    np.testing.assert_allclose(log_p, np.log(p), atol=1e-12)
    # float64, a few dozen terms
    assert grammar.entropy_per_sentence == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
    assert grammar.expected_length == pytest.approx(p @ lengths, abs=1e-12)
    assert grammar.entropy_rate * (p @ lengths) == pytest.approx(
        grammar.entropy_per_sentence, abs=1e-12
    )


@settings(max_examples=20)
@given(grammar=finite_grammars())
def test_shorter_memories_have_higher_floors_that_end_at_the_entropy_rate(grammar):
    floors = [grammar.conditional_entropy(k) for k in range(2 * len(grammar.rules) + 1)]
    assert (np.diff(floors) <= 1e-9).all()
    # n states, no loop: a sentence has at most n tokens, so 2 n of them surely hold an end and all after it
    assert floors[-1] == pytest.approx(grammar.entropy_rate, abs=1e-9)


def sum_over_blocks(grammar, length):
    """The entropy of `length` tokens of the endless text, state by state and sentence by sentence."""
    waiting = {((), state): visits for state, visits in stationary_visits(grammar).items()}
    for _ in range(length):
        longer = Counter()
        for (words, state), p in waiting.items():
            for word, probability, target in grammar.rules[state]:
                after = grammar.start if word == sources.END else target
                longer[(*words, word), after] += p * probability
        waiting = longer
    blocks = Counter()
    for (words, _), p in waiting.items():
        blocks[words] += p
    assert sum(blocks.values()) == pytest.approx(1, abs=1e-12)
    return -sum(p * np.log(p) for p in blocks.values())


def stationary_visits(grammar):
    """How often each state occurs, from the list of all sentences."""
    visits = Counter()
    for words, p in grammar.sentences(len(grammar.rules)):
        state = grammar.start
        for word in (*words, sources.END):
            visits[state] += p
            state = next(arc.target for arc in grammar.rules[state] if arc.word == word)
    total = sum(visits.values())
    return {state: n / total for state, n in visits.items()}


@settings(max_examples=30)
@given(grammar=finite_grammars(), order=st.integers(0, 4))
def test_floors_agree_with_the_sum_over_all_blocks(grammar, order):
    """The chain rule: H(k + 1 tokens) - H(k tokens), each by enumeration."""
    exact = sum_over_blocks(grammar, order + 1) - sum_over_blocks(grammar, order)
    # float64, and beliefs merged when they agree to 12 digits
    assert grammar.conditional_entropy(order) == pytest.approx(exact, abs=1e-9)


def test_floors_of_the_grammar_agree_with_counts():
    grammar = sources.sources()["grammar"]
    drawn = grammar.sample(60_000, rng=np.random.default_rng(13))
    index = {word: i for i, word in enumerate((*grammar.words, sources.END))}
    stream = np.array([index[word] for words in drawn for word in (*words, sources.END)])

    def block_entropy(k):
        packed = sum(stream[i : len(stream) - k + 1 + i] * len(index) ** i for i in range(k))
        counts = np.unique(packed, return_counts=True)[1] / len(packed)
        return -(counts * np.log(counts)).sum()

    for order in (0, 1, 2):
        counted = block_entropy(order + 1) - (block_entropy(order) if order else 0)
        # 540,000 tokens: standard error about 0.002, and a bias of (contexts x words) / (2 n) < 0.002
        assert grammar.conditional_entropy(order) == pytest.approx(counted, abs=0.01)


def test_the_true_model_scores_the_entropy_of_the_grammar():
    grammar = sources.sources()["grammar"]
    drawn = grammar.sample(40_000, rng=np.random.default_rng(14))
    surprise = -np.array([grammar.sentence_log_prob(words) for words in drawn])
    lengths = np.array([len(words) + 1 for words in drawn])
    for values, exact in (
        (surprise, grammar.entropy_per_sentence),
        (lengths, grammar.expected_length),
    ):
        assert abs(values.mean() - exact) < 3 * values.std() / np.sqrt(len(values))
    ratio = surprise.sum() / lengths.sum()
    error = (surprise - ratio * lengths).std() / lengths.mean() / np.sqrt(len(lengths))
    assert abs(ratio - grammar.entropy_rate) < 3 * error


def test_sentences_are_drawn_with_their_probabilities():
    grammar = sources.GrammarSource(
        {
            "a": [("x", 0.2, "b"), ("y", 0.5, "b"), (sources.END, 0.3)],
            "b": [("x", 0.25, "a"), ("z", 0.75, "c")],
            "c": [(sources.END, 1)],
        }
    )
    n = 20_000
    counts = Counter(map(tuple, grammar.sample(n, rng=np.random.default_rng(15))))
    table = [(counts[words], n * p) for words, p in grammar.sentences(10) if n * p > 5]
    seen, expected = np.array(table).T
    degrees = len(table) - 1
    assert np.sum((seen - expected) ** 2 / expected) < degrees + 4 * np.sqrt(2 * degrees)
    assert all(grammar.sentence_log_prob(words) > -np.inf for words in counts)


def test_verbs_agree_with_their_nouns_across_a_phrase():
    score = sources.sources()["grammar"].sentence_log_prob
    right = "the dogs near the gate near the river bark".split()
    assert score(right) > -np.inf
    assert score([*right[:-1], "barks"]) == -np.inf  # the wrong number
    assert score(right[:-1]) == -np.inf  # not at an end
    assert score([*right, sources.END]) == -np.inf and score(["xyzzy"]) == -np.inf


def arc(word="w", probability=1.0, target="a"):
    return sources.Arc(word, probability, target)


@pytest.mark.parametrize(
    "rules, message",
    [
        ({}, "start must be one of"),
        ({"a": []}, "sum to 1"),
        ({"a": [arc(probability=0.5), (sources.END, 0.4)]}, "'a' must be positive and sum to 1"),
        ({"a": [arc(probability=-0.5), (sources.END, 1.5)]}, "positive"),
        ({"a": [arc(probability=float("nan")), (sources.END, 1.0)]}, "positive"),
        ({"a": [arc(probability=0.5), arc(probability=0.2), (sources.END, 0.3)]}, "twice"),
        ({"a": [arc(target="b")]}, "'b', which does not exist"),
        ({"a": [(sources.END, 1.0)], "b": [(sources.END, 1.0)]}, "'b' cannot be reached"),
        ({"a": [arc()]}, "'a' cannot reach the end"),
        ({"a": [arc("two words", 0.5), (sources.END, 0.5)]}, "one word"),
        ({"a": [arc("", 0.5), (sources.END, 0.5)]}, "one word"),
        ({"a": [(sources.END, 1.0, "a")]}, "no state"),
        ({"": [(sources.END, 1.0)]}, "must have names"),
    ],
)
def test_rules_that_are_no_unifilar_grammar_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        sources.GrammarSource(rules)


def test_words_must_be_strings():
    with pytest.raises(TypeError, match="state 'a': a word must be a string, got 3"):
        sources.GrammarSource({"a": [arc(3, 0.5), (sources.END, 0.5)]})


def test_rules_must_be_a_mapping_and_the_start_one_of_its_states():
    with pytest.raises(TypeError, match="must be a mapping"):
        sources.GrammarSource([arc()])
    with pytest.raises(ValueError, match="got 'z'"):
        sources.GrammarSource({"a": [(sources.END, 1.0)]}, start="z")
    rules = {"b": [("y", 0.5, "b"), (sources.END, 0.5)], "a": [("x", 1.0, "b")]}
    grammar = sources.GrammarSource(rules, start="a")
    assert grammar.sentence_log_prob(["x"]) == pytest.approx(np.log(0.5))
    assert grammar.words == ("x", "y") and grammar.expected_length == pytest.approx(3)


def test_sources_are_the_same_every_time():
    one, other = sources.sources(), sources.sources()
    np.testing.assert_array_equal(one["markov"].transition, other["markov"].transition)
    assert one["grammar"].rules == other["grammar"].rules
    assert [repr(source) for source in one.values()] == [repr(source) for source in other.values()]
