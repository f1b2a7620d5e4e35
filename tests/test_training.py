"""Training: windows, steps, plans, optimisers, checkpoints, several processes, and the command."""

import dataclasses
import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from arbook import checkpoints, cli, machines, steps, training
from arbook.checkpoints import (
    CHECKPOINT,
    LOG,
    load_best,
    load_model,
    load_run,
    open_token_file,
    save_model,
    save_run,
    write_token_file,
)
from arbook.files import CheckpointError
from arbook.objective import LanguageModel
from arbook.recurrent import LSTMLM, LSTMConfig, WindowConfig
from arbook.steps import (
    Muon,
    cut_windows,
    evaluate,
    hidden_matrices,
    parameter_groups,
    random_windows,
    step_starts,
    stream_starts,
)
from arbook.training import TrainConfig, TrainingError, learning_rate, train
from arbook.transformer import GPT, GPTConfig
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tiny import (
    Memory,
    Own,
    OwnConfig,
    own,
    SOLO,
    TEXT,
    Table,
    V,
    plain_lstm,
    rng,
    same_weights,
    stream_config,
    tiny_config,
    tiny_gpt,
    tiny_lstm,
)
from torch import nn


# --- streams ---


def test_a_stream_takes_the_steps_of_the_loop_of_chapter_six():
    """Two epochs by hand: the state is carried within an epoch, and begins empty in the next."""
    config = stream_config(16, optimizer="sgd", momentum=0.0, weight_decay=0.0, grad_clip=None)
    model, other = plain_lstm().double(), plain_lstm().double()
    found = train(model, TEXT, None, config).curve("loss")[1]
    ids, losses, state = torch.tensor(TEXT), [], None
    for step in range(16):
        inputs, targets = cut_windows(ids, stream_starts(400, 4, 12, 0, step), 12)
        loss, _, state = other.loss_and_state(inputs, targets, state if step % 8 else None)
        other.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in other.parameters():
                p -= learning_rate(step, config) * p.grad
        losses.append(loss.item())
    assert np.allclose(found, losses, rtol=0, atol=1e-12)
    assert all(
        (a - b).abs().max() < 1e-12
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_penalties_move_the_parameters_and_leave_the_reported_loss_alone():
    models = [plain_lstm(activation_penalty=p).double() for p in (0.0, 5.0)]
    results = [train(model, TEXT, None, stream_config(3)) for model in models]
    losses = [result.curve("loss")[1] for result in results]
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]
    reference = plain_lstm(activation_penalty=5.0).double().train()
    batch = cut_windows(torch.tensor(TEXT), stream_starts(400, 4, 12, 0, 0), 12)
    loss, penalty, _ = reference.loss_and_state(*batch)
    (loss + penalty).backward()
    norm = nn.utils.clip_grad_norm_(reference.parameters(), math.inf)
    assert abs(norm.item() - results[1].curve("grad_norm")[1][0]) < 1e-12


def test_a_carried_state_learns_what_lies_further_back_than_a_window():
    """Blocks of four equal letters: from a window of three nobody can tell how long the block has lasted.

    Without a state the best possible loss is the mean of 0.562, 0.477 and 0.347 nats (by counting the phases)."""
    ids = torch.arange(8_000) // 4 % 2  # 0000 1111 0000 ...
    losses = {}
    for order in ("stream", "random"):
        model = LSTMLM(LSTMConfig(2, n_embd=4, n_hidden=16), generator=rng())
        config = TrainConfig(300, batch_size=16, block_size=3, order=order, lr=2e-2, device="cpu")
        losses[order] = train(model, ids, ids[:400], config).val_loss
    assert losses["stream"] < 0.2 and losses["random"] > 0.45


@pytest.mark.parametrize("stop", [1, 7, 8, 11])
def test_a_resumed_stream_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop, monkeypatch):
    """In the middle of an epoch, at its end, and after the mean of the parameters has begun (at step 9)."""
    options = {"eval_every": 3, "average_fraction": 0.25, "optimizer": "sgd", "momentum": 0.5}
    through = train(tiny_lstm(), TEXT, TEXT[:60], stream_config(**options))
    config = stream_config(**options, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "is_late", lambda step, *_: step == stop)
        assert train(tiny_lstm(), TEXT, TEXT[:60], config).steps == stop
    saved = load_run(tmp_path / CHECKPOINT)[0]
    assert ("state.0" in saved) == (stop != 8)  # between two epochs there is none
    again = train(tiny_lstm(seed=99), TEXT, TEXT[:60], config)
    assert again.resumed_from == stop and same_weights(through.model, again.model)
    for name in ("loss", "val_loss", "lr", "grad_norm"):
        assert through.curve(name) == again.curve(name)


@pytest.mark.parametrize("pieces", [2, 4])
def test_how_a_batch_of_streams_is_cut_does_not_change_the_result(tmp_path, pieces):
    """Nor if a run is resumed with another number of pieces."""
    models = [plain_lstm(activation_penalty=1.0).double() for _ in range(3)]
    train(models[0], TEXT, None, stream_config())
    train(models[1], TEXT, None, stream_config(accumulation=pieces))
    config = stream_config(checkpoint_dir=tmp_path, max_seconds=1e-9)
    train(models[2], TEXT, None, config)
    free = dataclasses.replace(config, accumulation=pieces, max_seconds=None)
    train(models[2], TEXT, None, free)
    for model in models[1:]:
        pairs = zip(models[0].parameters(), model.parameters(), strict=True)
        assert max((a - b).abs().max().item() for a, b in pairs) < 1e-10


def test_the_validation_text_is_read_as_one_stream_however_it_is_cut(monkeypatch):
    model = plain_lstm().double()
    with torch.no_grad():
        log_p = model.log_prob(torch.tensor(TEXT)[None])[0]
    found = [evaluate(model, TEXT, block_size=T, carry=True) for T in (1, 7, 399, 1000)]
    assert np.allclose(found, -log_p.mean().item(), rtol=0, atol=1e-12)
    apart = evaluate(model, TEXT, block_size=7)
    assert abs(apart - found[0]) > 1e-4  # now each window begins with nothing
    monkeypatch.setattr(training, "STREAM_WINDOW", 16)
    result = train(model, TEXT, TEXT, stream_config(2))
    assert abs(result.val_loss - evaluate(model, TEXT, block_size=400, carry=True)) < 1e-12


def test_streams_from_a_mapped_file_equal_those_from_memory(tmp_path):
    write_token_file(tmp_path / "text.bin", TEXT, vocab_size=V)
    mapped = open_token_file(tmp_path / "text.bin", vocab_size=V)
    models = [tiny_lstm(), tiny_lstm()]
    results = [
        train(model, ids, ids, stream_config(20, accumulation=2))
        for model, ids in zip(models, (TEXT, mapped), strict=True)
    ]
    assert same_weights(*models) and results[0].val_loss == results[1].val_loss


def test_streams_that_cannot_be_are_named():
    with pytest.raises(TypeError, match="a GPT cannot hand its state .*order='random'"):
        train(tiny_gpt(), TEXT, None, tiny_config(order="stream"))
    with pytest.raises(TypeError, match="a Table cannot hand its state"):
        evaluate(Table(), TEXT, block_size=4, carry=True)
    with pytest.raises(ValueError, match="= 60 tokens to be read as 4 streams, got 50"):
        train(plain_lstm(), TEXT[:50], None, stream_config())


# --- plans and settings ---


def test_learning_rates_by_hand():
    cosine = TrainConfig(12, lr=2.0, min_lr_ratio=0.5, warmup_steps=2)
    assert [learning_rate(s, cosine) for s in range(3)] == [2 / 3, 4 / 3, 2.0]
    assert math.isclose(learning_rate(7, cosine), 1.5)  # half way
    assert math.isclose(learning_rate(11, cosine), 1 + (1 + math.cos(0.9 * math.pi)) / 2)
    assert learning_rate(12, cosine) == 1.0
    wsd = TrainConfig(10, lr=1.0, min_lr_ratio=0.0, schedule="wsd", decay_fraction=0.4)
    expected = [1.0] * 7 + [0.75, 0.5, 0.25, 0.0]
    assert np.allclose([learning_rate(s, wsd) for s in range(11)], expected)
    constant = TrainConfig(5, lr=0.3, schedule="constant")
    assert {learning_rate(s, constant) for s in range(6)} == {0.3}


