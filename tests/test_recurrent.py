"""Cells, the recurrent language model, streams, dropout, losses by position, the neural cache."""

import copy
import itertools
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import ar
from arbook import recurrent as rc
from arbook.conformance import check_conformance
from arbook.objective import (
    IGNORE,
    LanguageModel,
    autoregressive_loss,
    compute_perplexity,
    read_in_steps,
)
from arbook.ngram import NGramLM
from arbook.transformer import GPT, GPTConfig
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

CELLS = {"lstm": (rc.lstm_cell, 2), "gru": (rc.gru_cell, 1), "rnn": (rc.rnn_cell, 1)}
V = 11


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_ids(*shape, seed=0, vocab_size=V):
    return torch.randint(vocab_size, shape, generator=seeded(seed))


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def small(cell="lstm", dtype=torch.float64, **changes):
    """A model with large weights, so that nothing is close to 0 by accident."""
    options = {"n_embd": 6, "n_hidden": 7, "n_layer": 2, "init_range": 0.8} | changes
    config = rc.LSTMConfig(V, cell=cell, **options)
    return rc.LSTMLM(config, generator=seeded()).to(dtype)


EVERYTHING = {
    "tied": True,
    "embedding_dropout": 0.2,
    "input_dropout": 0.3,
    "hidden_dropout": 0.4,
    "output_dropout": 0.5,
    "weight_drop": 0.5,
    "activation_penalty": 2.0,
    "slowness_penalty": 1.0,
}


def nested(states):
    return [part for layer in states for part in layer]


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("B", "T", "C", "R"), [(3, 9, 4, 5), (1, 1, 1, 1), (2, 6, 7, 2)])
def test_cells_compute_what_torch_computes(cell, B, T, C, R):
    """S113: outputs, last state and gradients, from a random state, to 1e-12."""
    function, parts = CELLS[cell]
    torch.manual_seed(0)
    layer = rc.LAYERS[cell](C, R, batch_first=True).double()
    x = randn(B, T, C).requires_grad_()
    state = tuple(randn(B, R, seed=i) for i in range(parts))
    outputs, after = rc.unroll(function, x, state, rc.CellWeights.of(layer))
    lifted = tuple(part[None] for part in state)
    expected, last = layer(x, lifted if parts == 2 else lifted[0])
    last = last if parts == 2 else (last,)
    assert outputs.shape == (B, T, R) and (outputs - expected).abs().max() < 1e-12
    assert all((a - b[0]).abs().max() < 1e-12 for a, b in zip(after, last, strict=True))
    leaves = [x, *layer.parameters()]
    by_hand = torch.autograd.grad(outputs.square().sum(), leaves)
    by_torch = torch.autograd.grad(expected.square().sum(), leaves)
    assert all((a - b).abs().max() < 1e-11 for a, b in zip(by_hand, by_torch, strict=True))


def linear_weights(U):
    U = torch.as_tensor(U, dtype=torch.float64)
    zeros = torch.zeros(len(U), dtype=torch.float64)
    return rc.CellWeights(torch.eye(len(U), dtype=torch.float64), U, zeros, zeros)


@given(phi=st.floats(-1.2, 1.2), start=st.floats(-5, 5), n=st.integers(1, 60))
@settings(max_examples=40)
def test_a_linear_cell_is_a_first_order_autoregression(phi, start, n):
    """S113: fed with noise it simulates AR(1), fed with nothing it forecasts it."""
    noise = torch.tensor(np.random.default_rng(n).normal(size=n))[None, :, None]
    state = (torch.tensor([[start]], dtype=torch.float64),)
    weights = linear_weights([[phi]])
    series, last = rc.unroll(rc.linear_cell, noise, state, weights)
    expected = ar.simulate([phi], n, rng=np.random.default_rng(n), initial=[start])
    scale = max(1, np.abs(expected).max())
    assert np.abs(series[0, :, 0].numpy() - expected).max() < 1e-12 * scale
    ahead, _ = rc.unroll(rc.linear_cell, torch.zeros(1, 7, 1).double(), last, weights)
    forecast = ar.recursive_forecast(expected[-1:], [phi], 7)
    assert np.abs(ahead[0, :, 0].numpy() - forecast).max() < 1e-12 * scale * 1.2**7


def test_input_gradients_are_powers_for_a_linear_cell():
    """|d h_T / d x_{T-k}| = phi^k, the impulse response of chapter 1; and a rotation keeps the norm for ever."""
    x, state = randn(2, 30, 1), (torch.zeros(2, 1, dtype=torch.float64),)
    one = torch.ones(1, dtype=torch.float64)
    found = rc.input_gradients(rc.linear_cell, x, state, linear_weights([[0.8]]), one)
    assert np.allclose(found, ar.impulse_response([0.8], 30), rtol=1e-12)
    Q = torch.linalg.qr(randn(4, 4)).Q
    x, state = randn(1, 50, 4), (torch.zeros(1, 4, dtype=torch.float64),)
    kept = rc.input_gradients(rc.linear_cell, x, state, linear_weights(1.1 * Q), randn(4))
    assert torch.allclose(kept / kept[0], 1.1 ** torch.arange(50).double(), rtol=1e-10)
    assert not x.requires_grad


def test_gradients_of_an_rnn_never_exceed_those_of_its_linear_part():
    """The factors 1 - h^2 are at most 1, so with a scaled rotation the bound is rho^k."""
    Q = torch.linalg.qr(randn(5, 5)).Q
    x, state = randn(1, 40, 5), (torch.zeros(1, 5, dtype=torch.float64),)
    for rho in (0.7, 1.0, 1.3):
        found = rc.input_gradients(
            rc.rnn_cell, x, state, linear_weights(rho * Q), F.one_hot(torch.tensor(0), 5).double()
        )
        assert (found <= rho ** torch.arange(40).double() * (1 + 1e-9)).all()


@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 3), (1, 2, 3, 4)])
def test_unroll_refuses_inputs_without_positions(shape):
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, C\)"):
        rc.unroll(
            rc.linear_cell, torch.zeros(shape), (torch.zeros(1, 2),), linear_weights(np.eye(2))
        )


def test_unroll_refuses_the_state_of_another_batch():
    """Broadcasting would give outputs of another batch without a word."""
    for rows in (1, 5):
        with pytest.raises(ValueError, match="state must have 2 rows"):
            rc.unroll(rc.linear_cell, randn(2, 3, 2), (randn(rows, 2),), linear_weights(np.eye(2)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, num_layers=2, batch_first=True),
        nn.GRU(3, 4, bidirectional=True, batch_first=True),
        nn.LSTM(3, 4, bias=False, batch_first=True),
        nn.LSTM(3, 4, proj_size=2, batch_first=True),
        nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
    ],
)
def test_layers_that_compute_something_else_are_refused(layer):
    with pytest.raises(ValueError, match="layer must be a single one, in one direction"):
        rc.CellWeights.of(layer)
    with pytest.raises(ValueError, match="layer must be a single one"):
        rc.run_layer(layer, torch.zeros(2, 5, 3), (torch.zeros(2, 4),), 0.5)


