"""Devices, precision, speed, and what several processes agree on."""

import pytest
import torch
from arbook import machines
from arbook.machines import choose_device, choose_precision, matmul_rate
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.training import train
from arbook.transformer import GPT, GPTConfig, forward_flops
from torch import nn

from tiny import (
    Table,
    TEXT,
    V,
    plain_lstm,
    stream_config,
    tiny_config,
    tiny_gpt,
)


def test_a_rate_is_measured():
    assert 1e6 < matmul_rate(size=64, repeats=2) < 1e15
    with pytest.raises(ValueError, match="size"):
        matmul_rate(size=0)


def test_half_precision_is_left_to_wide_models_and_processors_that_gain_by_it(processor):
    narrow, wide = tiny_gpt(), GPT(GPTConfig.modern(V, 8, 320, 1, 4))
    cpu = torch.device("cpu")
    for gain, expected in ((4.0, "bfloat16"), (1.1, "full"), (0.01, "full"), (None, "full")):
        processor(gain)
        assert choose_precision("auto", wide, cpu) == expected
        assert choose_precision("auto", narrow, cpu) == "full"
        assert choose_precision("bfloat16", narrow, cpu) == "bfloat16"
    processor(4.0)
    assert choose_precision("auto", wide.double(), cpu) == "full"


def test_a_product_in_half_precision_is_tried_once(processor, monkeypatch):
    processor(2.0)
    wide, calls, rate = GPT(GPTConfig.modern(V, 8, 320, 1, 4)), [], machines.matmul_rate
    monkeypatch.setattr(machines, "matmul_rate", lambda *a, **k: calls.append(a) or rate(*a, **k))
    for _ in range(3):
        choose_precision("auto", wide, torch.device("cpu"))
    assert len(calls) == 2  # bfloat16 and float32


def test_processes_on_different_machines_compute_in_the_same_precision(processor, monkeypatch):
    processor(3.0)
    asked = []

    def rows(team, own):
        asked.append(own)
        return torch.cat([own, 0 * own])

    monkeypatch.setattr(machines.Team, "rows", rows)
    model, team = GPT(GPTConfig.modern(V, 8, 320, 1, 4)), machines.Team(0, 2, torch.device("cpu"))
    chosen = machines.choose_precision_and_reason("auto", model, team.device)
    assert chosen[0] == "bfloat16"
    assert machines.agree_on_precision(chosen, team) == ("full", "another process has chosen it")
    assert machines.agree_on_precision(("full", "as it is"), team) == ("full", "as it is")
    assert len(asked) == 2  # in every process, whatever it has chosen, or the others would wait
    monkeypatch.setattr(machines.Team, "rows", lambda team, own: torch.cat([own, own]))
    assert machines.agree_on_precision(chosen, team) == chosen


def test_divided_recurrent_models_are_refused_on_a_gpu_and_nowhere_else():
    lstm = LSTMLM(LSTMConfig(10, 8, 8, 1))
    with pytest.raises(ValueError, match="sharded must be False for a model with recurrent layers"):
        machines.check_sharded(lstm, torch.device("cuda"))
    machines.check_sharded(lstm, torch.device("cpu"))
    machines.check_sharded(tiny_gpt(), torch.device("cuda"))


def test_a_device_that_is_not_here_is_named():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device must be the name of one.*'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no GPU"):
            train(tiny_gpt(), TEXT, None, tiny_config(device="cuda"))


def test_recurrent_models_keep_full_precision():
    """PyTorch would run their layers in float16 on a GPU, also under autocast to bfloat16."""
    wide = LSTMLM(LSTMConfig(V, n_embd=400, n_hidden=400))
    assert choose_precision("auto", wide, torch.device("cuda")) == "full"
    assert choose_precision("full", wide, torch.device("cpu")) == "full"
    with pytest.raises(
        ValueError, match="precision must be 'full' or 'auto' for a model with recurrent"
    ):
        train(plain_lstm(), TEXT, None, stream_config(precision="bfloat16"))


def test_operations_per_token_of_a_gpt_are_three_times_those_of_a_pass():
    model = tiny_gpt()
    assert model.flops(8) == 3 * forward_flops(model.config, 8) / 8
    layer = nn.Linear(4, 6)
    other = Table()
    other.hidden = layer
    assert other.flops(8) == 6 * 24  # the table is only looked up
    other.head = nn.Linear(V, V, bias=False)
    other.head.weight = other.table.weight
    assert other.flops(8) == 6 * (24 + V * V)  # now it is the output layer, too