@given(
    st.integers(1, 50),
    st.integers(0, 50),
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_rates_rise_to_the_highest_then_fall_between_their_bounds(n, warmup, schedule, ratio, part):
    w = min(warmup, n)
    options = {"lr": 1.0, "warmup_steps": w, "schedule": schedule, "min_lr_ratio": ratio}
    if schedule == "wsd":
        options["decay_fraction"] = part
        if w + part * n > n + 1e-9:
            with pytest.raises(
                ValueError, match=f"decay_fraction must be at most .* warmup_steps = {w}"
            ):
                TrainConfig(n, **options)
            return
    config = TrainConfig(n, **options)
    rates = [learning_rate(s, config) for s in range(n)]
    assert all(0 < r <= 1 for r in rates) or ratio == 0
    assert (np.diff(rates[:w]) > 0).all() and (np.diff(rates[w:]) <= 1e-12).all()
    assert all(r >= ratio - 1e-12 for r in rates[w:])
    assert w == n or math.isclose(rates[w], 1.0)  # what `lr` promises


def test_a_decay_that_begins_in_the_warm_up_is_refused_with_what_would_fit():
    options = {"warmup_steps": 50, "schedule": "wsd"}
    with pytest.raises(ValueError, match="decay_fraction must be at most 0.5, .* = 50, got 0.8"):
        TrainConfig(100, decay_fraction=0.8, **options)
    rates = [
        learning_rate(s, TrainConfig(100, lr=1.0, min_lr_ratio=0.0, decay_fraction=0.5, **options))
        for s in (50, 99)
    ]
    assert np.allclose(rates, [1.0, 1 / 50])


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("max_steps", 0, ValueError),
        ("max_steps", 2.0, TypeError),
        ("batch_size", 0, ValueError),
        ("batch_size", True, TypeError),
        ("block_size", 0, ValueError),
        ("lr", 0, ValueError),
        ("lr", math.nan, ValueError),
        ("lr", math.inf, ValueError),
        ("lr", "1e-3", TypeError),
        ("lr", None, TypeError),
        ("min_lr_ratio", 1.1, ValueError),
        ("warmup_steps", -1, ValueError),
        ("warmup_steps", 1_000, ValueError),
        ("schedule", "linear", ValueError),
        ("decay_fraction", 0, ValueError),
        ("optimizer", "lion", ValueError),
        ("order", "shuffled", ValueError),
        ("average_fraction", 1.5, ValueError),
        ("compile", 1, TypeError),
        ("sharded", "yes", TypeError),
        ("progress", 1, TypeError),
        ("betas", (0.9, 1.0), ValueError),
        ("betas", 0.9, ValueError),
        ("weight_decay", -0.1, ValueError),
        ("grad_clip", 0, ValueError),
        ("accumulation", 3, ValueError),
        ("precision", "float16", ValueError),
        ("seed", -1, ValueError),
        ("max_seconds", 0, ValueError),
        ("eval_every", 0, ValueError),
        ("checkpoint_every", 0.5, TypeError),
    ],
)
def test_bad_settings_are_named_when_they_are_written_down(field, value, error):
    with pytest.raises(error, match=field):
        TrainConfig(**({"max_steps": 100} | {field: value}))


NUMBERS = {"float": (np.float32, torch.tensor), "int": (np.int64, torch.tensor, np.uint8)}


@pytest.mark.parametrize("make", [TrainConfig, LSTMConfig, GPTConfig, WindowConfig])
def test_every_configuration_that_is_accepted_can_be_written_as_json(make):
    """With the numbers of NumPy and PyTorch in every field that takes one, and equal to that with Python's."""
    needed = [f.name for f in dataclasses.fields(make) if f.default is dataclasses.MISSING]
    needed = dict.fromkeys(needed, 24)
    plain = make(**needed)
    kinds = {f.name: type(getattr(plain, f.name)).__name__ for f in dataclasses.fields(make)}
    for name, kind in kinds.items():
        for convert in NUMBERS.get(kind, ()):
            given = {name: convert(getattr(plain, name))}
            config = make(**(needed | given))
            assert json.dumps(dataclasses.asdict(config))
            assert type(getattr(config, name)).__name__ == kind
            assert math.isclose(getattr(config, name), getattr(plain, name), rel_tol=1e-6)


def test_optional_fields_are_written_as_json_too(tmp_path):
    options = {
        "block_size": np.int64(8),
        "grad_clip": np.float32(0.5),
        "eval_every": torch.tensor(2),
    }
    options |= {"eval_tokens": np.int32(40), "max_seconds": torch.tensor(9.0), "seed": np.uint64(3)}
    options |= {"checkpoint_every": np.int8(2), "checkpoint_dir": os.fsencode(tmp_path)}
    config = tiny_config(3, betas=[np.float32(0.9), torch.tensor(0.5)], **options)
    config = dataclasses.replace(config, device=torch.device("cpu"))
    found = json.loads(json.dumps(dataclasses.asdict(config)))
    assert found["device"] == "cpu" and found["checkpoint_dir"] == str(tmp_path)
    assert found["grad_clip"] == 0.5 and found["seed"] == 3 and found["betas"][1] == 0.5
    assert train(tiny_gpt(), TEXT, TEXT[:60], config).finished  # which writes it to the log
    with pytest.raises(TypeError, match="device must be the name of one, got None"):
        tiny_config(device=None)


def test_a_recurrent_model_with_numbers_of_numpy_is_saved_and_comes_back(tmp_path):
    numbers = {"embedding_dropout": np.float32(0.25), "output_dropout": torch.tensor(0.5)}
    model = tiny_lstm(**numbers, init_range=np.float16(0.5), forget_bias=np.int64(2))
    save_model(model, tmp_path)
    assert load_model(tmp_path).config == model.config
    assert json.loads((tmp_path / "config.json").read_text())["embedding_dropout"] == 0.25


# --- optimisers ---


@pytest.mark.parametrize("vocab_size", [V, 16, 32])
def test_muon_gets_every_matrix_inside_the_model_and_nothing_else(vocab_size):
    """Also if the vocabulary is as large as the model is wide, which gives inner matrices as many rows."""
    config = GPTConfig.modern(vocab_size, 8, 16, 2, 2, n_hidden=32, positions="learned")
    model = GPT(config, generator=rng())
    chosen = {id(p) for p in hidden_matrices(model)}
    expected = {id(p) for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}
    assert chosen == expected
    adamw, muon = training.make_optimizers(model, tiny_config(optimizer="muon"))
    lists = [{id(p) for g in o.param_groups for p in g["params"]} for o in (adamw, muon)]
    assert lists[1] == expected and not lists[0] & lists[1]
    assert lists[0] | lists[1] == {id(p) for p in model.parameters()}


C = 16


@pytest.mark.parametrize(
    "make",
    [
        *(lambda V=V: GPT(GPTConfig(V, 8, C, 2, 2)) for V in (4 * C, 3 * C, C)),  # tied
        *(lambda V=V: GPT(GPTConfig.modern(V, 8, C, 2, 2, tied=True)) for V in (4 * C, 3 * C, C)),
        *(lambda V=V: GPT(GPTConfig.modern(V, 8, C, 2, 2)) for V in (4 * C, 3 * C, C)),
        lambda: LSTMLM(LSTMConfig(4 * C, n_embd=C, n_hidden=C, tied=True)),  # V = 4 R
        lambda: LSTMLM(LSTMConfig(4 * C, n_embd=C, n_hidden=C, n_layer=2)),
        lambda: LSTMLM(LSTMConfig(3 * C, n_embd=C, n_hidden=C, cell="gru", tied=True)),
    ],
)
@pytest.mark.parametrize("frozen", [(), ("head",), ("embedding", "head")])
def test_muon_gets_the_inner_matrices_whatever_their_shape_and_what_is_frozen(make, frozen):
    """By their names: what is neither the table, nor the positions, nor the head."""
    model = make()
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen) if frozen else True)
    outer = ("embedding", "position", "head")
    inner = {n for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith(outer)}
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in hidden_matrices(model)} == inner and len(inner) >= 2
    optimizers = training.make_optimizers(model, tiny_config(optimizer="muon"))
    muon = [
        p for o in optimizers if isinstance(o, Muon) for g in o.param_groups for p in g["params"]
    ]
    assert {names[id(p)] for p in muon} == inner


