"""Rules against enumerated laws, the loop, search, speculation outcome by outcome, automata, static decoding."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import conformance
from arbook import objective as ob
from arbook import sampling as sa
from arbook.ngram import NGramLM
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.tokens import BPETokenizer, CharTokenizer, WordTokenizer
from arbook.training import ancestral_sample
from arbook.transformer import GPT, GPTConfig, crop
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

V = 7


class TableLM(ob.LanguageModel):
    """A reader's own model: the last token decides, by a table; the interface's default state."""

    def __init__(self, table):
        super().__init__()
        self.log_table = torch.tensor(np.asarray(table), dtype=torch.float64).log()
        self.vocab_size = len(self.log_table)

    def forward(self, ids):
        return self.log_table[ids]


class CountingLM(TableLM):
    """Another one, with a state of its own kind, written in place, that says nothing about batches: a list."""

    def init_state(self, batch_size):
        return [0]

    def step(self, ids, state):
        state[0] += ids.shape[1]
        return self(ids), state


def table(V, seed, *, sharp=1.0):
    g = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(V, V, generator=g, dtype=torch.float64)).softmax(-1).numpy()


def make_gpt(dtype=torch.float64, *, seed=0, T=12, **changes):
    config = GPTConfig.modern(V, T, 16, n_layer=2, n_head=2, **changes)
    model = GPT(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1))
    return model.to(dtype).eval()


def make_lstm():
    return (
        LSTMLM(LSTMConfig(V, 8, 8, 2), generator=torch.Generator().manual_seed(0)).double().eval()
    )


def make_ngram(order=3):
    ids = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0))
    return NGramLM(order, vocab_size=V).fit(ids)


MODELS = {
    "table": lambda: TableLM(table(V, 0)),
    "own state": lambda: CountingLM(table(V, 0)),
    "n-gram": make_ngram,
    "lstm": make_lstm,
    "gpt": make_gpt,
    "gpt-2": lambda: make_gpt(positions="learned", tied=True),
}
models = pytest.mark.parametrize("name", MODELS)


def seed(n):
    return torch.Generator().manual_seed(n)


def seeds(n):
    return [seed(i) for i in range(n)]


def law(rule, probs, dtype=torch.float64):
    return rule(torch.tensor([probs], dtype=dtype).log())[0].softmax(-1)


def support(rule, probs, dtype=torch.float64):
    return law(rule, probs, dtype).nonzero()[:, 0].tolist()


def by_hand(model, ids, n, choose):
    """The loop as it is defined: the whole text, cut by the rule of `crop`, for every token."""
    ids = torch.as_tensor(ids)[None]
    with torch.no_grad():
        for _ in range(n):
            window = ids if model.context_length is None else crop(ids, model.context_length)
            ids = torch.cat([ids, choose(model(window)[:, -1])[:, None]], dim=1)
    return ids[0]


def assert_drawn_from(counts, probs, *, p=0.001):
    """Chi-square test of counts against probabilities; what has probability 0 must not occur."""
    counts, probs = np.asarray(counts, float), np.asarray(probs, float)
    assert (counts[probs == 0] == 0).all()
    possible = probs > 0
    if possible.sum() > 1:
        expected = probs[possible] / probs[possible].sum() * counts.sum()
        assert stats.chisquare(counts[possible], expected).pvalue > p


# --- one roll ---------------------------------------------------------------------------------------------------------


def test_pieces_of_the_line_are_as_long_as_the_probabilities():
    """With u on a fine grid: every token gets its share of grid points, a boundary belongs to the right."""
    weights = torch.tensor([[0.25, 0.0, 0.5, 0.25, 0.0]])
    u = torch.arange(64, dtype=torch.float64)[:, None] / 64
    drawn = sa.pick(weights.expand(64, 5), u)
    assert torch.bincount(drawn, minlength=5).tolist() == [16, 0, 32, 16, 0]
    assert drawn.tolist() == sorted(drawn.tolist())
    assert sa.pick(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1, 1).double()).item() == 2
    least = torch.tensor([[1 - 2**-53]], dtype=torch.float64)
    assert sa.pick(torch.tensor([[0.1, 0.7, 0.0]]), least).item() == 1


def test_a_token_of_probability_0_is_never_drawn_in_ten_million_draws():
    """A9 no. 12."""
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.0, 0.5, 1e-3, 0.0]]).expand(500_000, 7)
    dice, counts = sa.Dice(seed(0), 500_000), torch.zeros(7, dtype=torch.int64)
    for _ in range(20):
        counts += torch.bincount(dice.draw(weights), minlength=7)
    assert counts.sum() == 10**7 and counts[[0, 2, 3, 6]].sum() == 0
    assert_drawn_from(counts, weights[0].double())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_every_roll_hits_a_possible_token(weights, u):
    assume(any(weights))
    for scale in (1, 1e-30, 1e30):
        w = torch.tensor([weights], dtype=torch.float32) * scale
        assert weights[sa.pick(w, torch.tensor([[u]], dtype=torch.float64)).item()] > 0


def test_one_generator_for_each_row_gives_what_the_row_gets_alone():
    """A9 no. 5, no. 9."""
    weights = torch.rand(3, 5, generator=seed(1))
    many, alone = sa.Dice(seeds(3), 3), [sa.Dice(g) for g in seeds(3)]
    for _ in range(10):
        each = torch.cat([dice.draw(w[None]) for dice, w in zip(alone, weights, strict=True)])
        assert torch.equal(many.draw(weights), each)
    waited = sa.Dice(seeds(2), 2)
    waited.roll([True, False])
    assert waited.roll()[1] == sa.Dice(seed(1)).roll()


def test_dice_refuse_what_is_no_generator():
    with pytest.raises(ValueError, match="one for each of 3 rows, got 2"):
        sa.Dice(seeds(2), 3)
    for wrong in (0, [None], ["a"]):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
            sa.Dice(wrong, 1)


def test_no_global_seed_is_touched_when_a_generator_is_given():
    """A9 no. 5."""
    model = MODELS["gpt"]()
    before = torch.get_rng_state()
    sa.generate(model, [0], max_new_tokens=3, generator=seed(0))
    sa.best_of_n(model, [0], 2, max_new_tokens=3, generator=seed(0))
    sa.speculative_generate(model, make_ngram(), [0], max_new_tokens=5, generator=seed(0))
    assert torch.equal(torch.get_rng_state(), before)


# --- rules against enumerated laws ------------------------------------------------------------------------------------

FOUR = [0.5, 0.25, 0.15, 0.10]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (sa.Greedy(), [0]),
        (sa.Temperature(0), [0]),
        (sa.TopK(1), [0]),
        (sa.TopK(3), [0, 1, 2]),
        (sa.TopK(0), [0, 1, 2, 3]),
        (sa.TopK(4), [0, 1, 2, 3]),
        (sa.TopK(1000), [0, 1, 2, 3]),
        (sa.TopP(0), [0]),
        (sa.TopP(0.5), [0]),
        (sa.TopP(0.51), [0, 1]),
        (sa.TopP(0.75), [0, 1]),
        (sa.TopP(0.76), [0, 1, 2]),
        (sa.TopP(0.9), [0, 1, 2]),
        (sa.TopP(1), [0, 1, 2, 3]),
        (sa.MinP(0), [0, 1, 2, 3]),
        (sa.MinP(0.2), [0, 1, 2, 3]),
        (sa.MinP(0.21), [0, 1, 2]),
        (sa.MinP(0.5), [0, 1]),
        (sa.MinP(1), [0]),
        (sa.Epsilon(0), [0, 1, 2, 3]),
        (sa.Epsilon(0.15), [0, 1, 2]),
        (sa.Epsilon(0.9), [0]),
        (
            sa.Eta(0.01),
            [0, 1, 2, 3],
        ),  # sqrt(.01) exp(-1.208) = .0299, more than .01: the floor is .01
        (sa.Eta(0.2), [0, 1, 2]),  # sqrt(.2) exp(-1.208) = .134
        (sa.Eta(1), [0]),  # exp(-1.208) = .299
        (sa.Typical(0), [1]),  # distances to 1.208: .515, .178, .689, 1.095
        (sa.Typical(0.25), [1]),
        (sa.Typical(0.3), [0, 1]),
        (sa.Typical(0.75), [0, 1]),
        (sa.Typical(0.8), [0, 1, 2]),
        (sa.Typical(1), [0, 1, 2, 3]),
        (sa.TopNSigma(0), [0]),
        (sa.TopNSigma(1.5), [0, 1]),  # the deviation of the logarithms is .601
        (sa.TopNSigma(9), [0, 1, 2, 3]),
    ],
)
def test_each_rule_keeps_exactly_these_tokens(rule, kept):
    """S86, S88, S89, S90, A9 no. 3; also shuffled, and in float32, where sums are not exact."""
    for dtype in (torch.float64, torch.float32):
        for order in itertools.permutations(range(4)):
            shuffled = [FOUR[i] for i in order]
            expected = sorted(order.index(i) for i in kept)
            assert support(rule, shuffled, dtype) == expected


def test_what_is_kept_keeps_its_odds():
    for rule in (sa.TopK(2), sa.TopP(0.75), sa.MinP(0.4), sa.Typical(0.6), sa.TopNSigma(1.5)):
        assert torch.allclose(law(rule, FOUR)[:2], torch.tensor([2 / 3, 1 / 3]).double())


def test_the_nucleus_is_the_smallest_set_and_the_lectures_is_not():
    """S90, E10: .5, .25, .15, .10 at .75 leave two, where the printed code leaves three; HF's case leaves two."""
    assert support(sa.TopP(0.75), FOUR) == [0, 1]
    assert support(sa.TopP(0.8), [0.3, 0.1, 0.1, 0.5]) == [0, 3]
    logits = torch.tensor([FOUR], dtype=torch.float64).log()
    assert (lecture_top_p(logits, 0.75).softmax(-1) > 0).sum() == 3


def lecture_top_p(logits, top_p):
    sorted_logits, sorted_indices = torch.sort(logits, descending=True)
    mask = F.softmax(sorted_logits, dim=-1).cumsum(-1) > top_p
    mask[..., 1:] = mask[..., :-1].clone()
    mask[..., 0] = False
    sorted_logits[mask] = -torch.inf
    return sorted_logits.gather(-1, sorted_indices.argsort(-1))


probabilities = st.lists(st.integers(1, 50), min_size=2, max_size=9).map(
    lambda w: [x / sum(w) for x in w]
)


@given(probabilities, st.floats(0, 1))
def test_the_nucleus_is_the_smallest_of_all_sets_with_that_mass(probs, p):
    """By enumeration of all subsets; masses within 1e-12 of p count as reached."""
    kept = support(sa.TopP(p), probs)
    if p == 1:
        assert kept == list(range(len(probs)))
        return
    enough = [
        len(s)
        for n in range(1, len(probs) + 1)
        for s in itertools.combinations(probs, n)
        if sum(s) >= p - 1e-12
    ]
    assert sum(probs[i] for i in kept) >= p - 2e-9 and len(kept) == min(enough)
    assert min(probs[i] for i in kept) >= max(
        [x for i, x in enumerate(probs) if i not in kept], default=0
    )


@given(probabilities, st.integers(1, 12))
def test_top_k_keeps_exactly_k_also_among_equals(probs, k):
    """S89: ties go to the lowest ids, and impossible tokens are never among them."""
    kept = support(sa.TopK(k), probs)
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    assert kept == sorted(order[:k])
    assert support(sa.TopK(k), [0.0, *probs, 0.0]) == [i + 1 for i in kept]


def test_equals_are_cut_by_their_id():
    equal = [0.25] * 4
    assert support(sa.Greedy(), equal) == [0] and support(sa.TopK(3), equal) == [0, 1, 2]
    assert support(sa.TopP(0.5), equal) == [0, 1] and support(sa.Typical(0.5), equal) == [0, 1]
    assert support(sa.MinP(1), equal) == [0, 1, 2, 3]


@given(probabilities, st.floats(0.05, 20))
def test_temperature_is_a_power_of_the_probabilities(probs, temperature):
    """S88."""
    expected = torch.tensor(probs, dtype=torch.float64) ** (1 / temperature)
    found = law(sa.Temperature(temperature), probs)
    assert torch.allclose(found, expected / expected.sum(), rtol=1e-9, atol=1e-12)


def test_temperature_at_its_ends():
    """S88, E11: 0 is greedy, a tiny one too, without an overflow; 2 turns 80:20 into 2:1."""
    assert torch.allclose(law(sa.Temperature(2), [0.8, 0.2]), torch.tensor([2 / 3, 1 / 3]).double())
    for temperature in (0, 1e-300, 5e-324, 1e-30):
        assert law(sa.Temperature(temperature), [0.2, 0.5, 0.0, 0.3]).tolist() == [0, 1, 0, 0]
    flat = law(sa.Temperature(1e300), [0.2, 0.5, 0.0, 0.3])
    assert torch.allclose(flat, torch.tensor([1, 1, 0, 1]).double() / 3)
    logits = torch.tensor([[1.5, -2.0]])
    assert sa.Temperature(1)(logits) is logits


@given(probabilities)
def test_entropy_rises_with_the_temperature(probs):
    """S88."""
    laws = [law(sa.Temperature(t), probs) for t in (0.1, 0.5, 1, 2, 10)]
    entropies = [sa.entropy(p.log()).item() for p in laws]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(entropies))