def test_layers_that_are_none_or_read_time_first_are_refused():
    with pytest.raises(TypeError, match="nn.RNN, nn.GRU or nn.LSTM, got Linear"):
        rc.CellWeights.of(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="batch_first=True"):  # with B = T nothing else would tell
        rc.run_layer(nn.RNN(3, 4), torch.zeros(2, 2, 3), (torch.zeros(2, 4),))


# --- configuration ----------------------------------------------------------------------------------------------------


@given(
    vocab_size=st.integers(1, 30),
    n_embd=st.integers(1, 9),
    n_hidden=st.integers(1, 9),
    n_layer=st.integers(1, 4),
    cell=st.sampled_from(sorted(CELLS)),
    tied=st.booleans(),
)
@settings(max_examples=60)
def test_the_formula_counts_the_parameters(**options):
    """S47: every parameter once, tied ones too."""
    config = rc.LSTMConfig(**options)
    model = rc.LSTMLM(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, config.vocab_size)


def test_presets_have_the_published_sizes():
    """S94c, S94d: about 20 and 24 million parameters at 10,000 words, as the papers say; on no real memory."""
    for preset, millions in ((rc.LSTMConfig.zaremba_medium, 20), (rc.LSTMConfig.awd, 24)):
        config = preset(10_000)
        with torch.device("meta"):
            model = rc.LSTMLM(config)
        assert config.n_parameters == sum(p.numel() for p in model.parameters())
        assert round(config.n_parameters / 1e6) == millions
    awd = rc.LSTMConfig.awd(10_000)
    assert awd.layer_sizes == ((400, 1150), (1150, 1150), (1150, 400))
    assert rc.LSTMConfig.awd(10_000, weight_drop=0.0).weight_drop == 0
    assert not rc.LSTMConfig.zaremba_medium(10_000).locked


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1"),
        ({"n_embd": 0}, ValueError, "n_embd"),
        ({"n_hidden": 2.0}, TypeError, "n_hidden must be an integer"),
        ({"n_layer": True}, TypeError, "n_layer"),
        ({"cell": "LSTM"}, ValueError, "lstm, gru, rnn"),
        ({"tied": 1}, TypeError, "tied must be True or False"),
        ({"locked": None}, TypeError, "locked"),
        ({"weight_drop": 1.0}, ValueError, "weight_drop must be at least 0 and below 1"),
        ({"hidden_dropout": -0.1}, ValueError, "hidden_dropout"),
        ({"input_dropout": math.nan}, ValueError, "input_dropout"),
        ({"output_dropout": "0.5"}, TypeError, "output_dropout must be a number"),
        ({"embedding_dropout": False}, TypeError, "embedding_dropout"),
        ({"activation_penalty": -1}, ValueError, "activation_penalty"),
        ({"slowness_penalty": math.inf}, ValueError, "slowness_penalty"),
        ({"forget_bias": math.nan}, ValueError, "forget_bias must be finite"),
        ({"init_range": 0.0}, ValueError, "init_range"),
        ({"init_range": -1.0}, ValueError, "init_range"),
    ],
)
def test_configurations_out_of_range_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        rc.LSTMConfig(**({"vocab_size": V} | changes))
    with pytest.raises(error, match=message):
        rc.LSTMConfig.awd(**({"vocab_size": V} | changes))


def test_a_model_needs_a_configuration():
    with pytest.raises(TypeError, match="LSTMConfig, got int"):
        rc.LSTMLM(11)


