"""Rules against enumerated laws, chains that explain themselves, rolls of the dice, automata."""

import inspect
import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import rules as ru
from arbook.guards import Bounds
from hypothesis import assume, given
from hypothesis import strategies as st
from writers import (
    FOUR,
    TopTwo,
    V,
    Vandal,
    assert_drawn_from,
    history,
    law,
    probabilities,
    seed,
    seeds,
    support,
    top_two,
)

# --- one roll ---------------------------------------------------------------------------------------------------------


def test_pieces_of_the_line_are_as_long_as_the_probabilities():
    """With u on a fine grid: every token gets its share of grid points, a boundary belongs to the right."""
    weights = torch.tensor([[0.25, 0.0, 0.5, 0.25, 0.0]])
    u = torch.arange(64, dtype=torch.float64)[:, None] / 64
    drawn = ru.pick(weights.expand(64, 5), u)
    assert torch.bincount(drawn, minlength=5).tolist() == [16, 0, 32, 16, 0]
    assert drawn.tolist() == sorted(drawn.tolist())
    assert ru.pick(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1, 1).double()).item() == 2
    least = torch.tensor([[1 - 2**-53]], dtype=torch.float64)
    assert ru.pick(torch.tensor([[0.1, 0.7, 0.0]]), least).item() == 1


def test_a_token_of_probability_0_is_never_drawn_in_ten_million_draws():
    """A9 no. 12."""
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.0, 0.5, 1e-3, 0.0]]).expand(500_000, 7)
    dice, counts = ru.Dice(seed(0), 500_000), torch.zeros(7, dtype=torch.int64)
    for _ in range(20):
        counts += torch.bincount(dice.draw(weights), minlength=7)
    assert counts.sum() == 10**7 and counts[[0, 2, 3, 6]].sum() == 0
    assert_drawn_from(counts, weights[0].double())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_every_roll_hits_a_possible_token(weights, u):
    assume(any(weights))
    for scale in (1, 1e-30, 1e30):
        w = torch.tensor([weights], dtype=torch.float32) * scale
        assert weights[ru.pick(w, torch.tensor([[u]], dtype=torch.float64)).item()] > 0


def test_one_generator_for_each_row_gives_what_the_row_gets_alone():
    """A9 no. 5, no. 9."""
    weights = torch.rand(3, 5, generator=seed(1))
    many, alone = ru.Dice(seeds(3), 3), [ru.Dice(g) for g in seeds(3)]
    for _ in range(10):
        each = torch.cat([dice.draw(w[None]) for dice, w in zip(alone, weights, strict=True)])
        assert torch.equal(many.draw(weights), each)
    waited = ru.Dice(seeds(2), 2)
    waited.roll([True, False])
    assert waited.roll()[1] == ru.Dice(seed(1)).roll()


def test_dice_refuse_what_is_no_generator():
    with pytest.raises(ValueError, match="one for each of 3 rows, got 2"):
        ru.Dice(seeds(2), 3)
    for wrong in (0, [None], ["a"]):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
            ru.Dice(wrong, 1)