def test_top_n_sigma_does_not_depend_on_the_temperature():
    logits = torch.randn(5, 40, generator=seed(0), dtype=torch.float64)
    for n in (0.5, 1, 2):
        rule = sa.TopNSigma(n)
        cool, hot = (rule(sa.Temperature(t)(logits)) > -torch.inf for t in (0.3, 3))
        assert torch.equal(cool, rule(logits) > -torch.inf) and torch.equal(hot, cool)
    with_impossible = torch.cat([logits, torch.full((5, 3), -torch.inf)], dim=1)
    assert torch.equal(sa.TopNSigma(1)(with_impossible)[:, :40], sa.TopNSigma(1)(logits))


def history(*rows, n_prompt=0):
    return sa.History(torch.tensor(rows), torch.full((len(rows),), n_prompt))


def test_penalties_by_their_definition():
    """A9 no. 4: a negative logit is multiplied, so that the token becomes less likely."""
    z, past = torch.tensor([[2.0, -1.0, 0.5, -3.0]]), history([0, 1, 0])
    assert sa.RepetitionPenalty(2)(z, past).tolist() == [[1.0, -2.0, 0.5, -3.0]]
    assert sa.RepetitionPenalty(2, window=1)(z, past).tolist() == [[1.0, -1.0, 0.5, -3.0]]
    assert sa.FrequencyPenalty(0.5)(z, past).tolist() == [[1.0, -1.5, 0.5, -3.0]]
    assert sa.FrequencyPenalty(0.5, 0.25)(z, past).tolist() == [[0.75, -1.75, 0.5, -3.0]]
    assert sa.FrequencyPenalty(1, window=2)(z, past).tolist() == [[1.0, -2.0, 0.5, -3.0]]
    impossible = torch.tensor([[1.0, -torch.inf]])
    for rule in (sa.RepetitionPenalty(2), sa.FrequencyPenalty(2)):
        assert rule(impossible, history([0, 1]))[0, 1] == -torch.inf
        assert rule(z.repeat(2, 1), history([0, 1], [2, 2]))[1, 0] == 2.0  # rows are apart


def test_the_repetition_penalty_is_that_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    z = torch.randn(3, 9, generator=seed(0))
    ids = torch.randint(9, (3, 5), generator=seed(1))
    past = sa.History(ids, torch.full((3,), 5))
    theirs = {
        sa.RepetitionPenalty(1.3): processors.RepetitionPenaltyLogitsProcessor(1.3),
        sa.NoRepeatNGram(2): processors.NoRepeatNGramLogitsProcessor(2),
        sa.TopK(4): processors.TopKLogitsWarper(4),
        sa.TopP(0.7): processors.TopPLogitsWarper(0.7),
        sa.MinP(0.2): processors.MinPLogitsWarper(0.2),
        sa.Typical(0.6): processors.TypicalLogitsWarper(0.6),
        sa.Epsilon(0.05): processors.EpsilonLogitsWarper(0.05),
        sa.Eta(0.1): processors.EtaLogitsWarper(0.1, device="cpu"),
    }
    for ours, peer in theirs.items():
        assert torch.allclose(ours(z, past), peer(ids, z.clone())), ours


@given(st.lists(st.integers(0, 3), min_size=1, max_size=15), st.integers(1, 4))
def test_no_n_gram_comes_twice(ids, n):
    """Against the definition: a token is banned if the n-gram that it would complete occurs already."""
    rule, end = sa.NoRepeatNGram(n), tuple(ids[len(ids) - n + 1 :])
    grams = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    allowed = [len(ids) < n - 1 or (*end, x) not in grams for x in range(4)]
    assert (rule(torch.zeros(1, 4), history(ids)) > -torch.inf)[0].tolist() == allowed


EXTREMES = [sa.Temperature(t) for t in (1e-320, 1e-40, 1e40, 1e300)]
EXTREMES += [sa.TopNSigma(n) for n in (0, 1e-320, 1e300)]
EXTREMES += [sa.RepetitionPenalty(1e300), sa.FrequencyPenalty(1e300, 1e300), sa.MinP(1e-320)]


@pytest.mark.parametrize("rule", EXTREMES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_settings_never_make_nan(rule, dtype):
    history = sa.History(torch.tensor([[1, 1, 3]]), torch.tensor([1]))
    rows = [
        [2.0, 0, -math.inf, -1],
        [0, -1, -math.inf, -1],
        [6e4, -6e4, 0, 0],
        [0, *[-math.inf] * 3],
    ]
    for row in rows:
        logits = torch.tensor([row], dtype=dtype)
        scores = rule(logits, history)
        assert not scores.isnan().any() and scores[0, 0] > -math.inf
        assert (scores[logits == -math.inf] == -math.inf).all()


def test_a_bias_is_added_and_can_forbid():
    equal = sa.LogitBias({1: 1.0, 2: 2}), sa.LogitBias({2: 2.0, 1: 1})
    assert equal[0] == equal[1] and hash(equal[0]) == hash(equal[1])
    for wrong in (None, {0: "1"}, {0: True}):
        with pytest.raises(TypeError, match="bias must"):
            sa.LogitBias(wrong)
    rule = sa.LogitBias({1: 2.5, 3: -math.inf})
    assert rule(torch.zeros(2, 4)).tolist() == [[0, 2.5, 0, -math.inf]] * 2
    assert sa.LogitBias({})(torch.zeros(1, 2)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="tokens from 0 to 2, got 3"):
        rule(torch.zeros(1, 3))
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="bias must hold finite numbers or -inf"):
            sa.LogitBias({0: wrong})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sa.Temperature(-1), "temperature must be at least 0"),
        (lambda: sa.Temperature(math.nan), "temperature must be at least 0"),
        (lambda: sa.Temperature(math.inf), "temperature must be at least 0 and finite"),
        (lambda: sa.TopK(-1), "top_k must be at least 0, got -1"),
        (lambda: sa.TopP(1.01), "top_p must be at least 0 and at most 1, got 1.01"),
        (lambda: sa.TopP(-0.1), "top_p must be at least 0"),
        (lambda: sa.MinP(2), "min_p must be"),
        (lambda: sa.Typical(-1), "typical_p must be"),
        (lambda: sa.Epsilon(2), "epsilon must be"),
        (lambda: sa.Eta(-1), "epsilon must be"),
        (lambda: sa.TopNSigma(-1), "n must be at least 0"),
        (lambda: sa.RepetitionPenalty(0), "penalty must be above 0"),
        (lambda: sa.RepetitionPenalty(1, window=0), "window must be at least 1"),
        (lambda: sa.FrequencyPenalty(math.inf), "penalty must be"),
        (lambda: sa.NoRepeatNGram(0), "n must be at least 1"),
        (lambda: sa.LogitBias({-1: 0}), "a token of bias must be at least 0"),
    ],
)
def test_rules_name_what_is_wrong_with_them(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda: sa.Temperature("1"), lambda: sa.TopK(1.0), lambda: sa.TopP(None)]
)
def test_rules_refuse_what_is_no_number(make):
    with pytest.raises(TypeError, match="must be"):
        make()


def test_rules_that_look_at_the_text_say_so():
    for rule in (sa.RepetitionPenalty(2), sa.FrequencyPenalty(1), sa.NoRepeatNGram(2)):
        with pytest.raises(ValueError, match="history must be given"):
            rule(torch.zeros(1, 3))
    automaton = sa.Automaton.one_of([[0]])
    with pytest.raises(ValueError, match="history must be given"):
        sa.Constraint(automaton)(torch.zeros(1, 3))


# --- chains -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_one_that_is_written():
    """A9 no. 4."""
    flat, cut = sa.Temperature(2), sa.TopP(0.75)
    assert support(sa.Chain([flat, cut]), FOUR) == [0, 1, 2]
    assert support(sa.Chain([cut, flat]), FOUR) == [0, 1]
    assert sa.Chain()(torch.zeros(1, 2)).tolist() == [[0, 0]]


def test_a_chain_explains_who_removed_what():
    chain = sa.Chain([sa.TopK(3), sa.TopP(0.8), sa.LogitBias({1: -math.inf})])
    model, *stages = chain.explain(torch.tensor(FOUR).log())
    assert model.name == "model" and model.removed == ()
    assert torch.allclose(model.probs, torch.tensor(FOUR))
    assert [stage.removed for stage in stages] == [(3,), (2,), (1,)]
    assert [stage.name for stage in stages[:2]] == ["TopK(k=3)", "TopP(p=0.8)"]
    assert torch.allclose(stages[1].probs, torch.tensor([2 / 3, 1 / 3, 0, 0]))
    assert torch.allclose(stages[-1].probs, chain(torch.tensor([FOUR]).log())[0].softmax(-1))
    with pytest.raises(ValueError, match="logits must be of one row, got 2"):
        chain.explain(torch.zeros(2, 4))


@given(
    probabilities, st.permutations([sa.Temperature(1.5), sa.TopK(3), sa.TopP(0.8), sa.MinP(0.3)])
)
def test_every_token_is_kept_or_removed_by_exactly_one_rule(probs, rules):
    stages = sa.Chain(rules).explain(torch.tensor(probs).log())
    removed = [i for stage in stages for i in stage.removed]
    left = stages[-1].probs.nonzero()[:, 0].tolist()
    assert sorted(removed + left) == list(range(len(probs)))


def test_chains_accept_functions_and_refuse_the_rest():
    def double(logits, history):
        return 2 * logits

    assert sa.Chain([double])(torch.ones(1, 2)).tolist() == [[2, 2]]
    assert repr(sa.Chain([double, sa.TopK(1)])) == "Chain([double, TopK(k=1)])"
    with pytest.raises(TypeError, match="processors must be callables"):
        sa.Chain([0.9])
    with pytest.raises(ValueError, match="<lambda> must return logits of shape"):
        sa.Chain([lambda logits, history: logits[0]])(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match="Processor does not define __call__"):
        sa.Processor()(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match="Filter does not define keep"):
        sa.Filter()(torch.ones(1, 2))


# --- rules that work in place ----------------------------------------------------------------------------------------


def top_two(logits, history):
    logits[logits < logits.topk(2).values[:, -1:]] = -math.inf
    return logits


class TopTwo(sa.Filter):
    def keep(self, logits):
        logits /= 3  # must not reach the scores of what is kept
        return logits >= logits.topk(2).values[:, -1:]


class Vandal(sa.Processor):
    """Writes wherever it can, also into the text, and says the opposite of it."""

    def __call__(self, logits, history):
        history.n_prompt.zero_()
        history.ids.fill_(3)
        return logits.neg_()

    def finished(self, history):
        history.ids.fill_(0)
        return [False] * len(history.ids)


class Allowed(sa.Constraint):
    def __call__(self, logits, history=None):
        return logits.copy_(super().__call__(logits, history))


def pure(rule):
    """The same rule, as a function that works on copies of all that it gets."""

    def twin(logits, history):
        found = rule(logits.clone(), sa.History(history.ids.clone(), history.n_prompt.clone()))
        return found.clone()

    return twin


TWO_TOKENS = sa.Automaton([{i: 1 for i in range(V)}, {i: 0 for i in range(V)}], {0, 1})
IN_PLACE = {
    "function": (top_two, pure(top_two)),
    "filter": (TopTwo(), pure(top_two)),
    "chain": (
        sa.Chain([top_two, sa.Temperature(0.7)]),
        sa.Chain([pure(top_two), sa.Temperature(0.7)]),
    ),
    "vandal": (Vandal(), lambda logits, history: -logits),
    "constraint": (Allowed(TWO_TOKENS), sa.Constraint(TWO_TOKENS)),
}


