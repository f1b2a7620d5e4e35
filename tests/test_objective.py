"""Factorisation, losses, the interface of models and its test, the loss in chunks, one-hot least squares."""

import itertools
import math
from collections import UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import data
from arbook import objective as ob
from arbook.tokens import CharTokenizer, Corpus
from bench._record import run_apart
from conftest import unavailable
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

# float64 throughout, unless a test says otherwise: what differs then differs by rounding


class Table(ob.LanguageModel):
    """A model with parameters and no memory: a row of logits for each token."""

    def __init__(self, vocab_size=7, context_length=None, seed=0):
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        logits = torch.randn(
            vocab_size,
            vocab_size,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        )
        self.rows = nn.Parameter(logits)

    def forward(self, ids):
        return self.rows[ob.as_token_ids(ids, self.vocab_size, self.context_length)]


class Prefix(Table):
    """A model that reads its whole past: the average row of all tokens so far."""

    def forward(self, ids):
        counts = torch.arange(1, ids.shape[1] + 1)[:, None]
        return super().forward(ids).cumsum(1) / counts


class Running(Prefix):
    """The same function with a fast step."""

    def init_state(self, batch_size):
        return torch.zeros(batch_size, self.vocab_size, dtype=torch.float64), 0

    def step(self, ids, state):
        total, n = state
        total = total[:, None] + self.rows[ids].cumsum(1)
        counts = torch.arange(n + 1, n + ids.shape[1] + 1)[:, None]
        return total / counts, (total[:, -1], n + ids.shape[1])


def random_ids(vocab_size, *shape, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def random_logits(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- factorisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (5, 5), (3, 3, 3, 3), (2,) * 8, (1, 1)])
def test_every_joint_distribution_is_the_product_of_its_conditionals(shape):
    """S52: to 1e-15, and in any order of the positions."""
    joint = np.random.default_rng(0).dirichlet(np.full(math.prod(shape), 0.2)).reshape(shape)
    for order in (range(len(shape)), reversed(range(len(shape)))):
        turned = joint.transpose(tuple(order))
        factors = ob.conditionals(turned)
        assert [factor.ndim for factor in factors] == list(range(1, len(shape) + 1))
        assert all(np.allclose(factor.sum(-1), 1, atol=1e-12) for factor in factors)
        assert np.abs(ob.joint_from(factors) - turned).max() < 1e-15


def test_contexts_that_cannot_occur_get_a_uniform_conditional():
    joint = np.array([[0.25, 0.75, 0], [0, 0, 0], [0, 0, 0]])
    first, second = ob.conditionals(joint)
    assert first.tolist() == [1, 0, 0]
    assert np.allclose(second, [[0.25, 0.75, 0], [1 / 3] * 3, [1 / 3] * 3])
    assert np.array_equal(ob.joint_from([first, second]), joint)


def test_products_of_conditionals_sum_to_1_over_all_sequences():
    rng = np.random.default_rng(1)
    factors = [rng.dirichlet(np.ones(3), size=(3,) * t) for t in range(5)]
    assert abs(ob.joint_from(factors).sum() - 1) < 1e-12


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (1.0, "shape"),
        (np.full((2, 3), 1 / 6), "shape"),
        (np.empty((0, 0)), "shape"),
        ([0.5, 0.6], "sum 1.1"),
        ([1.5, -0.5], "least is -0.5"),
        ([np.nan, 1.0], "probabilities"),
    ],
)
def test_what_is_no_joint_distribution_is_refused(joint, message):
    with pytest.raises(ValueError, match=message):
        ob.conditionals(joint)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ob.REDUCTIONS)
def test_the_loss_is_that_of_pytorch_and_minus_the_log_probability(reduction):
    """S67, S68."""
    logits, targets = random_logits(4, 5, 9), random_ids(9, 4, 5)
    targets[1, 3:] = ob.IGNORE
    found = ob.autoregressive_loss(logits, targets, reduction)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
    assert torch.allclose(found.flatten(), expected, rtol=0, atol=1e-12)
    if reduction == "none":
        assert found.shape == targets.shape and (found[1, 3:] == 0).all()
        one_hot = F.one_hot(targets.clamp(min=0), 9)
        by_hand = -(one_hot * logits.softmax(-1).log()).sum(-1) * (targets >= 0)
        assert torch.allclose(found, by_hand, atol=1e-12)


def test_the_loss_reads_logits_that_are_not_contiguous():
    """S72, E9: the lecture's `view` fails here."""
    logits, targets = random_logits(5, 9, 4).transpose(1, 2), random_ids(9, 5, 4)
    with pytest.raises(RuntimeError):
        logits.view(-1, 9)
    assert torch.equal(
        ob.autoregressive_loss(logits, targets),
        ob.autoregressive_loss(logits.contiguous(), targets),
    )


def test_nothing_to_average_is_an_error_and_a_sum_of_0():
    """S72, E9: the lecture's mean is nan."""
    logits, targets = random_logits(2, 3, 4), torch.full((2, 3), ob.IGNORE)
    assert F.cross_entropy(logits.flatten(0, 1), targets.flatten()).isnan()
    hidden, weight = random_logits(2, 3, 5), random_logits(4, 5)
    for loss in (
        lambda **o: ob.autoregressive_loss(logits, targets, **o),
        lambda **o: ob.squared_loss(logits, targets, **o),
        lambda **o: ob.linear_cross_entropy(hidden, weight, targets, **o),
    ):
        with pytest.raises(ValueError, match="all targets are -100"):
            loss()
        assert loss(reduction="sum") == 0 and (loss(reduction="none") == 0).all()


def test_another_ignore_index_may_be_an_id():
    logits, targets = random_logits(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 0]])
    found = ob.autoregressive_loss(logits, targets, "sum", ignore_index=0)
    keep = targets != 0
    assert torch.isclose(found, ob.autoregressive_loss(logits[keep], targets[keep], "sum"))


def test_half_precision_is_summed_in_float32():
    logits, targets = random_logits(64, 50, 11, dtype=torch.float32), random_ids(11, 64, 50)
    exact = ob.autoregressive_loss(logits.bfloat16().double(), targets)
    found = ob.autoregressive_loss(logits.bfloat16(), targets)
    assert found.dtype == torch.float32 and abs(found - exact) < 1e-5


