"""What a model reads that it wrote itself, and losses of whole texts: against sums over all texts."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from arbook.exposure import (
    continuation_log_prob,
    continuation_pairs,
    minimum_risk_loss,
    noise_inputs,
    preference_loss,
    reinforce_loss,
    rollout_error,
    scheduled_inputs,
    seen_before,
    teacher_share,
    unlikelihood_loss,
)
from arbook.losses import IGNORE, autoregressive_loss
from arbook.ngram import NGramLM
from arbook.objective import LanguageModel
from arbook.recurrent import free_running_inputs
from arbook.rules import Greedy
from arbook.sampling import beam_search, generate
from bench import exposure as bench
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tiny import V, Table, own, plain_lstm, rng, tiny_gpt
from torch import nn

# The error of a roll-out


@given(
    phi=st.floats(-1.05, 1.05),
    delta=st.floats(-0.2, 0.2),
    x=st.floats(-10, 10),
    h=st.integers(1, 40),
)
def test_the_error_of_one_weight_is_its_closed_form(phi, delta, x, h):
    steps = np.arange(1, h + 1)
    formula = np.abs((phi + delta) ** steps - phi**steps) * abs(x)
    found = rollout_error([x], [phi], [phi + delta], h)
    assert np.allclose(found, formula, rtol=1e-12, atol=1e-12)


def test_the_error_of_two_weights_is_that_of_powers_of_a_matrix():
    coef, estimate = np.array([-0.6, 1.3]), np.array([-0.5, 1.2])
    windows = np.random.default_rng(0).normal(size=(3, 4, 2))
    found = rollout_error(windows, coef, estimate, 6)
    assert found.shape == (3, 4, 6)
    for h in range(1, 7):
        last = [
            np.linalg.matrix_power(np.array([[0, 1], weights]), h)[1]
            for weights in (coef, estimate)
        ]
        assert np.allclose(found[..., h - 1], np.abs(windows @ (last[1] - last[0])), atol=1e-12)


def test_weights_of_different_orders_are_not_compared():
    with pytest.raises(
        ValueError, match=r"estimate must have the shape of coef, \(2,\), got \(1,\)"
    ):
        rollout_error([1.0, 2.0], [0.5, 0.1], [0.5], 3)
    with pytest.raises(ValueError, match="horizon"):
        rollout_error([1.0], [0.5], [0.5], 0)


# Inputs that the model draws itself

MODELS = {"LSTM": plain_lstm, "GPT": lambda: tiny_gpt(dropout=0.0), "a reader's": own}
EVERY = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
IDS = torch.randint(V, (5, 8), generator=rng(3))
TARGETS = torch.randint(V, (5, 8), generator=rng(4))


@EVERY
@pytest.mark.parametrize("passes", [None, 1, 3])
def test_nothing_but_true_tokens_is_teacher_forcing_bit_for_bit(make, passes):
    model = make()
    mixed = scheduled_inputs(model, IDS, 1.0, passes=passes, generator=rng())
    assert torch.equal(mixed, IDS)
    losses = [model.loss(x, TARGETS) for x in (mixed, IDS)]
    grads = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@EVERY
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_as_many_passes_as_positions_draw_what_is_drawn_one_by_one(make, share):
    model = make().double()
    steps = scheduled_inputs(model, IDS, share, generator=rng(1))
    for passes in range(1, 8):
        mixed = scheduled_inputs(model, IDS, share, passes=passes, generator=rng(1))
        assert torch.equal(mixed[:, : passes + 1], steps[:, : passes + 1])
    assert torch.equal(mixed, steps)


def test_the_share_of_true_tokens_is_binomial():
    """The model never says 0, and the text says nothing else: what is 0 was kept."""

    class NoZero(Table):
        def forward(self, ids):
            return torch.zeros(*ids.shape, V).index_fill(-1, torch.tensor(0), -torch.inf)

    model, ids = NoZero(), torch.zeros(200, 51, dtype=torch.int64)
    for share in (0.0, 0.3, 0.9):
        for passes in (None, 1):
            mixed = scheduled_inputs(model, ids, share, passes=passes, generator=rng(2))
            assert (mixed[:, 0] == 0).all()
            kept = (mixed[:, 1:] == 0).sum().item()
            n, sd = 200 * 50, math.sqrt(200 * 50 * share * (1 - share))
            assert abs(kept - n * share) <= 4 * sd


def test_without_true_tokens_texts_have_the_law_of_the_model():
    """All eight continuations of a first token, against the product of their conditionals."""
    model = NGramLM(2, vocab_size=2, smoothing="add-k").fit([0, 1, 1, 0, 1, 1, 1, 0, 0, 1])
    ids = torch.zeros(40_000, 4, dtype=torch.int64)
    texts = [(0, *rest) for rest in itertools.product(range(2), repeat=3)]
    expected = model.log_prob(torch.tensor(texts)).sum(1).exp().numpy()
    assert np.isclose(expected.sum(), 1)
    drawn = scheduled_inputs(model, ids, 0.0, generator=rng(7))
    shares = np.array([(drawn == torch.tensor(text)).all(1).double().mean() for text in texts])
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 40_000)
    free = free_running_inputs(model, ids, generator=rng(8))
    others = np.array([(free == torch.tensor(text)).all(1).double().mean() for text in texts])
    assert np.abs(others - expected).max() < 4 * np.sqrt(0.25 / 40_000)


def test_two_passes_draw_from_what_the_true_text_predicts():
    """A model that always repeats: one pass puts the true token before in each place, in steps the first goes on."""

    class Repeat(LanguageModel):
        vocab_size = V

        def forward(self, ids):
            return 1e4 * nn.functional.one_hot(ids, V).float()

    ids = torch.arange(6)[None]
    assert scheduled_inputs(Repeat(), ids, 0.0, passes=1).tolist() == [[0, 0, 1, 2, 3, 4]]
    assert scheduled_inputs(Repeat(), ids, 0.0, passes=2).tolist() == [[0, 0, 0, 1, 2, 3]]
    assert scheduled_inputs(Repeat(), ids, 0.0).tolist() == [[0] * 6]


@pytest.mark.parametrize("passes", [None, 1])
def test_a_model_that_returns_nan_is_refused(passes):
    model = Table()
    nn.init.constant_(model.table.weight, float("nan"))
    with pytest.raises(ValueError, match="got nan"):
        scheduled_inputs(model, IDS, 0.5, passes=passes, generator=rng())


def test_no_gradient_flows_through_what_is_drawn_and_the_mode_stays():
    model = tiny_gpt(dropout=0.5).train()
    mixed = scheduled_inputs(model, IDS, 0.5, generator=rng())
    assert not mixed.requires_grad and model.training
    assert scheduled_inputs(model, IDS[:, :1], 0.0).tolist() == IDS[:, :1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 1.1}, "share must be at least 0 and at most 1"),
        ({"share": float("nan")}, "share"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"ids": IDS + 5}, "ids"),
        ({"ids": torch.zeros(1, 9, dtype=torch.int64)}, "at most 8"),
    ],
)
def test_wrong_calls_of_scheduled_sampling_say_what_is_wrong(change, message):
    call = {"model": tiny_gpt(), "ids": IDS, "share": 0.5} | change
    with pytest.raises(ValueError, match=message):
        scheduled_inputs(**call)


# Schedules


@pytest.mark.parametrize("schedule", ["linear", "exponential", "sigmoid"])
@pytest.mark.parametrize(("n", "last"), [(1, 0.5), (10, 0.1), (1000, 0.9), (100_000, 1e-6)])
def test_a_schedule_falls_from_almost_one_to_its_last_share_and_stays(schedule, n, last):
    steps = np.unique(np.linspace(0, n, 50).astype(int))
    shares = [teacher_share(int(step), n, schedule, last=last) for step in steps]
    assert all(0 < share <= 1 for share in shares) and (np.diff(shares) < 0).all()
    assert shares[-1] == last == teacher_share(5 * n, n, schedule, last=last)
    if n > 1:
        assert abs(teacher_share(n - 1, n, schedule, last=last) - last) < 5 / n**0.5


def test_schedules_are_those_of_the_formulas():
    assert teacher_share(3, 10, last=0.0) == pytest.approx(0.7)
    assert teacher_share(3, 10, "exponential", last=0.01) == pytest.approx((0.01**0.1) ** 3)
    n, last = 50, 0.2
    k = next(k for k in np.arange(1, 50, 1e-3) if k / (k + math.exp(n / k)) >= last)  # grows with k
    for step in (0, 20, 49):
        formula = k / (k + math.exp(step / k))
        assert teacher_share(step, n, "sigmoid", last=last) == pytest.approx(formula, abs=1e-3)


def test_a_schedule_that_never_arrives_is_refused():
    for schedule in ("exponential", "sigmoid"):
        for last in (0.0, 1.0):
            with pytest.raises(ValueError, match="last must be above 0 and below 1"):
                teacher_share(1, 10, schedule, last=last)
    with pytest.raises(ValueError, match="schedule must be one of linear, exponential, sigmoid"):
        teacher_share(1, 10, "cosine")


# Noise


@pytest.mark.parametrize("kind", ["replace", "drop", "swap"])
def test_no_noise_changes_nothing_and_the_ids_that_were_given_stay(kind):
    ids = IDS.clone()
    assert torch.equal(noise_inputs(ids, 0, vocab_size=V, kind=kind), IDS)
    noise_inputs(ids, 1, vocab_size=V, kind=kind)
    assert torch.equal(ids, IDS)


def test_a_replaced_token_is_another_one_and_all_others_are_alike():
    ids = torch.full((300, 50), 2)
    noisy = noise_inputs(ids, 0.25, vocab_size=4, generator=rng())
    counts = noisy.flatten().bincount(minlength=4).double() / ids.numel()
    sd = math.sqrt(0.25 / ids.numel())
    assert (counts - torch.tensor([1, 1, 9, 1]) / 12).abs().max() < 4 * sd
    assert not (noise_inputs(ids, 1, vocab_size=4) == ids).any()


def test_dropped_tokens_have_the_sign_that_was_given():
    noisy = noise_inputs(torch.full((200, 50), 3), 0.4, vocab_size=V, kind="drop", fill=7)
    assert set(noisy.unique().tolist()) == {3, 7}
    assert abs((noisy == 7).double().mean() - 0.4) < 4 * math.sqrt(0.24 / 10_000)
    with pytest.raises(ValueError, match="fill"):
        noise_inputs(IDS, 0.4, vocab_size=V, kind="drop", fill=V)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_swapped_tokens_are_neighbours_and_none_gets_lost(length):
    ids = torch.arange(length).expand(20, length) % V
    for seed in range(4):
        noisy = noise_inputs(ids, 0.5, vocab_size=V, kind="swap", generator=rng(seed))
        assert torch.equal(noisy.sort(1).values, ids.sort(1).values)
        assert (noisy - ids).abs().max() <= 1
    every = noise_inputs(ids, 1.0, vocab_size=V, kind="swap", generator=rng(0))
    assert (every != ids).sum(1).min() >= length - 2 + length % 2


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="kind must be one of replace, drop, swap, got 'mask'"):
        noise_inputs(IDS, 0.1, vocab_size=V, kind="mask")


# Whole texts


@EVERY
def test_the_probability_of_a_continuation_is_that_of_its_tokens_one_by_one(make):
    model = make().double().eval()
    prompts, texts = [[1, 2, 3], [4], [5, 6]], [[7], [8, 9, 10, 0], [1, 1]]
    found = continuation_log_prob(model, prompts, texts)
    for row, (before, after) in enumerate(zip(prompts, texts, strict=True)):
        whole = torch.tensor([before + after])
        expected = model.log_prob(whole)[0, len(before) - 1 :].sum()
        assert torch.isclose(found[row], expected, atol=1e-10)
    assert found.requires_grad


def test_what_is_generated_has_the_log_probability_that_the_generator_reports():
    model = plain_lstm().double()
    found = generate(model, [[1], [2, 3]], max_new_tokens=6, stop=0, generator=rng(5))
    scores = continuation_log_prob(model, found.prompts, found.ids)
    assert torch.allclose(scores, found.log_prob, atol=1e-10)


def test_training_on_the_best_text_of_a_teacher_makes_it_the_most_probable_one():
    """Sequence distillation, into a table, to the end: greedily the student writes what the beam found."""
    teacher = NGramLM(2, vocab_size=4, smoothing="add-k").fit(
        [0, 1, 2, 3, 0, 1, 2, 3, 0, 2, 1, 3, 0]
    )
    found = beam_search(teacher, [0], max_new_tokens=4, beam_width=64)
    best = found.take([0])
    texts = [(0, *rest) for rest in itertools.product(range(4), repeat=4)]
    scores = teacher.log_prob(torch.tensor(texts)).sum(1)
    assert tuple(best.texts[0].tolist()) == texts[scores.argmax()]
    torch.manual_seed(0)
    student = Table(4)
    adam = torch.optim.Adam(student.parameters(), 0.1)
    for _ in range(100):
        adam.zero_grad()
        student.loss(*continuation_pairs(best.prompts, best.ids)).backward()
        adam.step()
    written = generate(student, [0], max_new_tokens=4, sampler=Greedy())
    assert torch.equal(written.ids[0], best.ids[0])


def test_what_is_no_id_is_refused_also_where_a_loss_would_ignore_it():
    with pytest.raises(ValueError, match="continuations must hold ids, from 0 on, got -100"):
        continuation_pairs([[1]], [[2, IGNORE]])
    with pytest.raises(TypeError, match="prompts must hold integers, got torch.float32"):
        continuation_pairs([[1.0]], [[2]])


def test_empty_texts_and_unequal_numbers_are_refused():
    for prompts, texts in (([[1]], []), ([], []), ([[]], [[1]]), ([[1]], [[]]), ([[1]], [[[1]]])):
        with pytest.raises(ValueError, match="prompts|continuations"):
            continuation_pairs(prompts, texts)


# Losses of whole texts, against sums over all of them


class Free(nn.Module):
    """Any law of T tokens of V kinds: a row of logits for each beginning."""

    def __init__(self, V: int, T: int, seed: int = 0):
        super().__init__()
        self.texts = torch.tensor([*itertools.product(range(V), repeat=T)])
        beginnings = [b for n in range(T) for b in itertools.product(range(V), repeat=n)]
        place = {beginning: i for i, beginning in enumerate(beginnings)}
        self.places = torch.tensor(
            [[place[tuple(text[:t])] for t in range(T)] for text in self.texts.tolist()]
        )
        logits = torch.randn(len(beginnings), V, generator=rng(seed), dtype=torch.float64)
        self.logits = nn.Parameter(logits)

    def log_prob(self):
        """Of every text."""
        return self.logits.log_softmax(-1)[self.places, self.texts].sum(1)

    def gradient(self, value):
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]


@pytest.fixture(params=[(2, 3), (3, 3)], ids=["2 kinds", "3 kinds"])
def law(request):
    return Free(*request.param)


def rewards_of(law):
    return torch.rand(len(law.texts), generator=rng(9), dtype=torch.float64)


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_the_mean_gradient_over_samples_is_that_of_the_expected_reward(law, baseline):
    log_p, rewards = law.log_prob(), rewards_of(law)
    assert torch.isclose(log_p.exp().sum(), torch.ones(()).double())
    exact = law.gradient((log_p.exp() * rewards).sum())
    mean = sum(
        p * law.gradient(reinforce_loss(log_p[i : i + 1], rewards[i : i + 1], baseline))
        for i, p in enumerate(log_p.exp().tolist())
    )
    assert torch.allclose(-mean, exact, atol=1e-10)


def test_a_reward_with_a_gradient_of_its_own_is_taken_as_a_number(law):
    log_p, weight = law.log_prob(), torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = reinforce_loss(log_p, rewards_of(law) * weight, log_p.exp())
    assert torch.autograd.grad(loss, weight, allow_unused=True, retain_graph=True) == (None,)
    fixed = reinforce_loss(log_p, rewards_of(law), log_p.exp().detach())
    assert torch.equal(law.gradient(loss), law.gradient(fixed))


def test_the_risk_over_all_texts_is_the_exact_one_and_so_is_its_gradient(law):
    log_p, risks = law.log_prob(), 1 - rewards_of(law)
    exact = (log_p.exp() * risks).sum()
    found = minimum_risk_loss(log_p, risks)
    assert torch.isclose(found, exact, atol=1e-10)
    assert torch.allclose(law.gradient(found), law.gradient(exact), atol=1e-10)


def test_the_risk_over_some_candidates_shares_out_their_powers(law):
    log_p, risks = law.log_prob(), 1 - rewards_of(law)
    some = torch.tensor([[0, 3, 5], [1, 2, 7]])
    powers = log_p.exp()[some] ** 0.3
    expected = ((powers * risks[some]).sum(1) / powers.sum(1)).mean()
    assert torch.isclose(minimum_risk_loss(log_p[some], risks[some], sharpness=0.3), expected)


def test_the_best_law_for_preferences_is_the_reference_with_a_reward():
    """If texts are preferred with probability sigmoid(r - r'), the minimum is at P proportional to P0 exp(r / beta)."""
    law, beta = Free(2, 3), 0.5
    reference, rewards = law.log_prob().detach(), rewards_of(law)
    best = (reference + rewards / beta).log_softmax(0)
    i, j = torch.triu_indices(8, 8, 1)
    likes = torch.sigmoid(rewards[i] - rewards[j])

    def loss(log_p):
        total = 0.0
        for a, b, weight in ((i, j, likes), (j, i, 1 - likes)):
            each = [
                preference_loss(
                    log_p[a[k : k + 1]],
                    log_p[b[k : k + 1]],
                    reference_chosen=reference[a[k : k + 1]],
                    reference_rejected=reference[b[k : k + 1]],
                    beta=beta,
                )
                for k in range(len(a))
            ]
            total = total + (weight * torch.stack(each)).sum()
        return total

    at = best.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    assert gradient.abs().max() < 1e-12
    for seed in range(3):
        other = best + 0.1 * torch.randn(8, generator=rng(seed), dtype=torch.float64)
        assert loss(other.log_softmax(0)) > loss(best)


def test_at_the_reference_every_preference_costs_a_coin():
    p, q = torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, -9.0])
    found = preference_loss(p, q, reference_chosen=p, reference_rejected=q, beta=2.0)
    assert found.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda a, b: reinforce_loss(a, b[:1]), "rewards must have the shape of log_prob"),
        (lambda a, b: reinforce_loss(a, b, torch.zeros(5)), "baseline"),
        (lambda a, b: reinforce_loss(a, b, float("inf")), "baseline"),
        (lambda a, b: reinforce_loss(a, b / 0), "rewards must be finite"),
        (lambda a, b: reinforce_loss(a[:0], b[:0]), "at least one number"),
        (lambda a, b: minimum_risk_loss(a, b, sharpness=0), "sharpness must be above 0"),
        (
            lambda a, b: preference_loss(a, b, reference_chosen=a, reference_rejected=b, beta=0),
            "beta must be above 0",
        ),
    ],
)
def test_losses_refuse_what_does_not_fit(f, message):
    with pytest.raises(ValueError, match=message):
        f(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0]))


