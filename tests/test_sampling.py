"""The loop, search, drafts and speculation, outcome by outcome, with every kind of model."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from arbook import objective as ob
from arbook import rules as ru
from arbook import sampling as sa
from arbook.ngram import NGramLM
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.tokens import BPETokenizer, CharTokenizer, WordTokenizer
from arbook.training import ancestral_sample
from arbook.transformer import GPT, GPTConfig, crop
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import (
    MODELS,
    CountingLM,
    TableLM,
    TopTwo,
    V,
    Vandal,
    assert_drawn_from,
    history,
    make_gpt,
    make_ngram,
    models,
    probabilities,
    seed,
    seeds,
    table,
    top_two,
)


def by_hand(model, ids, n, choose):
    """The loop as it is defined: the whole text, cut by the rule of `crop`, for every token."""
    ids = torch.as_tensor(ids)[None]
    with torch.no_grad():
        for _ in range(n):
            window = ids if model.context_length is None else crop(ids, model.context_length)
            ids = torch.cat([ids, choose(model(window)[:, -1])[:, None]], dim=1)
    return ids[0]


# --- one roll ---------------------------------------------------------------------------------------------------------


def test_no_global_seed_is_touched_when_a_generator_is_given():
    """A9 no. 5."""
    model = MODELS["gpt"]()
    before = torch.get_rng_state()
    sa.generate(model, [0], max_new_tokens=3, generator=seed(0))
    sa.best_of_n(model, [0], 2, max_new_tokens=3, generator=seed(0))
    sa.speculative_generate(model, make_ngram(), [0], max_new_tokens=5, generator=seed(0))
    assert torch.equal(torch.get_rng_state(), before)


# --- rules that work in place ----------------------------------------------------------------------------------------


class Allowed(ru.Constraint):
    def __call__(self, logits, history=None):
        return logits.copy_(super().__call__(logits, history))


def pure(rule):
    """The same rule, as a function that works on copies of all that it gets."""

    def twin(logits, history):
        found = rule(logits.clone(), ru.History(history.ids.clone(), history.n_prompt.clone()))
        return found.clone()

    return twin


TWO_TOKENS = ru.Automaton([{i: 1 for i in range(V)}, {i: 0 for i in range(V)}], {0, 1})

IN_PLACE = {
    "function": (top_two, pure(top_two)),
    "filter": (TopTwo(), pure(top_two)),
    "chain": (
        ru.Chain([top_two, ru.Temperature(0.7)]),
        ru.Chain([pure(top_two), ru.Temperature(0.7)]),
    ),
    "vandal": (Vandal(), lambda logits, history: -logits),
    "constraint": (Allowed(TWO_TOKENS), ru.Constraint(TWO_TOKENS)),
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

    class Negative(ru.Chain):
        def __call__(self, logits, history=None):
            return -super().__call__(logits, history)

    model = TableLM(table(V, 0))
    found = sa.generate(model, [0], max_new_tokens=1, sampler=[Negative(), ru.Greedy()])
    alone = sa.generate(model, [0], max_new_tokens=1, sampler=ru.Chain([Negative(), ru.Greedy()]))
    assert found.ids[0].item() == alone.ids[0].item() == model.log_table[0].argmin()


# --- the lecture's two functions --------------------------------------------------------------------------------------

RULES = [
    ru.MinP(0.3), ru.Typical(0.7), ru.Epsilon(0.08), ru.Eta(0.2), ru.TopNSigma(1.0),
    ru.RepetitionPenalty(1.5), ru.FrequencyPenalty(0.7, 0.2), ru.NoRepeatNGram(1), ru.LogitBias({0: 1}),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_draws_have_the_law_that_a_rule_makes(rule):
    """Chi-square on 100,000 draws; and every outcome of the real loop, weighted, against the chain rule to 1e-12."""
    model = TableLM(table(V, 5))
    past = history([1, 4], n_prompt=2)
    scores = rule(model.log_table[4][None], past)
    drawn = ru.Dice(seed(0), 100_000).draw(scores.softmax(-1).expand(100_000, V))
    assert_drawn_from(torch.bincount(drawn, minlength=V), scores[0].softmax(-1))
    found = outcome_law(
        lambda dice: sa.generate(model, [1, 4], max_new_tokens=2, sampler=rule, generator=dice)
    )
    assert_same_law(found, law_by_chain_rule(model, [1, 4], 2, rule))


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
    greedy = sa.generate(model, [0], max_new_tokens=2, sampler=ru.Greedy())
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
        [ru.Temperature(0.8), ru.TopP(0.9)],
        ru.Greedy(),
        ru.FrequencyPenalty(0.5),
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
        found = sa.generate(model, prompt, max_new_tokens=18, sampler=ru.Temperature(0))
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


class EveryOutcome(ru.Dice):
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
    found, chain = {}, ru.as_chain(rule)

    def walk(text, p):
        new = tuple(text[len(prompt) :])
        if len(new) == n or (new and new[-1] in stop):
            found[new] = p
            return
        past = ru.History(torch.tensor([text]), torch.tensor([len(prompt)]))
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
    for sampler in (None, [ru.Temperature(0.7), ru.TopP(0.9)], ru.FrequencyPenalty(0.5)):
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
        model, [[1, 2], [3, 4]], max_new_tokens=8, sampler=ru.TopK(2), generator=seed(0)
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
    rules = [ru.NoRepeatNGram(1)]
    found = sa.generate(model, [[0], [5]], max_new_tokens=4, sampler=rules, stop=[0, 4])
    assert [row.tolist() for row in found.ids] == [[1, 2, 3, 4], [0]]
    with pytest.raises(
        ru.DeadEndError, match=r"NoRepeatNGram\(n=1\)\]\) leaves no token for row 1"
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
    reference = sa.generate(model, [0], max_new_tokens=4, sampler=ru.Greedy()).ids[0]
    for step, expected in zip(
        sa.stream(model, [0], max_new_tokens=4, sampler=ru.Greedy()), reference, strict=True
    ):
        assert torch.is_grad_enabled() and model.training and not model.blocks[0].training
        assert step.ids.item() == expected
    assert torch.equal(
        sa.generate(model.eval(), [0], max_new_tokens=4, sampler=ru.Greedy()).ids[0], reference
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
        found = sa.generate(model, prompt, max_new_tokens=30, sampler=ru.Greedy(), keep=keep)
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
        assert ru.as_stop(stop, V) == {3}
    for search in (
        lambda p: sa.beam_search(model, p, max_new_tokens=2),
        lambda p: sa.best_of_n(model, p, 2, max_new_tokens=2),
        lambda p: sa.speculative_generate(model, model, p, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match="prompt must be a single row, got 2"):
            search([[0], [1]])
    with pytest.raises(TypeError, match="processors must be callables"):
        sa.generate(model, [0], max_new_tokens=1, sampler=ru.Greedy)  # the class, not a rule
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
    found = sa.generate(half, [0], max_new_tokens=3, sampler=[ru.TopP(0.9)], generator=seed(0))
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
    for sampler in (None, ru.Greedy(), ru.TopP(0.9)):
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
    found = ru.find_loop(ids, repeats=repeats)
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
        greedy = sa.generate(model, [3, 1], max_new_tokens=18, sampler=ru.Greedy(), stop=0)
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
    found = sa.beam_search(model, [0], max_new_tokens=3, beam_width=50, filters=ru.NoRepeatNGram(1))
    expected = [t for t, _ in all_texts(model, [0], 3) if len({0, *t}) == 4]
    assert [tuple(x.tolist()) for x in found.ids] == expected
    with pytest.raises(ru.DeadEndError, match="no continuation is possible"):
        sa.beam_search(model, [0], max_new_tokens=4, beam_width=5, filters=ru.NoRepeatNGram(1))
    for options, message in (
        ({"beam_width": 0}, "beam_width"),
        ({"length_power": -1}, "length_power"),
    ):
        with pytest.raises(ValueError, match=message):
            sa.beam_search(model, [0], max_new_tokens=1, **options)


def test_equal_scores_come_lowest_ids_first():
    found = sa.beam_search(TableLM(np.full((3, 3), 1 / 3)), [0], max_new_tokens=2, beam_width=4)
    assert [x.tolist() for x in found.ids] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert ru.top_indices(torch.tensor([1.0, 3.0, -math.inf, 3.0]), 9).tolist() == [1, 3, 0]


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


class RecurrentLM(ob.LanguageModel):
    """A reader's own model: a state of rows, in one tensor or in a tuple; it counts the positions that it reads."""

    vocab_size = V

    def __init__(self, kind):
        super().__init__()
        self.kind, self.n_read = kind, 0
        self.embed, self.mix, self.out = torch.randn(3, 8, 8, generator=seed(4)).double()

    def forward(self, ids):
        return self.step(ids, self.init_state(len(ids)))[0]

    def init_state(self, batch_size):
        h = torch.zeros(batch_size, 8, dtype=torch.float64)
        return h if self.kind == "tensor" else (h, [torch.zeros(batch_size, dtype=torch.int64)])

    def step(self, ids, state):
        self.n_read += ids.numel()
        h, rest = (state, None) if self.kind == "tensor" else state
        rows = []
        for x in ids.unbind(1):
            h = torch.tanh(self.embed[x] + h @ self.mix)  # (B, 8)
            rows.append(h @ self.out[:, :V])
        return torch.stack(rows, 1), h if rest is None else (h, [rest[0] + ids.shape[1]])

    def select(self, state, rows):
        return ob.rows_of(state, rows)