def test_impossible_tokens_cost_infinity_and_possible_ones_their_share():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert ob.autoregressive_loss(logits, torch.tensor([1])) == torch.inf
    assert torch.isclose(
        ob.autoregressive_loss(logits, torch.tensor([2])), torch.tensor(math.log(2))
    )


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (torch.tensor([[0, 4]]), ValueError, r"targets\[0, 1\] is 4; it must be between 0 and 3"),
        (torch.tensor([[0, -1]]), ValueError, r"-100 to be ignored"),
        (torch.tensor([[0, 1, 2]]), ValueError, r"shape \(1, 2\)"),
        (torch.tensor([0, 1]), ValueError, "shape"),
        (torch.tensor([[0.0, 1.0]]), TypeError, "float32"),
        (torch.tensor([[True, False]]), TypeError, "bool"),
        ([[0, 1]], TypeError, "list"),
    ],
)
def test_wrong_targets_are_refused_by_name(targets, error, message):
    logits = torch.zeros(1, 2, 4)
    for loss in (ob.autoregressive_loss, ob.squared_loss):
        with pytest.raises(error, match=message):
            loss(logits, targets)
    with pytest.raises(error, match=message):
        ob.linear_cross_entropy(torch.zeros(1, 2, 5), torch.zeros(4, 5), targets)


@pytest.mark.parametrize("loss", [ob.autoregressive_loss, ob.squared_loss])
def test_what_are_no_logits_is_refused_by_name(loss):
    for wrong in ([[0.0, 1.0]], torch.zeros(1, 4, dtype=torch.int64)):
        with pytest.raises(TypeError, match="logits must be a tensor of floats"):
            loss(wrong, torch.tensor([0]))
    with pytest.raises(ValueError, match="logits must have shape"):
        loss(torch.tensor(0.0), torch.tensor(0))


def test_half_precision_is_summed_in_float32_in_the_squared_loss_too():
    logits, targets = random_logits(64, 50, 11, dtype=torch.float32), random_ids(11, 64, 50)
    found = ob.squared_loss(logits.bfloat16(), targets)
    exact = ob.squared_loss(logits.bfloat16().double(), targets)
    assert found.dtype == torch.float32 and abs(found - exact) < 1e-5


def test_between_two_tokens_the_squared_loss_has_a_gradient_that_vanishes_at_both_ends():
    """S27: 4 p (1 - p) times that of the log loss, whichever token is true."""
    logits = 4 * random_logits(30, 2)
    logits.requires_grad_()
    for target in (torch.zeros(30, dtype=torch.int64), torch.ones(30, dtype=torch.int64)):
        slow, fast = (
            torch.autograd.grad(loss(logits, target, "sum"), logits)[0]
            for loss in (ob.squared_loss, ob.autoregressive_loss)
        )
        p = logits.detach().softmax(-1).gather(1, target[:, None])
        assert torch.allclose(slow, 4 * p * (1 - p) * fast, rtol=0, atol=1e-12)


def test_likelihood_is_largest_at_the_frequencies():
    """S65: of a coin, and of the table of all pairs; no step in any direction raises it."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 4, size=(1, 300)))
    counts = torch.zeros(4, 4, dtype=torch.float64)
    counts.index_put_((ids[0, :-1], ids[0, 1:]), torch.ones(299).double(), accumulate=True)
    model = Table(vocab_size=4)
    with torch.no_grad():
        model.rows.copy_((counts / counts.sum(1, keepdim=True)).log())
    best = model.log_prob(ids).sum()
    (slope,) = torch.autograd.grad(best, model.rows)
    assert slope.abs().max() < 1e-12 * len(ids[0])
    for seed in range(20):
        other = Table(vocab_size=4)
        other.rows.data = model.rows.data + 0.1 * random_logits(4, 4, seed=seed)
        assert other.log_prob(ids).sum() < best


def test_log_probabilities_outlive_the_product():
    """S66: equal where the product is a number, finite where it is 0."""
    short, long = random_ids(7, 1, 20), random_ids(7, 1, 2_000)
    model = Table()
    product = model(short)[:, :-1].softmax(-1).gather(-1, short[:, 1:, None]).prod()
    assert torch.isclose(model.log_prob(short).sum(), product.log(), rtol=0, atol=1e-10)
    total = model.log_prob(long).sum()
    assert total.exp() == 0 and total.isfinite()


def test_a_model_learns_the_sentence_of_the_lecture():
    """S40, S41: probabilities, and each true word ends above 0.999."""
    ids = torch.arange(6)[None]
    model = Table(vocab_size=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    for _ in range(600):
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    p = model(ids).softmax(-1).detach()
    assert (p >= 0).all() and torch.allclose(p.sum(-1), torch.ones(1, 6).double())
    assert model.log_prob(ids).exp().min() > 0.999


def test_one_pass_reads_each_token_once():
    """S43, S44: T (T + 1) / 2 tokens prefix by prefix, and with the default step; T in one pass."""

    class Counting(Prefix):
        read = 0

        def forward(self, ids):
            self.read += ids.numel()
            return super().forward(ids)

    ids = random_ids(7, 1, 9)
    for read, expected in (
        (lambda m: m(ids), 9),
        (lambda m: [m(ids[:, : t + 1]) for t in range(9)], 45),
        (lambda m: ob.read_in_steps(m, ids, [1] * 9), 45),
    ):
        model = Counting()
        read(model)
        assert model.read == expected


def test_an_unknown_reduction_is_refused():
    logits, targets = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)
    for loss in (ob.autoregressive_loss, ob.squared_loss):
        with pytest.raises(ValueError, match="mean, sum, none"):
            loss(logits, targets, "average")
    with pytest.raises(ValueError, match="mean, sum, none"):
        ob.linear_cross_entropy(torch.zeros(1, 2, 5), torch.zeros(4, 5), targets, reduction="avg")


def test_the_squared_loss_is_the_distance_to_the_one_hot_target():
    """S27."""
    logits, targets = random_logits(3, 4, 6), random_ids(6, 3, 4)
    targets[0, 0] = ob.IGNORE
    losses = ob.squared_loss(logits, targets, "none")
    assert losses[0, 0] == 0
    for at in list(itertools.product(range(3), range(4)))[1:]:
        y = torch.eye(6, dtype=torch.float64)[targets[at]]
        assert torch.isclose(losses[at], (y - logits[at].softmax(-1)).norm() ** 2)


@pytest.mark.parametrize("loss", [ob.autoregressive_loss, ob.squared_loss])
def test_expected_losses_are_least_at_the_true_distribution(loss):
    """S27: both losses are proper. Every other prediction costs more, in expectation."""
    truth = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def expected(q):
        rows = q.log().expand(3, 3)
        return (truth * loss(rows, torch.arange(3), "none")).sum()

    others = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(3), size=300))
    assert all(expected(q) > expected(truth) for q in others)


def test_the_gradient_is_predicted_minus_observed_in_three_ways():
    """S71: the formula, automatic differentiation, central differences; and [0, 0] with target 0."""
    assert ob.cross_entropy_gradient(torch.zeros(2), torch.tensor(0)).tolist() == [-0.5, 0.5]
    logits, targets = 3 * random_logits(2, 3, 8), random_ids(8, 2, 3)
    found = ob.cross_entropy_gradient(logits, targets)
    logits.requires_grad_()
    (by_autograd,) = torch.autograd.grad(ob.autoregressive_loss(logits, targets, "sum"), logits)
    assert (found - by_autograd).abs().max() < 1e-12 and found.sum(-1).abs().max() < 1e-12
    h = 1e-5
    for at in itertools.product(range(2), range(3), range(8)):
        shift = torch.zeros_like(found)
        shift[at] = h
        up, down = (
            ob.autoregressive_loss(logits.detach() + s, targets, "sum") for s in (shift, -shift)
        )
        assert abs((up - down) / (2 * h) - found[at]) < 1e-8


def test_accumulated_gradients_equal_those_of_the_large_batch():
    """S67: on ragged batches, when sums are divided by the tokens of all pieces."""
    docs = [list(range(7)), [1, 2], [3, 3, 3, 0], [6, 5]]
    inputs, targets = ob.shifted_pairs(docs)
    model = Prefix()
    (whole,) = torch.autograd.grad(model.loss(inputs, targets), model.rows)
    n = (targets != ob.IGNORE).sum()
    for size in (1, 2, 3):
        parts = zip(inputs.split(size), targets.split(size), strict=True)
        total = sum(
            torch.autograd.grad(model.loss(x, y, "sum") / n, model.rows)[0] for x, y in parts
        )
        assert torch.allclose(total, whole, rtol=0, atol=1e-14)


def test_gradients_of_tokens_sum_to_the_gradient():
    """S70."""
    model, ids, targets = Prefix(), random_ids(7, 2, 5), random_ids(7, 2, 5, seed=1)
    losses = model.loss(ids, targets, "none")
    (whole,) = torch.autograd.grad(losses.sum(), model.rows, retain_graph=True)
    each = [torch.autograd.grad(one, model.rows, retain_graph=True)[0] for one in losses.flatten()]
    assert torch.allclose(sum(each), whole, rtol=0, atol=1e-13)


# --- pairs ------------------------------------------------------------------------------------------------------------

documents = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=5)


@given(documents)
@settings(max_examples=60)
def test_the_shift_computes_the_double_loop(docs):
    """S24, S25: with either loss, the lecture's sum over documents and prefixes, and over no other pairs."""
    corpus = Corpus(docs)
    if not corpus.n_pairs():
        with pytest.raises(ValueError, match="two tokens"):
            ob.shifted_pairs(docs)
        return
    model = Prefix()
    inputs, targets = ob.shifted_pairs(docs)
    assert int((targets != ob.IGNORE).sum()) == corpus.n_pairs()
    for loss in (ob.autoregressive_loss, ob.squared_loss):
        one_by_one = sum(
            loss(model(torch.tensor([prefix]))[:, -1:], torch.tensor([[target]]))
            for prefix, target in corpus.pairs()
        )
        at_once = loss(model(inputs), targets, "sum")
        assert abs(at_once - one_by_one) < 1e-12 * max(1, corpus.n_pairs())