def written(model, rule, entry):
    """What each function that writes reports: texts, log-probabilities, entropies, scores."""
    options = {"max_new_tokens": 6}
    if entry == "stream":
        steps = [*sa.stream(model, [1, 2], sampler=[rule], generator=seed(3), **options)]
        ids, logs, entropies = (torch.cat(part) for part in list(zip(*steps, strict=True))[:3])
        return [torch.cat([torch.tensor([1, 2]), ids])], [logs], [entropies], []
    if entry == "beam":
        found = sa.beam_search(model, [1, 2], beam_width=3, filters=[rule], stop=0, **options)
    elif entry == "best of n":
        found = sa.best_of_n(model, [1, 2], 5, sampler=[rule], generator=seed(3), **options)
    elif entry == "speculation":
        found = sa.speculative_generate(
            model, make_ngram(), [1, 2], sampler=[rule], generator=seed(3), **options
        )
    else:
        found = sa.generate(model, [[1, 2], [4]], sampler=[rule], generator=seeds(2), **options)
    return found.texts, found.log_probs, found.entropies, getattr(found, "scores", [])


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("entry", ["generate", "stream", "beam", "best of n", "speculation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["gpt", "lstm", "n-gram"])
def test_a_rule_that_works_in_place_is_its_pure_twin_and_the_model_tells_the_scores(
    name, dtype, entry, kind
):
    model = MODELS[name]().to(dtype)
    ours, twin = (written(model, rule, entry) for rule in IN_PLACE[kind])
    for a, b in zip(ours, twin, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for text, log_probs, entropies in zip(*ours[:3], strict=True):
        n = len(log_probs)
        with torch.no_grad():
            law = model(text[None])[0].double().log_softmax(-1)[-n - 1 : -1]  # another pass
            told = model.log_prob(text[None])[0, -n:].double()
        assert torch.allclose(log_probs.double(), told, rtol=0, atol=tolerance)
        each = torch.special.entr(law.exp()).sum(-1)
        assert torch.allclose(entropies.double(), each, rtol=0, atol=tolerance)


def test_a_chain_leaves_logits_and_text_to_their_owner():
    logits, ids = torch.randn(2, V, generator=seed(0)), torch.tensor([[1, 2], [3, 4]])
    history = sa.History(ids.clone(), torch.tensor([1, 1]))
    for rule in (Vandal(), top_two, TopTwo(), sa.Chain([Vandal(), sa.Chain([top_two])])):
        given = logits.clone()
        sa.Chain([rule, sa.Greedy()])(given, history)
        sa.Chain([rule]).finished(history)
        sa.Chain([rule]).explain(given[:1], sa.History(history.ids[:1], history.n_prompt[:1]))
        assert torch.equal(given, logits) and torch.equal(history.ids, ids)
        assert history.n_prompt.tolist() == [1, 1]
    told, expected = (sa.Chain([rule]).explain(logits[0]) for rule in (top_two, sa.TopK(2)))
    assert told[1].removed == expected[1].removed and torch.equal(told[0].probs, expected[0].probs)


def test_a_score_that_works_in_place_does_not_change_what_is_ranked():
    def spoil(found):
        return [row.fill_(b).sum() for b, row in enumerate(found.log_probs)]

    found = sa.best_of_n(make_ngram(), [1], 4, max_new_tokens=3, rerank=spoil, generator=seed(0))
    for text, log_probs in zip(found.texts, found.log_probs, strict=True):
        assert torch.allclose(
            log_probs, make_ngram().log_prob(text[None])[0].to(log_probs), atol=1e-6
        )


def test_a_derived_chain_is_one_rule():
    """What it does on top of its rules is not left out."""

    class Negative(sa.Chain):
        def __call__(self, logits, history=None):
            return -super().__call__(logits, history)

    model = TableLM(table(V, 0))
    found = sa.generate(model, [0], max_new_tokens=1, sampler=[Negative(), sa.Greedy()])
    alone = sa.generate(model, [0], max_new_tokens=1, sampler=sa.Chain([Negative(), sa.Greedy()]))
    assert found.ids[0].item() == alone.ids[0].item() == model.log_table[0].argmin()


@pytest.mark.parametrize(
    "rule",
    [sa.TopP(0.99), sa.TopP(0.3), sa.Eta(1e-4), sa.Epsilon(1e-5), sa.Typical(0.9), sa.MinP(0.01)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_filters_decide_about_half_precision_in_float32(rule, dtype):
    """The tokens that are kept are those of the same numbers in float32, and the scores stay in their type."""
    logits = (3 * torch.randn(1, 50_257, generator=seed(0))).to(dtype)
    found, wide = rule(logits), rule(logits.float())
    assert found.dtype == dtype and torch.equal(found.float(), wide)


# --- the lecture's two functions --------------------------------------------------------------------------------------

SETTINGS = [
    ({}, None),
    ({"temperature": 0.5}, sa.Chain([sa.Temperature(0.5)])),
    ({"top_k": 3}, sa.Chain([sa.TopK(3)])),
    ({"top_p": 0.8}, sa.Chain([sa.TopP(0.8)])),
    (
        {"temperature": 1.7, "top_k": 5, "top_p": 0.9},
        sa.Chain([sa.Temperature(1.7), sa.TopK(5), sa.TopP(0.9)]),
    ),
]


@pytest.mark.parametrize(("options", "chain"), SETTINGS)
def test_tokens_are_drawn_from_the_enumerated_law(options, chain):
    """S85: chi-square on 100,000 draws."""
    logits = torch.randn(8, generator=seed(3), dtype=torch.float64)
    logits[2] = -torch.inf
    expected = (sa.as_chain(chain)(logits[None])[0]).softmax(-1)
    drawn = sa.sample_next_token(logits.expand(100_000, 8), generator=seed(0), **options)
    assert drawn.shape == (100_000,) and drawn.dtype == torch.int64
    assert_drawn_from(torch.bincount(drawn, minlength=8), expected)


RULES = [
    sa.MinP(0.3), sa.Typical(0.7), sa.Epsilon(0.08), sa.Eta(0.2), sa.TopNSigma(1.0),
    sa.RepetitionPenalty(1.5), sa.FrequencyPenalty(0.7, 0.2), sa.NoRepeatNGram(1), sa.LogitBias({0: 1}),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_draws_have_the_law_that_a_rule_makes(rule):
    """Chi-square on 100,000 draws; and every outcome of the real loop, weighted, against the chain rule to 1e-12."""
    model = TableLM(table(V, 5))
    past = history([1, 4], n_prompt=2)
    scores = rule(model.log_table[4][None], past)
    drawn = sa.Dice(seed(0), 100_000).draw(scores.softmax(-1).expand(100_000, V))
    assert_drawn_from(torch.bincount(drawn, minlength=V), scores[0].softmax(-1))
    found = outcome_law(
        lambda dice: sa.generate(model, [1, 4], max_new_tokens=2, sampler=rule, generator=dice)
    )
    assert_same_law(found, law_by_chain_rule(model, [1, 4], 2, rule))


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=8), st.integers(0, 99))
def test_temperature_0_and_top_k_1_and_top_p_0_are_greedy(logits, n):
    z = torch.tensor([logits])
    best = int(torch.tensor(logits).argmax())
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0}):
        assert sa.sample_next_token(z, generator=seed(n), **options).tolist() == [best]


def test_the_printed_function_fails_where_ours_does_not():
    """E11: division by 0; k > V; our answers are documented."""
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert (logits / 0.0).softmax(-1).isnan().all()
    with pytest.raises(RuntimeError):
        torch.topk(logits, 4)
    assert sa.sample_next_token(logits, 0.0).tolist() == [1]
    assert sa.sample_next_token(logits, top_k=4, top_p=0, generator=seed(0)).tolist() == [1]
    assert sa.sample_next_token(logits.half(), 0.0).tolist() == [1]
    assert sa.sample_next_token(logits.bfloat16(), generator=seed(0)).item() in (0, 1, 2)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[0.0, math.nan]], "row 0 holds nan or inf"),
        ([[0.0, 1.0], [0.0, math.inf]], "row 1 holds nan or inf"),
        ([[0.0, 1.0], [-math.inf, -math.inf]], "row 1 has only -inf"),
        ([0.0, 1.0], r"logits must have shape \(B, V\), got \(2,\)"),
        ([[]], r"logits must have shape \(B, V\)"),
    ],
)
def test_logits_that_describe_no_law_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        sa.sample_next_token(torch.tensor(logits))


def test_sample_next_token_names_wrong_arguments():
    logits = torch.zeros(1, 3)
    for options, name in (({"temperature": -1}, "temperature"), ({"top_k": -1}, "top_k")):
        with pytest.raises(ValueError, match=name):
            sa.sample_next_token(logits, **options)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="top_p"):
            sa.sample_next_token(logits, top_p=p)
    for wrong in ([[0.0]], torch.zeros(1, 3, dtype=torch.int64)):
        with pytest.raises(TypeError, match="logits must be a torch.Tensor of floats"):
            sa.sample_next_token(wrong)


@models
def test_greedy_decode_is_the_argmax_of_the_whole_prefix(name):
    """S86, S91, E12: several rows, beyond the context, without gradients."""
    model = MODELS[name]()
    ids = torch.tensor([[1, 2, 3], [6, 0, 0]])
    found = sa.greedy_decode(model, ids, 20)
    assert found.shape == (2, 23) and not found.requires_grad
    for row, text in zip(ids, found, strict=True):
        assert torch.equal(text, by_hand(model, row, 20, lambda z: z.argmax(-1)))


def test_greedy_decode_ends_each_row_by_itself():
    model = TableLM(np.roll(np.eye(5), 1, axis=1))  # 0 -> 1 -> 2 -> 3 -> 4 -> 0
    found = sa.greedy_decode(model, torch.tensor([[0], [2]]), 3, eos_id=3)
    assert found.tolist() == [[0, 1, 2, 3], [2, 3, 3, 3]]
    model.eos_token_id = 4
    assert sa.greedy_decode(model, torch.tensor([[0], [2]]), 9).tolist() == [
        [0, 1, 2, 3, 4],
        [2, 3, 4, 4, 4],
    ]


def test_greedy_loses_to_beam_search_in_two_steps():
    """S87: .30 against .36."""
    steps = np.eye(5)
    steps[:3] = [[0, 0.6, 0.4, 0, 0], [0, 0.3, 0.2, 0.5, 0], [0, 0, 0.1, 0, 0.9]]
    model = TableLM(steps)
    greedy = sa.generate(model, [0], max_new_tokens=2, sampler=sa.Greedy())
    assert greedy.ids[0].tolist() == [1, 3] and math.isclose(greedy.log_prob.exp(), 0.30)
    beam = sa.beam_search(model, [0], max_new_tokens=2, beam_width=2)
    assert beam.ids[0].tolist() == [2, 4] and math.isclose(beam.log_prob[0].exp(), 0.36)


# --- the loop ---------------------------------------------------------------------------------------------------------


@models
def test_a_ragged_batch_gives_what_single_rows_give(name):
    """S84, A9 no. 9: the same tokens from the same rolls, beyond the context too; scores to 1e-9 in float64."""
    model = MODELS[name]()
    prompts = [[1], [2, 3, 4, 5, 6], list(range(7)) * 3, [0, 0]]
    for sampler in (
        None,
        [sa.Temperature(0.8), sa.TopP(0.9)],
        sa.Greedy(),
        sa.FrequencyPenalty(0.5),
    ):
        options = {"max_new_tokens": 15, "sampler": sampler, "stop": 3}
        batch = sa.generate(model, prompts, generator=seeds(4), **options)
        for b, prompt in enumerate(prompts):
            alone = sa.generate(model, prompt, generator=seed(b), **options)
            assert torch.equal(batch.ids[b], alone.ids[0]) and batch.reasons[b] == alone.reasons[0]
            for field in ("log_probs", "entropies"):
                pair = getattr(batch, field)[b], getattr(alone, field)[0]
                assert torch.allclose(*pair, rtol=0, atol=1e-9)
                assert name not in ("table", "own state", "n-gram") or torch.equal(*pair)


@models
def test_generation_agrees_with_the_plain_loop(name):
    """S49, S84: greedily, token for token, for prompts shorter and longer than the context."""
    model = MODELS[name]()
    for prompt in ([1], list(range(7)) * 4):
        found = sa.generate(model, prompt, max_new_tokens=18, sampler=sa.Temperature(0))
        assert torch.equal(found.texts[0], by_hand(model, prompt, 18, lambda z: z.argmax(-1)))


def test_generation_has_the_law_of_the_plain_loop():
    """S85: all texts of three tokens of a known three-state model; chi-square of both on the same enumeration."""
    P = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.0, 0.6]])
    model, n = TableLM(P), 100_000
    law = np.einsum("a,ab,bc->abc", P[0], P, P).ravel()
    start = torch.zeros(n, 1, dtype=torch.int64)
    ours = sa.generate(model, start, max_new_tokens=3, generator=seed(0)).padded(0)[:, 1:]
    plain = ancestral_sample(model, start, 3, generator=seed(0))[:, 1:]
    for drawn in (ours, plain):
        codes = drawn @ torch.tensor([9, 3, 1])
        assert_drawn_from(torch.bincount(codes, minlength=27), law)


class EveryOutcome(sa.Dice):
    """Dice that go through all outcomes of a program, one run after the other, and multiply their probabilities."""

    def __init__(self):
        super().__init__(None, 1)
        self.script = []

    def runs(self, program):
        """Yield (probability, result) of every run."""
        while True:
            self.at, self.probability = 0, 1.0
            yield_value = program(self)
            yield self.probability, yield_value
            while self.script and not self.script[-1][1]:
                self.script.pop()
            if not self.script:
                return
            choice, rest = self.script.pop()
            self.script.append((rest[0], rest[1:]))

    def _choose(self, probs):
        if self.at == len(self.script):
            possible = [i for i, p in enumerate(probs) if p > 0]
            self.script.append((possible[0], possible[1:]))
        chosen = self.script[self.at][0]
        self.at += 1
        self.probability *= probs[chosen]
        return chosen

    def draw(self, weights, active=None):
        (row,) = weights.double()
        return torch.tensor([self._choose((row / row.sum()).tolist())])

    def flip(self, probability):
        return self._choose([1 - probability, probability]) == 1


def outcome_law(program):
    """The exact law of the text that a program writes."""
    found = {}
    for probability, result in EveryOutcome().runs(program):
        key = tuple(result.ids[0].tolist())
        found[key] = found.get(key, 0.0) + probability
    return found


def law_by_chain_rule(model, prompt, n, rule=None, stop=()):
    """The law of n tokens by definition, with one full pass per prefix."""
    found, chain = {}, sa.as_chain(rule)

    def walk(text, p):
        new = tuple(text[len(prompt) :])
        if len(new) == n or (new and new[-1] in stop):
            found[new] = p
            return
        past = sa.History(torch.tensor([text]), torch.tensor([len(prompt)]))
        window = past.ids if model.context_length is None else crop(past.ids, model.context_length)
        with torch.no_grad():
            probs = chain(model(window)[:, -1].double(), past)[0].softmax(-1).tolist()
        for i, q in enumerate(probs):
            if q > 0:
                walk([*text, i], p * q)

    walk(list(prompt), 1.0)
    return found