def test_initial_weights_follow_the_configuration_and_the_generator():
    config = rc.LSTMConfig(V, n_hidden=16, forget_bias=2.0)
    one, other = (rc.LSTMLM(config, generator=seeded(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    bound = 16**-0.5
    layer = one.layers[0]
    forget, rest = (
        layer.bias_ih_l0[16:32],
        torch.cat([layer.bias_ih_l0[:16], layer.bias_ih_l0[32:]]),
    )
    assert (forget - 2).abs().max() <= bound >= rest.abs().max() > 0
    assert one.head.bias.abs().max() == 0 and one.embedding.weight.abs().max() <= 0.1
    narrow = rc.LSTMLM(rc.LSTMConfig(V, init_range=1e-3, forget_bias=0.0), generator=seeded())
    assert all(p.abs().max() <= 1e-3 for p in narrow.parameters())
    gru = rc.LSTMLM(rc.LSTMConfig(V, n_hidden=16, cell="gru", forget_bias=3.0)).layers[0]
    assert gru.bias_ih_l0[16:32].min() > 2 > gru.bias_ih_l0[:16].max()


def test_an_open_forget_gate_keeps_the_state_of_lstm_and_gru():
    """What the bias is for: the influence of an input far back grows with it."""
    for cell, (function, parts) in list(CELLS.items())[:2]:
        far = []
        for bias in (0.0, 3.0):
            config = rc.LSTMConfig(V, cell=cell, n_hidden=8, n_embd=4, forget_bias=bias)
            layer = rc.LSTMLM(config, generator=seeded()).double().layers[0]
            state = tuple(torch.zeros(1, 8, dtype=torch.float64) for _ in range(parts))
            weights = rc.CellWeights(*(w.detach() for w in rc.CellWeights.of(layer)))
            far.append(rc.input_gradients(function, randn(1, 30, 4), state, weights, randn(8))[29])
        assert far[1] > 100 * far[0]


# --- the model as a LanguageModel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"n_layer": 1}, EVERYTHING, EVERYTHING | {"locked": False}]
)
@pytest.mark.parametrize("training", [True, False])
def test_models_keep_the_promises_of_the_interface(cell, options, training):
    model = small(cell, **options).train(training)
    assert max(check_conformance(model).values()) < 1e-10
    assert model.training is training
    assert max(check_conformance(small(cell, torch.float32, **options)).values()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=8), cell=st.sampled_from(sorted(CELLS))
)
@settings(max_examples=30)
def test_reading_in_chunks_is_reading_at_once(dtype, cuts, cell):
    """S19, S113: any chunking, 1e-10 in float64 and 1e-4 in float32."""
    model, ids = small(cell, dtype), random_ids(3, sum(cuts))
    with torch.no_grad():
        error = (model(ids) - read_in_steps(model, ids, cuts)).abs().max()
    assert error < (1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_future_tokens_do_not_change_past_logits(cell):
    model, ids = small(cell, torch.float32), random_ids(2, 12)
    with torch.no_grad():
        before = model(ids)
        for t in range(12):
            other = ids.clone()
            other[:, t] = (other[:, t] + 1) % V
            after = model(other)
            assert torch.equal(before[:, :t], after[:, :t])
            assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_a_batch_are_read_as_if_alone(cell):
    model, ids = small(cell), random_ids(5, 8)
    rows = torch.cat([model(row) for row in ids.split(1)])
    assert (model(ids) - rows).abs().max() < 1e-12


@pytest.mark.parametrize("cell", CELLS)
def test_the_model_is_the_cells_of_the_page(cell):
    model, ids = small(cell, tied=True), random_ids(2, 7)
    x, states = model.embedding(ids), []
    for layer, start in zip(model.layers, model.init_state(2), strict=True):
        x, state = rc.unroll(CELLS[cell][0], x, start, rc.CellWeights.of(layer))
        states.append(state)
    logits, found = model.step(ids, model.init_state(2))
    assert (logits - x @ model.embedding.weight.T - model.head.bias).abs().max() < 1e-12
    assert all(
        (a - b).abs().max() < 1e-12 for a, b in zip(nested(states), nested(found), strict=True)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_is_that_of_the_logits_and_so_are_its_gradients(reduction):
    """linear_cross_entropy never holds the logits; the tied matrix gets both of its gradients."""
    model, ids, targets = small(tied=True), random_ids(3, 6), random_ids(3, 6, seed=1)
    targets[0, 2] = IGNORE
    found = model.loss(ids, targets, reduction)
    expected = autoregressive_loss(model(ids), targets, reduction)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    by_loss = torch.autograd.grad(found.sum(), parameters)
    by_logits = torch.autograd.grad(expected.sum(), parameters)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(by_loss, by_logits, strict=True))


def test_tied_models_share_one_matrix_through_copies_and_moves():
    for model in (
        small(tied=True),
        copy.deepcopy(small(tied=True)),
        small(tied=True).to(torch.float32),
    ):
        assert model.head.weight is model.embedding.weight
    averaged = torch.optim.swa_utils.AveragedModel(small(tied=True)).module
    assert averaged.head.weight is averaged.embedding.weight
    assert max(check_conformance(averaged).values()) < 1e-10


def test_weights_survive_a_state_dict():
    model, other = small(), rc.LSTMLM(small().config).double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(random_ids(2, 5)), other(random_ids(2, 5)))


def test_states_start_empty_and_keep_their_size():
    """S113: constant memory, whatever has been read."""
    for cell, (_, parts) in CELLS.items():
        model = small(cell, tied=True)
        state = model.init_state(3)
        assert [len(layer) for layer in state] == [parts, parts]
        assert all((part == 0).all() for part in nested(state))
        expected = 8 * 3 * parts * (7 + 6)
        for n in (1, 10, 100):
            _, state = model.step(random_ids(3, n), state)
            assert rc.state_bytes(state) == expected


def test_state_bytes_counts_nested_tensors_and_nothing_else():
    x = torch.zeros(3, 4)
    assert rc.state_bytes(x) == 48
    assert rc.state_bytes({"a": [x, (x.double(), 5)], "b": None}) == 48 + 96
    assert rc.state_bytes(()) == 0
    cache = GPT(GPTConfig(V, context_length=8, n_embd=4, n_layer=2, n_head=1)).init_state(3)
    assert rc.state_bytes((cache, cache)) == 2 * cache.nbytes == 2 * 2 * 2 * 3 * 8 * 4 * 4
    with pytest.raises(TypeError, match="got <class 'object'>"):  # rather than 0 bytes
        rc.state_bytes([x, object()])


def test_wrong_states_are_refused():
    model, ids = small(), random_ids(2, 3)
    with pytest.raises(
        ValueError, match=r"state\[0\] must hold tensors of shape \(2, 7\), got \(3, 7\)"
    ):
        model.step(ids, model.init_state(3))
    with pytest.raises(ValueError, match="another model"):
        model.step(ids, small(n_hidden=5).init_state(2))
    for wrong in (
        small("gru").init_state(2),
        small(n_layer=1).init_state(2),
        torch.zeros(2, 7),
        ((1, 2), (3, 4)),
        5,
    ):
        with pytest.raises(TypeError, match="2 layers with 2 tensors each"):
            model.step(ids, wrong)
    with pytest.raises(ValueError, match="batch_size"):
        model.init_state(0)
    for dtype in (torch.float32, torch.int64):  # the model is in float64
        other = tuple(tuple(part.to(dtype) for part in layer) for layer in model.init_state(2))
        with pytest.raises(TypeError, match=f"state.0. must hold torch.float64, got {dtype}"):
            model.step(ids, other)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_flow_through_the_state_as_through_the_text(cell):
    """Reading in steps is the same function, so it has the same derivatives; only loss_and_state cuts them."""
    model, ids = small(cell, output_dropout=0.0), random_ids(2, 9)
    parameters = list(model.parameters())
    whole = torch.autograd.grad(model(ids).square().sum(), parameters)
    steps = torch.autograd.grad(read_in_steps(model, ids, [4, 1, 4]).square().sum(), parameters)
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(whole, steps, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_promises_and_learns(dtype):
    for model in (small(dtype=dtype, **EVERYTHING), rc.WindowLM(rc.WindowConfig(V)).to(dtype)):
        check_conformance(model)
        check_conformance(rc.NeuralCache(model))
        model.loss(random_ids(2, 5), random_ids(2, 5, seed=1)).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_autocast_steps_continue_from_their_own_states():
    """Under autocast states are in bfloat16, which is right there and wrong outside."""
    model, ids = small("lstm", torch.float32), random_ids(2, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        gap = (model(ids).float() - read_in_steps(model, ids, [4, 5]).float()).abs().max()
        _, state = model.step(ids, model.init_state(2))
    assert gap < 0.1
    if state[0][0].dtype != torch.float32:
        with pytest.raises(TypeError, match="must hold torch.float32, got torch.bfloat16"):
            model.step(ids, state)


def test_models_survive_copies():
    for model in (small(**EVERYTHING), rc.WindowLM(rc.WindowConfig(V)), rc.NeuralCache(small())):
        ids = random_ids(2, 6)
        expected = model.eval()(ids)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(ids), expected)


def test_ids_of_any_integer_type_are_the_same_text():
    for model in (small(), rc.WindowLM(rc.WindowConfig(V)), rc.NeuralCache(small())):
        ids, expected = random_ids(2, 6), model(random_ids(2, 6))
        for dtype in (torch.uint8, torch.int16, torch.int32):
            assert torch.equal(model(ids.to(dtype)), expected)
            first, state = model.step(ids[:, :3].to(dtype), model.init_state(2))
            second, _ = model.step(ids[:, 3:].to(dtype), state)
            assert torch.allclose(torch.cat([first, second], dim=1), expected, atol=1e-6)
    table = randn(V, 3)
    assert rc.embedding_dropout(ids.to(torch.uint8), table, 0.0).equal(F.embedding(ids, table))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.tensor([[0, V]]), ValueError, "between 0 and 10"),
        (torch.tensor([0, 1]), ValueError, "shape"),
        (torch.zeros(1, 0, dtype=torch.int64), ValueError, "shape"),
        (torch.tensor([[0.0]]), TypeError, "integers"),
        ([[1, 2]], TypeError, "Tensor"),
    ],
)
def test_wrong_ids_are_refused_everywhere(ids, error, message):
    model = small()
    cached = rc.NeuralCache(model)
    for call in (
        model,
        cached,
        lambda ids: model.step(ids, model.init_state(1)),
        lambda ids: cached.step(ids, cached.init_state(1)),
        lambda ids: model.loss_and_state(ids, ids),
    ):
        with pytest.raises(error, match=message):
            call(ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", rc.LAYERS)
def test_half_precision_autocast_runs_and_learns(cell, dtype):
    """In float16 PyTorch cannot train an LSTM on a processor without instructions for it, which are rare."""
    model = small(cell, torch.float32, **EVERYTHING)
    with torch.autocast("cpu", dtype=dtype):
        loss = model.loss_and_state(random_ids(2, 5), random_ids(2, 5, seed=1)).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("weight_drop", [0.0, 0.5])
@pytest.mark.parametrize("kind", rc.LAYERS.values())
def test_a_layer_that_autocast_cannot_run_runs_in_its_own_precision(kind, weight_drop, monkeypatch):
    torch.manual_seed(0)
    layer, x, h = kind(3, 4, batch_first=True), randn(2, 5, 3).float(), randn(2, 4).float()
    state = (h, h) if kind is nn.LSTM else (h,)
    torch.manual_seed(1)  # of the weights that are dropped
    outputs, after = rc.run_layer(layer, x, state, weight_drop)
    monkeypatch.setattr(rc, "_autocast_runs", lambda *_: False)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, last = rc.run_layer(
            layer, x, tuple(s.bfloat16().float() for s in state), weight_drop
        )
        assert torch.is_autocast_enabled("cpu")
        rc.run_layer(layer, x.bfloat16(), tuple(s.bfloat16() for s in state))[0].sum().backward()
    assert found.dtype == last[0].dtype == torch.float32
    assert (found - outputs).abs().max() < 0.01  # the state was rounded to 8 bits, nothing else
    assert all(p.grad.isfinite().all() for p in layer.parameters())


# What a processor without instructions for half precision does, as PyTorch can pretend to have one.
OLD_PROCESSOR = """
import torch
from arbook import recurrent as rc

ids = torch.arange(12).view(2, 6)
for cell in rc.LAYERS:
    model = rc.LSTMLM(rc.LSTMConfig(12, n_embd=4, n_hidden=6, cell=cell)).eval()
    exact = model(ids)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model.step(ids[:, :3], model.init_state(2))
        rest, _ = model.step(ids[:, 3:], state)
        model.loss(ids, ids).backward()
    assert torch.equal(before, torch.get_rng_state())  # what is tried draws no numbers
    assert (torch.cat([logits, rest], 1) - exact).abs().max() < 0.02  # of logits around 0.1
print(torch.backends.cpu.get_cpu_capability(), "fine")
"""


def test_recurrent_models_run_under_autocast_on_a_processor_without_half_precision():
    old = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", OLD_PROCESSOR]
    done = subprocess.run(program, env=os.environ | old, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("fine\n")


# --- streams ----------------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 200), B=st.integers(1, 9), T=st.integers(1, 40), vary=st.booleans())
@settings(max_examples=80)
def test_streams_give_every_token_once_and_in_order(n, B, T, vary):
    ids = np.arange(n)
    if n <= B:
        with pytest.raises(ValueError, match=f"batch_size = {B}"):
            rc.stream_batches(ids, B, T)
        return
    batches = list(rc.stream_batches(ids, B, T, generator=seeded() if vary else None))
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    length = (n - 1) // B
    assert inputs.flatten().tolist() == list(range(B * length))
    assert torch.equal(targets, inputs + 1)
    assert n - 1 - B * length < B  # so many targets are left out
    if not vary:
        assert all(x.shape == (B, T) for x, _ in batches[:-1])


def test_streams_take_lists_arrays_memory_maps_and_tensors(tmp_path):
    expected = [part.tolist() for batch in rc.stream_batches(range(30), 2, 4) for part in batch]
    np.arange(30, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    for ids in (
        list(range(30)),
        np.arange(30, dtype=np.int32),
        torch.arange(30),
        torch.arange(30, dtype=torch.uint8),
        np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r"),
    ):
        batches = list(rc.stream_batches(ids, 2, 4))
        assert [part.tolist() for batch in batches for part in batch] == expected
        assert all(part.dtype == torch.int64 for batch in batches for part in batch)


def test_varied_windows_lie_around_the_length_asked_for():
    windows = rc.stream_batches(np.zeros(200_000, dtype=np.int64), 1, 70, generator=seeded())
    lengths = torch.tensor([x.shape[1] for x, _ in windows][:-1]).double()
    assert abs(lengths.mean() - (0.95 * 70 + 0.05 * 35)) < 1.5
    assert 0.01 < (lengths < 52).double().mean() < 0.1 and lengths.min() >= 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0, 1.0, 2.0], 1, 2), TypeError, "integers"),
        ((torch.zeros(9), 1, 2), TypeError, "integers"),
        ((torch.ones(9, dtype=torch.bool), 1, 2), TypeError, "integers"),
        ((np.zeros((3, 3), dtype=int), 1, 2), ValueError, r"shape \(N,\)"),
        ((range(9), 0, 2), ValueError, "batch_size"),
        ((range(9), 2, 0), ValueError, "T must be"),
        ((range(9), 2, 1.5), TypeError, "T must be"),
        (([], 1, 1), ValueError, "batch_size = 1"),
    ],
)
def test_streams_refuse_bad_input_before_the_first_batch(arguments, error, message):
    with pytest.raises(error, match=message):
        rc.stream_batches(*arguments)