def test_what_fills_the_inputs_changes_no_loss():
    docs = [[1, 2, 3, 4], [5, 6]]
    model, losses = Prefix(), []
    for pad_id in (0, 3, 6):
        inputs, targets = ob.shifted_pairs(docs, pad_id=pad_id)
        assert inputs[1].tolist() == [5, pad_id, pad_id]
        losses.append(model.loss(inputs, targets).item())
    assert losses[0] == losses[1] == losses[2]


def test_documents_may_be_arrays_and_tensors_and_must_hold_integers():
    rows = ob.shifted_pairs([np.array([1, 2, 3]), torch.tensor([4, 5]), [6, 7]])
    assert rows[1].tolist() == [[2, 3], [5, -100], [7, -100]]
    text = ("I am", ["I am", "I"], [["I", "am"]])  # S26
    for wrong in ([[0.5, 1.5]], [[[1, 2], [3, 4]]], [1, 2, 3], [[True, False]], [None], *text):
        with pytest.raises(TypeError, match="sequences of integers"):
            ob.shifted_pairs(wrong)
    with pytest.raises(ValueError, match="at least 0, got -100"):  # it would be ignored
        ob.shifted_pairs([[1, -100, 2]])


# --- the interface ----------------------------------------------------------------------------------------------------


def test_log_prob_is_the_sum_over_next_token_distributions():
    """S1: prefix by prefix, the slow reference."""
    model, ids = Prefix(), random_ids(7, 3, 6)
    expected = [
        model(ids[:, :t])[:, -1].log_softmax(-1).gather(1, ids[:, t : t + 1]) for t in range(1, 6)
    ]
    assert torch.allclose(model.log_prob(ids), torch.cat(expected, dim=1), rtol=0, atol=1e-12)


def test_log_probabilities_of_all_continuations_sum_to_1():
    """S52: enumerated, for continuations of three tokens."""
    model = Prefix(vocab_size=4)
    rows = torch.tensor([(2, *rest) for rest in itertools.product(range(4), repeat=3)])
    assert abs(model.log_prob(rows).sum(1).exp().sum() - 1) < 1e-12


def test_the_default_step_recomputes_from_the_prefix():
    """S46: chunks of any size, one state after the other."""
    model, ids = Prefix(), random_ids(7, 2, 9)
    for sizes in ([9], [1] * 9, [4, 3, 2], [2, 7]):
        assert torch.allclose(ob.read_in_steps(model, ids, sizes), model(ids), rtol=0, atol=1e-12)


def test_a_model_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="LanguageModel does not define forward"):
        ob.LanguageModel()(torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("I am", TypeError, "encode the text"),
        ([[1, 2]], TypeError, "torch.Tensor"),
        (np.array([[1, 2]]), TypeError, "ndarray"),
        (torch.tensor([[0.0, 1.0]]), TypeError, "float32"),
        (torch.tensor([[True]]), TypeError, "bool"),
        (torch.tensor([1, 2]), ValueError, r"shape \(B, T\)"),
        (torch.empty(1, 0, dtype=torch.int64), ValueError, "T >= 1"),
        (torch.tensor([[0, 7]]), ValueError, r"ids\[0, 1\] is 7; it must be between 0 and 6"),
        (torch.tensor([[-1]]), ValueError, "is -1"),
        (
            torch.zeros(1, 9, dtype=torch.int64),
            ValueError,
            "9 positions; this model reads at most 8",
        ),
    ],
)
def test_wrong_ids_are_refused_by_name(ids, error, message):
    """S26."""
    with pytest.raises(error, match=message):
        Table(context_length=8)(ids)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_ids_of_any_integer_type_are_read(dtype):
    assert ob.as_token_ids(torch.tensor([[1, 2]], dtype=dtype), 3).dtype == torch.int64