# --- rules against enumerated laws ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (ru.Greedy(), [0]),
        (ru.Temperature(0), [0]),
        (ru.TopK(1), [0]),
        (ru.TopK(3), [0, 1, 2]),
        (ru.TopK(0), [0, 1, 2, 3]),
        (ru.TopK(4), [0, 1, 2, 3]),
        (ru.TopK(1000), [0, 1, 2, 3]),
        (ru.TopP(0), [0]),
        (ru.TopP(0.5), [0]),
        (ru.TopP(0.51), [0, 1]),
        (ru.TopP(0.75), [0, 1]),
        (ru.TopP(0.76), [0, 1, 2]),
        (ru.TopP(0.9), [0, 1, 2]),
        (ru.TopP(1), [0, 1, 2, 3]),
        (ru.MinP(0), [0, 1, 2, 3]),
        (ru.MinP(0.2), [0, 1, 2, 3]),
        (ru.MinP(0.21), [0, 1, 2]),
        (ru.MinP(0.5), [0, 1]),
        (ru.MinP(1), [0]),
        (ru.Epsilon(0), [0, 1, 2, 3]),
        (ru.Epsilon(0.15), [0, 1, 2]),
        (ru.Epsilon(0.9), [0]),
        (
            ru.Eta(0.01),
            [0, 1, 2, 3],
        ),  # sqrt(.01) exp(-1.208) = .0299, more than .01: the floor is .01
        (ru.Eta(0.2), [0, 1, 2]),  # sqrt(.2) exp(-1.208) = .134
        (ru.Eta(1), [0]),  # exp(-1.208) = .299
        (ru.Typical(0), [1]),  # distances to 1.208: .515, .178, .689, 1.095
        (ru.Typical(0.25), [1]),
        (ru.Typical(0.3), [0, 1]),
        (ru.Typical(0.75), [0, 1]),
        (ru.Typical(0.8), [0, 1, 2]),
        (ru.Typical(1), [0, 1, 2, 3]),
        (ru.TopNSigma(0), [0]),
        (ru.TopNSigma(1.5), [0, 1]),  # the deviation of the logarithms is .601
        (ru.TopNSigma(9), [0, 1, 2, 3]),
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
    for rule in (ru.TopK(2), ru.TopP(0.75), ru.MinP(0.4), ru.Typical(0.6), ru.TopNSigma(1.5)):
        assert torch.allclose(law(rule, FOUR)[:2], torch.tensor([2 / 3, 1 / 3]).double())


def test_the_nucleus_is_the_smallest_set_and_the_lectures_is_not():
    """S90, E10: .5, .25, .15, .10 at .75 leave two, where the printed code leaves three; HF's case leaves two."""
    assert support(ru.TopP(0.75), FOUR) == [0, 1]
    assert support(ru.TopP(0.8), [0.3, 0.1, 0.1, 0.5]) == [0, 3]
    logits = torch.tensor([FOUR], dtype=torch.float64).log()
    assert (lecture_top_p(logits, 0.75).softmax(-1) > 0).sum() == 3


def lecture_top_p(logits, top_p):
    sorted_logits, sorted_indices = torch.sort(logits, descending=True)
    mask = F.softmax(sorted_logits, dim=-1).cumsum(-1) > top_p
    mask[..., 1:] = mask[..., :-1].clone()
    mask[..., 0] = False
    sorted_logits[mask] = -torch.inf
    return sorted_logits.gather(-1, sorted_indices.argsort(-1))


@given(probabilities, st.floats(0, 1))
def test_the_nucleus_is_the_smallest_of_all_sets_with_that_mass(probs, p):
    """By enumeration of all subsets; masses within 1e-12 of p count as reached."""
    kept = support(ru.TopP(p), probs)
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
    kept = support(ru.TopK(k), probs)
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    assert kept == sorted(order[:k])
    assert support(ru.TopK(k), [0.0, *probs, 0.0]) == [i + 1 for i in kept]


def test_equals_are_cut_by_their_id():
    equal = [0.25] * 4
    assert support(ru.Greedy(), equal) == [0] and support(ru.TopK(3), equal) == [0, 1, 2]
    assert support(ru.TopP(0.5), equal) == [0, 1] and support(ru.Typical(0.5), equal) == [0, 1]
    assert support(ru.MinP(1), equal) == [0, 1, 2, 3]


@given(probabilities, st.floats(0.05, 20))
def test_temperature_is_a_power_of_the_probabilities(probs, temperature):
    """S88."""
    expected = torch.tensor(probs, dtype=torch.float64) ** (1 / temperature)
    found = law(ru.Temperature(temperature), probs)
    assert torch.allclose(found, expected / expected.sum(), rtol=1e-9, atol=1e-12)


def test_temperature_at_its_ends():
    """S88, E11: 0 is greedy, a tiny one too, without an overflow; 2 turns 80:20 into 2:1."""
    assert torch.allclose(law(ru.Temperature(2), [0.8, 0.2]), torch.tensor([2 / 3, 1 / 3]).double())
    for temperature in (0, 1e-300, 5e-324, 1e-30):
        assert law(ru.Temperature(temperature), [0.2, 0.5, 0.0, 0.3]).tolist() == [0, 1, 0, 0]
    flat = law(ru.Temperature(1e300), [0.2, 0.5, 0.0, 0.3])
    assert torch.allclose(flat, torch.tensor([1, 1, 0, 1]).double() / 3)
    logits = torch.tensor([[1.5, -2.0]])
    assert ru.Temperature(1)(logits) is logits


