"""Losses: of logits, in full and half precision, and of a linear layer a chunk of rows at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import losses as ls
from arbook import objective
from bench import cuda
from bench._record import run_apart
from hypothesis import assume, given, settings
from hypothesis import strategies as st

# float64 throughout, unless a test says otherwise: what differs then differs by rounding


def random_ids(vocab_size, *shape, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def random_logits(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the loss of logits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ls.REDUCTIONS)
def test_the_loss_is_that_of_pytorch_and_minus_the_log_probability(reduction):
    """S67, S68."""
    logits, targets = random_logits(4, 5, 9), random_ids(9, 4, 5)
    targets[1, 3:] = ls.IGNORE
    found = ls.autoregressive_loss(logits, targets, reduction)
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
        ls.autoregressive_loss(logits, targets),
        ls.autoregressive_loss(logits.contiguous(), targets),
    )


def test_nothing_to_average_is_an_error_and_a_sum_of_0():
    """S72, E9: the lecture's mean is nan."""
    logits, targets = random_logits(2, 3, 4), torch.full((2, 3), ls.IGNORE)
    assert F.cross_entropy(logits.flatten(0, 1), targets.flatten()).isnan()
    hidden, weight = random_logits(2, 3, 5), random_logits(4, 5)
    for loss in (
        lambda **o: ls.autoregressive_loss(logits, targets, **o),
        lambda **o: ls.squared_loss(logits, targets, **o),
        lambda **o: ls.linear_cross_entropy(hidden, weight, targets, **o),
    ):
        with pytest.raises(ValueError, match="all targets are -100"):
            loss()
        assert loss(reduction="sum") == 0 and (loss(reduction="none") == 0).all()


def test_another_ignore_index_may_be_an_id():
    logits, targets = random_logits(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 0]])
    found = ls.autoregressive_loss(logits, targets, "sum", ignore_index=0)
    keep = targets != 0
    assert torch.isclose(found, ls.autoregressive_loss(logits[keep], targets[keep], "sum"))


def test_half_precision_is_summed_in_float32():
    logits, targets = random_logits(64, 50, 11, dtype=torch.float32), random_ids(11, 64, 50)
    exact = ls.autoregressive_loss(logits.bfloat16().double(), targets)
    found = ls.autoregressive_loss(logits.bfloat16(), targets)
    assert found.dtype == torch.float32 and abs(found - exact) < 1e-5


def test_impossible_tokens_cost_infinity_and_possible_ones_their_share():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert ls.autoregressive_loss(logits, torch.tensor([1])) == torch.inf
    assert torch.isclose(
        ls.autoregressive_loss(logits, torch.tensor([2])), torch.tensor(math.log(2))
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
    for loss in (ls.autoregressive_loss, ls.squared_loss):
        with pytest.raises(error, match=message):
            loss(logits, targets)
    with pytest.raises(error, match=message):
        ls.linear_cross_entropy(torch.zeros(1, 2, 5), torch.zeros(4, 5), targets)


@pytest.mark.parametrize("loss", [ls.autoregressive_loss, ls.squared_loss])
def test_what_are_no_logits_is_refused_by_name(loss):
    for wrong in ([[0.0, 1.0]], torch.zeros(1, 4, dtype=torch.int64)):
        with pytest.raises(TypeError, match="logits must be a tensor of floats"):
            loss(wrong, torch.tensor([0]))
    with pytest.raises(ValueError, match="logits must have shape"):
        loss(torch.tensor(0.0), torch.tensor(0))


def test_half_precision_is_summed_in_float32_in_the_squared_loss_too():
    logits, targets = random_logits(64, 50, 11, dtype=torch.float32), random_ids(11, 64, 50)
    found = ls.squared_loss(logits.bfloat16(), targets)
    exact = ls.squared_loss(logits.bfloat16().double(), targets)
    assert found.dtype == torch.float32 and abs(found - exact) < 1e-5


def test_between_two_tokens_the_squared_loss_has_a_gradient_that_vanishes_at_both_ends():
    """S27: 4 p (1 - p) times that of the log loss, whichever token is true."""
    logits = 4 * random_logits(30, 2)
    logits.requires_grad_()
    for target in (torch.zeros(30, dtype=torch.int64), torch.ones(30, dtype=torch.int64)):
        slow, fast = (
            torch.autograd.grad(loss(logits, target, "sum"), logits)[0]
            for loss in (ls.squared_loss, ls.autoregressive_loss)
        )
        p = logits.detach().softmax(-1).gather(1, target[:, None])
        assert torch.allclose(slow, 4 * p * (1 - p) * fast, rtol=0, atol=1e-12)


def test_an_unknown_reduction_is_refused():
    logits, targets = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)
    for loss in (ls.autoregressive_loss, ls.squared_loss):
        with pytest.raises(ValueError, match="mean, sum, none"):
            loss(logits, targets, "average")
    with pytest.raises(ValueError, match="mean, sum, none"):
        ls.linear_cross_entropy(torch.zeros(1, 2, 5), torch.zeros(4, 5), targets, reduction="avg")