def test_ids_and_targets_in_8_bits_are_compared_as_numbers():
    """In 8 bits 256 is 0 and -100 is 156: bytes as ids, and byte 156 as a target, must mean what they say."""
    byte = torch.tensor([[0, 156, 255]], dtype=torch.uint8)
    assert ob.as_token_ids(byte, 256).tolist() == [[0, 156, 255]]
    logits = random_logits(1, 3, 256)
    for loss in (ob.autoregressive_loss, ob.squared_loss):
        assert torch.equal(loss(logits, byte, "none"), loss(logits, byte.long(), "none"))
        assert torch.equal(loss(logits, byte), loss(logits, byte.long()))
    hidden, weight = random_logits(1, 3, 4), random_logits(256, 4)
    assert torch.equal(
        ob.linear_cross_entropy(hidden, weight, byte),
        ob.linear_cross_entropy(hidden, weight, byte.long()),
    )
    batches = [(byte, targets) for targets in (byte, byte.long())]
    found = [ob.compute_perplexity(Table(256), [batch]) for batch in batches]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"ids\[0, 2\] is 255; it must be between 0 and 200"):
        ob.as_token_ids(byte, 201)


def test_scoring_needs_a_token_with_a_past():
    with pytest.raises(ValueError, match="at least 2 positions"):
        Table().log_prob(torch.tensor([[1]]))


# --- causality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 7])
def test_a_causal_model_depends_on_the_lower_triangle(T):
    """S2: bit for bit."""
    assert torch.equal(
        ob.causal_check(Prefix(), random_ids(7, 2, T)), torch.ones(T, T).tril().bool()
    )


class Peeking(Prefix):
    def forward(self, ids):
        return super().forward(ids) + self.rows[ids.roll(-1, 1)]

    def step(self, ids, state):  # hides the leak from a comparison of steps
        prefix = torch.cat([state, ids], 1)
        return self(torch.cat([prefix, prefix[:, :1]], 1))[:, state.shape[1] : -1], prefix


def test_dependences_on_the_future_are_found_in_ids_and_in_vectors():
    """S2, S17."""
    peeking = ob.causal_check(Peeking(), random_ids(7, 1, 5))
    assert peeking[0, 1] and peeking[3, 4]
    x = random_logits(2, 6, 3)
    assert torch.equal(ob.causal_check(lambda x: x.cumsum(1), x), torch.ones(6, 6).tril().bool())
    assert torch.equal(ob.causal_check(lambda x: x.flip(1), x), torch.eye(6).flip(1).bool())
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    mask = torch.ones(6, 6).triu(1).bool()
    y = random_logits(1, 6, 4, dtype=torch.float32)
    assert ob.causal_check(lambda y: attention(y, y, y)[0], y).all()
    seen = ob.causal_check(lambda y: attention(y, y, y, attn_mask=mask)[0], y)
    assert torch.equal(seen, ~mask)


def test_dependence_ignores_equal_nans_and_needs_fitting_shapes():
    x = random_logits(1, 3, 1)
    assert not ob.causal_check(lambda x: torch.full_like(x, torch.nan), x).any()
    with pytest.raises(ValueError, match="vocab_size is needed"):
        ob.causal_check(lambda ids: ids, random_ids(5, 1, 3))
    with pytest.raises(ValueError, match="at least 2, got 1"):  # one token cannot be exchanged
        ob.causal_check(lambda ids: ids, random_ids(1, 1, 3), vocab_size=1)
    with pytest.raises(ValueError, match="first two axes"):
        ob.causal_check(lambda x: x[:, 1:], x)
    with pytest.raises(ValueError, match="shape"):
        ob.causal_check(lambda x: x, torch.zeros(3))


# --- perplexity -------------------------------------------------------------------------------------------------------


class Uniform(Table):
    def forward(self, ids):
        return 0 * super().forward(ids)


@pytest.mark.parametrize("V", [1, 2, 50, 1_000])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(V):
    """S73, S93."""
    batch = {"input_ids": random_ids(V, 3, 8), "labels": random_ids(V, 3, 8, seed=1)}
    assert abs(ob.compute_perplexity(Uniform(V), [batch]) - V) < 1e-9 * V


def test_perplexity_does_not_depend_on_how_the_text_is_batched():
    """S73: ragged batches, dicts or pairs, any module."""
    docs = [[1, 2, 3, 4, 5, 6], [0, 0], [3, 1, 4], [6, 6, 6, 6]]
    model = Prefix()
    inputs, targets = ob.shifted_pairs(docs)
    losses = model.loss(inputs, targets, "none")[targets != ob.IGNORE]
    expected = losses.mean().exp().item()
    for size in (1, 2, 3, 4):
        pairs = list(zip(inputs.split(size), targets.split(size), strict=True))
        dicts = [{"input_ids": x, "labels": y} for x, y in pairs]
        others = [UserDict(batch) for batch in dicts]  # as tokenizers of other libraries return
        for loader in (pairs, dicts, others, iter(pairs)):
            assert abs(ob.compute_perplexity(model, loader) - expected) < 1e-12 * expected
    plain = nn.Sequential(nn.Embedding(7, 7)).double()
    assert ob.compute_perplexity(plain, [(inputs, targets)]) > 1


def test_measuring_leaves_every_part_in_its_mode_and_no_gradients():
    """E13: also when the loader fails."""

    class Dropping(Prefix):
        def __init__(self):
            super().__init__()
            self.drop, self.frozen = nn.Dropout(0.9), nn.Dropout(0.9).eval()

        def forward(self, ids):
            return self.drop(super().forward(ids))

    model, batch = Dropping(), (random_ids(7, 2, 4), random_ids(7, 2, 4, seed=1))
    assert ob.compute_perplexity(model, [batch]) == ob.compute_perplexity(model, [batch])
    assert model.rows.grad is None

    def failing():
        yield batch
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        ob.compute_perplexity(model, failing())
    assert model.training and model.drop.training and not model.frozen.training


@pytest.mark.parametrize("loader", [[], [(random_ids(7, 1, 3), torch.full((1, 3), ob.IGNORE))]])
def test_perplexity_of_nothing_is_an_error(loader):
    with pytest.raises(ValueError, match="at least one target"):
        ob.compute_perplexity(Table(), loader)


def test_labels_that_are_the_inputs_are_refused_with_the_way_to_shift_them():
    """The collators of transformers give such batches; the shifted pair has exp of the mean loss, by hand."""
    model, ids = Prefix(), random_ids(7, 3, 8)
    padded = torch.where(torch.arange(8) < torch.tensor([[8], [5], [2]]), ids, ob.IGNORE)
    for labels in (ids, padded, ids.int(), ids.clone().masked_fill(ids == ids[0, 0], ob.IGNORE)):
        with pytest.raises(ValueError, match=r"labels equal input_ids.*labels\[:, 1:\]"):
            ob.compute_perplexity(model, [{"input_ids": ids, "labels": labels}])
    shifted = {"input_ids": ids[:, :-1], "labels": padded[:, 1:]}
    losses = [
        -model.log_prob(row[None, :n]).sum().item() for row, n in zip(ids, (8, 5, 2), strict=True)
    ]
    expected = math.exp(sum(losses) / (7 + 4 + 1))
    assert ob.compute_perplexity(model, [shifted]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        ([[3, 3, 3]], [[3, 3, 3]]),  # a text of one token repeated is its own continuation
        ([[3, 3, 0, 0]], [[3, 3, -100, -100]]),
        ([[5]], [[5]]),
        ([[1, 2], [4, 4]], [[2, 1], [4, 4]]),
    ],
)
def test_targets_that_may_be_what_comes_next_are_measured(ids, labels):
    batch = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    assert ob.compute_perplexity(Uniform(7), [batch]) == pytest.approx(7)