@given(probabilities)
def test_entropy_rises_with_the_temperature(probs):
    """S88."""
    laws = [law(ru.Temperature(t), probs) for t in (0.1, 0.5, 1, 2, 10)]
    entropies = [ru.entropy(p.log()).item() for p in laws]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(entropies))


def test_top_n_sigma_does_not_depend_on_the_temperature():
    logits = torch.randn(5, 40, generator=seed(0), dtype=torch.float64)
    for n in (0.5, 1, 2):
        rule = ru.TopNSigma(n)
        cool, hot = (rule(ru.Temperature(t)(logits)) > -torch.inf for t in (0.3, 3))
        assert torch.equal(cool, rule(logits) > -torch.inf) and torch.equal(hot, cool)
    with_impossible = torch.cat([logits, torch.full((5, 3), -torch.inf)], dim=1)
    assert torch.equal(ru.TopNSigma(1)(with_impossible)[:, :40], ru.TopNSigma(1)(logits))


def test_penalties_by_their_definition():
    """A9 no. 4: a negative logit is multiplied, so that the token becomes less likely."""
    z, past = torch.tensor([[2.0, -1.0, 0.5, -3.0]]), history([0, 1, 0])
    assert ru.RepetitionPenalty(2)(z, past).tolist() == [[1.0, -2.0, 0.5, -3.0]]
    assert ru.RepetitionPenalty(2, window=1)(z, past).tolist() == [[1.0, -1.0, 0.5, -3.0]]
    assert ru.FrequencyPenalty(0.5)(z, past).tolist() == [[1.0, -1.5, 0.5, -3.0]]
    assert ru.FrequencyPenalty(0.5, 0.25)(z, past).tolist() == [[0.75, -1.75, 0.5, -3.0]]
    assert ru.FrequencyPenalty(1, window=2)(z, past).tolist() == [[1.0, -2.0, 0.5, -3.0]]
    impossible = torch.tensor([[1.0, -torch.inf]])
    for rule in (ru.RepetitionPenalty(2), ru.FrequencyPenalty(2)):
        assert rule(impossible, history([0, 1]))[0, 1] == -torch.inf
        assert rule(z.repeat(2, 1), history([0, 1], [2, 2]))[1, 0] == 2.0  # rows are apart


def test_the_repetition_penalty_is_that_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    z = torch.randn(3, 9, generator=seed(0))
    ids = torch.randint(9, (3, 5), generator=seed(1))
    past = ru.History(ids, torch.full((3,), 5))
    theirs = {
        ru.RepetitionPenalty(1.3): processors.RepetitionPenaltyLogitsProcessor(1.3),
        ru.NoRepeatNGram(2): processors.NoRepeatNGramLogitsProcessor(2),
        ru.TopK(4): processors.TopKLogitsWarper(4),
        ru.TopP(0.7): processors.TopPLogitsWarper(0.7),
        ru.MinP(0.2): processors.MinPLogitsWarper(0.2),
        ru.Typical(0.6): processors.TypicalLogitsWarper(0.6),
        ru.Epsilon(0.05): processors.EpsilonLogitsWarper(0.05),
        ru.Eta(0.1): processors.EtaLogitsWarper(0.1, device="cpu"),
    }
    for ours, peer in theirs.items():
        assert torch.allclose(ours(z, past), peer(ids, z.clone())), ours


@given(st.lists(st.integers(0, 3), min_size=1, max_size=15), st.integers(1, 4))
def test_no_n_gram_comes_twice(ids, n):
    """Against the definition: a token is banned if the n-gram that it would complete occurs already."""
    rule, end = ru.NoRepeatNGram(n), tuple(ids[len(ids) - n + 1 :])
    grams = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    allowed = [len(ids) < n - 1 or (*end, x) not in grams for x in range(4)]
    assert (rule(torch.zeros(1, 4), history(ids)) > -torch.inf)[0].tolist() == allowed


EXTREMES = [ru.Temperature(t) for t in (1e-320, 1e-40, 1e40, 1e300)]

EXTREMES += [ru.TopNSigma(n) for n in (0, 1e-320, 1e300)]