def test_fused_adamw_takes_the_steps_of_the_plain_one():
    models = [tiny_gpt(dropout=0.0).double() for _ in range(2)]
    fused = training.make_optimizers(models[0], tiny_config())
    assert fused[0].defaults["fused"]
    plain = torch.optim.AdamW(
        parameter_groups(models[1].parameters(), 0.1), lr=1e-2, betas=(0.9, 0.95), foreach=False
    )
    for step in range(10):
        batch = random_windows(torch.tensor(TEXT), 4, 8, generator=rng(step))
        for model, optimizer in zip(models, (fused[0], plain), strict=True):
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
    pairs = zip(*(m.parameters() for m in models), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-9


def test_plain_sgd_is_pytorchs_own():
    models = [tiny_gpt(dropout=0.0).double() for _ in range(2)]
    config = tiny_config(optimizer="sgd", momentum=0.8, weight_decay=0.01, grad_clip=None)
    train(models[0], TEXT, None, config)
    groups = parameter_groups(models[1].parameters(), 0.01)
    plain = torch.optim.SGD(groups, lr=1.0, momentum=0.8, foreach=False)
    for step in range(12):
        for group in plain.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = cut_windows(torch.tensor(TEXT), step_starts(len(TEXT), 4, 8, 0, step), 8)
        plain.zero_grad()
        models[1].loss(*batch).backward()
        plain.step()
    pairs = zip(*(m.parameters() for m in models), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-12


def test_the_mean_of_the_last_steps_is_returned_measured_and_kept(tmp_path, monkeypatch):
    seen, update = [], training.Mean.update

    def spy(mean, step):
        update(mean, step)
        seen.append([p.detach().clone() for p in mean.model.parameters()])

    monkeypatch.setattr(training.Mean, "update", spy)
    model, ids = tiny_gpt(dropout=0.0).double(), torch.arange(400) % V
    config = tiny_config(12, average_fraction=0.3, eval_every=4, checkpoint_dir=tmp_path)
    result = train(model, ids, ids[:60], config)
    expected = [torch.stack(some).mean(0) for some in zip(*seen[8:], strict=True)]  # 4 of 12 steps
    for p, mean in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p, mean, rtol=0, atol=1e-12)
    assert abs(evaluate(model, ids[:60], block_size=8) - result.val_loss) < 1e-12
    best = tiny_gpt(dropout=0.0).double()
    assert load_best(best, tmp_path) == result.val_loss and same_weights(best, model)
    saved = load_run(tmp_path / CHECKPOINT)[0]
    last = seen[-1][0]
    assert torch.equal(saved["model.embedding.weight"], last)  # the run goes on from where it was
    assert not torch.equal(saved["mean.embedding.weight"], last)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_steps_or_all_of_them_can_be_averaged(share):
    model = tiny_gpt()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    mean, after = training.Mean(model, tiny_config(3, average_fraction=share)), []
    for step in range(1, 4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        mean.update(step)
    assert bool(mean.values) == bool(share)
    with mean.in_place():
        after += [p - start[name] for name, p in model.named_parameters()]
    expected = (1 + 2 + 3) / 3 if share else 3.0  # of all three, or the last one as it is
    assert all((gap - expected).abs().max() < 1e-5 for gap in after)
    assert all(((p - start[n]) - 3.0).abs().max() < 1e-5 for n, p in model.named_parameters())


# --- measuring ---


# --- token files ---


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_from_a_mapped_file_equals_training_from_memory(tmp_path, accumulation):
    write_token_file(tmp_path / "text.bin", TEXT, vocab_size=V)
    mapped = open_token_file(tmp_path / "text.bin", vocab_size=V)
    models = [tiny_gpt(), tiny_gpt()]
    results = [
        train(model, ids, ids, tiny_config(accumulation=accumulation))
        for model, ids in zip(models, (TEXT, mapped), strict=True)
    ]
    assert same_weights(*models) and results[0].val_loss == results[1].val_loss


def test_a_mapped_file_with_ids_that_the_model_does_not_know_is_an_error(tmp_path):
    write_token_file(tmp_path / "text.bin", np.full(300, 20), vocab_size=30)
    mapped = open_token_file(tmp_path / "text.bin", vocab_size=30)
    with pytest.raises(ValueError, match=r"train_ids\[0\] is 20; it must be between 0 and 10"):
        train(tiny_gpt(), mapped, None, tiny_config())


# --- the run ---


def test_training_lowers_the_loss_on_text_with_a_pattern():
    ids = torch.arange(600) % V
    result = train(tiny_gpt(dropout=0.0), ids, ids[:100], tiny_config(60, eval_every=20))
    steps, losses = result.curve("val_loss")
    assert steps == [0, 20, 40, 60] and losses[-1] < 0.3 < 2 < losses[0]
    assert result.val_loss == losses[-1] and result.best_val_loss == min(losses)
    assert result.finished and result.steps == 60 and result.tokens_per_second > 0
    assert not result.model.training


def test_a_run_leaves_the_global_random_numbers_alone_and_does_not_depend_on_them():
    models = [tiny_gpt(), tiny_gpt()]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train(model, TEXT, None, tiny_config())
        assert torch.equal(before, torch.get_rng_state())
    assert same_weights(*models)


def test_the_seed_decides_on_the_run():
    models = [tiny_gpt(), tiny_gpt()]
    for seed, model in enumerate(models):
        train(model, TEXT, None, tiny_config(seed=seed))
    assert not same_weights(*models)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_how_a_batch_is_cut_does_not_change_the_result(optimizer, accumulation):
    """(A9, no. 8)"""
    models = [tiny_gpt(dropout=0.0).double() for _ in range(2)]
    for pieces, model in zip((1, accumulation), models, strict=True):
        train(model, TEXT, None, tiny_config(accumulation=pieces, optimizer=optimizer))
    pairs = zip(*(m.parameters() for m in models), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-10


def test_log_lines_are_json_and_hold_the_history(tmp_path):
    folder = tmp_path / "run"
    config = tiny_config(checkpoint_dir=folder, log_every=4, eval_every=6)
    result = train(tiny_gpt(), TEXT, TEXT[:50], config)
    first, *lines = map(json.loads, (folder / LOG).read_text().splitlines())
    assert first["event"] == "start" and first["config"]["max_steps"] == 12
    assert lines == result.history
    assert [(x["event"], x["step"]) for x in lines] == [
        ("eval", 0), ("step", 4), ("step", 6), ("eval", 6), ("step", 8), ("step", 12), ("eval", 12),
    ]  # fmt: skip
    assert all(math.isfinite(x["loss"]) for x in lines if x["event"] == "step")


# --- checkpoints ---


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [1, 2, 7])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, optimizer, stop, monkeypatch
):
    """(S121)"""
    options = {"optimizer": optimizer, "eval_every": 3}
    through = train(tiny_gpt(), TEXT, TEXT[:60], tiny_config(**options))
    config = tiny_config(**options, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:  # as if time were up after so many steps
        patch.setattr(training, "is_late", lambda step, *_: step == stop)
        halted = train(tiny_gpt(), TEXT, TEXT[:60], config)
        assert not halted.finished and halted.steps == stop
    again = train(tiny_gpt(seed=99), TEXT, TEXT[:60], config)  # its weights are replaced
    assert again.resumed_from == stop and again.finished
    assert same_weights(through.model, again.model)
    for name in ("loss", "val_loss", "lr", "grad_norm"):
        assert through.curve(name) == again.curve(name)


def test_a_finished_run_is_not_trained_again(tmp_path):
    config = tiny_config(checkpoint_dir=tmp_path)
    first = train(tiny_gpt(), TEXT, TEXT, config)
    second = train(tiny_gpt(seed=1), TEXT, TEXT, config)
    assert second.resumed_from == second.steps == 12 and second.finished
    assert same_weights(first.model, second.model) and second.history == first.history


def test_a_resumed_run_may_change_how_it_computes_but_not_what(tmp_path):
    config = tiny_config(checkpoint_dir=tmp_path, max_seconds=1e-9)
    train(tiny_gpt(), TEXT, None, config)
    free = dataclasses.replace(config, accumulation=2, max_seconds=None, log_every=3)
    assert train(tiny_gpt(), TEXT, None, free).resumed_from == 1


def test_the_weights_that_did_best_are_kept(tmp_path):
    valid = np.random.default_rng(5).integers(0, V, 60)  # noise: training longer makes it worse
    config = tiny_config(60, lr=3e-2, eval_every=5, checkpoint_dir=tmp_path)
    result = train(tiny_gpt(dropout=0.0), TEXT[:60], valid, config)
    other = tiny_gpt(seed=5, dropout=0.0)
    assert load_best(other, tmp_path) == result.best_val_loss < result.val_loss
    assert abs(evaluate(other, valid, block_size=8) - result.best_val_loss) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "its lr is 0.01, not 0.5"),
        ({"batch_size": 8}, "batch_size"),
        ({"optimizer": "muon"}, "optimizer"),
        ({"max_steps": 13}, "max_steps"),
        ({"seed": 1}, "seed"),
        ({"block_size": 4}, "block_size"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, change, message):
    train(tiny_gpt(), TEXT, None, tiny_config(checkpoint_dir=tmp_path, max_seconds=1e-9))
    with pytest.raises(CheckpointError, match=message):
        train(tiny_gpt(), TEXT, None, tiny_config(**{"checkpoint_dir": tmp_path, **change}))


def test_a_checkpoint_of_another_text_or_model_is_refused(tmp_path):
    config = tiny_config(checkpoint_dir=tmp_path)
    train(tiny_gpt(), TEXT, None, config)
    with pytest.raises(CheckpointError, match="its text is"):
        train(tiny_gpt(), TEXT[::-1].copy(), None, config)
    with pytest.raises(CheckpointError, match="its model is"):
        train(tiny_gpt(dropout=0.0), TEXT, None, config)
    with pytest.raises(CheckpointError, match="float64"):
        train(tiny_gpt().double(), TEXT, None, config)


def test_a_run_with_frozen_parameters_goes_on_with_the_same_ones(tmp_path):
    config = tiny_config(checkpoint_dir=tmp_path, max_seconds=1e-9)

    def frozen():
        model = tiny_gpt()
        model.head.requires_grad_(False)
        return model

    train(frozen(), TEXT, None, config)
    with pytest.raises(CheckpointError, match=r"its frozen is \['head.weight'\], not \[\]"):
        train(tiny_gpt(), TEXT, None, config)
    tensors, record = load_run(tmp_path / CHECKPOINT)
    assert train(frozen(), TEXT, None, config).resumed_from == 1
    del record["identity"]["frozen"]  # as older libraries wrote it
    save_run(tmp_path / CHECKPOINT, tensors, {k: v for k, v in record.items() if k != "format"})
    assert train(frozen(), TEXT, None, config).resumed_from == 1


def test_a_damaged_checkpoint_stops_the_run_instead_of_starting_over(tmp_path):
    config = tiny_config(checkpoint_dir=tmp_path)
    train(tiny_gpt(), TEXT, None, config)
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        train(tiny_gpt(), TEXT, None, config)


EASY, HARD = np.arange(120) % V, np.random.default_rng(7).integers(0, V, 120)


def two_part_runs(folder: Path, first: dict, second: dict, monkeypatch) -> tuple:
    """A run of 30 steps on an easy pattern that is stopped at step 10; validation text and settings then change."""
    config = tiny_config(30, lr=3e-2, eval_every=5, checkpoint_dir=folder, checkpoint_every=10)
    halves = []
    for stop, options in ((10, dict(first)), (30, dict(second))):
        valid = options.pop("valid", np.concatenate([EASY, HARD]))
        changed = dataclasses.replace(config, **options)
        model = tiny_gpt(dropout=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(training, "is_late", lambda step, *_, at=stop: step == at < 30)
            halves.append(train(model, np.arange(600) % V, valid, changed))
    return tuple(halves)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ({"eval_tokens": 120}, {}, np.concatenate([EASY, HARD])),
        ({}, {"eval_tokens": 120}, EASY),
        ({"valid": EASY}, {"valid": HARD}, HARD),
        ({}, {}, np.concatenate([EASY, HARD])),
    ],
)
def test_the_best_weights_are_the_best_on_the_text_that_is_measured_now(
    tmp_path, first, second, text, monkeypatch
):
    """Training on the easy pattern lowers the loss of an easy text, and raises that of a hard one."""
    before, after = two_part_runs(tmp_path, first, second, monkeypatch)
    best = tiny_gpt(dropout=0.0)
    kept = load_best(best, tmp_path)
    assert kept == after.best_val_loss == load_run(tmp_path / checkpoints.BEST)[1]["val_loss"]
    assert load_run(tmp_path / checkpoints.BEST)[1]["step"] == after.best_step
    assert abs(evaluate(best, text, block_size=8) - kept) < 1e-6
    measured = {x["step"]: x["val_loss"] for x in after.history if "val_loss" in x}
    candidates = [loss for step, loss in measured.items() if step > 10]
    with_first = [x["loss_measured_anew"] for x in after.history if x["event"] == "best"]
    assert len(with_first) == bool(first or second)
    assert kept == min(candidates + (with_first or [before.best_val_loss]))