def test_perplexity_weighs_pieces_by_their_tokens():
    """S92: four tokens at 2 nats and one at 10 give 36.6, not 403.4."""
    assert round(ob.perplexity([2, 10], [4, 1]), 1) == 36.6
    assert ob.perplexity([2, 2, 2, 2, 10]) == pytest.approx(ob.perplexity([2, 10], [4, 1]))
    assert ob.perplexity([3.0, np.inf], [1, 0]) == pytest.approx(np.exp(3))  # an empty piece
    assert ob.perplexity([np.inf, 1]) == np.inf and ob.perplexity([800]) == np.inf


@pytest.mark.parametrize(
    "arguments",
    [
        ([],),
        ([1.0], [0]),
        ([1.0, 2.0], [1]),
        ([1.0], [-1]),
        ([np.nan],),
        ([[1.0]], [[1]]),
        ([1.0], [np.nan]),
        ([1.0, 2.0], [np.inf, 1]),
        ([-np.inf, np.inf],),
    ],
)
def test_perplexity_of_no_pieces_or_wrong_counts_is_an_error(arguments):
    with pytest.raises(ValueError, match="losses"):
        ob.perplexity(*arguments)


@pytest.mark.parametrize("losses", [[-2.3], [1.0, -0.01], -np.ones(3), [5.0, -1e300], -0.5])
def test_log_probabilities_without_their_minus_are_refused(losses):
    """A probability is at most 1, so a perplexity of tokens is at least 1."""
    with pytest.raises(ValueError, match=r"losses\[\d\] is -.*-log p.*minus.*densities"):
        ob.perplexity(losses)
    with pytest.raises(ValueError, match="minus"):
        ob.perplexity(losses, np.ones(np.size(losses)))


def test_losses_below_zero_by_rounding_are_losses():
    assert ob.perplexity([-1e-7, 0.0, -1e-4]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("model", [Uniform(7), nn.Linear(2, 2), {"loss": 1.0}])
def test_what_is_no_loss_is_told_where_a_model_is_measured(model):
    with pytest.raises(
        TypeError, match=rf"got {type(model).__name__}; .*compute_perplexity.*score"
    ):
        ob.perplexity(model)


def test_effective_choices_lie_between_1_and_the_number_of_tokens():
    """S93."""
    assert ob.effective_choices([0, 1, 0]) == 1
    assert ob.effective_choices(np.full(100, 0.01)) == pytest.approx(100)
    assert ob.effective_choices([0.5, 0.5, 0]) == pytest.approx(2)
    rows = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 3))
    found = ob.effective_choices(rows)
    assert found.shape == (2, 3) and ((found > 1) & (found < 5)).all()
    assert ob.effective_choices(torch.ones(2, 4).softmax(-1)) == pytest.approx([4, 4])
    for wrong in ([0.5, 0.6], [1.5, -0.5], [np.nan, 1], 1.0):
        with pytest.raises(ValueError, match="probabilities"):
            ob.effective_choices(wrong)