EXTREMES += [ru.RepetitionPenalty(1e300), ru.FrequencyPenalty(1e300, 1e300), ru.MinP(1e-320)]


@pytest.mark.parametrize("rule", EXTREMES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_settings_never_make_nan(rule, dtype):
    history = ru.History(torch.tensor([[1, 1, 3]]), torch.tensor([1]))
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
    equal = ru.LogitBias({1: 1.0, 2: 2}), ru.LogitBias({2: 2.0, 1: 1})
    assert equal[0] == equal[1] and hash(equal[0]) == hash(equal[1])
    for wrong in (None, {0: "1"}, {0: True}):
        with pytest.raises(TypeError, match="bias must"):
            ru.LogitBias(wrong)
    rule = ru.LogitBias({1: 2.5, 3: -math.inf})
    assert rule(torch.zeros(2, 4)).tolist() == [[0, 2.5, 0, -math.inf]] * 2
    assert ru.LogitBias({})(torch.zeros(1, 2)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="tokens from 0 to 2, got 3"):
        rule(torch.zeros(1, 3))
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="bias must hold finite numbers or -inf"):
            ru.LogitBias({0: wrong})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ru.Temperature(-1), "temperature must be at least 0"),
        (lambda: ru.Temperature(math.nan), "temperature must be at least 0"),
        (lambda: ru.Temperature(math.inf), "temperature must be at least 0 and finite"),
        (lambda: ru.TopK(-1), "top_k must be at least 0, got -1"),
        (lambda: ru.TopP(1.01), "top_p must be at least 0 and at most 1, got 1.01"),
        (lambda: ru.TopP(-0.1), "top_p must be at least 0"),
        (lambda: ru.MinP(2), "min_p must be"),
        (lambda: ru.Typical(-1), "typical_p must be"),
        (lambda: ru.Epsilon(2), "epsilon must be"),
        (lambda: ru.Eta(-1), "epsilon must be"),
        (lambda: ru.TopNSigma(-1), "n must be at least 0"),
        (lambda: ru.RepetitionPenalty(0), "penalty must be above 0"),
        (lambda: ru.RepetitionPenalty(1, window=0), "window must be at least 1"),
        (lambda: ru.FrequencyPenalty(math.inf), "penalty must be"),
        (lambda: ru.NoRepeatNGram(0), "n must be at least 1"),
        (lambda: ru.LogitBias({-1: 0}), "a token of bias must be at least 0"),
    ],
)
def test_rules_name_what_is_wrong_with_them(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda: ru.Temperature("1"), lambda: ru.TopK(1.0), lambda: ru.TopP(None)]
)
def test_rules_refuse_what_is_no_number(make):
    with pytest.raises(TypeError, match="must be"):
        make()


def test_rules_that_look_at_the_text_say_so():
    for rule in (ru.RepetitionPenalty(2), ru.FrequencyPenalty(1), ru.NoRepeatNGram(2)):
        with pytest.raises(ValueError, match="history must be given"):
            rule(torch.zeros(1, 3))
    automaton = ru.Automaton.one_of([[0]])
    with pytest.raises(ValueError, match="history must be given"):
        ru.Constraint(automaton)(torch.zeros(1, 3))


# --- chains -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_one_that_is_written():
    """A9 no. 4."""
    flat, cut = ru.Temperature(2), ru.TopP(0.75)
    assert support(ru.Chain([flat, cut]), FOUR) == [0, 1, 2]
    assert support(ru.Chain([cut, flat]), FOUR) == [0, 1]
    assert ru.Chain()(torch.zeros(1, 2)).tolist() == [[0, 0]]


def test_a_chain_explains_who_removed_what():
    chain = ru.Chain([ru.TopK(3), ru.TopP(0.8), ru.LogitBias({1: -math.inf})])
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
    probabilities, st.permutations([ru.Temperature(1.5), ru.TopK(3), ru.TopP(0.8), ru.MinP(0.3)])
)
def test_every_token_is_kept_or_removed_by_exactly_one_rule(probs, rules):
    stages = ru.Chain(rules).explain(torch.tensor(probs).log())
    removed = [i for stage in stages for i in stage.removed]
    left = stages[-1].probs.nonzero()[:, 0].tolist()
    assert sorted(removed + left) == list(range(len(probs)))


