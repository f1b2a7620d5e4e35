"""One step: windows, streams, gradients, optimisers, and the loss of a text."""

import math

import numpy as np
import pytest
import torch
from arbook import ar, steps
from arbook.objective import IGNORE, autoregressive_loss
from arbook.recurrent import stream_batches
from arbook.steps import (
    Muon,
    accumulate,
    cut_windows,
    epoch_steps,
    evaluate,
    fit,
    hidden_matrices,
    newton_schulz,
    parameter_groups,
    random_windows,
    step_seed,
    step_starts,
    stream_starts,
    text_windows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import (
    TEXT,
    Table,
    V,
    rng,
    tiny_gpt,
)
from torch import nn


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 9))
def test_windows_are_pieces_of_the_text_and_targets_are_one_token_later(n, block, seed):
    ids = torch.arange(n)
    if n <= block:
        with pytest.raises(
            ValueError, match=rf"at least block_size \+ 1 = {block + 1} tokens, got {n}"
        ):
            random_windows(ids, 5, block, generator=rng(seed))
        return
    inputs, targets = random_windows(ids, 5, block, generator=rng(seed))
    assert inputs.shape == targets.shape == (5, block)
    assert torch.equal(targets, inputs + 1) and (inputs.diff(dim=1) == 1).all()
    assert inputs.min() >= 0 and targets.max() < n


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("a text that nobody encoded", TypeError, "must be a tensor or an array, got str"),
        (torch.rand(50), TypeError, "ids must be integers, got torch.float32"),
        (np.ones(50), TypeError, "ids must be integers, got float64"),
        (torch.ones(50, dtype=torch.bool), TypeError, "ids must be integers"),
        (np.zeros((50, 2), dtype=int), ValueError, r"one-dimensional, got shape \(50, 2\)"),
    ],
)
def test_windows_are_cut_from_ids_only(ids, error, message):
    with pytest.raises(error, match=message):
        random_windows(ids, 2, 3, generator=rng())


def test_every_start_is_equally_likely_and_the_last_token_is_reached():
    starts = steps.random_starts(13, 60_000, 3, generator=rng())
    counts = torch.bincount(starts)
    assert len(counts) == 10  # 0 ... 9: the target of the last window is the last token
    assert ((counts - 6_000).abs() < 6 * math.sqrt(6_000)).all()


def test_windows_depend_on_seed_and_step_only():
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1_000 and all(0 <= seed < 2**63 for seed in seeds)
    one, again, other = (step_starts(10**6, 64, 8, 3, step) for step in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)


@settings(max_examples=60)
@given(st.integers(2, 300), st.integers(1, 6), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_of_streams_is_that_of_chapter_six_moved_by_an_offset(n, B, T, epoch):
    """(S24)"""
    if n < (B + 1) * T:
        with pytest.raises(ValueError, match=rf"at least .* = {(B + 1) * T} tokens .* got {n}"):
            epoch_steps(n, B, T)
        return
    K, ids = epoch_steps(n, B, T), torch.arange(n)
    first = stream_starts(n, B, T, 7, epoch * K)
    offset = int(first[0])
    expected = list(stream_batches(ids[offset : offset + B * K * T + 1], B, T))
    assert len(expected) == K
    for k, (inputs, targets) in enumerate(expected):
        found = cut_windows(ids, stream_starts(n, B, T, 7, epoch * K + k), T)
        assert torch.equal(found[0], inputs) and torch.equal(found[1], targets)
    assert n - 1 - B * K * T < (B + 1) * T  # what is left over


def test_the_offset_of_an_epoch_moves_and_reaches_both_ends_of_the_text():
    K, slack = epoch_steps(100, 3, 7), 100 - 1 - 3 * 4 * 7
    assert K == 4
    offsets = [int(stream_starts(100, 3, 7, 0, K * epoch)[0]) for epoch in range(200)]
    assert set(offsets) == set(range(slack + 1))
    assert [int(stream_starts(100, 3, 7, 1, K * e)[0]) for e in range(200)] != offsets


@pytest.mark.parametrize("sizes", [[6], [3, 3], [1, 5], [2, 2, 2]])
def test_gradients_of_pieces_add_up_to_that_of_the_batch(sizes):
    """(A9, no. 8)"""
    model = Table().double()
    ids = torch.randint(V, (6, 7), generator=rng())
    targets = torch.randint(V, (6, 7), generator=rng(1))
    targets[0, 1:] = targets[3, 2:] = IGNORE
    autoregressive_loss(model(ids), targets).backward()
    expected, model.table.weight.grad = model.table.weight.grad, None

    def loss(x, y):
        return model.loss(x, y, "sum")

    mean = accumulate(loss, list(zip(ids.split(sizes), targets.split(sizes), strict=True)))
    assert torch.allclose(model.table.weight.grad, expected, rtol=0, atol=1e-12)
    assert abs(mean.item() - autoregressive_loss(model(ids), targets).item()) < 1e-12


def test_nothing_to_predict_is_an_error():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    model = Table()
    with pytest.raises(ValueError, match="at least one target that is not ignored"):
        accumulate(lambda x, y: model.loss(x, y, "sum"), [(ids, torch.full_like(ids, IGNORE))])


def test_the_loop_that_trains_language_models_finds_the_least_squares_solution():
    """(S8)"""
    z = ar.simulate([-0.5, 1.2], 400, rng=np.random.default_rng(1))
    X, y = (torch.tensor(part.copy()) for part in ar.lag_matrix(z, 2))
    line = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    sgd = torch.optim.SGD(line.parameters(), lr=0.2 / X.square().mean().item())
    losses = fit(lambda x, v: (line(x)[:, 0] - v).square().sum(), [(X, y)] * 400, sgd)
    found, expected = line.weight.detach().numpy()[0], ar.LinearAR(2).fit(z).coef_
    assert np.linalg.norm(found - expected) < 1e-6 and losses[-1] < losses[0]


def test_clipping_keeps_the_direction_and_limits_the_norm():
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    direction = torch.tensor([3.0, 0.0, 4.0]).double()
    ids = torch.zeros(1, 1, dtype=torch.int64)
    for clip, length in [(None, 5.0), (10.0, 5.0), (2.0, 2.0)]:
        p.data.zero_()
        sgd = torch.optim.SGD([p], lr=9.0)
        _, norm = steps.update(
            lambda x, y: p @ direction, [(ids, ids)], [sgd], lr=1.0, grad_clip=clip
        )
        assert abs(norm.item() - 5) < 1e-12
        assert torch.allclose(
            p.detach(), -direction * length / 5, rtol=1e-5
        )  # torch adds 1e-6 to the norm


def test_matrices_decay_and_vectors_do_not():
    model = tiny_gpt()
    matrices, vectors = parameter_groups(model.parameters(), 0.3)
    assert matrices["weight_decay"] == 0.3 and all(p.ndim == 2 for p in matrices["params"])
    assert vectors["weight_decay"] == 0.0 and all(p.ndim == 1 for p in vectors["params"])
    both = matrices["params"] + vectors["params"]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()}