def test_the_squared_loss_is_the_distance_to_the_one_hot_target():
    """S27."""
    logits, targets = random_logits(3, 4, 6), random_ids(6, 3, 4)
    targets[0, 0] = ls.IGNORE
    losses = ls.squared_loss(logits, targets, "none")
    assert losses[0, 0] == 0
    for at in list(itertools.product(range(3), range(4)))[1:]:
        y = torch.eye(6, dtype=torch.float64)[targets[at]]
        assert torch.isclose(losses[at], (y - logits[at].softmax(-1)).norm() ** 2)


@pytest.mark.parametrize("loss", [ls.autoregressive_loss, ls.squared_loss])
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
    assert ls.cross_entropy_gradient(torch.zeros(2), torch.tensor(0)).tolist() == [-0.5, 0.5]
    logits, targets = 3 * random_logits(2, 3, 8), random_ids(8, 2, 3)
    found = ls.cross_entropy_gradient(logits, targets)
    logits.requires_grad_()
    (by_autograd,) = torch.autograd.grad(ls.autoregressive_loss(logits, targets, "sum"), logits)
    assert (found - by_autograd).abs().max() < 1e-12 and found.sum(-1).abs().max() < 1e-12
    h = 1e-5
    for at in itertools.product(range(2), range(3), range(8)):
        shift = torch.zeros_like(found)
        shift[at] = h
        up, down = (
            ls.autoregressive_loss(logits.detach() + s, targets, "sum") for s in (shift, -shift)
        )
        assert abs((up - down) / (2 * h) - found[at]) < 1e-8


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
    targets[0, 1] = targets[2, 4] = ls.IGNORE
    expected = ls.autoregressive_loss(F.linear(hidden, weight, bias), targets, reduction)
    found = ls.linear_cross_entropy(
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
    targets[1, 1] = ls.IGNORE
    found = ls.linear_cross_entropy(
        hidden, weight, targets, reduction="none", chunk_size=chunk_size
    )
    expected = ls.autoregressive_loss(hidden @ weight.T, targets, "none")
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
        found = ls.linear_cross_entropy(*inputs, targets, chunk_size=3)
        expected = ls.autoregressive_loss(inputs[0] @ inputs[1].T, targets)
        (a,), (b,) = gradients(found, inputs[free]), gradients(expected, inputs[free])
        assert torch.allclose(a, b, rtol=0, atol=1e-12) and inputs[fixed].grad is None


def test_only_wanted_gradients_are_computed_and_none_without_grad():
    hidden, weight, targets = random_logits(4, 3), random_logits(5, 3, seed=1), random_ids(5, 4)
    assert not ls.linear_cross_entropy(hidden, weight, targets).requires_grad
    weight.requires_grad_()
    with torch.no_grad():
        assert not ls.linear_cross_entropy(hidden, weight, targets).requires_grad
    ls.linear_cross_entropy(hidden, weight, targets).backward()
    assert hidden.grad is None and weight.grad is not None


def test_a_second_backward_pass_is_refused_and_not_wrong():
    hidden, targets = random_logits(4, 3).requires_grad_(), random_ids(5, 4)
    loss = ls.linear_cross_entropy(hidden, random_logits(5, 3), targets)
    (2 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace|in-place|second time"):
        loss.backward()


def test_large_and_impossible_scores_do_not_overflow():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    targets = torch.tensor([1, 0])
    found = ls.linear_cross_entropy(hidden, weight, targets, reduction="sum")
    assert found == 4e4
    assert all(g.isfinite().all() for g in gradients(found, hidden, weight))


def test_ignored_rows_do_not_count_even_where_token_0_is_impossible():
    """A bias of -inf rules a token out, in the loss and in all gradients."""
    hidden, weight = random_logits(3, 4).requires_grad_(), random_logits(5, 4).requires_grad_()
    bias = torch.tensor([-torch.inf, 0, 1, 2, 3], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, ls.IGNORE, 2])
    found = ls.linear_cross_entropy(hidden, weight, targets, bias=bias, chunk_size=2)
    expected = ls.autoregressive_loss(F.linear(hidden, weight, bias), targets)
    assert torch.isclose(found, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        gradients(found, hidden, weight, bias),
        gradients(expected, hidden, weight, bias),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    impossible = ls.linear_cross_entropy(hidden, weight, torch.tensor([1, 0, 2]), bias=bias)
    assert impossible == torch.inf


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_of_any_shape_and_layout_are_read(reduction):
    """No axes, strides, no rows, one token; in inference mode, and with arguments of a graph."""
    weight = random_logits(9, 5).T[:4].T  # (9, 4), not contiguous
    hidden = random_logits(4, 3, 2).permute(2, 1, 0)  # (2, 3, 4), not contiguous
    for h, w in ((hidden, weight), (hidden[0, 0], weight), (hidden, weight[:1])):
        targets = random_ids(len(w), *h.shape[:-1])
        expected = ls.autoregressive_loss(h @ w.T, targets, reduction)
        with torch.inference_mode():
            found = ls.linear_cross_entropy(h, w, targets, reduction=reduction, chunk_size=4)
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-12)
    none = (random_logits(0, 4), weight, torch.zeros(0, dtype=torch.int64))
    if reduction == "mean":
        with pytest.raises(ValueError, match="nothing to average"):
            ls.linear_cross_entropy(*none)
    else:
        assert ls.linear_cross_entropy(*none, reduction=reduction).sum() == 0


def test_a_weight_that_is_used_twice_gets_both_gradients_and_calls_add_up():
    """Tied to the embedding, and over several calls: as with full logits."""
    weight = random_logits(8, 4).requires_grad_()
    ids = random_ids(8, 3, 5)
    totals = []
    for loss in (
        lambda h, t: ls.linear_cross_entropy(h, weight, t, reduction="sum", chunk_size=2),
        lambda h, t: ls.autoregressive_loss(h @ weight.T, t, "sum"),
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
    reference = ls.autoregressive_loss(exact[0] @ exact[1].T, targets)
    references = (reference.detach(), *gradients(reference, *exact))
    errors = []
    for loss in (
        lambda h, w: ls.linear_cross_entropy(h, w, targets, chunk_size=700),
        lambda h, w: ls.autoregressive_loss(h @ w.T, targets),
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
    targets[3:7] = ls.IGNORE
    found = ls.linear_cross_entropy(hidden, weight, targets, chunk_size=4)
    expected = F.linear_cross_entropy(hidden, weight, targets)
    assert torch.isclose(found, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_autocast_leaves_float64_alone():
    hidden, weight, targets = random_logits(4, 3), random_logits(5, 3, seed=1), random_ids(5, 4)
    plain = ls.linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = ls.linear_cross_entropy(hidden, weight, targets)
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
    expected = ls.autoregressive_loss(exact[0] @ exact[1].T, targets)
    for_exact = gradients(expected, *exact)
    for cast in (False, True):
        inputs = [(x.to(dtype) if cast else x.clone()).requires_grad_() for x in (hidden, weight)]
        with torch.autocast("cpu", dtype, enabled=not cast):
            found = ls.linear_cross_entropy(*inputs, targets, chunk_size=7)
        assert found.dtype == torch.float32 and abs(found - expected) < 0.05
        for a, b, x in zip(gradients(found, *inputs), for_exact, inputs, strict=True):
            assert a.dtype == x.dtype and (a - b).norm() < 0.02 * b.norm()


def test_layers_that_are_no_floats_are_refused():
    hidden, weight, targets = torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 1])
    for wrong in (hidden.long(), hidden.numpy()):
        with pytest.raises(TypeError, match="hidden must be a tensor of floats"):
            ls.linear_cross_entropy(wrong, weight, targets)
    with pytest.raises(TypeError, match="weight must be a tensor of floats"):
        ls.linear_cross_entropy(hidden, weight.long(), targets)


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
        ls.linear_cross_entropy(
            torch.zeros(hidden), torch.zeros(weight), torch.zeros(2, dtype=torch.int64), bias=bias
        )
    with pytest.raises(ValueError, match="chunk_size"):
        ls.linear_cross_entropy(
            torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.int64), chunk_size=0
        )


def rows_at_a_time(monkeypatch):
    """How many rows each chunk of a loss of 40 rows has."""
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda h, *rest: seen.append(len(h)) or linear(h, *rest))
    ls.linear_cross_entropy(random_logits(40, 3), random_logits(5, 3), random_ids(5, 40))
    return seen