def test_chains_accept_functions_and_refuse_the_rest():
    def double(logits, history):
        return 2 * logits

    assert ru.Chain([double])(torch.ones(1, 2)).tolist() == [[2, 2]]
    assert repr(ru.Chain([double, ru.TopK(1)])) == "Chain([double, TopK(k=1)])"
    with pytest.raises(TypeError, match="processors must be callables"):
        ru.Chain([0.9])
    with pytest.raises(ValueError, match="<lambda> must return logits of shape"):
        ru.Chain([lambda logits, history: logits[0]])(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match="Processor does not define __call__"):
        ru.Processor()(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match="Filter does not define keep"):
        ru.Filter()(torch.ones(1, 2))


@dataclass(frozen=True)
class AboveMean(ru.Filter):
    """Keep tokens that are at least so many times as probable as the mean token."""

    times: Annotated[float, Bounds(minimum=0, maximum=9)]

    def keep(self, logits):
        """Tell which tokens stay: (B, V) -> bool (B, V)."""
        probs = logits.softmax(-1)
        return probs >= self.times * probs.mean(-1, keepdim=True)


def test_a_new_rule_is_its_class_alone():
    """Eleven lines: it is checked, shown, compared, chained and explained like those of the library."""
    assert len(inspect.getsource(AboveMean).splitlines()) <= 11
    rule = AboveMean(np.float32(1))
    assert rule == AboveMean(1) and repr(rule) == "AboveMean(times=1.0)"
    assert support(rule, FOUR) == [0, 1] and support(ru.Chain([ru.TopK(1), rule]), FOUR) == [0]
    for wrong, error in ((-1, ValueError), (10, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="times must be"):
            AboveMean(wrong)
    stages = ru.Chain([rule]).explain(torch.tensor(FOUR).log())
    assert stages[1].removed == (2, 3) and stages[1].name == repr(rule)


def test_settings_are_plain_numbers_whatever_they_were_made_of():
    for rule, twin in (
        (ru.Temperature(np.float32(0.5)), ru.Temperature(0.5)),
        (ru.TopK(np.int64(3)), ru.TopK(3)),
        (ru.FrequencyPenalty(1, np.float64(2), window=np.int8(3)), ru.FrequencyPenalty(1, 2, 3)),
    ):
        assert repr(rule) == repr(twin) and rule == twin and hash(rule) == hash(twin)


# --- rules that work in place ----------------------------------------------------------------------------------------


def test_a_chain_leaves_logits_and_text_to_their_owner():
    logits, ids = torch.randn(2, V, generator=seed(0)), torch.tensor([[1, 2], [3, 4]])
    history = ru.History(ids.clone(), torch.tensor([1, 1]))
    for rule in (Vandal(), top_two, TopTwo(), ru.Chain([Vandal(), ru.Chain([top_two])])):
        given = logits.clone()
        ru.Chain([rule, ru.Greedy()])(given, history)
        ru.Chain([rule]).finished(history)
        ru.Chain([rule]).explain(given[:1], ru.History(history.ids[:1], history.n_prompt[:1]))
        assert torch.equal(given, logits) and torch.equal(history.ids, ids)
        assert history.n_prompt.tolist() == [1, 1]
    told, expected = (ru.Chain([rule]).explain(logits[0]) for rule in (top_two, ru.TopK(2)))
    assert told[1].removed == expected[1].removed and torch.equal(told[0].probs, expected[0].probs)


@pytest.mark.parametrize(
    "rule",
    [ru.TopP(0.99), ru.TopP(0.3), ru.Eta(1e-4), ru.Epsilon(1e-5), ru.Typical(0.9), ru.MinP(0.01)],
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
    ({"temperature": 0.5}, ru.Chain([ru.Temperature(0.5)])),
    ({"top_k": 3}, ru.Chain([ru.TopK(3)])),
    ({"top_p": 0.8}, ru.Chain([ru.TopP(0.8)])),
    (
        {"temperature": 1.7, "top_k": 5, "top_p": 0.9},
        ru.Chain([ru.Temperature(1.7), ru.TopK(5), ru.TopP(0.9)]),
    ),
]


@pytest.mark.parametrize(("options", "chain"), SETTINGS)
def test_tokens_are_drawn_from_the_enumerated_law(options, chain):
    """S85: chi-square on 100,000 draws."""
    logits = torch.randn(8, generator=seed(3), dtype=torch.float64)
    logits[2] = -torch.inf
    expected = (ru.as_chain(chain)(logits[None])[0]).softmax(-1)
    drawn = ru.sample_next_token(logits.expand(100_000, 8), generator=seed(0), **options)
    assert drawn.shape == (100_000,) and drawn.dtype == torch.int64
    assert_drawn_from(torch.bincount(drawn, minlength=8), expected)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=8), st.integers(0, 99))