def test_of_a_model_that_names_no_output_layer_the_last_matrix_with_a_row_per_token_is_taken():
    model = Table()
    model.inner, model.out = nn.Linear(V, 5), nn.Linear(5, V)
    assert [id(p) for p in hidden_matrices(model)] == [id(model.inner.weight)]


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4), (3, 6, 9)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_their_vectors(shape):
    G = torch.randn(shape, generator=rng(), dtype=torch.float64)
    if shape == (8, 8):
        G = G + 3 * torch.eye(
            8
        )  # a square matrix of noise has values near 0, which five steps don't reach
    found = newton_schulz(G)
    values = torch.linalg.svdvals(found)
    assert found.shape == G.shape and values.min() > 0.6 and values.max() < 1.25
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    core = U.mT @ found @ Vh.mT
    assert (core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-9
    assert torch.allclose(newton_schulz(1e-3 * G), found, atol=1e-9)  # the scale does not matter


def test_newton_schulz_of_zero_is_zero():
    assert not newton_schulz(torch.zeros(3, 5)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon of its own")
def test_muon_takes_the_steps_of_pytorchs_own():
    """Which computes the orthogonal matrix in bfloat16: hence the tolerance of 3 percent of a step."""
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.2}
    ours, theirs = (nn.Parameter(torch.randn(6, 14, generator=rng())) for _ in range(2))
    start = ours.detach().clone()
    a = Muon([ours], **options)
    b = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    for step in range(5):
        ours.grad = torch.randn(6, 14, generator=rng(step))
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    moved = (theirs.detach() - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved and moved > 0.05


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match=r"must be matrices, got one of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(1, 5))
def test_evaluation_predicts_every_token_once_and_averages_over_tokens(n, block, batch):
    """(A9, nos. 8 and 23)"""
    model = tiny_gpt(dropout=0.5).double()
    ids = torch.tensor(TEXT[:n])
    losses = []
    for t in range(1, n):
        start = (t - 1) // block * block  # of the window in which t is a target
        with torch.no_grad():
            logits = model.eval()(ids[None, start:t])[0, -1]
        losses.append(-logits.log_softmax(-1)[ids[t]].item())
    model.train()
    found = evaluate(model, ids, block_size=block, batch_size=batch)
    assert abs(found - np.mean(losses)) < 1e-10 and model.training


@pytest.mark.parametrize("as_given", [list, np.uint16, torch.tensor])
def test_a_text_is_measured_in_whatever_form_it_comes(as_given):
    text = TEXT.astype(as_given) if as_given is np.uint16 else as_given(TEXT.tolist())
    assert evaluate(tiny_gpt(), text, block_size=8) == evaluate(tiny_gpt(), TEXT, block_size=8)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("a text", TypeError, "ids must be token ids, got text"),
        (torch.rand(50), TypeError, "ids must be integers"),
        (np.full(50, V), ValueError, rf"ids\[0\] is {V}; it must be between 0 and {V - 1}"),
        ([3], ValueError, "ids must hold at least 2 tokens, got 1"),
        (np.zeros((5, 50), dtype=int), ValueError, "one-dimensional"),
    ],
)
def test_what_is_no_text_of_the_model_is_not_measured(ids, error, message):
    with pytest.raises(error, match=message):
        evaluate(tiny_gpt(), ids, block_size=8)


def test_windows_cover_the_text_without_overlap():
    ids = torch.arange(23)
    targets = torch.cat([t.flatten() for _, t in text_windows(ids, 5, 2)])
    assert torch.equal(targets, torch.arange(1, 23))
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        list(text_windows(ids[:1], 5, 2))


@pytest.mark.parametrize("n_batches", [1, 2, 3, 4, 7])
def test_batches_are_dealt_out_once_and_equally(n_batches):
    text = torch.arange(n_batches * 6 + 1)
    shares = [list(steps.own_share(text_windows(text, 3, 2), rank, 3)) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    targets = torch.cat([t.flatten() for share in shares for _, t in share])
    assert torch.equal(targets[targets != IGNORE].sort().values, text[1:])