def test_rewards_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="rewards must be a tensor of floats, got torch.bool"):
        reinforce_loss(torch.zeros(1), torch.tensor([True]))
    with pytest.raises(TypeError, match="log_prob must be a tensor of floats, got list"):
        minimum_risk_loss([0.0], torch.zeros(1))


# Unlikelihood


def test_unlikelihood_is_the_sum_of_two_logarithms_and_never_of_a_target():
    logits = torch.randn(2, 4, 5, generator=rng(), dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2, 3], [4, IGNORE, 0, 0]])
    negatives = torch.rand(2, 4, 5, generator=rng(1)) < 0.5
    p = logits.softmax(-1)
    for weight in (0.0, 1.0, 0.3):
        losses = torch.zeros(2, 4, dtype=torch.float64)
        for b, t in itertools.product(range(2), range(4)):
            target = targets[b, t].item()
            if target != IGNORE:
                losses[b, t] = -p[b, t, target].log()
                for c in range(5):
                    if negatives[b, t, c] and c != target:
                        losses[b, t] -= weight * (1 - p[b, t, c]).log()
        found = unlikelihood_loss(logits, targets, negatives, weight=weight, reduction="none")
        assert torch.allclose(found, losses, atol=1e-12)
        mean = unlikelihood_loss(logits, targets, negatives, weight=weight)
        assert torch.isclose(mean, losses.sum() / 7)
    plain = unlikelihood_loss(logits, targets, negatives, weight=0)
    assert torch.equal(plain, autoregressive_loss(logits, targets))