def test_temperature_0_and_top_k_1_and_top_p_0_are_greedy(logits, n):
    z = torch.tensor([logits])
    best = int(torch.tensor(logits).argmax())
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0}):
        assert ru.sample_next_token(z, generator=seed(n), **options).tolist() == [best]


def test_the_printed_function_fails_where_ours_does_not():
    """E11: division by 0; k > V; our answers are documented."""
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert (logits / 0.0).softmax(-1).isnan().all()
    with pytest.raises(RuntimeError):
        torch.topk(logits, 4)
    assert ru.sample_next_token(logits, 0.0).tolist() == [1]
    assert ru.sample_next_token(logits, top_k=4, top_p=0, generator=seed(0)).tolist() == [1]
    assert ru.sample_next_token(logits.half(), 0.0).tolist() == [1]
    assert ru.sample_next_token(logits.bfloat16(), generator=seed(0)).item() in (0, 1, 2)


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
        ru.sample_next_token(torch.tensor(logits))


def test_sample_next_token_names_wrong_arguments():
    logits = torch.zeros(1, 3)
    for options, name in (({"temperature": -1}, "temperature"), ({"top_k": -1}, "top_k")):
        with pytest.raises(ValueError, match=name):
            ru.sample_next_token(logits, **options)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="top_p"):
            ru.sample_next_token(logits, top_p=p)
    for wrong in ([[0.0]], torch.zeros(1, 3, dtype=torch.int64)):
        with pytest.raises(TypeError, match="logits must be a torch.Tensor of floats"):
            ru.sample_next_token(wrong)


# --- automata ---------------------------------------------------------------------------------------------------------

WORDS = ["ab", "abc", "b", "cab"]


def test_a_tree_accepts_exactly_its_texts():
    automaton = ru.Automaton.one_of(WORDS)
    for n in range(5):
        for text in map("".join, itertools.product("abc", repeat=n)):
            assert automaton.accepts(text) == (text in WORDS)


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5, unique=True))
def test_lifting_to_tokens_keeps_the_language(tokens):
    """Every sequence of tokens is accepted if and only if its characters are."""
    characters = ru.Automaton([{"a": 1, "b": 0}, {"a": 1, "b": 2}, {"a": 2}], accepting={2})
    try:
        lifted = characters.over([*tokens, None, ""])
    except ValueError:
        lifted = None
    for n in range(4):
        for ids in itertools.product(range(len(tokens) + 2), repeat=n):
            text = "".join(([*tokens, None, ""][i] or "?") for i in ids)
            assert (lifted is not None and lifted.accepts(ids)) == characters.accepts(text)


def test_dead_ends_are_removed():
    automaton = ru.Automaton([{"x": 1, "y": 2}, {"x": 1}, {}], accepting={2})
    assert automaton.arcs == ({"y": 2}, {}, {}) and automaton.run("x") is None
    with pytest.raises(ValueError, match="accepting must hold a state that can be reached"):
        ru.Automaton([{"x": 1}, {}], accepting=[])
    for wrong in ([{"x": 2}, {}], [{"x": 1}, {"y": -1}]):
        with pytest.raises(ValueError, match="states must be between 0 and 1"):
            ru.Automaton(wrong, accepting=[1])


# --- static shapes ----------------------------------------------------------------------------------------------------


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
    ours = ru.as_chain(settings)(z, ru.History(ids, torch.full((20,), 5)))
    assert torch.allclose(ours.softmax(-1), theirs.softmax(-1))
    assert (ours == -math.inf).any(1).all() and torch.isfinite(ours).any(1).all()