def assert_same_law(a, b, tolerance=1e-12):
    assert set(a) == set(b)
    assert max(abs(a[key] - b[key]) for key in a) < tolerance


def test_the_law_of_generation_by_enumeration():
    """S85: every run of the real loop, weighted by its probability, against the chain rule; 1e-12 in float64."""
    small = TableLM(table(3, 1))
    for sampler in (None, [sa.Temperature(0.7), sa.TopP(0.9)], sa.FrequencyPenalty(0.5)):
        found = outcome_law(
            lambda dice, s=sampler: sa.generate(
                small, [0], max_new_tokens=4, sampler=s, stop=2, generator=dice
            )
        )
        assert_same_law(found, law_by_chain_rule(small, [0], 4, sampler, stop={2}))
        assert math.isclose(sum(found.values()), 1, abs_tol=1e-12)


@models
def test_scores_are_those_of_the_model(name):
    """Whatever rule chose, log_probs are the model's own, and entropies those of its law."""
    model = MODELS[name]()
    found = sa.generate(
        model, [[1, 2], [3, 4]], max_new_tokens=8, sampler=sa.TopK(2), generator=seed(0)
    )
    for text, log_probs, entropies in zip(
        found.texts, found.log_probs, found.entropies, strict=True
    ):
        logits = model(text[None, :-1])[0, 1:].log_softmax(-1)
        assert torch.allclose(model.log_prob(text[None])[0, 1:], log_probs, rtol=0, atol=1e-9)
        assert torch.allclose(-(logits.exp() * logits).sum(-1), entropies, rtol=0, atol=1e-9)
    assert torch.allclose(found.log_prob, torch.stack([x.sum() for x in found.log_probs]))


def test_an_entropy_of_a_law_with_zeros_is_a_number():
    model = TableLM([[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]])
    found = sa.generate(model, [0], max_new_tokens=1, generator=seed(0))
    assert math.isclose(found.entropies[0].item(), math.log(2))
    assert sa.generate(model, [1], max_new_tokens=1).entropies[0].item() == 0


def test_rows_end_for_a_reason_of_their_own():
    """S84: a stop token is kept, others go on, new tokens are counted without the prompt."""
    model = TableLM(np.roll(np.eye(6), 1, axis=1))
    found = sa.generate(model, [[0], [0, 1, 2], [4]], max_new_tokens=3, stop=[3])
    assert [row.tolist() for row in found.ids] == [[1, 2, 3], [3], [5, 0, 1]]
    assert found.reasons == ("stop", "stop", "length") and len(found) == 3
    assert [len(x) for x in found.log_probs] == [3, 1, 3]
    assert found.padded(9).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 0, 1]]
    at_once = sa.generate(model, [2], max_new_tokens=5, stop=(3, 4))
    assert at_once.ids[0].tolist() == [3]


def test_rows_that_have_ended_disturb_nobody():
    """A row that has ended may run into a dead end, or into nonsense: it does not matter."""
    model = TableLM(np.roll(np.eye(6), 1, axis=1))
    rules = [sa.NoRepeatNGram(1)]
    found = sa.generate(model, [[0], [5]], max_new_tokens=4, sampler=rules, stop=[0, 4])
    assert [row.tolist() for row in found.ids] == [[1, 2, 3, 4], [0]]
    with pytest.raises(
        sa.DeadEndError, match=r"NoRepeatNGram\(n=1\)\]\) leaves no token for row 1"
    ):
        sa.generate(model, [[0], [5]], max_new_tokens=6, sampler=rules, stop=5)


@models
def test_a_stream_gives_what_generate_gives(name):
    model, prompts = MODELS[name](), [[1, 2], [3], [1, 1, 1, 1]]
    options = {"max_new_tokens": 6, "stop": 0}
    whole = sa.generate(model, prompts, generator=seeds(3), **options)
    steps = list(sa.stream(model, prompts, generator=seeds(3), **options))
    for b in range(3):
        mine = [step for step in steps if step.active[b]]
        assert [step.ids[b].item() for step in mine] == whole.ids[b].tolist()
        scores = torch.tensor([step.log_probs[b] for step in mine], dtype=whole.log_probs[b].dtype)
        assert torch.equal(scores, whole.log_probs[b])
    assert all((step.ids[b] == -1) != step.active[b] for step in steps for b in range(3))


def test_a_stream_checks_at_once_and_leaves_modes_alone_between_tokens():
    """E13."""
    model = make_gpt(dropout=0.5).train()
    model.blocks[0].eval()
    with pytest.raises(ValueError, match="max_new_tokens"):
        sa.stream(model, [0], max_new_tokens=0)
    reference = sa.generate(model, [0], max_new_tokens=4, sampler=sa.Greedy()).ids[0]
    for step, expected in zip(
        sa.stream(model, [0], max_new_tokens=4, sampler=sa.Greedy()), reference, strict=True
    ):
        assert torch.is_grad_enabled() and model.training and not model.blocks[0].training
        assert step.ids.item() == expected
    assert torch.equal(
        sa.generate(model.eval(), [0], max_new_tokens=4, sampler=sa.Greedy()).ids[0], reference
    )


def test_the_same_generator_gives_the_same_text():
    """S85."""
    model = make_ngram()
    texts = [
        sa.generate(model, [0], max_new_tokens=30, generator=seed(n)).ids[0].tolist()
        for n in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


@given(st.integers(1, 40), st.integers(1, 12), st.data())
@settings(max_examples=60)
def test_the_window_fits_holds_the_newest_and_moves_only_forward(n, T, data):
    """S49: without `keep` it is the rule of `crop`; with it, there are always `keep` tokens or more."""
    keep = data.draw(st.integers(1, T))
    start = sa.window_start(n, T, keep)
    assert 0 <= start < n and n - start <= T and (start == 0 or n - start >= keep)
    assert start <= sa.window_start(n + 1, T, keep) and sa.window_start(n, None) == 0
    text = torch.arange(n)[None]
    assert torch.equal(text[:, sa.window_start(n, T) :], crop(text, T))


@pytest.mark.parametrize("keep", [None, 1, 6, 11, 12])
def test_texts_may_be_cut_earlier_and_are_read_as_the_window_says(keep):
    """S49: far beyond the context, from short and long prompts, each token from its own window."""
    model = make_gpt()
    for prompt in ([1], list(range(7)) * 4):
        found = sa.generate(model, prompt, max_new_tokens=30, sampler=sa.Greedy(), keep=keep)
        text = found.texts[0]
        for n in range(len(prompt), len(text)):
            window = text[None, sa.window_start(n, 12, keep) : n]
            assert model(window)[0, -1].argmax() == text[n]


def test_a_prompt_is_read_once_and_its_logits_are_not_made():
    """The prompt in one piece, then single tokens, by `next_logits`."""
    sizes, model = [], make_gpt()
    original = model.next_logits
    model.next_logits = lambda ids, state: sizes.append(ids.shape[1]) or original(ids, state)
    sa.generate(model, [1, 2, 3, 4], max_new_tokens=4)
    assert sizes == [4, 1, 1, 1]
    sizes.clear()
    sa.generate(
        model, [[1], [2] * 8], max_new_tokens=2
    )  # the long prompt goes on when the short row is done
    assert sizes == [1, 1, 6, 1]


@models
def test_the_score_of_what_follows_is_the_last_row_of_step(name):
    model = MODELS[name]()
    ids = torch.randint(V, (2, 5), generator=seed(0))
    all_logits, _ = model.step(ids, model.init_state(2))
    last, state = model.next_logits(ids, model.init_state(2))
    assert torch.allclose(last, all_logits[:, -1], rtol=0, atol=1e-12)
    more, _ = model.next_logits(ids[:, :1], state)
    whole = torch.cat([ids, ids[:, :1]], 1)
    assert torch.allclose(more, model(whole)[:, -1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ValueError, "prompt must have at least one token"),
        (torch.zeros(0, dtype=torch.int64), ValueError, "at least one token"),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, "at least one token"),
        ([[1], []], ValueError, "at least one token"),
        ("to be", TypeError, "encode it first"),
        (3, TypeError, "prompt must be a tensor or a sequence"),
        ([1.5], TypeError, "integers"),
        ([[1], ["a"]], TypeError, "prompt must hold token ids"),
        ([True, False], TypeError, "integers"),
        ([7], ValueError, "between 0 and 6"),
        ([[0], [-1]], ValueError, "between 0 and 6"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), TypeError, "rows of integers"),
    ],
)
def test_prompts_that_are_none_are_named(prompt, error, message):
    for model in (make_ngram(), make_gpt()):
        with pytest.raises(error, match=message):
            sa.generate(model, prompt, max_new_tokens=1)


def test_prompts_may_come_in_any_form():
    model, forms = (
        make_ngram(),
        [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), [[1, 2]], [np.array([1, 2])]],
    )
    forms += [
        torch.tensor([[1, 2]]),
        torch.tensor([1, 2], dtype=torch.int32),
        [torch.tensor(1), torch.tensor(2)],
    ]
    texts = {
        tuple(sa.generate(model, form, max_new_tokens=3, generator=seed(0)).texts[0].tolist())
        for form in forms
    }
    assert len(texts) == 1 and len(texts.pop()) == 5


def test_other_arguments_are_named():
    model = make_gpt()
    with pytest.raises(ValueError, match="stop must hold tokens from 0 to 6, got 7"):
        sa.generate(model, [0], max_new_tokens=1, stop=7)
    with pytest.raises(ValueError, match="stop must be at least 0"):
        sa.generate(model, [0], max_new_tokens=1, stop=[1, -1])
    with pytest.raises(TypeError, match="stop must be an integer"):
        sa.generate(model, [0], max_new_tokens=1, stop="<eos>")
    with pytest.raises(ValueError, match="keep must be at most 12, got 13"):
        sa.generate(model, [0], max_new_tokens=1, keep=13)
    with pytest.raises(TypeError, match="model must be a LanguageModel"):
        sa.generate(lambda ids: ids, [0], max_new_tokens=1)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        sa.generate(model, [0], max_new_tokens=0)


def test_scalars_and_batches_in_the_wrong_place_are_named():
    model = make_ngram()
    with pytest.raises(TypeError, match="prompt must be a tensor or a sequence of ids"):
        sa.generate(model, torch.tensor(3), max_new_tokens=1)
    for stop in (torch.tensor(3), np.array(3), torch.tensor([3]), np.int64(3)):
        assert sa.as_stop(stop, V) == {3}
    for search in (
        lambda p: sa.beam_search(model, p, max_new_tokens=2),
        lambda p: sa.best_of_n(model, p, 2, max_new_tokens=2),
        lambda p: sa.speculative_generate(model, model, p, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match="prompt must be a single row, got 2"):
            search([[0], [1]])
    with pytest.raises(TypeError, match="processors must be callables"):
        sa.generate(model, [0], max_new_tokens=1, sampler=sa.Greedy)  # the class, not a rule
    with pytest.raises(TypeError, match="draft must be a LanguageModel"):
        sa.speculative_generate(model, None, [0], max_new_tokens=1)


class ReturningLM(ob.LanguageModel):
    """A model that returns what it is told to, for ids (B, T)."""

    def __init__(self, f, vocab_size=4):
        super().__init__()
        self.f, self.vocab_size = f, vocab_size

    def forward(self, ids):
        return self.f(ids)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda i: torch.zeros(*i.shape, 6), ValueError, r"logits of shape \(1, 4\), got \(1, 6\)"),
        (lambda i: torch.zeros(*i.shape, 4).long(), TypeError, "tensor of floats"),
        (lambda i: torch.full((*i.shape, 4), -math.inf), ValueError, "row 0 has only -inf"),
        (lambda i: torch.full((*i.shape, 4), math.inf), ValueError, "row 0 holds nan or inf"),
    ],
)
def test_models_that_return_no_logits_are_named(f, error, message):
    with pytest.raises(error, match=message):
        sa.generate(ReturningLM(f), [0], max_new_tokens=2)