def test_a_resumed_run_is_not_changed_by_measuring_the_best_weights_anew(tmp_path, monkeypatch):
    changed = two_part_runs(tmp_path / "a", {"eval_tokens": 50}, {"eval_tokens": 90}, monkeypatch)[
        1
    ]
    same = two_part_runs(tmp_path / "b", {}, {}, monkeypatch)[1]
    assert same_weights(changed.model, same.model)
    assert changed.curve("loss") == same.curve("loss")


def test_a_kept_best_of_an_older_library_is_measured_anew(tmp_path, monkeypatch):
    """Its file does not say on which text."""
    two_part_runs(tmp_path, {}, {}, monkeypatch)
    tensors, record = load_run(tmp_path / checkpoints.BEST)
    old = {"step": record["step"], "val_loss": 0.001}
    save_run(tmp_path / checkpoints.BEST, tensors, old)
    config = tiny_config(30, lr=3e-2, eval_every=5, checkpoint_dir=tmp_path, checkpoint_every=10)
    model, ids = tiny_gpt(dropout=0.0), np.arange(600) % V
    again = train(model, ids, np.concatenate([EASY, HARD]), config)
    assert again.best_val_loss == record["val_loss"] and again.best_step == record["step"]
    without = train(model, ids, None, config)  # nothing to measure: as it is
    assert without.best_val_loss == record["val_loss"]


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_finishes(tmp_path, monkeypatch):
    """In the middle of the first run, from the same process and from another one."""
    config, update = tiny_config(checkpoint_dir=tmp_path, checkpoint_every=1), training.Mean.update
    refused = []
    program = f"""
import numpy as np
from arbook.training import TrainConfig, TrainingError, train
from arbook.transformer import GPT, GPTConfig
try:
    train(GPT(GPTConfig({V}, 8, 16, 1, 2)), np.arange(99) % {V}, None, TrainConfig(2, checkpoint_dir={str(tmp_path)!r}))
except TrainingError as error:
    print(error)
"""

    def interrupt(mean, step):
        update(mean, step)
        if step == 5 and not refused:
            files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            (tmp_path / f".{CHECKPOINT}.0123").touch()  # as if it were just being written
            with pytest.raises(TrainingError, match=f"another run writes to {tmp_path}: wait"):
                train(tiny_gpt(seed=1), TEXT, None, config)
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
            )
            refused.append(done.stdout)
            assert (tmp_path / f".{CHECKPOINT}.0123").exists()
            (tmp_path / f".{CHECKPOINT}.0123").unlink()
            assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    monkeypatch.setattr(training.Mean, "update", interrupt)
    result = train(tiny_gpt(), TEXT, None, config)
    assert refused[0].startswith(f"another run writes to {tmp_path}")
    monkeypatch.undo()
    assert result.finished and same_weights(
        result.model, train(tiny_gpt(), TEXT, None, tiny_config()).model
    )
    assert not (tmp_path / checkpoints._LOCK).exists()