@pytest.mark.parametrize("cell", CELLS)
def test_windows_with_the_state_passed_on_have_the_loss_of_the_whole(cell):
    model, ids = small(cell), random_ids(121)
    ((inputs, targets),) = rc.stream_batches(ids, 4, 30)
    state, total = None, 0.0
    for x, y in rc.stream_batches(ids, 4, 7):
        loss, penalty, state = model.loss_and_state(x, y, state, "sum")
        total += loss.item()
        assert penalty == 0 and not any(part.requires_grad for part in nested(state))
    assert abs(total - model.loss(inputs, targets, "sum").item()) < 1e-9


def test_the_gradient_of_a_window_stops_at_its_border():
    """Truncation: the gradient of the second window is that of a model started from a constant state."""
    model, ids, targets = small(), random_ids(2, 12), random_ids(2, 12, seed=1)
    first = model.loss_and_state(ids[:, :6], targets[:, :6])
    second = model.loss_and_state(ids[:, 6:], targets[:, 6:], first.state)
    constant = tuple(tuple(part.clone() for part in layer) for layer in first.state)
    fresh = model.loss_and_state(ids[:, 6:], targets[:, 6:], constant)
    parameters = list(model.parameters())
    for a, b in zip(
        *(torch.autograd.grad(r.loss, parameters) for r in (second, fresh)), strict=True
    ):
        assert torch.equal(a, b)
    whole = torch.autograd.grad(model.loss(ids, targets, "sum"), parameters)
    cut = [
        a + b
        for a, b in zip(
            *(
                torch.autograd.grad(
                    model.loss_and_state(ids[:, s], targets[:, s], state, "sum").loss, parameters
                )
                for s, state in ((slice(6), None), (slice(6, 12), first.state))
            ),
            strict=True,
        )
    ]
    assert max((a - b).abs().max() for a, b in zip(whole, cut, strict=True)) > 1e-3