# --- the loss in chunks -----------------------------------------------------------------------------------------------


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [x for x in tensors if x is not None])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 15, 100, None])
def test_the_loss_in_chunks_equals_the_loss_on_logits(reduction, with_bias, chunk_size):
    """Value and all gradients, with ignored targets, for every way to cut 3 by 5 rows."""
    hidden, weight = (
        random_logits(3, 5, 6).requires_grad_(),
        random_logits(11, 6, seed=1).requires_grad_(),
    )
    bias = random_logits(11, seed=2).requires_grad_() if with_bias else None
    targets = random_ids(11, 3, 5)
    targets[0, 1] = targets[2, 4] = ob.IGNORE
    expected = ob.autoregressive_loss(F.linear(hidden, weight, bias), targets, reduction)
    found = ob.linear_cross_entropy(
        hidden, weight, targets, bias=bias, reduction=reduction, chunk_size=chunk_size
    )
    assert abs(found - expected) < 1e-12
    for a, b in zip(
        gradients(3 * found, hidden, weight, bias),
        gradients(3 * expected, hidden, weight, bias),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_single_losses_in_chunks_have_the_right_gradients(chunk_size):
    hidden, weight = (
        random_logits(3, 5, 6).requires_grad_(),
        random_logits(11, 6, seed=1).requires_grad_(),
    )
    targets, upstream = random_ids(11, 3, 5), random_logits(3, 5, seed=3)
    targets[1, 1] = ob.IGNORE
    found = ob.linear_cross_entropy(
        hidden, weight, targets, reduction="none", chunk_size=chunk_size
    )
    expected = ob.autoregressive_loss(hidden @ weight.T, targets, "none")
    assert torch.allclose(found, expected, atol=1e-12) and found.shape == targets.shape
    for a, b in zip(
        gradients((upstream * found).sum(), hidden, weight),
        gradients((upstream * expected).sum(), hidden, weight),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_the_gradient_of_one_argument_does_not_need_the_other():
    hidden, weight, targets = random_logits(4, 3), random_logits(5, 3, seed=1), random_ids(5, 4)
    for fixed, free in ((0, 1), (1, 0)):
        inputs = [hidden.clone(), weight.clone()]
        inputs[free].requires_grad_()
        found = ob.linear_cross_entropy(*inputs, targets, chunk_size=3)
        expected = ob.autoregressive_loss(inputs[0] @ inputs[1].T, targets)
        (a,), (b,) = gradients(found, inputs[free]), gradients(expected, inputs[free])
        assert torch.allclose(a, b, rtol=0, atol=1e-12) and inputs[fixed].grad is None


def test_only_wanted_gradients_are_computed_and_none_without_grad():
    hidden, weight, targets = random_logits(4, 3), random_logits(5, 3, seed=1), random_ids(5, 4)
    assert not ob.linear_cross_entropy(hidden, weight, targets).requires_grad
    weight.requires_grad_()
    with torch.no_grad():
        assert not ob.linear_cross_entropy(hidden, weight, targets).requires_grad
    ob.linear_cross_entropy(hidden, weight, targets).backward()
    assert hidden.grad is None and weight.grad is not None


def test_a_second_backward_pass_is_refused_and_not_wrong():
    hidden, targets = random_logits(4, 3).requires_grad_(), random_ids(5, 4)
    loss = ob.linear_cross_entropy(hidden, random_logits(5, 3), targets)
    (2 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace|in-place|second time"):
        loss.backward()


def test_large_and_impossible_scores_do_not_overflow():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    targets = torch.tensor([1, 0])
    found = ob.linear_cross_entropy(hidden, weight, targets, reduction="sum")
    assert found == 4e4
    assert all(g.isfinite().all() for g in gradients(found, hidden, weight))


def test_ignored_rows_do_not_count_even_where_token_0_is_impossible():
    """A bias of -inf rules a token out, in the loss and in all gradients."""
    hidden, weight = random_logits(3, 4).requires_grad_(), random_logits(5, 4).requires_grad_()
    bias = torch.tensor([-torch.inf, 0, 1, 2, 3], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, ob.IGNORE, 2])
    found = ob.linear_cross_entropy(hidden, weight, targets, bias=bias, chunk_size=2)
    expected = ob.autoregressive_loss(F.linear(hidden, weight, bias), targets)
    assert torch.isclose(found, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        gradients(found, hidden, weight, bias),
        gradients(expected, hidden, weight, bias),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    impossible = ob.linear_cross_entropy(hidden, weight, torch.tensor([1, 0, 2]), bias=bias)
    assert impossible == torch.inf


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_of_any_shape_and_layout_are_read(reduction):
    """No axes, strides, no rows, one token; in inference mode, and with arguments of a graph."""
    weight = random_logits(9, 5).T[:4].T  # (9, 4), not contiguous
    hidden = random_logits(4, 3, 2).permute(2, 1, 0)  # (2, 3, 4), not contiguous
    for h, w in ((hidden, weight), (hidden[0, 0], weight), (hidden, weight[:1])):
        targets = random_ids(len(w), *h.shape[:-1])
        expected = ob.autoregressive_loss(h @ w.T, targets, reduction)
        with torch.inference_mode():
            found = ob.linear_cross_entropy(h, w, targets, reduction=reduction, chunk_size=4)
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-12)
    none = (random_logits(0, 4), weight, torch.zeros(0, dtype=torch.int64))
    if reduction == "mean":
        with pytest.raises(ValueError, match="nothing to average"):
            ob.linear_cross_entropy(*none)
    else:
        assert ob.linear_cross_entropy(*none, reduction=reduction).sum() == 0


def test_a_weight_that_is_used_twice_gets_both_gradients_and_calls_add_up():
    """Tied to the embedding, and over several calls: as with full logits."""
    weight = random_logits(8, 4).requires_grad_()
    ids = random_ids(8, 3, 5)
    totals = []
    for loss in (
        lambda h, t: ob.linear_cross_entropy(h, weight, t, reduction="sum", chunk_size=2),
        lambda h, t: ob.autoregressive_loss(h @ weight.T, t, "sum"),
    ):
        weight.grad = None
        for row in ids:
            (loss(weight[row[:-1]].cumsum(0), row[1:]) / 12).backward()
        totals.append(weight.grad)
    assert torch.allclose(*totals, rtol=0, atol=1e-12)


def test_the_loss_in_chunks_in_float32_is_as_exact_as_full_logits():
    """Against float64, at 3,000 rows, 64 wide, 5,000 tokens: no more than twice the error of full logits, or 1e-6."""
    inputs = (random_logits(3_000, 64), 0.3 * random_logits(5_000, 64, seed=1))
    targets = random_ids(5_000, 3_000)
    exact = [x.clone().requires_grad_() for x in inputs]
    reference = ob.autoregressive_loss(exact[0] @ exact[1].T, targets)
    references = (reference.detach(), *gradients(reference, *exact))
    errors = []
    for loss in (
        lambda h, w: ob.linear_cross_entropy(h, w, targets, chunk_size=700),
        lambda h, w: ob.autoregressive_loss(h @ w.T, targets),
    ):
        single = [x.float().requires_grad_() for x in inputs]
        found = loss(*single)
        values = (found.detach(), *gradients(found, *single))
        errors.append(
            [float((a - b).norm() / b.norm()) for a, b in zip(values, references, strict=True)]
        )
    for ours, full in zip(*errors, strict=True):
        assert ours < max(2 * full, 1e-6)


@pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="this PyTorch has no linear_cross_entropy"
)
def test_the_loss_in_chunks_is_that_of_pytorch():
    hidden, weight = random_logits(30, 6).requires_grad_(), random_logits(11, 6).requires_grad_()
    targets = random_ids(11, 30)
    targets[3:7] = ob.IGNORE
    found = ob.linear_cross_entropy(hidden, weight, targets, chunk_size=4)
    expected = F.linear_cross_entropy(hidden, weight, targets)
    assert torch.isclose(found, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_autocast_leaves_float64_alone():
    hidden, weight, targets = random_logits(4, 3), random_logits(5, 3, seed=1), random_ids(5, 4)
    plain = ob.linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = ob.linear_cross_entropy(hidden, weight, targets)
    assert found.dtype == torch.float64 and found == plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_keep_losses_in_float32(dtype):
    """Relative to float32, gradients agree to the precision of the type: 8 bits for bfloat16, 11 for float16."""
    hidden, weight = (
        random_logits(40, 16, dtype=torch.float32),
        random_logits(30, 16, dtype=torch.float32),
    )
    targets = random_ids(30, 40)
    exact = [x.clone().requires_grad_() for x in (hidden, weight)]
    expected = ob.autoregressive_loss(exact[0] @ exact[1].T, targets)
    for_exact = gradients(expected, *exact)
    for cast in (False, True):
        inputs = [(x.to(dtype) if cast else x.clone()).requires_grad_() for x in (hidden, weight)]
        with torch.autocast("cpu", dtype, enabled=not cast):
            found = ob.linear_cross_entropy(*inputs, targets, chunk_size=7)
        assert found.dtype == torch.float32 and abs(found - expected) < 0.05
        for a, b, x in zip(gradients(found, *inputs), for_exact, inputs, strict=True):
            assert a.dtype == x.dtype and (a - b).norm() < 0.02 * b.norm()


def test_layers_that_are_no_floats_are_refused():
    hidden, weight, targets = torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 1])
    for wrong in (hidden.long(), hidden.numpy()):
        with pytest.raises(TypeError, match="hidden must be a tensor of floats"):
            ob.linear_cross_entropy(wrong, weight, targets)
    with pytest.raises(TypeError, match="weight must be a tensor of floats"):
        ob.linear_cross_entropy(hidden, weight.long(), targets)


@pytest.mark.parametrize(
    ("hidden", "weight", "bias", "message"),
    [
        ((2, 3), (5, 4), None, "share C"),
        ((2, 3), (5,), None, "share C"),
        ((), (5, 3), None, "share C"),
        ((2, 3), (0, 3), None, "V at least 1"),
        ((2, 3), (5, 3), (4,), r"bias must have shape \(5,\)"),
    ],
)
def test_layers_of_wrong_shape_are_refused(hidden, weight, bias, message):
    bias = None if bias is None else torch.zeros(bias)
    with pytest.raises(ValueError, match=message):
        ob.linear_cross_entropy(
            torch.zeros(hidden), torch.zeros(weight), torch.zeros(2, dtype=torch.int64), bias=bias
        )
    with pytest.raises(ValueError, match="chunk_size"):
        ob.linear_cross_entropy(
            torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.int64), chunk_size=0
        )