def test_what_a_killed_run_leaves_does_not_block_the_next_one(tmp_path):
    (tmp_path / checkpoints._LOCK).touch()  # its lock died with it
    (tmp_path / f".{CHECKPOINT}.0123").write_bytes(b"half a checkpoint")
    assert train(tiny_gpt(), TEXT, None, tiny_config(checkpoint_dir=tmp_path)).finished
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, LOG]


def test_a_folder_is_free_again_after_an_error(tmp_path):
    config = tiny_config(20, block_size=8, checkpoint_dir=tmp_path)
    with pytest.raises(TrainingError, match="step 4"):
        train(Broken(at=4), TEXT, None, config)
    assert train(Table(), TEXT, None, config).finished


def test_without_locks_in_the_file_system_runs_go_on_without_them(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert train(tiny_gpt(), TEXT, None, tiny_config(checkpoint_dir=tmp_path)).finished


def test_a_run_stops_when_it_is_asked_to_and_goes_on_from_there(tmp_path):
    asked = []

    def stop():
        asked.append(None)
        return len(asked) == 5

    config = tiny_config(checkpoint_dir=tmp_path)
    halted = train(tiny_gpt(), TEXT, None, config, stop=stop)
    assert (halted.steps, halted.finished) == (5, False)
    again = train(tiny_gpt(seed=3), TEXT, None, config)
    assert again.resumed_from == 5
    assert same_weights(again.model, train(tiny_gpt(), TEXT, None, tiny_config()).model)


def test_if_one_of_several_processes_is_asked_to_stop_all_do(monkeypatch):
    """Processes with GPUs ask each other when they report only."""
    monkeypatch.setattr(machines.Team, "total", lambda team, values: values + 1)  # the other one is
    pair, gpus = (machines.Team(0, 2, torch.device(kind)) for kind in ("cpu", "meta"))

    def late(step, team, stop=lambda: False):
        return training.is_late(step, tiny_config(log_every=10), team, training.Clock(), stop)

    assert not late(0, SOLO)
    assert late(3, pair)
    assert not late(3, gpus)
    with monkeypatch.context() as patch:
        patch.setattr(training.torch, "tensor", lambda value, device: torch.zeros(()))
        assert late(10, gpus)
    assert not late(10, gpus, stop=None)


def raise_at(step: int, kind: signal.Signals, monkeypatch) -> None:
    """Let this process get a signal in the middle of a step."""
    update = training.Mean.update

    def hit(mean, now):
        update(mean, now)
        if now == step:
            os.kill(os.getpid(), kind)

    monkeypatch.setattr(training.Mean, "update", hit)


def test_a_mapped_file_and_an_array_of_one_text_are_one_text_for_a_resumed_run(tmp_path):
    """And the fingerprints of checkpoints that are on disks today stay valid: hashes of the bytes, by hand."""
    write_token_file(tmp_path / "text.bin", TEXT, vocab_size=V)
    mapped = open_token_file(tmp_path / "text.bin", vocab_size=V)
    whole = hashlib.sha256(TEXT.astype("<i4").tobytes()).hexdigest()
    ends = hashlib.sha256(b"400 uint16" + 2 * TEXT.astype("<u2").tobytes()).hexdigest()
    assert checkpoints.fingerprint(torch.tensor(TEXT).int()) == whole
    assert checkpoints.fingerprint(mapped) == ends
    for i, (first, second) in enumerate([(TEXT, mapped), (mapped, TEXT)]):
        config = tiny_config(checkpoint_dir=tmp_path / str(i), max_seconds=1e-9)
        train(tiny_gpt(), first, first[:60], config)
        config = dataclasses.replace(config, max_seconds=None)
        result = train(tiny_gpt(), second, second[:60], config)
        assert result.resumed_from == 1 and result.finished
        assert not any(line["event"] == "best" for line in result.history)
    with pytest.raises(CheckpointError, match="its text is"):
        train(tiny_gpt(), TEXT[::-1].copy(), None, config)


# Forks children that train, and are killed at random moments; what it prints is checked by the test.
KILLER = """
import json, os, random, signal, sys
from pathlib import Path
import numpy as np, torch, torch._dynamo  # which optimisers import, and slowly
torch.set_num_threads(1)
from arbook import training
from arbook.checkpoints import CHECKPOINT, load_run
from arbook.training import TrainConfig, train
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.transformer import GPT, GPTConfig

def arm(target, seconds):
    # Let the system end this process, as SIGKILL would, so long after the line of step `target` is written.
    def as_line(record, write=training.as_line):
        if record["step"] >= target and not armed:
            armed.append(signal.setitimer(signal.ITIMER_REAL, seconds))
        return write(record)

    armed = []
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    training.as_line = as_line

def work(folder, optimizer):
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig.modern(11, 8, 16, 2, 2, dropout=0.1), generator=generator)
    text = np.random.default_rng(0).integers(0, 11, 400)
    options = {"optimizer": optimizer, "eval_every": 20, "log_every": 1, "device": "cpu"}
    if optimizer == "sgd":  # a recurrent model on streams, 8 steps per epoch, and a mean in the end
        model = LSTMLM(LSTMConfig.awd(11, n_embd=6, n_hidden=8, n_layer=2), generator=generator)
        options |= {"order": "stream", "block_size": 12, "average_fraction": 0.5, "lr": 1.0}
    every = 1 if folder.name == "killed" else 60
    config = TrainConfig(60, batch_size=4, checkpoint_dir=folder, checkpoint_every=every, **options)
    train(model, text, text[:50], config)

def fork(folder, optimizer, *when):
    pid = os.fork()
    if pid == 0:
        try:
            if when:
                arm(*when)
            work(folder, optimizer)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid

def strike(base, optimizer, n_kills, chance):
    assert os.waitpid(fork(base / "through", optimizer), 0)[1] == 0
    steps, killed = [], 0
    for target in sorted(chance.sample(range(55), n_kills)):
        pid = fork(base / "killed", optimizer, target, chance.uniform(1e-4, 0.02))
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        path = base / "killed" / CHECKPOINT
        steps.append(load_run(path)[1]["step"] if path.exists() else 0)
    assert os.waitpid(fork(base / "killed", optimizer), 0)[1] == 0
    a, b = (load_run(base / name / CHECKPOINT)[0] for name in ("through", "killed"))
    same = set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    left = [p.name for p in (base / "killed").iterdir() if p.name.startswith(".")]
    return {"steps": steps, "killed": killed, "same": same, "tensors": len(a), "left": left}

chance, base = random.Random(0), Path(sys.argv[1])
print(json.dumps({name: strike(base / name, name, int(sys.argv[2]), chance) for name in ("adamw", "muon", "sgd")}))
"""


def test_runs_killed_at_random_moments_end_in_the_same_bits(tmp_path):
    """Dropout of all kinds, the state of a stream, and the mean of the parameters come back as well."""
    program = [sys.executable, "-c", KILLER, str(tmp_path), "6"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"adamw", "muon", "sgd"}
    for run in found.values():
        assert run["same"] and run["tensors"] > 20 and not run["left"]
        assert run["steps"] == sorted(run["steps"]) and run["killed"] > 0
        assert any(0 < step < 60 for step in run["steps"])


# --- several processes ---


WORKER = """
import functools, json, sys, numpy as np, torch
torch.set_num_threads(1)
from tiny import Own, OwnConfig
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.cli import main
from arbook.training import TrainConfig, train
from arbook.transformer import GPT, GPTConfig

# Trace what is to be compiled, and run the trace: writing a program in C++ for it would take half a minute.
torch.compile = functools.partial(torch.compile, backend="eager")
text, folder = np.random.default_rng(0).integers(0, 11, 400), sys.argv[1]
for name, case in json.loads(sys.argv[2]).items():
    dtype, calls = getattr(torch, case.pop("dtype")), case.pop("calls", [{}])
    for call in calls:  # of the same run, each with a new model
        make, settings = GPT, GPTConfig.modern(11, 8, 20, 2, 2)
        if case.get("order") == "stream":
            make, settings = LSTMLM, LSTMConfig(11, n_embd=6, n_hidden=8)
        if name.startswith("own"):
            make, settings = Own, OwnConfig(11)
        model = make(settings, generator=torch.Generator().manual_seed(0))
        config = TrainConfig(batch_size=8, lr=1e-3, log_every=1, eval_every=5, device="cpu",
                             progress=False, checkpoint_dir=f"{folder}/{name}", **case | call)
        train(model.to(dtype), text, text[:50], config)
sys.exit(main(["train", "--preset", "tiny", "--device", "cpu", "--out", f"{folder}/preset"]))
"""


PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # the library, and `tiny`


def run_pair(folder: Path, cases: dict) -> str:
    """Let torchrun start two processes for all cases, and return what they print."""
    (folder / "worker.py").write_text(WORKER)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*program, str(folder / "worker.py"), str(folder), json.dumps(cases)],
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.terminate()  # which ends the two processes as well
        process.communicate()
    assert process.returncode == 0, errors
    return output


