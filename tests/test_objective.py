"""Factorisation, the interface of models, pairs, causality, perplexity, one-hot least squares."""

import itertools
import math
import re
import unicodedata
from collections import UserDict
from fractions import Fraction

import numpy as np
import pytest
import torch
from arbook import data
from arbook import objective as ob
from arbook.tokens import CharTokenizer, Corpus
from conftest import ROOT, unavailable
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import random_ids, random_logits
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


# --- the pictures of the idea pages -----------------------------------------------------------------------------------


def words_of(name):
    """The words that a picture shows, from top to bottom, each line from left to right."""
    svg = (ROOT / "nbs" / "pictures" / f"{name}.svg").read_text("utf8")
    found = re.findall(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    return [word for _, _, word in sorted((float(y), float(x), word) for x, y, word in found)]


def test_the_picture_of_the_shift_shows_the_pairs_of_its_two_texts():
    docs = [text.split() for text in ("I am a machine learner", "you learn")]
    vocabulary = [word for doc in docs for word in doc]
    ids = [[vocabulary.index(word) for word in doc] for doc in docs]
    inputs, targets = ob.shifted_pairs(ids, pad_id=len(vocabulary))
    names = [*vocabulary, "·"]
    expected = []
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        expected += ["reads", *(names[i] for i in row)]
        expected += ["answer", *("−100" if i == ob.IGNORE else names[i] for i in answers)]
    assert words_of("shift") == expected


def test_the_two_ways_of_the_picture_read_the_same_words_and_give_the_same_answers():
    words = words_of("twice")
    read, answers = "I am a machine".split(), ["p₁", "p₂", "p₃", "p₄"]
    at_once, in_steps = words[: words.index("step by step")], words[words.index("step by step") :]
    for part in (at_once, in_steps):
        assert [word for word in part if word in read] == read
        assert [word for word in part if word in answers] == answers


def test_the_picture_of_a_law_over_texts_multiplies_right():
    p = np.array([[1, 3], [2, 2]]) / 4
    law = ob.joint_from([np.array([1, 0]), p, np.broadcast_to(p, (2, 2, 2))])[0]
    words = words_of("law")
    shown = {w: words[i + 1] for i, w in enumerate(words) if re.fullmatch("a[ab][ab]", w)}
    assert len(shown) == 4
    for text, product in shown.items():
        factors, value = product.split(" = ")
        at = tuple("ab".index(letter) for letter in text)
        steps = [p[pair] for pair in itertools.pairwise(at)]
        assert [unicodedata.numeric(factor) for factor in factors.split(" · ")] == steps
        assert Fraction(value) == law[at[1:]]