def test_the_size_of_a_chunk_is_set_in_one_place_and_takes_effect(monkeypatch):
    assert not hasattr(objective, "CHUNK_ELEMENTS")  # where setting it would change nothing
    assert rows_at_a_time(monkeypatch) == [40]
    monkeypatch.setattr(ls, "CHUNK_ELEMENTS", 5 * 16)
    assert rows_at_a_time(monkeypatch) == [16, 16, 8]


def test_a_measurement_on_a_gpu_sets_the_size_of_a_chunk_and_puts_it_back(monkeypatch):
    before = ls.CHUNK_ELEMENTS
    with cuda.chunks_of(5 * 30):
        assert rows_at_a_time(monkeypatch) == [30, 10]
    assert ls.CHUNK_ELEMENTS == before


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
    return F.cross_entropy(logits, targets, reduction=reduction, ignore_index=ls.IGNORE)


def half_problem(scale, *, weights=1e-3, rows=3000, width=24, V=19, skew=0.4, seed=0):
    """Hidden vectors that are far from 0, one target that occurs again and again, some that are ignored."""
    g = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, width, generator=g) + 1) * scale
    targets = torch.randint(V, (rows,), generator=g)
    targets[: int(skew * rows)] = 0
    targets[::7] = ls.IGNORE
    weight = torch.randn(V, width, generator=g) * weights
    return hidden, weight, torch.randn(V, generator=g), targets