def gpt_of_the_pair() -> GPT:
    return GPT(GPTConfig.modern(V, 8, 20, 2, 2), generator=rng())


def lstm_of_the_pair() -> LSTMLM:
    return LSTMLM(LSTMConfig(V, n_embd=6, n_hidden=8), generator=rng())


def config_of_the_pair(**changes) -> TrainConfig:
    return tiny_config(
        10, **({"batch_size": 8, "lr": 1e-3, "warmup_steps": 0, "eval_every": 5} | changes)
    )


def check_pair(folder: Path, alone: training.TrainResult, tolerance: float) -> dict:
    """Compare losses and parameters of a pair with those of one process; return the first line of its log."""
    first, *lines = (json.loads(x) for x in (folder / LOG).read_text().splitlines())
    for name in ("loss", "val_loss", "grad_norm"):
        together = [x[name] for x in lines if name in x]
        assert np.abs(np.array(together) - alone.curve(name)[1]).max() < tolerance
    tensors, _ = load_run(folder / CHECKPOINT)
    for name, p in alone.model.state_dict().items():
        assert (tensors[f"model.{name}"] - p).abs().max().item() < 100 * tolerance
    return first


STOP_AND_GO_ON = [{"max_seconds": 1e-9}] * 2 + [{}]  # after one step each, and to the end
STREAM = {"order": "stream", "block_size": 12}
SGD = {"optimizer": "sgd", "average_fraction": 0.5}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The folders of many runs of two processes, in which PyTorch has to be started only once."""
    folder, base = tmp_path_factory.mktemp("pair"), {"max_steps": 10, "dtype": "float64"}
    divided = base | {"sharded": True, "calls": STOP_AND_GO_ON}
    half = {"calls": STOP_AND_GO_ON[:2]}
    cases = {
        "float32": base | {"dtype": "float32", "accumulation": 2},
        "float64": base | {"accumulation": 2},
        "divided": divided | {"accumulation": 2},
        "divided stream": divided | STREAM | SGD,
        "divided half": divided | half,
        "stream": base | STREAM | {"accumulation": 2},
        "stream stopped": base | STREAM | {"calls": STOP_AND_GO_ON},
        "stream half": base | STREAM | half,
        "divided compiled": base | {"sharded": True, "compile": True},
        "own": base | {"accumulation": 2, "block_size": 8},
        "own divided": divided | {"accumulation": 2, "block_size": 8},
        "own divided stream": divided | STREAM | SGD,
    }
    (folder / "output.txt").write_text(run_pair(folder, cases))
    return folder


def train_alone(model: LanguageModel, **changes) -> training.TrainResult:
    return train(model, TEXT, TEXT[:50], config_of_the_pair(**changes))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_two_processes_make_the_steps_of_one(pair, dtype, tolerance):
    """Up to rounding: gradients are summed in another order, which Adam enlarges where a gradient is near 0."""
    alone = train_alone(gpt_of_the_pair().to(getattr(torch, dtype)))
    assert check_pair(pair / dtype, alone, tolerance)["processes"] == 2


def test_two_processes_that_divide_the_parameters_make_the_steps_of_one(pair):
    """FSDP on the CPU, stopped twice. Rows are divided unevenly: 11 tokens. And with blocks that are compiled."""
    alone = train_alone(gpt_of_the_pair().double())
    assert check_pair(pair / "divided compiled", alone, 1e-10)["config"]["compile"]
    assert check_pair(pair / "divided", alone, 1e-12)["config"]["sharded"]
    best = gpt_of_the_pair().double()
    assert abs(load_best(best, pair / "divided") - alone.best_val_loss) < 1e-12  # a whole model


def test_divided_parameters_are_averaged_and_states_carried_as_whole_ones_are(pair):
    alone = train_alone(lstm_of_the_pair().double(), **STREAM, **SGD)
    lines = [json.loads(x) for x in (pair / "divided stream" / LOG).read_text().splitlines()]
    for name in ("loss", "val_loss"):
        together = [x[name] for x in lines if name in x]
        assert np.allclose(together, alone.curve(name)[1], rtol=0, atol=1e-12)
    tensors = load_run(pair / "divided stream" / CHECKPOINT)[0]
    for name, p in alone.model.named_parameters():  # which hold the mean in the end
        assert (tensors[f"mean.{name}"] - p).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("own", {"block_size": 8}),
        ("own divided", {"block_size": 8}),
        ("own divided stream", STREAM),
    ],
)
def test_two_processes_train_a_model_that_the_library_does_not_know(pair, name, options):
    """In windows and in streams, its parameters divided or not, stopped and resumed."""
    sgd = SGD if "stream" in name else {}
    alone = train_alone(own().double(), **options, **sgd)
    lines = [json.loads(x) for x in (pair / name / LOG).read_text().splitlines()]
    assert lines[0]["processes"] == 2 and lines[0]["config"]["sharded"] == ("divided" in name)
    for kind in ("loss", "val_loss", "grad_norm"):
        together = [x[kind] for x in lines if kind in x]
        assert np.allclose(together, alone.curve(kind)[1], rtol=0, atol=1e-12)
    best = own(seed=5).double()
    assert abs(load_best(best, pair / name) - alone.best_val_loss) < 1e-12


@pytest.mark.parametrize("stop", [3, 8, 10])
@pytest.mark.parametrize("order", ["random", "stream"])
def test_a_model_that_the_library_does_not_know_resumes_bit_for_bit(
    tmp_path, order, stop, monkeypatch
):
    """Its state is a named tuple with a tuple inside; saved and loaded, it is the same function."""
    config = stream_config(order=order, accumulation=2, average_fraction=0.3, eval_every=3)
    through = train(own(), TEXT, TEXT[:60], config)
    config = dataclasses.replace(config, checkpoint_dir=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training, "is_late", lambda step, *_: step == stop)
        assert train(own(), TEXT, TEXT[:60], config).steps == stop
    again = train(own(seed=9), TEXT, TEXT[:60], dataclasses.replace(config, accumulation=2))
    assert again.resumed_from == stop and same_weights(through.model, again.model)
    for name in ("loss", "val_loss", "lr", "grad_norm"):
        assert through.curve(name) == again.curve(name)
    save_model(again.model, tmp_path / "model")
    found = load_model(tmp_path / "model")
    assert type(found) is type(again.model) and found.config == again.model.config
    assert same_weights(found, through.model)
    carry = order == "stream"
    losses = [evaluate(m, TEXT, block_size=12, carry=carry) for m in (found, through.model)]
    assert losses[0] == losses[1]


def test_a_state_that_cannot_be_saved_is_named_when_it_should_be(tmp_path):
    class LayersFirst(Own):
        """As PyTorch's own layers have it: (L, B, C)."""

        def init_state(self, batch_size):
            return self.head.weight.new_zeros(self.config.n_layer, batch_size, self.config.width)

        def step(self, ids, state):
            zeros = torch.zeros(len(ids), device=ids.device)
            logits, memory = super().step(ids, Memory(tuple(state), zeros))
            return logits, torch.stack(memory.layers)

    class Counts(Own):
        """With a number that is no tensor."""

        def init_state(self, batch_size):
            return (super().init_state(batch_size), 0)

        def step(self, ids, state):
            logits, memory = super().step(ids, state[0])
            return logits, (memory, state[1] + 1)

    config = stream_config(3)
    for kind, message in (
        (LayersFirst, r"batch as first axis .* got shape \(2, 4, 6\)"),
        (Counts, "got int"),
    ):
        model = kind(OwnConfig(V), generator=rng())
        assert train(model, TEXT, None, config).finished  # as long as nothing is saved
        model = kind(OwnConfig(V), generator=rng())
        with pytest.raises(TypeError, match=f"a state that is saved must .*{message}"):
            train(model, TEXT, None, dataclasses.replace(config, checkpoint_dir=tmp_path))