@pytest.mark.slow
def test_the_loss_in_chunks_needs_a_twentieth_of_the_memory():
    """Peak memory of whole processes, forward and backward, at the vocabulary of GPT-2."""
    arguments = ("--size", 4_096, 64, 50_304)
    full, chunked = (
        run_apart("objective", "--measure", method, *arguments)["extra_memory_mb"]
        for method in ("cross_entropy on full logits", "linear_cross_entropy")
    )
    assert (
        full > 3 * 4_096 * 50_304 * 4 / 2**20
    )  # at least the logits, their log-softmax and one gradient
    assert chunked < full / 20


# --- the loss in chunks in half precision ----------------------------------------------------------------------------


def plain_loss(h, w, targets, *, bias=None, reduction="mean", chunk_size=None):
    logits = F.linear(h, w, bias).float()
    return F.cross_entropy(logits, targets, reduction=reduction, ignore_index=ob.IGNORE)


def half_problem(scale, *, weights=1e-3, rows=3000, width=24, V=19, skew=0.4, seed=0):
    """Hidden vectors that are far from 0, one target that occurs again and again, some that are ignored."""
    g = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, width, generator=g) + 1) * scale
    targets = torch.randint(V, (rows,), generator=g)
    targets[: int(skew * rows)] = 0
    targets[::7] = ob.IGNORE
    weight = torch.randn(V, width, generator=g) * weights
    return hidden, weight, torch.randn(V, generator=g), targets


def exact_gradients(hidden, weight, bias, targets, reduction, upstream):
    """In float64, from the numbers that the half precision has."""
    inputs = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    logits = F.linear(*inputs)
    loss = F.cross_entropy(logits, targets, reduction=reduction, ignore_index=ob.IGNORE)
    return torch.autograd.grad((loss * upstream).sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("cast", ["half", "autocast"])
@pytest.mark.parametrize(
    ("scale", "weights", "chunk_size"),
    [(20, 1e-3, None), (20, 1e-3, 500), (1e3, 1e-5, 1000), (1e-3, 1.0, None), (1, 50.0, 64)],
)
def test_gradients_are_finite_and_right_wherever_those_of_full_logits_are(
    dtype, reduction, cast, scale, weights, chunk_size
):
    """Sums over the rows that do not fit into float16 are never made, and small numbers not lost."""
    hidden, weight, bias, targets = half_problem(scale, weights=weights)
    inputs = [x.to(dtype) for x in (hidden, weight, bias)]
    n = int((targets != ob.IGNORE).sum())
    # As a sum, or a weighted one, of which the factor is known in the backward pass only.
    upstream = {"mean": 1.0, "sum": 1 / n, "none": torch.linspace(0.5, 2, len(targets)) / n}
    found = []
    for loss in (ob.linear_cross_entropy, plain_loss):
        given = [x.clone() if cast == "half" else x.float() for x in inputs]
        given = [x.requires_grad_() for x in given]
        with torch.autocast("cpu", dtype, enabled=cast == "autocast"):
            value = loss(
                *given[:2], targets, bias=given[2], reduction=reduction, chunk_size=chunk_size
            )
        assert value.dtype == torch.float32
        (value * upstream[reduction]).sum().backward()
        found.append((value.detach(), *(x.grad for x in given)))
    ours, plain = found
    assert torch.allclose(ours[0], plain[0], rtol=1e-5, atol=1e-5)
    exact = exact_gradients(*inputs, targets, reduction, upstream[reduction])
    bound = 4 * torch.finfo(dtype).eps
    for a, b, e in zip(ours[1:], plain[1:], exact, strict=True):
        assert a.isfinite().all() or not b.isfinite().all()
        error, other = ((x.double() - e).norm() / e.norm() for x in (a, b))
        assert error < max(bound, 1.5 * other)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_parts_that_cancel_do_not_overflow(reduction):
    """Each half of the rows alone is beyond float16; all rows are not."""
    n = 12_000
    hidden = torch.full((n, 2), 40.0).half().requires_grad_()
    weight = torch.zeros(2, 2).half().requires_grad_()
    targets = torch.arange(n).ge(n // 2).long()
    factor = n if reduction == "mean" else 1
    made = []
    for loss in (ob.linear_cross_entropy, plain_loss):
        value = loss(hidden, weight, targets, reduction=reduction, chunk_size=n // 2)
        weight.grad = hidden.grad = None
        (factor * value).sum().backward()
        made.append((weight.grad, hidden.grad))
    for a, b in zip(*made, strict=True):
        assert b.isfinite().all() and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaler_learns_with_the_loss_in_chunks(dtype):
    """With hidden values around 20 no step is skipped, and the weights learn what they learn in full."""
    hidden, weight, _, targets = half_problem(20, rows=8000, skew=0.5)
    scaled, weights = [], []
    for loss in (ob.linear_cross_entropy, plain_loss):
        layer = torch.nn.Parameter(weight.clone())
        optimizer = torch.optim.SGD([layer], lr=1e-4)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=True)
        for _ in range(5):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                value = loss(hidden, layer, targets)
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
        scaled.append(scaler.get_scale()), weights.append(layer.detach())
    assert scaled == [1024.0, 1024.0]
    moved = (weights[1] - weight).norm()
    assert moved > 0 and (weights[0] - weights[1]).norm() < 0.02 * moved


@settings(deadline=None, max_examples=40)
@given(
    st.integers(-8, 10),
    st.integers(-12, 3),
    st.integers(-10, 6),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([None, 37, 200]),
    st.integers(0, 10_000),
)
def test_whatever_the_sizes_no_number_is_lost_to_the_range_of_float16(
    log_h, log_w, log_up, reduction, chunk_size, seed
):
    """Powers of 2 for hidden vectors, weights and the upstream gradient: if full logits give numbers, so do chunks."""
    hidden, weight, bias, targets = half_problem(
        2.0**log_h, weights=2.0**log_w, rows=600, seed=seed
    )
    grads = []
    for loss in (ob.linear_cross_entropy, plain_loss):
        given = [x.half().requires_grad_() for x in (hidden, weight, bias)]
        value = loss(*given[:2], targets, bias=given[2], reduction=reduction, chunk_size=chunk_size)
        (value * 2.0**log_up).sum().backward()
        grads.append([x.grad for x in given])
    assume(all(g.isfinite().all() for g in grads[1]))
    upstream = torch.tensor(2.0**log_up, dtype=torch.float64)
    exact = exact_gradients(hidden.half(), weight.half(), bias.half(), targets, reduction, upstream)
    for a, b, e in zip(*grads, exact, strict=True):
        assert a.isfinite().all()
        smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
        ours, plain = ((x.double() - e).norm() for x in (a, b))
        assert ours <= max(4e-3 * e.norm(), 1.5 * plain) + smallest * e.numel() ** 0.5


def test_float32_that_nearly_overflows_is_averaged_as_full_logits_are():
    hidden = torch.full((100, 2), 1e37).requires_grad_()
    weight, targets = torch.zeros(3, 2, requires_grad=True), torch.arange(100) % 3
    ob.linear_cross_entropy(hidden, weight, targets[:100].clamp(max=0)).backward()
    assert weight.grad.isfinite().all() and torch.allclose(
        weight.grad, torch.tensor([[-2 / 3], [1 / 3], [1 / 3]]).expand(3, 2) * 1e37
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_second_backward_pass_says_what_to_do(reduction):
    hidden, weight = random_logits(4, 3).requires_grad_(), random_logits(5, 3).requires_grad_()
    loss = ob.linear_cross_entropy(hidden, weight, random_ids(5, 4), reduction=reduction)
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="second time.*compute the loss again, or use reduction"):
        loss.backward()
    losses = ob.linear_cross_entropy(hidden, weight, random_ids(5, 4), reduction="none")
    first, again = (
        torch.autograd.grad(losses.mean(), (hidden, weight), retain_graph=True) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts while it compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_loss_in_chunks_can_be_compiled(dtype):
    """Compiled and as it is: the same loss and gradients, none of them 0."""
    hidden, weight, bias, targets = half_problem(1, weights=0.1, rows=60)
    compiled = torch.compile(ob.linear_cross_entropy, backend="aot_eager")
    for reduction in ("mean", "sum", "none"):
        found = []
        for loss in (ob.linear_cross_entropy, compiled):
            given = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
            value = loss(*given[:2], targets, bias=given[2], reduction=reduction, chunk_size=16)
            value.mean().backward()
            found.append((value.detach(), *(x.grad for x in given)))
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-5) and b.abs().max() > 0


# --- least squares on one-hot tokens ----------------------------------------------------------------------------------


def shakespeare_ids(n=None):
    try:
        text = data.splits("tinyshakespeare").train[:n]
    except data.DataNotFoundError:
        unavailable("Tiny Shakespeare is not here; set ARBOOK_DATA")
    tokenizer = CharTokenizer.train(text)
    return tokenizer.encode_array(text), tokenizer.vocab_size


def one_hot_rows(ids, T, V):
    windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], T)
    return np.eye(V)[windows].reshape(len(windows), T * V), np.eye(V)[ids[T:]]