def test_detach_state_reaches_every_tensor():
    x = torch.ones(2, requires_grad=True) * 2
    found = rc.detach_state(((x, x), (x,)))
    assert [part.requires_grad for part in nested(found)] == [False] * 3
    assert torch.equal(found[1][0], x)


# --- regularisers -----------------------------------------------------------------------------------------------------


def test_locked_masks_are_constant_in_time_and_independent_over_rows():
    torch.manual_seed(0)
    x = torch.ones(64, 20, 50)
    y = rc.locked_dropout(x, 0.3)
    assert (y == y[:, :1]).all()  # the same at all positions
    mask = y[:, 0] > 0  # (B, C)
    assert torch.allclose(y[y > 0], torch.tensor(1 / 0.7))  # expectation kept
    assert abs(mask.double().mean() - 0.7) < 0.03
    assert len({tuple(row.tolist()) for row in mask}) == 64
    # correlation between rows: that of independent draws
    centred = mask.double() - 0.7
    pairs = [(centred[i] * centred[j]).mean() for i, j in itertools.combinations(range(64), 2)]
    assert abs(torch.stack(pairs).mean()) < 0.01


def test_embedding_dropout_takes_whole_tokens():
    torch.manual_seed(0)
    table, ids = torch.ones(200, 5), random_ids(8, 100, vocab_size=200)
    y = rc.embedding_dropout(ids, table, 0.4)
    alive = y > 0
    assert (alive == alive[..., :1]).all()
    for token in ids.unique():
        assert len(alive[ids == token].unique()) == 1  # in all places alike
    share = torch.stack([alive[ids == token].any() for token in ids.unique()]).double().mean()
    assert abs(share - 0.6) < 0.12 and torch.allclose(y[alive], torch.tensor(1 / 0.6))


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "output_dropout"])
def test_the_model_drops_where_and_how_it_says(name, locked):
    """Seen at the inputs of the layers and of the head, where dropped features are exact zeros."""
    model = small("lstm", torch.float32, locked=locked, **{name: 0.5})
    seen = {}
    for key, module in (
        ("input", model.layers[0]),
        ("hidden", model.layers[1]),
        ("output", model.head),
    ):
        module.register_forward_pre_hook(lambda _, args, key=key: seen.update({key: args[0]}))
    torch.manual_seed(0)
    ids = random_ids(16, 9)
    model(ids)
    for key, x in seen.items():
        zero = x == 0
        if key != name.split("_")[0]:
            assert not zero.any()
        else:
            assert 0.3 < zero.double().mean() < 0.7
            assert (zero == zero[:, :1]).all().item() is locked
            assert len({tuple(row.flatten().tolist()) for row in zero}) > 8
    model.eval()
    model(ids)
    assert not any((x == 0).any() for x in seen.values())


@pytest.mark.parametrize("cell", CELLS)
def test_weight_drop_thins_the_recurrent_matrix_for_the_whole_call(cell):
    """The result and the gradients are those of the cells of the page with a matrix thinned in the same way."""
    function, parts = CELLS[cell]
    torch.manual_seed(0)
    layer = rc.LAYERS[cell](4, 5, batch_first=True).double()
    x, state = randn(3, 8, 4), tuple(randn(3, 5, seed=i) for i in range(parts))
    torch.manual_seed(1)
    outputs, after = rc.run_layer(layer, x, state, 0.5)
    torch.manual_seed(1)
    mask = F.dropout(torch.ones_like(layer.weight_hh_l0), 0.5)
    weights = rc.CellWeights.of(layer)
    thinned = weights._replace(w_hh=weights.w_hh * mask)
    expected, last = rc.unroll(function, x, state, thinned)
    assert (outputs - expected).abs().max() < 1e-12
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(after, last, strict=True))
    parameters = list(layer.parameters())
    by_model = torch.autograd.grad(outputs.square().sum(), parameters)
    by_hand = torch.autograd.grad(expected.square().sum(), parameters)
    assert all((a - b).abs().max() < 1e-11 for a, b in zip(by_model, by_hand, strict=True))
    assert (by_model[1][mask == 0] == 0).all() and 0 < (mask == 0).double().mean() < 1


def test_weight_drop_leaves_the_parameters_alone_and_is_silent():
    """Two training calls differ, evaluation does not; weights are the same tensors before and after, no warning."""
    model, ids = small(weight_drop=0.5), random_ids(2, 6)
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    assert not torch.equal(model(ids), model(ids))
    model.loss_and_state(ids, ids).loss.backward()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    reference = small()
    reference.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), reference.eval()(ids))


def test_no_regulariser_acts_in_evaluation():
    model, plain = small(**EVERYTHING).eval(), small(tied=True).eval()
    plain.load_state_dict(model.state_dict())
    ids, targets = random_ids(3, 7), random_ids(3, 7, seed=1)
    assert torch.equal(model(ids), plain(ids))
    found = model.loss_and_state(ids, targets)
    assert found.penalty == 0 and torch.equal(found.loss, plain.loss(ids, targets))


def test_penalties_are_the_mean_squares_of_outputs_and_of_their_changes():
    model = small(activation_penalty=2.0, slowness_penalty=3.0, output_dropout=0.5)
    ids = random_ids(2, 5)
    torch.manual_seed(0)
    found = model.loss_and_state(ids, ids)
    torch.manual_seed(0)
    dropped, _ = model.read(ids)
    raw, _ = copy.deepcopy(model).eval().read(ids)
    expected = 2 * dropped.square().mean() + 3 * (raw[:, 1:] - raw[:, :-1]).square().mean()
    assert torch.isclose(found.penalty, expected, rtol=1e-12)
    single = small(slowness_penalty=3.0).loss_and_state(ids[:, :1], ids[:, :1])
    assert single.penalty == 0  # one position has no change


DROPOUTS = [f"{place}_dropout" for place in ("embedding", "input", "hidden", "output")]
DROPOUTS += ["weight_drop"]


def test_the_unlocked_preset_is_the_dropout_of_zaremba():
    """All non-recurrent connections, and no others: embedding to layer, layer to layer, layer to output."""
    config = rc.LSTMConfig.zaremba_medium(V)
    chosen = {n: getattr(config, n) for n in DROPOUTS}
    assert chosen == {
        "embedding_dropout": 0,
        "input_dropout": 0.5,
        "hidden_dropout": 0.5,
        "output_dropout": 0.5,
        "weight_drop": 0,
    }