@pytest.mark.parametrize("name", ["stream", "stream stopped"])
def test_two_processes_carry_the_states_of_their_streams(pair, name):
    """Also if they are stopped in the middle of an epoch."""
    check_pair(pair / name, train_alone(lstm_of_the_pair().double(), **STREAM), 1e-12)


@pytest.mark.parametrize(("name", "options"), [("divided half", {}), ("stream half", STREAM)])
def test_one_process_goes_on_where_two_had_stopped(pair, name, options):
    make = lstm_of_the_pair if options else gpt_of_the_pair
    resumed = train_alone(make().double(), **options, checkpoint_dir=pair / name)
    alone = train_alone(make().double(), **options)
    assert resumed.resumed_from == 2
    assert np.allclose(resumed.curve("loss")[1], alone.curve("loss")[1], rtol=0, atol=1e-12)


def test_dividing_the_parameters_needs_several_processes_and_no_muon():
    models = [tiny_gpt(), tiny_gpt()]
    for sharded, model in zip((False, True), models, strict=True):
        train(model, TEXT, None, tiny_config(3, sharded=sharded))  # alone: nothing to divide
    assert same_weights(*models)
    with pytest.raises(ValueError, match="optimizer must be adamw or sgd if sharded"):
        tiny_config(optimizer="muon", sharded=True)


def test_torchrun_trains_a_preset(pair):
    record = json.loads((pair / "preset" / "record.json").read_text())
    assert record["processes"] == 2 and record["finished"]
    assert (pair / "output.txt").read_text().count("done: 60 steps") == 1


def test_processes_take_their_own_parts_of_one_batch_and_their_own_dropout(monkeypatch):
    config = tiny_config(3, accumulation=2, batch_size=8)
    seeds, batches, update = {}, {}, steps.update
    for rank in range(2):
        team = machines.Team(rank, 2, torch.device("cpu"))
        seeds[rank], batches[rank] = [], []

        def look(loss, pieces, *args, rank=rank, **how):
            batches[rank].append(torch.cat([inputs for inputs, _ in pieces]))
            return update(loss, pieces, *args, **how)

        with monkeypatch.context() as patch:  # as one of two processes would, if they could talk
            patch.setattr(training, "join_team", lambda device, team=team: team)
            patch.setattr(machines.Team, "total", lambda team, values: values)
            patch.setattr(machines.Team, "rows", lambda team, values: values)
            patch.setattr(training, "seed_dropout", lambda seed, _, r=rank: seeds[r].append(seed))
            patch.setattr(training, "update", look)
            train(tiny_gpt(dropout=0.5), TEXT, None, config)
    assert len({*seeds[0], *seeds[1]}) == 6  # no two steps and no two processes draw the same
    for step in range(3):
        starts = step_starts(len(TEXT), 8, 8, config.seed, step)
        whole = cut_windows(torch.tensor(TEXT), starts, 8)[0]
        assert torch.equal(torch.cat([batches[0][step], batches[1][step]]), whole)


@pytest.mark.slow
def test_if_one_process_dies_the_other_ends_with_an_error(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": PATHS,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    case = json.dumps({"endless": {"max_steps": 10**6, "dtype": "float32"}})
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), case],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    )
    try:
        log, deadline = tmp_path / "endless" / LOG, time.monotonic() + 600
        while not (log.exists() and len(log.read_text().splitlines()) > 5):
            assert time.monotonic() < deadline and first.poll() is None and second.poll() is None
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        output = first.communicate(timeout=600)[0]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode not in (0, None) and "Error" in output


def test_processes_that_begin_at_different_steps_are_refused(tmp_path, monkeypatch):
    config = tiny_config(checkpoint_dir=tmp_path, batch_size=8)
    train(tiny_gpt(), TEXT, None, config, stop=iter([False, False, True]).__next__)
    monkeypatch.setattr(
        training, "join_team", lambda device: machines.Team(0, 2, torch.device("cpu"))
    )
    monkeypatch.setattr(machines.Team, "total", lambda team, values: values)

    def with_the_other(team, step):
        return torch.cat([step, 0 * step])  # which found no checkpoint

    monkeypatch.setattr(machines.Team, "rows", with_the_other)
    with pytest.raises(CheckpointError, match="different steps, 3, 0; checkpoint_dir must be"):
        train(tiny_gpt(), TEXT, None, config)


# --- bad input ---


class Broken(Table):
    """Fails in the call of a given number."""

    def __init__(self, at: int, error: Exception | None = None):
        super().__init__()
        self.at, self.error, self.calls = at, error, 0

    def forward(self, ids):
        self.calls += 1
        if self.calls == self.at and self.error is not None:
            raise self.error
        return super().forward(ids) * (math.nan if self.calls == self.at else 1.0)


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_loss_that_is_not_a_number_names_the_step(log_every):
    config = tiny_config(20, block_size=8, log_every=log_every)
    with pytest.raises(TrainingError, match=r"step 4: loss nan.*lower lr"):
        train(Broken(at=4), TEXT, None, config)


def test_a_loss_that_is_not_a_number_never_reaches_a_checkpoint(tmp_path):
    config = tiny_config(
        20, block_size=8, log_every=50, checkpoint_every=3, checkpoint_dir=tmp_path
    )
    with pytest.raises(TrainingError, match="step 8"):
        train(Broken(at=8), TEXT, None, config)
    tensors, record = load_run(tmp_path / CHECKPOINT)
    assert record["step"] == 6 and all(t.isfinite().all() for t in tensors.values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_full_memory_says_what_to_do(error):
    with pytest.raises(TrainingError, match="out of memory in step 2: .*accumulation=2"):
        train(Broken(2, error), TEXT, None, tiny_config(block_size=8))
    with pytest.raises(RuntimeError, match="something else"):
        train(Broken(2, RuntimeError("something else")), TEXT, None, tiny_config(block_size=8))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("a text", TypeError, "train_ids must be token ids, got text"),
        ([1.5] * 50, TypeError, "train_ids must be integers"),
        (torch.rand(50), TypeError, "train_ids must be integers"),
        (np.full(50, V), ValueError, rf"train_ids\[0\] is {V}; it must be between 0 and {V - 1}"),
        (torch.full((50,), -1), ValueError, "train_ids"),
        (np.zeros((5, 50), dtype=int), ValueError, "one-dimensional"),
        (np.zeros(8, dtype=int), ValueError, "train_ids must hold at least 9 tokens"),
    ],
)
def test_wrong_texts_are_named(ids, error, message):
    with pytest.raises(error, match=message):
        train(tiny_gpt(), ids, None, tiny_config())


def test_other_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="val_ids must hold at least 2 tokens"):
        train(tiny_gpt(), TEXT, [1], tiny_config())
    with pytest.raises(ValueError, match="block_size must be at most 8"):
        train(tiny_gpt(), TEXT, None, tiny_config(block_size=9))
    with pytest.raises(ValueError, match="block_size must be set"):
        train(Table(), TEXT, None, tiny_config())
    with pytest.raises(TypeError, match="model must be a LanguageModel, got Linear"):
        train(nn.Linear(2, 2), TEXT, None, tiny_config())
    with pytest.raises(TypeError, match="config must be a TrainConfig, got dict"):
        train(tiny_gpt(), TEXT, None, {})
    frozen = tiny_gpt().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have parameters to train"):
        train(frozen, TEXT, None, tiny_config())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_where_the_caller_has_switched_gradients_off(mode):
    models = [tiny_gpt(), tiny_gpt()]
    with mode():
        result = train(models[0], TEXT, torch.tensor(TEXT), tiny_config())
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    expected = train(models[1], TEXT, TEXT, tiny_config())
    assert same_weights(*models) and result.val_loss == expected.val_loss