class ForgetfulLM(RecurrentLM):
    """The same function, of which nobody knows how to take rows of its state."""

    def select(self, state, rows):
        return None


@pytest.mark.parametrize("kind", ["tensor", "tuple"])
def test_a_search_reads_each_position_once_whatever_model_says_how_to_take_rows(kind):
    """1 position of the prompt, then 4 rows for each of the other 799 steps."""
    model = RecurrentLM(kind)
    found = sa.beam_search(model, [1], max_new_tokens=800, beam_width=4)
    assert model.n_read == 1 + 4 * 799 == 3_197
    assert len(found.ids[0]) == 800
    short, again = RecurrentLM(kind), ForgetfulLM(kind)
    ours, theirs = (sa.beam_search(m, [1], max_new_tokens=40, beam_width=4) for m in (short, again))
    assert short.n_read == 1 + 4 * 39 and again.n_read > 3 * short.n_read
    assert all(torch.equal(a, b) for a, b in zip(ours.ids, theirs.ids, strict=True))
    assert torch.allclose(ours.scores, theirs.scores, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["n-gram", "lstm", "gpt"])
def test_a_search_reads_each_position_once_with_the_models_of_the_book(name):
    model, sizes = MODELS[name](), []
    original = model.next_logits
    model.next_logits = lambda ids, state: sizes.append(ids.numel()) or original(ids, state)
    sa.beam_search(model, [1], max_new_tokens=11, beam_width=4)
    assert sum(sizes) == 1 + 4 * 10