# --- averaging --------------------------------------------------------------------------------------------------------


def trigger_loop(losses, n):
    """Algorithm 1 of Merity, Keskar and Socher, as their code counts the checks: when averaging begins, or None."""
    logs, t = [], 0
    for k, v in enumerate(losses):
        if t > n and v > min(logs[: t - n]):
            return k
        logs.append(v)
        t += 1
    return None


@given(losses=st.lists(st.integers(0, 12), max_size=25), n=st.integers(1, 6))
def test_averaging_begins_where_the_paper_says(losses, n):
    """S94d."""
    fired = [rc.should_average(losses[: k + 1], n) for k in range(len(losses))]
    assert (fired.index(True) if any(fired) else None) == trigger_loop(losses, n)


def test_averaging_never_begins_while_the_loss_falls():
    assert not any(rc.should_average([1 / (k + 1) for k in range(m)]) for m in range(40))
    assert not rc.should_average([])
    with pytest.raises(ValueError, match="nan"):
        rc.should_average([1.0, math.nan])
    with pytest.raises(ValueError, match="patience"):
        rc.should_average([1.0], 0)


# --- losses by position, free running, depth --------------------------------------------------------------------------


def test_losses_by_position_average_to_the_loss():
    """S118: also with ignored targets, weighted by how many count."""
    model, ids, targets = small(output_dropout=0.5), random_ids(4, 6), random_ids(4, 6, seed=1)
    found = rc.per_position_loss(model, ids, targets)
    assert found.shape == (6,) and model.training and not found.requires_grad
    model.eval()
    assert abs(found.mean() - model.loss(ids, targets)) < 1e-12
    targets[1:, 3:] = IGNORE
    counts = (targets != IGNORE).sum(0)
    found = rc.per_position_loss(model, ids, targets)
    assert abs((found * counts).sum() / counts.sum() - model.loss(ids, targets)) < 1e-12
    targets[:, 4] = IGNORE
    with pytest.raises(ValueError, match="none at 4"):
        rc.per_position_loss(model, ids, targets)


def test_losses_by_position_of_short_integers_ignore_nothing():
    """In 8 bits -100 would be 156, a token."""
    model = rc.LSTMLM(rc.LSTMConfig(200), generator=seeded())
    ids, targets = random_ids(2, 3), torch.full((2, 3), 156)
    expected = rc.per_position_loss(model, ids, targets)
    assert torch.equal(rc.per_position_loss(model, ids, targets.to(torch.uint8)), expected)


def test_free_running_and_teacher_forcing_agree_at_the_first_position():
    """S74."""
    model, ids, targets = small(), random_ids(50, 6), random_ids(50, 6, seed=1)
    free = rc.free_running_loss(model, ids, targets, generator=seeded())
    forced = model.loss(ids, targets, "none")
    assert free.shape == forced.shape == (50, 6)
    difference = (free - forced).abs().amax(0)
    assert difference[0] < 1e-12 and (difference[1:] > 1e-3).all()
    again = rc.free_running_loss(model, ids.clone(), targets, generator=seeded())
    assert torch.equal(free, again)


def test_free_running_checks_its_ids_even_where_it_reads_nothing_of_its_own():
    model = small()
    assert rc.free_running_inputs(model, random_ids(2, 1).int()).dtype == torch.int64
    for ids, error in (
        (torch.zeros(2, 1), TypeError),
        (torch.tensor([[V]]), ValueError),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError),
        ([[1, 2]], TypeError),
    ):
        with pytest.raises(error, match="ids"):
            rc.free_running_inputs(model, ids)


def test_free_running_scores_what_a_loop_scores():
    """Position by position: score the truth, draw, read what was drawn; the same gradients too."""
    model, ids, targets = small(), random_ids(5, 7), random_ids(5, 7, seed=1)
    source, state, token, losses = seeded(4), model.init_state(5), ids[:, :1], []
    for t in range(7):
        logits, state = model.step(token, state)
        losses.append(autoregressive_loss(logits[:, -1], targets[:, t], "none"))
        if t < 6:
            token = torch.multinomial(logits[:, -1].detach().softmax(-1), 1, generator=source)
    expected = torch.stack(losses, dim=1)
    found = rc.free_running_loss(model, ids, targets, generator=seeded(4))
    assert (found - expected).abs().max() < 1e-12
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(loss.sum(), parameters) for loss in (found, expected))
    assert all((a - b).abs().max() < 1e-11 for a, b in zip(*gradients, strict=True))


class Parrot(LanguageModel):
    """Certain that the next token is the last one plus one, whatever it was."""

    vocab_size = V

    def forward(self, ids):
        return 100.0 * F.one_hot((ids + 1) % V, V).double()


def test_a_model_that_is_certain_runs_freely_as_it_is_taught():
    """If every sample is the true token, the two losses are one."""
    ids = (torch.arange(3)[:, None] + torch.arange(8)) % V
    model, targets = Parrot(), (ids + 1) % V
    found = rc.free_running_loss(model, ids, targets, generator=seeded())
    assert torch.equal(found, model.loss(ids, targets, "none"))
    shifted = rc.free_running_loss(model, ids, (targets + 1) % V, generator=seeded())
    assert (shifted > 99).all()


def test_free_running_gradients_flow_through_scores_and_state():
    model, ids = small(n_layer=1), random_ids(4, 3)
    loss = rc.free_running_loss(model, ids, ids, generator=seeded()).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(("T", "L"), [(1, 1), (7, 1), (7, 3), (20, 2)])
def test_recurrent_depth_grows_with_the_text_and_other_depth_does_not(T, L):
    """S83: T + L - 1 for RNN layers token by token, T L when each waits for the one below, L without recurrence."""
    x = randn(2, T, 3).requires_grad_()
    weights = linear_weights(np.eye(3))
    start = (torch.zeros(2, 3, dtype=torch.float64),)
    states = [start] * L
    for x_t in x.unbind(1):
        for i in range(L):
            states[i] = rc.rnn_cell(x_t, states[i], weights)
            (x_t,) = states[i]
    assert rc.sequential_depth(x_t.sum(), "Tanh") == T + L - 1
    y, z = x, x
    for _ in range(L):
        y, z = rc.unroll(rc.rnn_cell, y, start, weights)[0], z.tanh()
    assert rc.sequential_depth(y[:, -1].sum(), "Tanh") == T * L
    assert rc.sequential_depth(z[:, -1].sum(), "Tanh") == L
    assert rc.sequential_depth(z.sum(), "Sigmoid") == 0