def test_a_model_that_was_made_for_inference_only_is_named():
    with torch.inference_mode():
        model = tiny_gpt()
    with pytest.raises(ValueError, match=r"model was made under torch.inference_mode\(\)"):
        train(model, TEXT, None, tiny_config())


# --- precision and hardware ---


@pytest.mark.parametrize(("gain", "chosen"), [(3.0, "bfloat16"), (0.5, "full"), (None, "full")])
def test_the_log_says_which_precision_was_chosen_and_why(tmp_path, processor, gain, chosen):
    processor(gain)
    model = GPT(GPTConfig.modern(V, 8, 320, 1, 4), generator=rng())
    config = tiny_config(1, warmup_steps=0, checkpoint_dir=tmp_path)
    assert train(model, TEXT, None, config).precision == chosen
    first = json.loads((tmp_path / LOG).read_text().splitlines()[0])
    assert first["precision"] == chosen
    assert f"{gain or 0:.2g} times the speed of float32" in first["precision_reason"]
    assert first["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    processor(9.0 if chosen == "full" else 0.1)  # a resumed run keeps what it had
    assert train(model, TEXT, None, config).precision == chosen


def test_half_precision_trains_float32_parameters_to_nearly_the_same_loss():
    results = [
        train(tiny_gpt(dropout=0.0), TEXT, TEXT, tiny_config(20, precision=p))
        for p in ("full", "bfloat16")
    ]
    assert {p.dtype for p in results[1].model.parameters()} == {torch.float32}
    assert results[1].precision == "bfloat16"
    assert 0 < abs(results[0].val_loss - results[1].val_loss) < 0.02


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts while it compiles
def test_a_compiled_model_takes_the_same_steps():
    config = GPTConfig.modern(V, 8, 16, 1, 2)
    models = [GPT(config, generator=rng()) for _ in range(2)]
    losses = [
        train(model, TEXT, None, tiny_config(5, compile=c)).curve("loss")[1]
        for model, c in zip(models, (False, True), strict=True)
    ]
    assert np.allclose(*losses, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_gpu_makes_the_steps_of_the_cpu_in_double_precision(optimizer):
    """(S121)"""
    models = [tiny_gpt(dropout=0.0).double() for _ in range(2)]
    results = [
        train(model, TEXT, TEXT, tiny_config(device=device, optimizer=optimizer))
        for model, device in zip(models, ("cpu", "cuda"), strict=True)
    ]
    assert np.allclose(results[0].curve("loss")[1], results[1].curve("loss")[1], rtol=0, atol=1e-9)
    assert abs(results[0].val_loss - results[1].val_loss) < 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_reads_streams_as_the_cpu_does():
    """(S121)"""
    models = [plain_lstm().double() for _ in range(2)]
    results = [
        train(model, TEXT, TEXT, stream_config(device=device, average_fraction=0.3))
        for model, device in zip(models, ("cpu", "cuda"), strict=True)
    ]
    for name in ("loss", "val_loss"):
        assert np.allclose(results[0].curve(name)[1], results[1].curve(name)[1], rtol=0, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_trains_in_half_precision(compiled):
    ids = torch.arange(600) % V
    result = train(tiny_gpt(), ids, ids[:100], tiny_config(60, device="cuda", compile=compiled))
    assert result.precision == "bfloat16" and result.val_loss < 1.5


# --- a run that is watched, and used before its end ---


def test_what_is_logged_is_told_as_it_happens(tmp_path):
    ids, lines = torch.arange(300) % 7, []
    config = TrainConfig(4, block_size=8, batch_size=2, log_every=1, eval_every=2, device="cpu")
    for folder in (None, str(tmp_path)):
        lines.clear()
        settings = dataclasses.replace(config, checkpoint_dir=folder)
        result = train(tiny_gpt(), ids, ids[:50], settings, notify=lines.append)
        assert (
            lines[0]["event"] == "start" and lines[0]["step"] == 0 and lines[1:] == result.history
        )
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][
        1:
    ] == lines[1:]


# --- samples ---


def test_tokens_are_drawn_as_often_as_the_model_says():
    """(S74) 4,000 draws of one token: each count within 5 standard deviations."""
    model = tiny_gpt(dropout=0.5).double()
    drawn = training.ancestral_sample(model, torch.full((4_000, 1), 3), 1, generator=rng())
    with torch.no_grad():
        p = model.eval()(torch.tensor([[3]]))[0, -1].softmax(-1)
    counts = torch.bincount(drawn[:, 1], minlength=V)
    assert ((counts - 4_000 * p).abs() < 5 * (4_000 * p * (1 - p)).sqrt()).all()


def test_a_text_can_be_continued_beyond_the_context_and_anew():
    """(S49)"""
    prompt = torch.tensor(TEXT[None, :20])  # the model reads 8
    one, again = (training.ancestral_sample(tiny_gpt(), prompt, 15, generator=rng()) for _ in "ab")
    assert one.shape == (1, 35) and torch.equal(one[:, :20], prompt) and torch.equal(one, again)
    for wrong, error in [(prompt[0], ValueError), (prompt + V, ValueError), ("text", TypeError)]:
        with pytest.raises(error, match="ids"):
            training.ancestral_sample(tiny_gpt(), wrong, 1, generator=rng())


# --- disks ---


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_there(
    tmp_path, monkeypatch
):
    config = tiny_config(checkpoint_dir=tmp_path, checkpoint_every=2)
    through = train(tiny_gpt(), TEXT, None, tiny_config())
    write, written = checkpoints.write_atomically, []

    def full(path, content):
        if Path(path).name == CHECKPOINT:
            written.append(path)
            if len(written) == 3:
                raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_gpt(), TEXT, None, config)
    assert load_run(tmp_path / CHECKPOINT)[1]["step"] == 4
    again = train(tiny_gpt(seed=9), TEXT, None, config)
    assert again.resumed_from == 4 and same_weights(again.model, through.model)


def test_a_folder_that_cannot_be_written_to_is_found_before_the_first_step(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        train(tiny_gpt(), TEXT, None, tiny_config(checkpoint_dir=tmp_path / "file" / "run"))

    def read_only(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(training, "write_atomically", read_only)
    model = tiny_gpt()
    with pytest.raises(PermissionError):
        train(model, TEXT, None, tiny_config(checkpoint_dir=tmp_path / "run"))
    assert same_weights(model, tiny_gpt())
    line = ["train", "--preset", "tiny", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main(line) == 1 and "Permission denied" in capsys.readouterr().err


FULL = """
import resource, sys
import numpy as np
from arbook.training import TrainConfig, train
from arbook.transformer import GPT, GPTConfig

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
text = np.arange(300) % 11
try:
    train(GPT(GPTConfig(11, 8, 16, 1, 2)), text, text[:60], TrainConfig(40, checkpoint_dir=sys.argv[1], log_every=1))
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize(("limit", "name"), [(2_000, "best.safetensors"), (19_000, CHECKPOINT)])
def test_the_error_of_a_full_disk_names_the_file(tmp_path, limit, name):
    """A limit for the size of files stands for the disk: the log fits, and the tensors do not."""
    program = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / name) in done.stdout
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_result_says_in_a_line_how_far_the_run_came():
    result = train(tiny_gpt(), TEXT, TEXT[:60], tiny_config(12, eval_every=6))
    line = repr(result)
    assert len(line.splitlines()) == 1 and len(line) < 200
    assert line.startswith("TrainResult(12 steps in ") and "not finished" not in line
    assert f"loss {result.curve('loss')[1][-1]:.4g}, " in line
    best = min(result.curve("val_loss")[1])
    assert f"best validation loss {best:.4g} at step {result.best_step})" in line


def test_a_result_without_measurements_claims_none():
    result = train(tiny_gpt(), TEXT, None, tiny_config(3, max_seconds=1e-9))
    line = repr(result)
    assert "validation" not in line and "nan" not in line
    assert line.endswith(", not finished)") == (not result.finished)