class RewindingLM(RecurrentLM):
    """It keeps all its states, and so can go back to any of them."""

    def init_state(self, batch_size):
        return [super().init_state(batch_size)]

    def step(self, ids, state):
        rows, states = [], list(state)
        for x in ids.split(1, dim=1):
            logits, after = super().step(x, states[-1])
            rows.append(logits)
            states.append(after)
        return torch.cat(rows, 1), states

    def rewind(self, state, n):
        return state[: n + 1]


def test_speculation_goes_back_as_the_model_says_and_reads_nothing_twice():
    """Each round the target reads the drafts and one token before them; one that cannot go back reads more."""
    draft, found, n_read = make_ngram(), [], []
    for model in (RewindingLM("tensor"), RecurrentLM("tensor")):
        pair = sa.speculative_generate(
            model, draft, [1, 2], max_new_tokens=60, n_draft=3, generator=seed(0)
        )
        found.append(pair)
        n_read.append(model.n_read)
    assert torch.equal(found[0].ids[0], found[1].ids[0])
    drafted = 60 + (found[0].n_proposed - found[0].n_accepted)
    assert n_read[0] <= 2 + drafted + 3 * found[0].n_passes and n_read[0] < n_read[1]


def test_the_loop_knows_no_model_and_the_rules_know_no_text():
    """What they import: neither loads a kind of model, and the rules nothing of the book but the guards."""
    for module, known in (("rules", {"guards"}), ("sampling", None)):
        program = (
            f"import sys, arbook.{module}; print(*(m for m in sys.modules if m[:7] == 'arbook.'))"
        )
        command = [sys.executable, "-c", program]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        loaded = {name.partition(".")[2] for name in output.split()}
        assert not loaded & {"ngram", "recurrent", "transformer", "decoders", "training"}
        assert known is None or loaded == known | {module}


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
        alone = {"sampler": ru.TopP(0.9), "min_new_tokens": least, **options}
        steps = sa.stream(model, [1], generator=seed(2), **alone)
        ids = torch.cat([step.ids for step in steps])
        assert torch.equal(ids, sa.generate(model, [1], generator=seed(2), **alone).ids[0])
        banned = [ru.LogitBias({0: -math.inf, 2: -math.inf})]
        if least == 9:
            free = sa.generate(
                model, [1], max_new_tokens=9, sampler=[*banned, ru.TopP(0.9)], generator=seed(2)
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
    with pytest.raises(ru.DeadEndError, match="MinNewTokens"):
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
    options = {"max_new_tokens": 60, "sampler": ru.Greedy()}
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
    options = {"max_new_tokens": 12, "sampler": ru.TopP(0.9), "stop": 0}
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
    for sampler in (None, [ru.Temperature(1.5), ru.TopP(0.8)]):
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
        model, draft, [1, 2], max_new_tokens=30, sampler=ru.Greedy(), stop=4
    )
    expected = sa.generate(model, [1, 2], max_new_tokens=30, sampler=ru.Greedy(), stop=4)
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