@pytest.mark.parametrize(("T", "L"), [(1, 1), (6, 1), (6, 3)])
def test_generation_is_as_deep_as_all_layers_of_all_tokens(T, L):
    """S83: each input is made from the last output, so T L, for RNN layers and for layers without recurrence."""
    weights, start = linear_weights(np.eye(3)), (torch.zeros(2, 3, dtype=torch.float64),)
    states, x = [start] * L, randn(2, 3).requires_grad_()
    y = x
    for _ in range(T):
        for i in range(L):
            states[i] = rc.rnn_cell(x, states[i], weights)
            (x,) = states[i]
            y = y.tanh()
    assert rc.sequential_depth(x.sum(), "Tanh") == T * L
    assert rc.sequential_depth(y.sum(), "Tanh") == T * L


def test_depth_needs_a_graph():
    with pytest.raises(ValueError, match="gradients"):
        rc.sequential_depth(torch.ones(3), "Tanh")


# --- the neural cache -------------------------------------------------------------------------------------------------


def cache_loop(model, ids, *, size, theta, lam):
    """Equation (3) of Grave, Joulin and Usunier, one position after the other: probabilities (B, T, V)."""
    hidden, _ = model.read(ids)
    p_model = model.head(hidden).softmax(-1)
    rows = []
    for b, t in itertools.product(range(ids.shape[0]), range(ids.shape[1])):
        window = range(max(0, t - size), t)
        if not window:
            rows.append(p_model[b, t])
            continue
        scores = torch.stack([theta * hidden[b, t] @ hidden[b, i] for i in window]).softmax(0)
        cached = torch.zeros(V, dtype=torch.float64)
        for i, a in zip(window, scores, strict=True):
            cached[ids[b, i + 1]] += a
        rows.append((1 - lam) * p_model[b, t] + lam * cached)
    return torch.stack(rows).view(*ids.shape, V)


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize(("theta", "lam"), [(0.0, 0.3), (2.0, 0.1), (5.0, 0.99)])
def test_the_cache_computes_the_formula_of_the_paper(size, theta, lam):
    """S94d."""
    model, ids = small(), random_ids(2, 14)
    cached = rc.NeuralCache(model, size=size, theta=theta, lam=lam)
    found = cached(ids).exp()
    assert (found.sum(-1) - 1).abs().max() < 1e-10
    assert (found - cache_loop(model, ids, size=size, theta=theta, lam=lam)).abs().max() < 1e-12


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_cache_keeps_the_promises_of_the_interface(cell, size):
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        cached = rc.NeuralCache(small(cell, dtype, **EVERYTHING), size=size, theta=1.0, lam=0.4)
        assert max(check_conformance(cached).values()) < limit
        assert cached.training and cached.model.training


@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9), size=st.integers(1, 20))
@settings(max_examples=30)
def test_the_cache_reads_in_chunks_as_at_once(cuts, size):
    cached, ids = rc.NeuralCache(small(), size=size, theta=3.0, lam=0.5), random_ids(2, sum(cuts))
    with torch.no_grad():
        assert (cached(ids) - read_in_steps(cached, ids, cuts)).abs().max() < 1e-10


def test_long_texts_are_read_in_chunks_without_a_trace():
    """Longer than the chunk of 128 positions; and the state stops growing at `size`."""
    cached, ids = rc.NeuralCache(small(), size=10, theta=2.0, lam=0.5), random_ids(1, 300)
    with torch.no_grad():
        found = cached(ids)
        _, state = cached.step(ids, cached.init_state(1))
        assert (found - cached.step(ids, cached.init_state(1))[0]).abs().max() < 1e-10
    assert state.keys.shape == (1, 10, 7) and torch.equal(state.tokens, ids[:, -10:])


def test_without_a_share_the_cache_is_the_model():
    model, ids = small(), random_ids(3, 9)
    cached = rc.NeuralCache(model, lam=0.0)
    assert torch.equal(cached(ids), model(ids).log_softmax(-1))
    batches = [(ids[:, :-1], ids[:, 1:])]
    assert math.isclose(compute_perplexity(cached, batches), compute_perplexity(model, batches))


def test_the_first_position_has_no_cache_and_keeps_the_model():
    model, ids = small(), random_ids(3, 1)
    assert torch.allclose(
        rc.NeuralCache(model, lam=0.9)(ids), model(ids).log_softmax(-1), atol=1e-14
    )


class Now(LanguageModel):
    """Any model with `read` and a linear `head` can have a cache. This one sees the present token only."""

    vocab_size = V

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(V, V).double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def read(self, ids, state=None):
        return F.one_hot(ids, V).double(), state

    def forward(self, ids):
        return self.head(self.read(ids)[0])


def test_what_followed_once_is_expected_again():
    """Each token is followed by the same one in the second half, and the cache says so with all of its share."""
    ids = torch.randperm(V, generator=seeded()).repeat(2)[None]
    cached = rc.NeuralCache(Now(), size=100, theta=50.0, lam=0.5)
    losses = cached.loss(ids[:, :-1], ids[:, 1:], "none")[0]
    assert torch.allclose(
        losses[V:].exp(), torch.tensor(1 / (0.5 + 0.5 / V), dtype=torch.float64), rtol=1e-9
    )
    assert torch.isclose(losses[0].exp(), torch.tensor(float(V)).double())
    assert max(check_conformance(cached).values()) < 1e-10


def test_impossible_in_half_the_mixture_is_still_finite_and_differentiable():
    log_p = torch.tensor([[-800.0, 0.0, -800.0]], dtype=torch.float64, requires_grad=True)
    cached = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    mixed = rc.mix_with_cache(log_p, cached, 0.25)
    assert torch.allclose(
        mixed, torch.tensor([[-800 + math.log(0.75), math.log(0.75), math.log(0.25)]]).double()
    )
    (gradient,) = torch.autograd.grad(mixed.sum(), log_p)
    assert gradient.isfinite().all()
    model = small()
    rc.NeuralCache(model, lam=0.5).loss(random_ids(2, 5), random_ids(2, 5, seed=1)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_is_not_a_number_is_seen_and_no_share_is_refused():
    """A nan of the cache must not turn into the model alone; and the logarithm of a share of 0 is none."""
    log_p, cached = torch.zeros(1, 3).log_softmax(-1), torch.tensor([[math.nan, 0.5, 0.5]])
    assert rc.mix_with_cache(log_p, cached, 0.5).isnan().any()
    assert torch.equal(rc.mix_with_cache(log_p, torch.zeros(1, 3), 0.5), log_p)
    for lam in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="lam must be"):
            rc.mix_with_cache(log_p, cached, lam)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": 0}, ValueError, "size"),
        ({"size": 1.5}, TypeError, "size"),
        ({"theta": -1.0}, ValueError, "theta"),
        ({"theta": math.inf}, ValueError, "theta"),
        ({"lam": 1.0}, ValueError, "lam must be at least 0 and below 1"),
        ({"lam": -0.1}, ValueError, "lam"),
        ({"lam": "a"}, TypeError, "lam"),
    ],
)
def test_cache_options_out_of_range_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        rc.NeuralCache(small(), **changes)