def test_least_squares_on_one_token_is_the_bigram_estimate():
    """A8: to 1e-12 on all of Tiny Shakespeare's characters."""
    ids, V = shakespeare_ids()
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    bigram = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    assert np.abs(ob.fit_one_hot(ids, 1, V)[0] - bigram).max() < 1e-12


@pytest.mark.parametrize("T", [1, 2, 3])
def test_one_hot_windows_have_the_rank_of_the_theorem(T):
    """A8, E16: T (V - 1) + 1, when all windows occur, and never more."""
    V = 4
    cycle = [i for window in itertools.product(range(V), repeat=T) for i in window]
    X, _ = one_hot_rows(np.array([*cycle, *cycle[:T], 0]), T, V)
    assert np.linalg.matrix_rank(X) == T * (V - 1) + 1
    ids, V = shakespeare_ids(5_000)
    X, _ = one_hot_rows(ids, T, V)
    assert np.linalg.matrix_rank(X) <= T * (V - 1) + 1


@pytest.mark.parametrize("T", [1, 2, 3])
def test_one_hot_fits_are_the_least_squares_of_chapter_1(T):
    """A8: the same weights of least norm as NumPy's SVD, and the scores of each window sum to 1."""
    ids = np.random.default_rng(0).integers(0, 5, size=400)
    X, Y = one_hot_rows(ids, T, 5)
    expected = np.linalg.lstsq(X, Y, rcond=None)[0]
    found = ob.fit_one_hot(ids, T, 5)
    assert found.shape == (T, 5, 5)
    assert np.abs(found.reshape(-1, 5) - expected).max() < 1e-12
    windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], T)
    scores = ob.predict_one_hot(found, windows)
    assert np.abs(scores - X @ expected).max() < 1e-12
    assert np.abs(scores.sum(1) - 1).max() < 1e-12


@given(
    st.integers(1, 4).flatmap(
        lambda V: st.tuples(
            st.just(V), st.integers(1, 4), st.lists(st.integers(0, V - 1), min_size=5, max_size=40)
        )
    )
)
@settings(max_examples=80)
def test_one_hot_fits_of_any_stream_are_of_least_norm(case):
    """A8, E16: also where windows and tokens are missing, against NumPy's SVD."""
    V, T, ids = case
    ids = np.array(ids)
    X, Y = one_hot_rows(ids, T, V)
    expected = np.linalg.lstsq(X, Y, rcond=1e-10)[0]
    assert np.abs(ob.fit_one_hot(ids, T, V).reshape(-1, V) - expected).max() < 1e-9
    assert np.abs((X @ expected).sum(1) - 1).max() < 1e-9


def test_scores_of_windows_that_never_occur_need_not_sum_to_1():
    """A8: here (0, 1), (1, 0), (0, 2), (2, 0) occur, (0, 0) and (1, 1) do not."""
    weights = ob.fit_one_hot([0, 1, 0, 2] * 5 + [0], 2, 3)
    sums = ob.predict_one_hot(weights, [[0, 1], [2, 0], [0, 0], [1, 1]]).sum(1)
    assert np.allclose(sums, [1, 1, 4 / 3, 2 / 3])


def test_longer_contexts_make_negative_scores():
    """A8: which is why a softmax is needed."""
    ids, V = shakespeare_ids(100_000)
    windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], 3)
    scores = ob.predict_one_hot(ob.fit_one_hot(ids, 3, V), windows)
    assert scores.min() < -0.01 and np.abs(scores.sum(1) - 1).max() < 1e-9
    assert ob.fit_one_hot(ids, 1, V).min() >= -1e-15


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 1], 2, 2), ValueError, "more than context = 2"),
        (([0, 2], 1, 2), ValueError, r"ids\[1\] is 2"),
        (([0, -1], 1, 2), ValueError, "is -1"),
        (([0.0, 1.0], 1, 2), TypeError, "integers"),
        (("ab", 1, 2), TypeError, "encode"),
        (([0, 1], 0, 2), ValueError, "context must be at least 1"),
    ],
)
def test_one_hot_fits_refuse_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        ob.fit_one_hot(*arguments)


def test_one_hot_predictions_refuse_bad_windows():
    weights = ob.fit_one_hot([0, 1, 0, 0], 2, 2)
    for wrong, error in (
        ([[0]], ValueError),
        ([0, 1], ValueError),
        ([[0, 2]], ValueError),
        ([[0.5, 1]], TypeError),
    ):
        with pytest.raises(error, match="contexts"):
            ob.predict_one_hot(weights, wrong)