@models
def test_whatever_is_generated_has_the_form(name):
    """Prompts are free; rows end when nothing more is allowed, or at a stop token where the form may end."""
    model = MODELS[name]()
    tree = ru.Automaton.one_of([[1, 2, 3], [1, 2, 4], [5], [6, 6]])
    prompts = [[0], [1, 1, 1], [4, 5]] * 5
    found = sa.generate(
        model, prompts, max_new_tokens=9, sampler=ru.Constraint(tree), generator=seed(0)
    )
    assert all(tree.accepts(row.tolist()) for row in found.ids) and set(found.reasons) == {
        "complete"
    }
    loop = ru.Automaton([{1: 1}, {2: 0}], accepting=[0])
    rule = ru.Constraint(loop, stop=0)
    found = sa.generate(model, prompts, max_new_tokens=30, sampler=rule, stop=0, generator=seed(0))
    for row, reason in zip(found.ids, found.reasons, strict=True):
        assert reason == "length" or (row[-1] == 0 and loop.accepts(row[:-1].tolist()))
    assert "stop" in found.reasons
    beam = sa.beam_search(model, [0], max_new_tokens=5, beam_width=9, filters=ru.Constraint(tree))
    assert len(beam) == 4 and set(beam.reasons) == {"complete"}
    pair = sa.speculative_generate(
        model, make_ngram(), [0], max_new_tokens=9, sampler=ru.Constraint(tree), generator=seed(0)
    )
    assert tree.accepts(pair.ids[0].tolist()) and pair.reasons == ("complete",)


def test_constraints_have_to_be_over_the_vocabulary():
    model = make_ngram()
    with pytest.raises(TypeError, match="automaton must be over token ids"):
        ru.Constraint(ru.Automaton.one_of(["ab"]))
    for rule in (
        ru.Constraint(ru.Automaton.one_of([[V]])),
        ru.Constraint(ru.Automaton.one_of([[1]]), stop=V),
    ):
        with pytest.raises(ValueError, match=f"must allow tokens from 0 to {V - 1}, got {V}"):
            sa.generate(model, [0], max_new_tokens=1, sampler=rule)


def test_a_text_ends_where_the_constraint_says_even_if_the_loop_does_not_know_its_stop():
    model = TableLM(table(V, 1))
    rule = ru.Constraint(ru.Automaton.one_of([(1, 2), (1, 3, 4)]), stop=6)
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
    nothing = ru.Automaton([{}], {0})
    with pytest.raises(ValueError, match="accepts the empty text only.* give it a stop token"):
        ru.Constraint(nothing)
    rule, model = ru.Constraint(nothing, stop=2), TableLM(table(V, 1))
    assert sa.generate(model, [0], max_new_tokens=5, sampler=rule).ids[0].tolist() == [2]


class TwoTokens(ru.Processor):
    """A reader's own rule that ends texts."""

    def __call__(self, logits, history=None):
        return logits

    def finished(self, history):
        return [len(row) == 2 for row in history.new()]


@pytest.mark.parametrize(
    "rule",
    [
        TwoTokens(),
        ru.Chain([ru.TopK(5), ru.Chain([TwoTokens()])]),
        [ru.Chain([ru.Constraint(ru.Automaton.one_of([[1, 2]]))]), ru.TopK(2)],
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
    form = ru.Constraint(ru.Automaton.one_of([(1, 3), (2, 4)]))
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


# --- static shapes ----------------------------------------------------------------------------------------------------


def test_a_mapping_is_the_chain_of_its_rules():
    model = make_ngram()
    rules = [ru.RepetitionPenalty(1.2), ru.Temperature(0.8), ru.TopK(3), ru.TopP(0.9)]
    names = {"top_p": 0.9, "top_k": 3, "repetition_penalty": 1.2, "temperature": 0.8}
    assert ru.as_chain(names).processors == tuple(rules) and not ru.as_chain({}).processors
    assert ru.as_chain({"top_k": None, "temperature": 0.5}).processors == (ru.Temperature(0.5),)
    options = {"max_new_tokens": 20}
    found = sa.generate(model, [0], sampler=names, generator=seed(0), **options)
    expected = sa.generate(model, [0], sampler=rules, generator=seed(0), **options)
    assert torch.equal(found.ids[0], expected.ids[0])
    greedy = sa.generate(model, [0], sampler={"temperature": 0}, **options)
    assert torch.equal(
        greedy.ids[0], sa.generate(model, [0], sampler=ru.Greedy(), **options).ids[0]
    )


def test_a_mapping_with_another_name_or_value_is_refused():
    with pytest.raises(ValueError, match="sampler has no 'topk'; it may set repetition_penalty, "):
        ru.as_chain({"topk": 3})
    with pytest.raises(ValueError, match="top_p must be"):
        ru.as_chain({"top_p": 1.5})
    with pytest.raises(ValueError, match="has no 'do_sample'"):
        sa.stream(make_ngram(), [0], max_new_tokens=1, sampler={"do_sample": True})