def exact_gradients(hidden, weight, bias, targets, reduction, upstream):
    """In float64, from the numbers that the half precision has."""
    inputs = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    logits = F.linear(*inputs)
    loss = F.cross_entropy(logits, targets, reduction=reduction, ignore_index=ls.IGNORE)
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
    n = int((targets != ls.IGNORE).sum())
    # As a sum, or a weighted one, of which the factor is known in the backward pass only.
    upstream = {"mean": 1.0, "sum": 1 / n, "none": torch.linspace(0.5, 2, len(targets)) / n}
    found = []
    for loss in (ls.linear_cross_entropy, plain_loss):
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
    for loss in (ls.linear_cross_entropy, plain_loss):
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
    for loss in (ls.linear_cross_entropy, plain_loss):
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
    for loss in (ls.linear_cross_entropy, plain_loss):
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
    ls.linear_cross_entropy(hidden, weight, targets[:100].clamp(max=0)).backward()
    assert weight.grad.isfinite().all() and torch.allclose(
        weight.grad, torch.tensor([[-2 / 3], [1 / 3], [1 / 3]]).expand(3, 2) * 1e37
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_second_backward_pass_says_what_to_do(reduction):
    hidden, weight = random_logits(4, 3).requires_grad_(), random_logits(5, 3).requires_grad_()
    loss = ls.linear_cross_entropy(hidden, weight, random_ids(5, 4), reduction=reduction)
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="second time.*compute the loss again, or use reduction"):
        loss.backward()
    losses = ls.linear_cross_entropy(hidden, weight, random_ids(5, 4), reduction="none")
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
    compiled = torch.compile(ls.linear_cross_entropy, backend="aot_eager")
    for reduction in ("mean", "sum", "none"):
        found = []
        for loss in (ls.linear_cross_entropy, compiled):
            given = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
            value = loss(*given[:2], targets, bias=given[2], reduction=reduction, chunk_size=16)
            value.mean().backward()
            found.append((value.detach(), *(x.grad for x in given)))
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-5) and b.abs().max() > 0