def test_a_model_needs_a_vocabulary():
    model = ReturningLM(lambda i: torch.zeros(*i.shape, 4), vocab_size=None)
    with pytest.raises(TypeError, match="model.vocab_size must be an integer"):
        sa.generate(model, [0], max_new_tokens=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision_and_of_one_token_can_write(dtype):
    half = ReturningLM(lambda i: torch.arange(4).to(dtype).expand(*i.shape, 4))
    found = sa.generate(half, [0], max_new_tokens=3, sampler=[sa.TopP(0.9)], generator=seed(0))
    assert found.log_probs[0].dtype == torch.float32 and found.log_prob.isfinite().all()
    one = ReturningLM(lambda i: torch.zeros(*i.shape, 1, dtype=dtype), vocab_size=1)
    for write in (
        sa.generate(one, [0], max_new_tokens=3),
        sa.beam_search(one, [0], max_new_tokens=3),
        sa.speculative_generate(one, one, [0], max_new_tokens=3),
    ):
        assert write.ids[0].tolist() == [0, 0, 0] and write.log_prob.tolist() == [0]


def test_a_model_that_returns_nan_is_caught():
    class Broken(TableLM):
        def forward(self, ids):
            return super().forward(ids) * torch.where(ids == 2, math.nan, 1.0)[..., None]

    broken = Broken(np.roll(np.eye(4), 1, axis=1).clip(0.1))
    for sampler in (None, sa.Greedy(), sa.TopP(0.9)):
        with pytest.raises(ValueError, match="row 1 holds nan or inf"):
            sa.generate(broken, [[0], [2]], max_new_tokens=1, sampler=sampler)


# --- loops and diversity ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2), max_size=24), st.integers(2, 4))
def test_a_loop_is_found_if_and_only_if_the_end_repeats(ids, repeats):
    """S87: against all periods, by comparing pieces."""
    periods = [
        p
        for p in range(1, len(ids) // repeats + 1)
        if len({tuple(ids[len(ids) - (i + 1) * p : len(ids) - i * p]) for i in range(repeats)}) == 1
    ]
    found = sa.find_loop(ids, repeats=repeats)
    assert (found is None) == (not periods)
    if found:
        start, period = found
        assert period == periods[0]
        assert all(ids[i] == ids[i + period] for i in range(start, len(ids) - period))
        assert start == 0 or ids[start - 1] != ids[start - 1 + period]


def test_diversity_by_hand():
    """S85."""
    found = sa.diversity([[1, 2, 1, 2], torch.tensor([1, 2, 3, 3])])
    assert found.distinct_1 == 3 / 8 and found.distinct_2 == 4 / 6
    share = np.array([3, 3, 2]) / 8
    assert math.isclose(found.entropy, -(share * np.log(share)).sum())
    assert (
        sa.diversity([[1, 2, 3, 4]] * 3).self_bleu == 1 and sa.diversity([[1], [2]]).self_bleu == 0
    )
    for wrong in ([[1, 2]], [[1], []]):
        with pytest.raises(ValueError, match="at least two texts"):
            sa.diversity(wrong)


def test_self_bleu_is_the_mean_bleu_of_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    rows = torch.randint(3, (6, 30), generator=seed(0)).tolist()
    rows[2] = rows[2][:25]
    theirs = [bleu.sentence_bleu(rows[:b] + rows[b + 1 :], row) for b, row in enumerate(rows)]
    assert math.isclose(sa.self_bleu(rows), np.mean(theirs), rel_tol=1e-12)


# --- search -----------------------------------------------------------------------------------------------------------


def all_texts(model, prompt, n, stop=()):
    return sorted(law_by_chain_rule(model, prompt, n, stop=stop).items(), key=lambda item: -item[1])


@models
def test_a_wide_beam_is_an_exhaustive_search(name):
    """S82: the best of all texts with their log-probabilities, in order."""
    model = MODELS[name]()
    found = sa.beam_search(model, [1, 2], max_new_tokens=3, beam_width=V**2)
    expected = all_texts(model, [1, 2], 3)[: len(found)]
    assert [tuple(row.tolist()) for row in found.ids[:10]] == [text for text, _ in expected[:10]]
    logs = torch.tensor([math.log(p) for _, p in expected[:10]], dtype=torch.float64)
    assert torch.allclose(found.scores[:10], logs, rtol=0, atol=1e-9)


@models
@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
def test_scores_of_beams_add_up(name, power):
    """A9 no. 10: the sum of what is reported per token is what the model says, and the score follows from it."""
    model = MODELS[name]()
    found = sa.beam_search(model, [1], max_new_tokens=15, beam_width=4, length_power=power, stop=2)
    assert found.scores.diff().le(0).all() and len({tuple(x.tolist()) for x in found.ids}) == len(
        found
    )
    for b, text in enumerate(found.texts):
        new = len(found.ids[b])
        assert torch.equal(found.log_probs[b].sum(), found.log_prob[b])
        assert math.isclose(found.scores[b], found.log_prob[b] / new**power, rel_tol=1e-12)
        if model.context_length is None or len(text) <= model.context_length:
            direct = model.log_prob(text[None])[0].sum()
            assert torch.allclose(direct, found.log_prob[b], rtol=0, atol=1e-9)
        assert (found.reasons[b] == "stop") == (text[-1] == 2)


@models
def test_a_beam_of_width_1_is_greedy(name):
    """S86: also beyond the context, with a stop token, whatever the rule for the length."""
    model = MODELS[name]()
    for power in (0, 1):
        beam = sa.beam_search(
            model, [3, 1], max_new_tokens=18, beam_width=1, length_power=power, stop=0
        )
        greedy = sa.generate(model, [3, 1], max_new_tokens=18, sampler=sa.Greedy(), stop=0)
        assert torch.equal(beam.ids[0], greedy.ids[0]) and beam.reasons == greedy.reasons


def test_the_length_rule_decides_between_short_and_long():
    model = TableLM([[0.0, 0.5, 0.5], [0, 1, 0], [0, 0.1, 0.9]])
    short, long = (
        sa.beam_search(model, [0], max_new_tokens=4, beam_width=3, length_power=a, stop=1)
        for a in (0, 2)
    )
    assert short.ids[0].tolist() == [1] and len(long.ids[0]) == 4


def test_beams_respect_filters_and_dead_ends():
    model = TableLM(table(4, 2))
    found = sa.beam_search(model, [0], max_new_tokens=3, beam_width=50, filters=sa.NoRepeatNGram(1))
    expected = [t for t, _ in all_texts(model, [0], 3) if len({0, *t}) == 4]
    assert [tuple(x.tolist()) for x in found.ids] == expected
    with pytest.raises(sa.DeadEndError, match="no continuation is possible"):
        sa.beam_search(model, [0], max_new_tokens=4, beam_width=5, filters=sa.NoRepeatNGram(1))
    for options, message in (
        ({"beam_width": 0}, "beam_width"),
        ({"length_power": -1}, "length_power"),
    ):
        with pytest.raises(ValueError, match=message):
            sa.beam_search(model, [0], max_new_tokens=1, **options)


def test_equal_scores_come_lowest_ids_first():
    found = sa.beam_search(TableLM(np.full((3, 3), 1 / 3)), [0], max_new_tokens=2, beam_width=4)
    assert [x.tolist() for x in found.ids] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert sa.top_indices(torch.tensor([1.0, 3.0, -math.inf, 3.0]), 9).tolist() == [1, 3, 0]


def slow_beam(model, prompt, n, width, *, power=0.0, stop=(), done=lambda text: False):
    """The search as the page tells it, with lists: every step scores every beginning from its whole text."""
    live, ended = [((), 0.0)], []
    for step in range(1, n + 1):
        ways = []
        for text, total in live:
            with torch.no_grad():
                law = model(torch.tensor([[*prompt, *text]]))[0, -1].double().log_softmax(-1)
            ways += [((*text, i), total + p) for i, p in enumerate(law.tolist()) if p > -math.inf]
        ways.sort(key=lambda way: -way[1])  # stable: lowest ids first
        ends = [text[-1] in stop or done(text) for text, _ in ways]
        first = list(zip(ways, ends, strict=True))[:width]
        ended += [(text, total / step**power) for (text, total), end in first if end]
        live = [way for way, end in zip(ways, ends, strict=True) if not end][:width]
        ended.sort(key=lambda text: -text[1])
        full = len(ended) >= width
        if not live or (full and live[0][1] / step**power <= ended[width - 1][1]):
            return ended[:width]
    ended += [(text, total / n**power) for text, total in live]
    return sorted(ended, key=lambda text: -text[1])[:width]


def assert_same_search(found, expected):
    assert [tuple(row.tolist()) for row in found.ids] == [text for text, _ in expected]
    scores = found.scores.tolist()
    assert np.allclose(scores, [score for _, score in expected], rtol=0, atol=1e-9)


@models
@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("power", [0.0, 0.7, 1.5])
def test_the_search_is_that_of_the_page(name, width, power):
    """Against lists of texts, with tokens that end them early and often, and with a rule that does."""
    model = MODELS[name]()
    for stop in ((0,), (1, 2, 5), ()):
        options = {"max_new_tokens": 6, "beam_width": width, "length_power": power}
        found = sa.beam_search(model, [3, 4], stop=stop, **options)
        assert_same_search(found, slow_beam(model, [3, 4], 6, width, power=power, stop=stop))
        found = sa.beam_search(model, [3, 4], stop=stop, filters=TwoTokens(), **options)
        two = slow_beam(
            model, [3, 4], 6, width, power=power, stop=stop, done=lambda text: len(text) == 2
        )
        assert_same_search(found, two)


@models
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_wide_beam_with_stop_tokens_is_an_exhaustive_search(name, power):
    model, stop = MODELS[name](), {0, 4}
    found = sa.beam_search(
        model, [1, 2], max_new_tokens=3, beam_width=V**3, length_power=power, stop=stop
    )
    texts = law_by_chain_rule(model, [1, 2], 3, stop=stop)
    scores = {text: math.log(p) / len(text) ** power for text, p in texts.items() if p > 0}
    best = sorted(scores.items(), key=lambda item: -item[1])
    assert len(found) == len(best)
    assert np.allclose(found.scores.tolist(), [score for _, score in best], rtol=0, atol=1e-9)
    assert {tuple(row.tolist()) for row in found.ids} == set(scores)


class EarlyEnd(ob.LanguageModel):
    """First token: 1 with .5, 3, which ends, with .2, three others with .1; after 1: 4 .52, 5 .48; then all alike."""

    vocab_size = 50

    def forward(self, ids):
        p = torch.full((*ids.shape, 50), 1 / 50, dtype=torch.float64)
        p[:, 0] = 0
        p[:, 0, [1, 3, 10, 11, 12]] = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
        if ids.shape[1] > 1:
            after = torch.zeros(50, dtype=torch.float64)
            after[[4, 5]] = torch.tensor([0.52, 0.48], dtype=torch.float64)
            p[ids[:, 1] == 1, 1] = after
        return p.log()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_text_that_has_ended_is_not_lost(power):
    """It was complete in the first step, and is better than all that comes later; transformers finds it too."""
    found = sa.beam_search(
        EarlyEnd(), [0], max_new_tokens=4, beam_width=2, length_power=power, stop=3
    )
    assert found.ids[0].tolist() == [3] and math.isclose(found.scores[0], math.log(0.2))
    assert found.reasons[0] == "stop"
    transformers = pytest.importorskip("transformers")

    class Peer(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.GPT2Config

        def __init__(self, config):
            super().__init__(config)
            self.nothing = torch.nn.Parameter(torch.zeros(1))  # it asks where the parameters are

        def forward(self, input_ids, **_):
            logits = EarlyEnd()(input_ids).float()
            return transformers.modeling_outputs.CausalLMOutput(logits=logits)

        def prepare_inputs_for_generation(self, input_ids, **_):
            return {"input_ids": input_ids}

    sizes = {"vocab_size": 50, "n_embd": 8, "n_layer": 1, "n_head": 1}
    theirs = Peer(transformers.GPT2Config(**sizes)).generate(
        torch.tensor([[0]]),
        num_beams=2,
        max_new_tokens=4,
        length_penalty=power,
        eos_token_id=3,
        pad_token_id=49,
        do_sample=False,
        use_cache=False,
    )
    assert theirs[0, 1].item() == 3


def test_absurd_powers_of_the_length_are_refused():
    """They would make every score 0, or no number."""
    model = TableLM(table(4, 2))
    with pytest.raises(ValueError, match="length_power must be at most 419 for texts of up to 3"):
        sa.beam_search(model, [0], max_new_tokens=3, length_power=1e3)
    assert len(sa.beam_search(model, [0], max_new_tokens=3, length_power=400)) == 4
    assert len(sa.beam_search(model, [0], max_new_tokens=1, length_power=1e300)) == 4


# --- at least so many tokens --------------------------------------------------------------------------------------


@models
def test_no_row_ends_before_it_has_the_least_number_of_tokens(name):
    """Each row by itself; what is drawn has the model's law without the stop token, and its scores are the model's."""
    model, options = MODELS[name](), {"max_new_tokens": 9, "stop": (0, 2)}
    for least in (0, 4, 9):
        found = sa.generate(
            model, [[1], [3, 4, 5]] * 20, min_new_tokens=least, generator=seed(1), **options
        )
        for row, reason in zip(found.ids, found.reasons, strict=True):
            assert not set(row[:least].tolist()) & {0, 2} and len(row) >= least
            assert reason == ("stop" if row[-1] in (0, 2) else "length")
        ends = [
            len(row) for row, why in zip(found.ids, found.reasons, strict=True) if why == "stop"
        ]
        assert not ends or min(ends) > least
        alone = {"sampler": sa.TopP(0.9), "min_new_tokens": least, **options}
        steps = sa.stream(model, [1], generator=seed(2), **alone)
        ids = torch.cat([step.ids for step in steps])
        assert torch.equal(ids, sa.generate(model, [1], generator=seed(2), **alone).ids[0])
        banned = [sa.LogitBias({0: -math.inf, 2: -math.inf})]
        if least == 9:
            free = sa.generate(
                model, [1], max_new_tokens=9, sampler=[*banned, sa.TopP(0.9)], generator=seed(2)
            )
            assert torch.equal(ids, free.ids[0])
    for search in (
        sa.beam_search(model, [1], min_new_tokens=4, **options),
        sa.best_of_n(model, [1], 5, min_new_tokens=4, generator=seed(0), **options),
        sa.speculative_generate(
            model, make_ngram(), [1], min_new_tokens=4, generator=seed(0), **options
        ),
    ):
        for text, row, log_probs in zip(search.texts, search.ids, search.log_probs, strict=True):
            assert len(row) >= 4 and not set(row[:4].tolist()) & {0, 2}
            assert torch.allclose(log_probs.double(), model.log_prob(text[None])[0].double())


def test_the_least_number_of_tokens_is_checked():
    model = TableLM(table(4, 2))
    with pytest.raises(
        ValueError, match="min_new_tokens must be at most max_new_tokens = 3, got 4"
    ):
        sa.generate(model, [0], max_new_tokens=3, min_new_tokens=4)
    with pytest.raises(ValueError, match="min_new_tokens must be at least 0"):
        sa.stream(model, [0], max_new_tokens=3, min_new_tokens=-1)
    only = TableLM([[0.0, 1.0], [0.0, 1.0]])  # nothing else is possible
    with pytest.raises(sa.DeadEndError, match="MinNewTokens"):
        sa.generate(only, [0], max_new_tokens=3, min_new_tokens=1, stop=1)


# --- text as it comes ----------------------------------------------------------------------------------------------


def cut_by_hand(text, stops):
    """The text up to the stop string that is complete first, character by character."""
    for end in range(len(text) + 1):
        begins = [end - len(s) for s in stops if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return text


@given(
    st.text("abé🙂 ", max_size=12),
    st.lists(st.text("abé🙂 ", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=12, max_size=12),
)
def test_a_text_ends_at_a_string_wherever_tokens_are_cut(text, stops, sizes):
    """Tokens of bytes, of characters, of several of them: always the same text, and never a piece of the string."""
    pieces, rest = [], text
    for size in sizes:
        pieces, rest = pieces + [rest[:size]] * bool(rest), rest[size:]
    chars = CharTokenizer.train("abé🙂 ")
    tokens = Pieces(pieces)
    for tokenizer, ids in (
        (BPETokenizer(), BPETokenizer().encode(text)),
        (chars, chars.encode(text)),
        (tokens, range(len(pieces))),
    ):
        shown = ""
        for piece in sa.growing_text(tokenizer, ids, stop=stops):
            assert piece
            shown += piece
            assert cut_by_hand(text, stops).startswith(shown)
        assert shown == cut_by_hand(text, stops)


class Pieces:
    """A tokenizer whose ids are pieces of one text."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


@given(
    st.lists(st.integers(0, 255), max_size=40) | st.text(max_size=9).map(lambda s: [*s.encode()])
)
def test_growing_text_is_the_text_of_all_tokens(ids):
    tokenizer = BPETokenizer()
    assert "".join(sa.growing_text(tokenizer, iter(ids))) == tokenizer.decode(ids)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1))
def test_growing_text_has_no_half_characters_and_does_not_wait(text):
    pieces = list(sa.growing_text(BPETokenizer(), text.encode()))
    assert pieces == list(text)


def test_growing_text_puts_blanks_between_words():
    tokenizer = WordTokenizer.train("to be or not")
    ids = tokenizer.encode("not to be")
    assert list(sa.growing_text(tokenizer, ids)) == ["not", " to", " be"]
    assert list(sa.growing_text(tokenizer, [])) == []


def test_no_token_is_read_after_the_end_and_none_is_held_back_without_need():
    read = []
    ids = (read.append(i) or i for i in b"to be\n\nKING")
    assert "".join(sa.growing_text(BPETokenizer(), ids, stop="\n\n")) == "to be"
    assert bytes(read) == b"to be\n\n"
    pieces = sa.growing_text(BPETokenizer(), iter(b"a\nb\n\n"), stop=["\n\n", "xyz"])
    assert list(pieces) == ["a", "\nb"]
    words = WordTokenizer.train("to be or not")
    be, rest = words.encode("to be"), words.encode("or not")
    assert list(sa.growing_text(words, rest, before=be)) == [" or", " not"]
    assert list(sa.growing_text(words, rest, before=be, stop=" not")) == [" or"]
    kept = sa.growing_text(BPETokenizer(), b"aaaXb", stop=["a", "X"], min_ids=3)
    assert "".join(kept) == "aaa"
    for stop, error in (("", ValueError), (["a", ""], ValueError), ([1], TypeError)):
        with pytest.raises(error, match="stop must hold strings"):
            sa.growing_text(BPETokenizer(), [1], stop=stop)


def byte_lm(order=3):
    text = "one two three.\n\nfour é five — six.\n\n" * 20
    return NGramLM(order, vocab_size=256).fit(BPETokenizer().encode(text))


@pytest.mark.parametrize("stop", ["\n\n", "é f", "—", ["ee", "\n"], "never"])
def test_a_streamed_text_is_what_generate_writes_up_to_the_string(stop):
    model, tokenizer, options = byte_lm(), BPETokenizer(), {"max_new_tokens": 80}
    for g in range(5):
        text = "".join(
            sa.stream_text(model, tokenizer, "one", stop=stop, generator=seed(g), **options)
        )
        ids = sa.generate(model, tokenizer.encode("one"), generator=seed(g), **options).ids[0]
        whole = tokenizer.decode(ids)
        assert text == cut_by_hand(whole, [stop] if isinstance(stop, str) else stop)


def test_a_streamed_text_takes_tokens_too_and_a_least_length():
    model, tokenizer, dot = byte_lm(6), BPETokenizer(), ord(".")
    options = {"max_new_tokens": 60, "sampler": sa.Greedy()}
    text = "".join(sa.stream_text(model, tokenizer, "one", stop=[dot, "zzz"], **options))
    assert text == " two three"
    longer = sa.stream_text(model, tokenizer, "one", stop="e", min_new_tokens=7, **options)
    assert "".join(longer) == " two thr"
    for stop in (None, (), [], np.int64(0), {"zzz"}):
        free = "".join(sa.stream_text(model, tokenizer, "one", stop=stop, **options))
        assert free.startswith(" two three.\n\nfour") and len(free.encode()) == 60
    with pytest.raises(ValueError, match="prompt must have at least one token"):
        sa.stream_text(model, tokenizer, "", **options)
    with pytest.raises(ValueError, match="stop must hold tokens from 0 to 255, got 256"):
        sa.stream_text(model, tokenizer, "a", stop=256, **options)
    with pytest.raises(
        TypeError, match="stop must be an integer or several, got 'x'; `stream_text`"
    ):
        sa.generate(model, [1], max_new_tokens=1, stop=[1, "x"])


def test_the_best_of_one_is_a_sample_and_more_are_never_worse():
    """S82."""
    model = make_ngram()
    options = {"max_new_tokens": 12, "sampler": sa.TopP(0.9), "stop": 0}
    one = sa.best_of_n(model, [1], 1, generator=seed(5), **options)
    sample = sa.generate(model, [1], generator=seed(5), **options)
    assert torch.equal(one.ids[0], sample.ids[0]) and torch.equal(
        one.log_probs[0], sample.log_probs[0]
    )
    for rerank in ("log_prob", "mean", lambda found: [len(row) for row in found.ids]):
        best = [
            sa.best_of_n(model, [1], n, generator=seed(5), rerank=rerank, **options).scores[0]
            for n in range(1, 20)
        ]
        assert all(a <= b for a, b in itertools.pairwise(best))


def test_candidates_are_ranked_by_what_is_asked_for():
    model, options = make_ngram(), {"max_new_tokens": 8, "generator": seed(0)}
    found = sa.best_of_n(model, [1], 6, rerank="log_prob", **options)
    assert torch.equal(found.scores, found.log_prob) and found.scores.diff().le(0).all()
    assert torch.equal(
        sa.best_of_n(model, [1], 6, **options).scores.diff().le(0).all(), torch.tensor(True)
    )
    like = sa.likeness([[1, 2], [1, 2], [3]])  # of 1, 2, 12: all shared; with 3: none
    assert like == [0.5, 0.5, 0.0] and sa.likeness([[1]]) == [0.0]
    with pytest.raises(ValueError, match="rerank must be log_prob, mean, mbr or a function"):
        sa.best_of_n(model, [1], 2, rerank="best", **options)
    with pytest.raises(ValueError, match="rerank must return 2 numbers"):
        sa.best_of_n(model, [1], 2, rerank=lambda found: [1.0], **options)


# --- speculative decoding ---------------------------------------------------------------------------------------------


@given(probabilities, st.data())
def test_accepted_and_replaced_together_have_the_law_of_the_target(p, data):
    """By enumeration: min(p, q) + (1 - acceptance) residual = p; the acceptance is 1 - TV."""
    q = data.draw(st.lists(st.integers(0, 20), min_size=len(p), max_size=len(p)).filter(any))
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    q = q / q.sum()
    alpha = sa.acceptance(p, q)
    assert torch.allclose(alpha, 1 - (p - q).abs().sum() / 2, rtol=0, atol=1e-12)
    out = torch.minimum(p, q) + (1 - alpha) * sa.residual(p, q)
    assert torch.allclose(out, p, rtol=0, atol=1e-12)


PAIRS = {
    "tables": (lambda: TableLM(table(3, 0)), lambda: TableLM(table(3, 1, sharp=2.0))),
    "own state": (lambda: CountingLM(table(3, 0)), lambda: CountingLM(table(3, 1))),
    "zeros": (
        lambda: TableLM([[0.5, 0.5, 0], [0.2, 0, 0.8], [0, 0.3, 0.7]]),
        lambda: TableLM([[0, 0.1, 0.9], [1, 0, 0], [0.2, 0.2, 0.6]]),
    ),
    "gpt and lstm": (
        lambda: GPT(GPTConfig(3, 4, 8, 1, 1), generator=seed(0)).double(),
        lambda: LSTMLM(LSTMConfig(3, 4, 4, 1), generator=seed(0)).double(),
    ),
    "lstm and gpt": (
        lambda: LSTMLM(LSTMConfig(3, 4, 4, 1), generator=seed(0)).double(),
        lambda: GPT(GPTConfig(3, 3, 8, 1, 1), generator=seed(0)).double(),
    ),
}


@pytest.mark.parametrize("n_draft", [1, 2, 3])
@pytest.mark.parametrize("pair", PAIRS)
def test_speculation_has_exactly_the_law_of_the_target(pair, n_draft):
    """A9 no. 6: every run of the real function, weighted, against the chain rule; beyond the context of 4 too."""
    target, draft = (make() for make in PAIRS[pair])
    with torch.no_grad():
        for model in (target, draft):
            for p in model.parameters():
                p += 0.5 * torch.randn(p.shape, generator=seed(9))
    for sampler in (None, [sa.Temperature(1.5), sa.TopP(0.8)]):
        found = outcome_law(
            lambda dice, s=sampler: sa.speculative_generate(
                target,
                draft,
                [0, 1],
                max_new_tokens=4,
                n_draft=n_draft,
                sampler=s,
                stop=2,
                generator=dice,
            )
        )
        assert_same_law(found, law_by_chain_rule(target, [0, 1], 4, sampler, stop={2}))


def test_acceptance_in_the_long_run_is_1_minus_the_distance():
    """One table row for all contexts: every decision has the same laws."""
    p, q = torch.tensor(table(V, 0)[0]), torch.tensor(table(V, 1)[0])
    target, draft = TableLM(np.tile(p, (V, 1))), TableLM(np.tile(q, (V, 1)))
    found = sa.speculative_generate(
        target, draft, [0], max_new_tokens=3000, n_draft=3, generator=seed(0)
    )
    alpha, n = sa.acceptance(p, q).item(), found.n_proposed
    assert abs(found.n_accepted / n - alpha) < 4 * math.sqrt(alpha * (1 - alpha) / n)
    assert abs(3000 / found.n_passes - sa.expected_tokens(alpha, 3)) < 0.1
    assert_drawn_from(torch.bincount(found.ids[0], minlength=V), p)


def test_a_model_that_drafts_for_itself_is_always_accepted():
    """In exact arithmetic; in floating point, nearly."""
    for name in ("table", "gpt", "lstm"):
        model = MODELS[name]()
        found = sa.speculative_generate(
            model, MODELS[name](), [1], max_new_tokens=11, n_draft=4, generator=seed(0)
        )
        assert found.n_accepted == found.n_proposed and found.n_passes == 3
        assert len(found.ids[0]) == 11 and found.reasons == ("length",)


@models
def test_greedy_speculation_writes_the_greedy_text(name):
    model, draft = MODELS[name](), make_ngram()
    found = sa.speculative_generate(
        model, draft, [1, 2], max_new_tokens=30, sampler=sa.Greedy(), stop=4
    )
    expected = sa.generate(model, [1, 2], max_new_tokens=30, sampler=sa.Greedy(), stop=4)
    assert torch.equal(found.ids[0], expected.ids[0]) and found.reasons == expected.reasons
    assert torch.allclose(found.log_probs[0], expected.log_probs[0].double(), rtol=0, atol=1e-9)
    assert torch.allclose(found.entropies[0], expected.entropies[0].double(), rtol=0, atol=1e-9)


def test_expected_tokens_per_pass():
    """(1 - .8^5) / .2 = 3.3616."""
    assert math.isclose(sa.expected_tokens(0.8, 4), 3.3616)
    assert sa.expected_tokens(1, 4) == 5 and sa.expected_tokens(0, 4) == 1
    with pytest.raises(ValueError, match="alpha must be"):
        sa.expected_tokens(1.2, 4)


def test_speculation_names_what_is_wrong():
    with pytest.raises(ValueError, match="draft must have the vocabulary of target, 7, got 3"):
        sa.speculative_generate(make_ngram(), TableLM(table(3, 0)), [0], max_new_tokens=1)
    with pytest.raises(ValueError, match="n_draft must be at least 1"):
        sa.speculative_generate(make_ngram(), make_ngram(), [0], max_new_tokens=1, n_draft=0)


# --- automata ---------------------------------------------------------------------------------------------------------

WORDS = ["ab", "abc", "b", "cab"]


def test_a_tree_accepts_exactly_its_texts():
    automaton = sa.Automaton.one_of(WORDS)
    for n in range(5):
        for text in map("".join, itertools.product("abc", repeat=n)):
            assert automaton.accepts(text) == (text in WORDS)


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5, unique=True))
def test_lifting_to_tokens_keeps_the_language(tokens):
    """Every sequence of tokens is accepted if and only if its characters are."""
    characters = sa.Automaton([{"a": 1, "b": 0}, {"a": 1, "b": 2}, {"a": 2}], accepting={2})
    try:
        lifted = characters.over([*tokens, None, ""])
    except ValueError:
        lifted = None
    for n in range(4):
        for ids in itertools.product(range(len(tokens) + 2), repeat=n):
            text = "".join(([*tokens, None, ""][i] or "?") for i in ids)
            assert (lifted is not None and lifted.accepts(ids)) == characters.accepts(text)


def test_dead_ends_are_removed():
    automaton = sa.Automaton([{"x": 1, "y": 2}, {"x": 1}, {}], accepting={2})
    assert automaton.arcs == ({"y": 2}, {}, {}) and automaton.run("x") is None
    with pytest.raises(ValueError, match="accepting must hold a state that can be reached"):
        sa.Automaton([{"x": 1}, {}], accepting=[])
    for wrong in ([{"x": 2}, {}], [{"x": 1}, {"y": -1}]):
        with pytest.raises(ValueError, match="states must be between 0 and 1"):
            sa.Automaton(wrong, accepting=[1])


@models
def test_whatever_is_generated_has_the_form(name):
    """Prompts are free; rows end when nothing more is allowed, or at a stop token where the form may end."""
    model = MODELS[name]()
    tree = sa.Automaton.one_of([[1, 2, 3], [1, 2, 4], [5], [6, 6]])
    prompts = [[0], [1, 1, 1], [4, 5]] * 5
    found = sa.generate(
        model, prompts, max_new_tokens=9, sampler=sa.Constraint(tree), generator=seed(0)
    )
    assert all(tree.accepts(row.tolist()) for row in found.ids) and set(found.reasons) == {
        "complete"
    }
    loop = sa.Automaton([{1: 1}, {2: 0}], accepting=[0])
    rule = sa.Constraint(loop, stop=0)
    found = sa.generate(model, prompts, max_new_tokens=30, sampler=rule, stop=0, generator=seed(0))
    for row, reason in zip(found.ids, found.reasons, strict=True):
        assert reason == "length" or (row[-1] == 0 and loop.accepts(row[:-1].tolist()))
    assert "stop" in found.reasons
    beam = sa.beam_search(model, [0], max_new_tokens=5, beam_width=9, filters=sa.Constraint(tree))
    assert len(beam) == 4 and set(beam.reasons) == {"complete"}
    pair = sa.speculative_generate(
        model, make_ngram(), [0], max_new_tokens=9, sampler=sa.Constraint(tree), generator=seed(0)
    )
    assert tree.accepts(pair.ids[0].tolist()) and pair.reasons == ("complete",)


def test_constraints_have_to_be_over_the_vocabulary():
    model = make_ngram()
    with pytest.raises(TypeError, match="automaton must be over token ids"):
        sa.Constraint(sa.Automaton.one_of(["ab"]))
    for rule in (
        sa.Constraint(sa.Automaton.one_of([[V]])),
        sa.Constraint(sa.Automaton.one_of([[1]]), stop=V),
    ):
        with pytest.raises(ValueError, match=f"must allow tokens from 0 to {V - 1}, got {V}"):
            sa.generate(model, [0], max_new_tokens=1, sampler=rule)


def test_a_text_ends_where_the_constraint_says_even_if_the_loop_does_not_know_its_stop():
    model = TableLM(table(V, 1))
    rule = sa.Constraint(sa.Automaton.one_of([(1, 2), (1, 3, 4)]), stop=6)
    prompts = [[6], [0, 6]] * 10
    with_both = sa.generate(
        model, prompts, max_new_tokens=8, sampler=rule, stop=6, generator=seed(0)
    )
    alone = sa.generate(model, prompts, max_new_tokens=8, sampler=rule, generator=seed(0))
    texts = {tuple(row.tolist()) for row in alone.ids}
    assert texts == {(1, 2, 6), (1, 3, 4, 6)}
    assert all(torch.equal(a, b) for a, b in zip(alone.ids, with_both.ids, strict=True))
    assert {*alone.reasons} == {"complete"} and {*with_both.reasons} == {"stop"}
    beam = sa.beam_search(model, [0], max_new_tokens=8, filters=rule)
    assert {tuple(row.tolist()) for row in beam.ids} == texts
    pair = sa.speculative_generate(
        model, make_ngram(), [0], max_new_tokens=8, sampler=rule, generator=seed(0)
    )
    assert tuple(pair.ids[0].tolist()) in texts


def test_a_form_without_any_token_is_refused_unless_it_has_a_stop():
    nothing = sa.Automaton([{}], {0})
    with pytest.raises(ValueError, match="accepts the empty text only.* give it a stop token"):
        sa.Constraint(nothing)
    rule, model = sa.Constraint(nothing, stop=2), TableLM(table(V, 1))
    assert sa.generate(model, [0], max_new_tokens=5, sampler=rule).ids[0].tolist() == [2]


class TwoTokens(sa.Processor):
    """A reader's own rule that ends texts."""

    def __call__(self, logits, history=None):
        return logits

    def finished(self, history):
        return [len(row) == 2 for row in history.new()]


@pytest.mark.parametrize(
    "rule",
    [
        TwoTokens(),
        sa.Chain([sa.TopK(5), sa.Chain([TwoTokens()])]),
        [sa.Chain([sa.Constraint(sa.Automaton.one_of([[1, 2]]))]), sa.TopK(2)],
    ],
    ids=["own", "nested", "nested constraint"],
)
def test_any_rule_may_end_a_text_in_a_chain_of_chains_too(rule):
    model = make_ngram()
    for found in (
        sa.generate(model, [[0], [0, 1]], max_new_tokens=5, sampler=rule, generator=seed(0)),
        sa.beam_search(model, [0], max_new_tokens=5, filters=rule),
        sa.speculative_generate(model, model, [0], max_new_tokens=5, sampler=rule),
    ):
        assert set(found.reasons) == {"complete"} and {len(row) for row in found.ids} == {2}


def test_deciding_step_by_step_is_not_the_law_given_the_form():
    model = TableLM(
        [[0, 0.6, 0.4, 0, 0], [0, 0.3, 0.2, 0.5, 0], [0, 0, 0.1, 0, 0.9], *np.eye(5)[3:]]
    )
    form = sa.Constraint(sa.Automaton.one_of([(1, 3), (2, 4)]))
    found = outcome_law(
        lambda dice: sa.generate(model, [0], max_new_tokens=5, sampler=form, generator=dice)
    )
    assert_same_law(found, {(1, 3): 0.6, (2, 4): 0.4})


# --- the gap ----------------------------------------------------------------------------------------------------------


def test_the_gap_is_filled_with_the_most_probable_tokens():
    """S48."""
    from arbook.tokens import WordTokenizer

    text = "the cat sat on the mat the cat sat on the chair the cat sat on the mat"
    words = WordTokenizer.train(text)
    model = NGramLM(4, vocab_size=words.vocab_size, smoothing="mle").fit(words.encode(text))
    answers = sa.complete(model, words, "The cat sat on the".lower(), top=5)
    assert answers == [("mat", pytest.approx(2 / 3)), ("chair", pytest.approx(1 / 3))]
    with pytest.raises(ValueError, match="top must be at least 1"):
        sa.complete(model, words, "the", top=0)


@pytest.mark.parametrize("size", [11, 16, 384])
def test_ids_without_a_token_fill_no_gap(size):
    """A padded vocabulary, and one with a hole: only names are offered, with the probabilities of the model."""
    from arbook.tokens import Vocab, WordTokenizer

    words = WordTokenizer(Vocab(["a", "b", None, "c", None, "d"]), unk=None)
    law = np.random.default_rng(size).dirichlet(np.ones(size))
    law[7] += 1  # the likeliest has no name
    law /= law.sum()
    model = TableLM(np.tile(law, (size, 1)))
    answers = sa.complete(model, words, "a b", top=size)
    named = sorted(
        ((law[i], word) for i, word in ((0, "a"), (1, "b"), (3, "c"), (5, "d"))), reverse=True
    )
    assert answers == [(word, pytest.approx(p)) for p, word in named]
    assert sa.complete(model, words, "a", top=2) == answers[:2]


# --- packed weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["modern", "gpt-2", "grouped", "bare"])
def test_a_packed_model_is_the_same_function(layout):
    """In one pass, in steps, in batches of other sizes; it shares what is not packed, and leaves the model alone."""
    model = make_gpt(torch.float32, **LAYOUTS[layout]).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    packed = sa.pack(model, batch_size=2)
    assert model.training and not packed.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert packed.embedding.weight is model.embedding.weight
    assert isinstance(packed.blocks[0].mlp.up, sa.PackedLinear)
    model.eval()
    for B in (1, 2, 5):
        ids = torch.randint(V, (B, 12), generator=seed(B))
        with torch.no_grad():
            assert torch.allclose(packed(ids), model(ids), rtol=0, atol=1e-4)
    assert max(conformance.check_conformance(packed).values()) < 1e-4
    texts = [
        sa.generate(m, [[1], [2, 3]], max_new_tokens=25, generator=seeds(2)).ids
        for m in (packed, model)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*texts, strict=True))


def test_what_cannot_be_packed_is_copied():
    model = make_gpt()
    copied, ids = sa.pack(model), torch.tensor([[1, 2, 3]])
    assert copied is not model and torch.equal(copied(ids), model(ids))
    with pytest.raises(TypeError, match="model must be a GPT"):
        sa.pack(make_ngram())


def test_a_packed_model_follows_its_model():
    """New weights, copies, saved files, gradients and another dtype: all are right, with or without the second copy."""
    model, ids = make_gpt(torch.float32), torch.tensor([[1, 2, 3]])
    packed = sa.pack(model)
    assert packed.state_dict().keys() == model.state_dict().keys()
    for same in (copy.deepcopy(packed), sa.pack(packed), pickle.loads(pickle.dumps(packed))):
        with torch.no_grad():
            assert torch.allclose(same(ids), model(ids), rtol=0, atol=1e-4)
    gradients = []
    for m in (model, packed):
        m.zero_grad()
        m.loss(ids, ids).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)
    with torch.no_grad():
        before = packed(ids)
        model.blocks[0].mlp.up.weight.mul_(-1)
        assert not torch.allclose(packed(ids), before, rtol=0, atol=1e-3)
        assert torch.allclose(packed(ids), model(ids), rtol=0, atol=1e-5)
        assert packed.double()(ids).dtype == torch.float64


def descend(kind, model):
    """One step of an optimiser."""
    make = {
        "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
        "foreach adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
        "fused sgd": lambda p: torch.optim.SGD(p, lr=1.0, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        "muon": lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=0.1),
    }[kind]
    optimizer = make(list(model.parameters()))
    ids = torch.tensor([[1, 2, 3, 4]])
    model.loss(ids, ids).backward()
    optimizer.step()


def with_numpy(model):
    model.blocks[1].mlp.down.weight.detach().numpy()[3, 5] += 1  # a single number


def with_data(model):
    model.blocks[0].attention.qkv.weight.data[-1, -1] += 2.0


def with_another_tensor(model):
    for part in model.blocks:
        part.mlp.up.weight.data = part.mlp.up.weight.data.flip(0)


def with_a_swap(model):
    """Exchange two neurons of one matrix: every sum of the numbers stays what it was."""
    weight = model.blocks[0].mlp.down.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def with_a_state(model):
    model.load_state_dict({k: -v for k, v in model.state_dict().items()})


def with_foreach(model):
    with torch.no_grad():
        torch._foreach_mul_([p for p in model.parameters()], 0.5)


def with_averaging(model):
    other = make_gpt(torch.float32, seed=7)
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.lerp_(q, 0.5)


def with_copy(model):
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.copy_(2 * model.blocks[0].mlp.up.weight)


OPTIMIZERS = ["fused adamw", "adamw", "foreach adamw", "fused sgd", "sgd", "muon"]
CHANGES = {kind: (lambda model, kind=kind: descend(kind, model)) for kind in OPTIMIZERS}
CHANGES |= {
    f.__name__: f
    for f in (
        with_numpy,
        with_data,
        with_another_tensor,
        with_a_swap,
        with_a_state,
        with_foreach,
        with_averaging,
        with_copy,
    )
}


def assert_same_function(packed, model):
    """In all ways to evaluate it: in one pass, in steps, in a static decoder, in a generated text."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        expected = model(ids)
        assert torch.allclose(packed(ids), expected, rtol=0, atol=1e-4)
        assert torch.allclose(packed.loss(ids, ids), model.loss(ids, ids), atol=1e-5)
        for one in (packed, sa.StaticDecoder(packed, compile=False)):
            for sizes in ([1] * 6, [3, 1, 2]):
                read = ob.read_in_steps(one, ids, sizes)
                assert torch.allclose(read, expected, rtol=0, atol=1e-4)
    options = {"max_new_tokens": 8, "sampler": sa.Greedy()}
    pair = [sa.generate(m, [1], **options).log_probs[0] for m in (packed, model)]
    assert torch.allclose(*pair, rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", CHANGES)
def test_a_packed_model_has_the_weights_of_its_model_whatever_changes_them(how):
    """Also those of which PyTorch keeps no count; before and after, and again."""
    model = make_gpt(torch.float32)
    packed = sa.pack(model)
    assert_same_function(packed, model)
    for _ in range(2):
        before = model(torch.tensor([[1, 2]])).detach()
        CHANGES[how](model)
        assert (model(torch.tensor([[1, 2]])) - before).abs().max() > 1e-3
        assert_same_function(packed, model)


@pytest.mark.parametrize("how", [*OPTIMIZERS, "with_a_state", "with_foreach", "with_averaging"])
def test_weights_that_change_in_the_middle_of_a_text_are_seen(how):
    """The cache is then of no model; but what reads it is the same function, packed or not."""
    model = make_gpt(torch.float32)
    packed, ids, found = sa.pack(model), torch.tensor([[1, 2, 3, 4]]), []
    states = [m.init_state(1) for m in (packed, model)]
    for m, state in zip((packed, model), states, strict=True):
        m.next_logits(ids, state)
    CHANGES[how](model)
    for m, state in zip((packed, model), states, strict=True):
        found.append(m.next_logits(ids[:, :1], state)[0])
    assert torch.allclose(*found, rtol=0, atol=1e-4)


def test_a_copy_of_a_packed_model_has_weights_of_its_own():
    """Also where it reads into a cache: it is not the model from which it was copied that reads there."""
    packed = sa.pack(make_gpt(torch.float32))
    before = packed(torch.tensor([[1, 2]])).detach()
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        other.blocks[0].mlp.up.weight.data.mul_(3)
        assert_same_function(other, sa.pack(other))
        with torch.no_grad():
            expected = other(torch.tensor([[1, 2]]))
            read = ob.read_in_steps(other, torch.tensor([[1, 2]]), [1, 1])
        assert torch.allclose(read, expected, rtol=0, atol=1e-4)
        assert not torch.allclose(expected, before, rtol=0, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(packed(torch.tensor([[1, 2]])), before)


def test_packed_weights_do_serve():
    """They are what is multiplied, in a text, at every step: without that all tests of them are empty."""
    packed = sa.pack(make_gpt(torch.float32))
    layer = packed.blocks[0].mlp.up
    if not isinstance(layer, sa.PackedLinear):
        pytest.skip("this PyTorch, or this processor, cannot pack")
    state = packed.init_state(1)
    packed.next_logits(torch.tensor([[1]]), state)
    first = layer.packed
    assert first is not None
    packed.next_logits(torch.tensor([[2]]), state)
    assert layer.packed is first  # nothing has changed: not made again
    other = torch.ops.mkldnn._reorder_linear_weight(torch.zeros_like(layer.weight), 1)
    before = packed.next_logits(torch.tensor([[3]]), state.copy())[0]
    layer.packed = other
    assert not torch.allclose(packed.next_logits(torch.tensor([[3]]), state)[0], before)


@pytest.mark.parametrize("where", ["made", "made and packed", "packed", "used"])
def test_models_of_inference_mode_can_be_packed(where, tmp_path):
    with torch.inference_mode(where in ("made", "made and packed")):
        model = make_gpt(torch.float32)
    with torch.inference_mode(where in ("packed", "made and packed")):
        packed = sa.pack(model)
    with torch.inference_mode(where == "used"):
        assert_same_function(packed, model)
    model.save(tmp_path)
    with torch.inference_mode():
        loaded = GPT.load(tmp_path)
    assert_same_function(sa.pack(loaded), model)


def test_a_class_derived_from_gpt_is_packed_as_itself():
    class Doubled(GPT):
        def hidden(self, ids, cache=None):
            return 2 * super().hidden(ids, cache)

    model = make_gpt(torch.float32)
    derived = Doubled(model.config)
    derived.load_state_dict(model.state_dict())
    packed = sa.pack(derived.eval())
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        read = ob.read_in_steps(packed, ids, [2, 1, 1])
        assert isinstance(packed, Doubled)
        assert torch.allclose(packed(ids), 2 * model(ids), rtol=0, atol=1e-4)
        assert torch.allclose(read, 2 * model(ids), rtol=0, atol=1e-4)


def test_without_the_private_operations_a_model_is_only_copied(monkeypatch):
    model = make_gpt(torch.float32)

    def broken(*args):
        raise RuntimeError("no such operation on this processor")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", broken)
    copied = sa.pack(model)
    assert not any(isinstance(part, sa.PackedLinear) for part in copied.modules())
    assert copied.embedding.weight is model.embedding.weight


# --- static shapes ----------------------------------------------------------------------------------------------------

LAYOUTS = {
    "modern": {},
    "gpt-2": {
        "positions": "learned",
        "norm": "layernorm",
        "bias": True,
        "tied": True,
        "qk_norm": False,
    },
    "grouped": {"n_kv_head": 1},
    "bare": {"positions": "none", "activation": "relu2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_static_steps_are_steps(layout, dtype):
    """At every position of the context, with old rubbish in the cache."""
    model = make_gpt(dtype, **LAYOUTS[layout])
    ids = torch.randint(V, (3, 12), generator=seed(0))
    decoder, tolerance = sa.StaticDecoder(model, 3), 1e-10 if dtype == torch.float64 else 1e-4
    decoder.cache.keys.fill_(100), decoder.cache.values.fill_(-100)
    for prefix in (1, 5):
        state, expected = decoder.init_state(3), model(ids)
        logits, state = decoder.next_logits(ids[:, :prefix], state)
        assert torch.allclose(logits, expected[:, prefix - 1], rtol=0, atol=tolerance)
        for t in range(prefix, 12):
            logits, state = decoder.step(ids[:, t : t + 1], state)
            assert torch.allclose(logits[:, 0], expected[:, t], rtol=0, atol=tolerance)
    with pytest.raises(ValueError, match="the context is full"):
        decoder.next_logits(ids[:, :1], state)


def test_a_static_decoder_takes_the_place_of_its_model():
    """In generation, beyond the context, and as the target or draft of a speculation."""
    model = make_gpt()
    decoder = sa.StaticDecoder(model, 2)
    options = {"max_new_tokens": 30, "stop": 0}
    for keep in (None, 5):
        ours, theirs = (
            sa.generate(m, [[1], [2, 3]], generator=seeds(2), keep=keep, **options)
            for m in (decoder, model)
        )
        assert all(torch.equal(a, b) for a, b in zip(ours.ids, theirs.ids, strict=True))
    single = sa.StaticDecoder(model, 1)
    pair = sa.speculative_generate(
        single, make_ngram(), [1], max_new_tokens=20, sampler=sa.Greedy()
    )
    assert torch.equal(
        pair.ids[0], sa.generate(model, [1], max_new_tokens=20, sampler=sa.Greedy()).ids[0]
    )
    assert torch.equal(decoder(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))


def test_static_decoders_name_what_is_wrong():
    model = make_gpt()
    decoder = sa.StaticDecoder(model, 2)
    with pytest.raises(TypeError, match="model must be a GPT"):
        sa.StaticDecoder(make_ngram())
    with pytest.raises(ValueError, match="batch_size must be 2, got 1"):
        sa.generate(decoder, [0], max_new_tokens=2)
    with pytest.raises(ValueError, match="state must come from init_state of this decoder"):
        decoder.next_logits(torch.zeros(2, 1, dtype=torch.int64), model.init_state(2))
    with pytest.raises(ValueError, match="between 0 and 6"):
        decoder.next_logits(torch.full((2, 1), 9), decoder.init_state(2))
    with pytest.raises(ValueError, match="beam_search, need the decoder's .model"):
        sa.beam_search(sa.StaticDecoder(model), [0], max_new_tokens=3)
    with pytest.raises(ValueError, match="batch_size must be 2, got 1: .* use its .model"):
        sa.beam_search(decoder, [0], max_new_tokens=3)


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3]])
def test_a_text_whose_decoder_begins_another_one_cannot_go_on(prompt):
    """Before, it went on with the keys of the other."""
    model = make_gpt()
    decoder = sa.StaticDecoder(model)
    options = {"max_new_tokens": 30, "sampler": sa.Greedy()}
    first = sa.stream(decoder, prompt, **options)
    next(first), next(first)
    second = sa.stream(decoder, [4, 5], **options)
    shown = [next(second)]
    with pytest.raises(ValueError, match="another text has begun in it"):
        next(first)
    ids = torch.cat([step.ids for step in shown + list(second)])
    assert torch.equal(ids, sa.generate(model, [4, 5], **options).ids[0])
    state = decoder.init_state(1)
    decoder.init_state(1)
    for read in (decoder.step, decoder.next_logits):
        with pytest.raises(ValueError, match="state must come from init_state of this decoder"):
            read(torch.tensor([prompt]), state)
    with pytest.raises(ValueError, match="another text has begun in it"):
        sa.speculative_generate(decoder, decoder, [1], max_new_tokens=9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_writes_what_the_model_writes(compiled):
    model = make_gpt(torch.float32, T=64).cuda()
    decoder = sa.StaticDecoder(model, 2, compile=compiled)
    ids = torch.randint(V, (2, 40), generator=seed(0)).cuda()
    state = decoder.init_state(2)
    for t in range(40):
        logits, state = decoder.next_logits(ids[:, t : t + 1], state)
        assert torch.allclose(logits, model(ids[:, : t + 1])[:, -1], atol=1e-3)
    for generators in (seeds(2), [torch.Generator("cuda").manual_seed(i) for i in range(2)]):
        found = sa.generate(decoder, [[1], [2, 3]], max_new_tokens=90, generator=generators, stop=0)
        assert all(0 < len(row) <= 90 for row in found.ids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts while it compiles
def test_a_compiled_step_is_the_step():
    model = make_gpt(torch.float32)
    decoder = sa.StaticDecoder(model, 1, compile=True)
    texts = [
        sa.generate(m, [1, 2], max_new_tokens=8, sampler=sa.Greedy()).ids[0]
        for m in (decoder, model)
    ]
    assert torch.equal(*texts)


def test_a_mapping_means_what_its_names_mean_to_transformers():
    """Against the processors of that library, in the order in which its generation applies them."""
    transformers = pytest.importorskip("transformers")
    settings = {"min_p": 0.15, "top_p": 0.9, "top_k": 6, "temperature": 0.6}
    settings |= {"repetition_penalty": 1.4, "typical_p": 0.95}

    class Peer(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.GPT2Config

    config = transformers.GenerationConfig(do_sample=True, **settings)
    sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
    peer = Peer(transformers.GPT2Config(**sizes))
    z, ids = 2 * torch.randn(20, 9, generator=seed(0)), torch.randint(9, (20, 5), generator=seed(1))
    theirs = peer._get_logits_processor(config, ids.shape[1], logits_processor=[])(ids, z.clone())
    ours = sa.as_chain(settings)(z, sa.History(ids, torch.full((20,), 5)))
    assert torch.allclose(ours.softmax(-1), theirs.softmax(-1))
    assert (ours == -math.inf).any(1).all() and torch.isfinite(ours).any(1).all()


def test_a_mapping_is_the_chain_of_its_rules():
    model = make_ngram()
    rules = [sa.RepetitionPenalty(1.2), sa.Temperature(0.8), sa.TopK(3), sa.TopP(0.9)]
    names = {"top_p": 0.9, "top_k": 3, "repetition_penalty": 1.2, "temperature": 0.8}
    assert sa.as_chain(names).processors == tuple(rules) and not sa.as_chain({}).processors
    assert sa.as_chain({"top_k": None, "temperature": 0.5}).processors == (sa.Temperature(0.5),)
    options = {"max_new_tokens": 20}
    found = sa.generate(model, [0], sampler=names, generator=seed(0), **options)
    expected = sa.generate(model, [0], sampler=rules, generator=seed(0), **options)
    assert torch.equal(found.ids[0], expected.ids[0])
    greedy = sa.generate(model, [0], sampler={"temperature": 0}, **options)
    assert torch.equal(
        greedy.ids[0], sa.generate(model, [0], sampler=sa.Greedy(), **options).ids[0]
    )


def test_a_mapping_with_another_name_or_value_is_refused():
    with pytest.raises(ValueError, match="sampler has no 'topk'; it may set repetition_penalty, "):
        sa.as_chain({"topk": 3})
    with pytest.raises(ValueError, match="top_p must be"):
        sa.as_chain({"top_p": 1.5})
    with pytest.raises(ValueError, match="has no 'do_sample'"):
        sa.stream(make_ngram(), [0], max_new_tokens=1, sampler={"do_sample": True})