def test_a_cache_needs_hidden_vectors_and_its_own_state():
    with pytest.raises(TypeError, match="model must be a HiddenLM"):
        rc.NeuralCache(Parrot())
    with pytest.raises(TypeError, match="model must be a HiddenLM"):
        rc.NeuralCache(nn.Linear(2, 2))
    cached = rc.NeuralCache(small())
    with pytest.raises(TypeError, match="CacheState"):
        cached.step(random_ids(2, 3), cached.model.init_state(2))
    with pytest.raises(ValueError, match="another batch"):
        cached.step(random_ids(2, 3), cached.init_state(3))


# --- windows ----------------------------------------------------------------------------------------------------------

WINDOWS = [
    {"n_hidden": None},
    {"n_hidden": 5},
    {"n_hidden": 5, "direct": True},
    {"n_hidden": None, "window": 1},
    {"n_hidden": 5, "window": 9},
]


def window_model(dtype=torch.float64, **changes):
    config = rc.WindowConfig(V, **({"window": 4, "n_embd": 3} | changes))
    return rc.WindowLM(config, generator=seeded()).to(dtype)


def window_loop(model, ids):
    """Equation (1) of Bengio, Ducharme, Vincent and Jauvin, a position at a time: logits (B, T, V)."""
    n, C = model.config.window, model.config.n_embd
    out = torch.zeros(*ids.shape, V, dtype=torch.float64)
    for b, t in itertools.product(range(len(ids)), range(ids.shape[1])):
        seen = ids[b, max(0, t - n + 1) : t + 1]
        x = torch.zeros(n, C, dtype=torch.float64)
        x[n - len(seen) :] = model.embedding.weight[seen]
        x = x.T.flatten()  # channel by channel, oldest first
        parts = (
            [] if model.hidden is None else [(model.hidden.weight @ x + model.hidden.bias).tanh()]
        )
        if model.hidden is None or model.config.direct:
            parts.append(x)
        out[b, t] = model.head.weight @ torch.cat(parts) + model.head.bias
    return out


@pytest.mark.parametrize("changes", WINDOWS)
def test_windows_compute_the_formula_and_keep_the_promises_of_the_interface(changes):
    """S47: by a loop; the parameters are those of the formula; at once and in steps it is one function."""
    model, ids = window_model(**changes), random_ids(3, 7)
    assert (model(ids) - window_loop(model, ids)).abs().max() < 1e-12
    assert model.config.n_parameters == sum(p.numel() for p in model.parameters())
    assert max(check_conformance(model).values()) < 1e-12
    assert max(check_conformance(window_model(torch.float32, **changes)).values()) < 1e-4
    assert max(check_conformance(rc.NeuralCache(model, lam=0.3)).values()) < 1e-10


@given(
    vocab_size=st.integers(1, 20),
    window=st.integers(1, 6),
    n_embd=st.integers(1, 5),
    n_hidden=st.none() | st.integers(1, 7),
    direct=st.booleans(),
)
@settings(max_examples=60)
def test_the_formula_counts_the_parameters_of_windows(**options):
    """S47."""
    config = rc.WindowConfig(**options)
    model = rc.WindowLM(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, config.vocab_size)


def test_a_window_sees_its_tokens_and_no_others():
    """Changing a token changes the next n positions exactly, and no other."""
    model, ids = window_model(n_hidden=5, window=3), random_ids(1, 9)
    other = ids.clone()
    other[0, 4] = (other[0, 4] + 1) % V
    changed = (model(ids) != model(other)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [4, 5, 6]


def test_a_linear_window_of_one_token_learns_the_bigram_table():
    """With vectors as wide as the vocabulary it can hold any table, and the best one is that of the counts."""
    ids = random_ids(1, 400, vocab_size=4)[0]
    model = rc.WindowLM(rc.WindowConfig(4, window=1, n_embd=4, n_hidden=None), generator=seeded())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = model.loss(ids[None, :-1], ids[None, 1:])
        loss.backward()
        return loss

    optimizer.step(closure)
    counted = NGramLM(2, vocab_size=4, smoothing="mle").fit(ids)
    rows = torch.arange(4)[:, None]
    assert (model(rows).softmax(-1) - counted(rows).exp()).abs().max() < 1e-2


def test_streams_train_windows_too():
    """loss_and_state of any HiddenLM: the losses of a stream in pieces are those of the whole, without penalty."""
    model, ids = window_model(n_hidden=5), random_ids(81)
    ((inputs, targets),) = rc.stream_batches(ids, 4, 20)
    state, total = None, 0.0
    for x, y in rc.stream_batches(ids, 4, 3):
        loss, penalty, state = model.loss_and_state(x, y, state, "sum")
        total, size = total + loss.item(), state.shape
        assert penalty == 0 and size[0] == 4 and size[1] <= 3
    assert abs(total - model.loss(inputs, targets, "sum").item()) < 1e-10
    with pytest.raises(NotImplementedError, match="HiddenLM does not define read"):
        rc.HiddenLM().read(ids[None])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1"),
        ({"window": 0}, ValueError, "window"),
        ({"window": 2.0}, TypeError, "window must be an integer"),
        ({"n_embd": True}, TypeError, "n_embd"),
        ({"n_hidden": 0}, ValueError, "n_hidden must be at least 1"),
        ({"n_hidden": "8"}, TypeError, "n_hidden"),
        ({"direct": 1}, TypeError, "direct must be True or False, got 1"),
    ],
)
def test_windows_out_of_range_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        rc.WindowConfig(**({"vocab_size": V} | changes))


def test_windows_refuse_other_configurations_and_other_states():
    with pytest.raises(TypeError, match="must be a WindowConfig, got LSTMConfig"):
        rc.WindowLM(rc.LSTMConfig(V))
    model, ids = window_model(n_hidden=5), random_ids(2, 3)
    for state, error in (
        (torch.zeros(3, 2, dtype=torch.int64), ValueError),
        (torch.zeros(2, 4, dtype=torch.int64), ValueError),
        (torch.full((2, 2), V), ValueError),
        (torch.zeros(2, 2), TypeError),
        (small().init_state(2), TypeError),
    ):
        with pytest.raises(error, match="state"):
            model.step(ids, state)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns_to_look_back(cell):
    """The token four steps ago comes again: no model with a shorter memory beats log 2 there."""
    bits = torch.randint(2, (64, 24), generator=seeded())
    for t in range(4, 24):
        bits[:, t] = bits[:, t - 4]
    torch.manual_seed(0)
    model = rc.LSTMLM(rc.LSTMConfig(2, n_embd=8, n_hidden=24, cell=cell), generator=seeded())
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(250):
        optimizer.zero_grad()
        model.loss(bits[:, :-1], bits[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    losses = rc.per_position_loss(model, bits[:, :-1], bits[:, 1:])
    assert losses[6:].mean() < 0.1 < 0.5 < losses[:3].mean()


def test_the_module_needs_neither_plots_nor_a_notebook():
    code = "import sys, arbook.recurrent; sys.exit('matplotlib' in sys.modules or 'IPython' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