@pytest.mark.parametrize("gap", [0.0, 1.0, 40.0, 700.0])
def test_a_token_that_is_almost_sure_has_an_exact_loss_and_gradient(gap):
    """log(1 - p) of the first of three tokens is log 2 - log(2 + exp(gap)); its slope in the gap is -p."""
    logits = torch.tensor([[[gap, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[[True, False, False]]])
    loss = unlikelihood_loss(logits, torch.tensor([[IGNORE]]), negatives, reduction="sum")
    assert loss == 0
    target = torch.tensor([[1]])
    both = unlikelihood_loss(logits, target, negatives) - autoregressive_loss(logits, target)
    assert both.item() == pytest.approx(np.logaddexp(math.log(2), gap) - math.log(2), rel=1e-12)
    (slope,) = torch.autograd.grad(both, logits)
    p = 1 / (1 + 2 * math.exp(-gap))
    assert torch.allclose(slope, torch.tensor([[[p, -p / 2, -p / 2]]]).double(), atol=1e-12)


def test_tokens_seen_before_are_those_of_the_context():
    ids = torch.tensor([[2, 0, 2, 1]])
    expected = [{2}, {0, 2}, {0, 2}, {0, 1, 2}]
    found = seen_before(ids, 4)[0]
    assert [set(row.nonzero()[:, 0].tolist()) for row in found] == expected


def test_negatives_are_truth_values_of_the_shape_of_the_logits():
    logits, targets = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64)
    for negatives in (torch.zeros(1, 2, 3), [[[True] * 3] * 2]):
        with pytest.raises(TypeError, match="negatives must be a tensor of truth values"):
            unlikelihood_loss(logits, targets, negatives)
    with pytest.raises(ValueError, match="negatives must have the shape of logits"):
        unlikelihood_loss(logits, targets, torch.zeros(1, 2, 4, dtype=torch.bool))


# The measurement that the pages show


def test_the_record_has_three_seeds_of_everything_and_shares_that_are_shares():
    record = json.loads((ROOT / "runs" / "exposure.json").read_text("utf8"))
    for rows in record["remedies"].values():
        loss, right, different = np.array(rows).T
        assert len(loss) >= 3 and (loss > record["grammar"]["entropy_rate"]).all()
        assert ((right >= 0) & (right <= 1)).all() and (different <= 1000 * right).all()
    for name, curve in record["distance"]["curves"].items():
        assert len(curve["judge"]) == len(curve["new"]) == (1 if name == "real" else 3)
        assert all(0 <= share <= 1 for row in curve["new"] for share in row)


def test_what_the_measurement_calls_right_is_what_the_grammar_writes():
    for sentence in bench.GRAMMAR.sample(20, rng=3):
        row = [bench.NUMBER[word] for word in sentence]
        assert bench.is_right([*row, 0])
        assert not bench.is_right(row) and not bench.is_right([0, *row, 0])
    inputs, targets = bench.windows(bench.TEXT)
    assert torch.equal(inputs.flatten()[1:], targets.flatten()[:-1])
