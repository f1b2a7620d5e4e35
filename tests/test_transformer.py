"""Attention, the cache, both layouts, counts, checkpoints; GPT-2 against the transformers library."""

import copy
import dataclasses
import json
import math
import pickle
import re

import numpy as np
import pytest
import torch
from arbook import conformance, files, losses
from arbook import objective as ob
from arbook import transformer as tr
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

V, T = 23, 20

LAYOUTS = {
    "gpt2": tr.GPTConfig(V, T, 24, n_layer=2, n_head=3),
    "modern": tr.GPTConfig.modern(V, T, 24, n_layer=2, n_head=3),
    "grouped": tr.GPTConfig.modern(V, T, 32, n_layer=2, n_head=4, n_kv_head=2),
    "multi-query": tr.GPTConfig.modern(V, T, 32, 2, 4, n_kv_head=1, activation="relu2"),
    "bare": tr.GPTConfig(V, T, 24, 2, 3, positions="none", norm="rmsnorm", bias=False, tied=False),
    "narrow": tr.GPTConfig(V, T, 8, 1, 1, n_hidden=5, bias=False, qk_norm=True),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def make(layout, *, seed=0, dtype=torch.float64, **changes):
    """A model whose weights are large enough to matter: at initialisation all logits are nearly 0."""
    config = dataclasses.replace(LAYOUTS[layout], **changes)
    model = tr.GPT(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + 1))
            parameter += 0.2 * noise
    return model.to(dtype).eval()


def random_ids(*shape, vocab_size=V, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def random_heads(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *shape, dtype=torch.float64, generator=generator)


# --- attention --------------------------------------------------------------------------------------------------------


def attention_by_definition(q, k, v):
    """One query at a time, over the keys of its past."""
    t, n = q.shape[-2], k.shape[-2]
    rows = []
    for i in range(t):
        past = slice(0, n - t + i + 1)
        scores = (k[..., past, :] * q[..., i : i + 1, :]).sum(-1) / math.sqrt(q.shape[-1])
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append((weights[..., None] * v[..., past, :]).sum(-2))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("t", [1, 2, 5, 9])
def test_attention_is_its_definition_for_all_queries_and_for_the_last_few(t):
    """S45: PyTorch's own causal mask would be aligned at the upper left."""
    q, k, v = random_heads(2, 3, 9, 4)
    expected = attention_by_definition(q, k, v)[:, :, -t:]
    assert torch.allclose(tr.causal_attention(q[:, :, -t:], k, v), expected, rtol=0, atol=1e-12)
    assert torch.allclose(tr.attention_weights(q[:, :, -t:], k) @ v, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [1, 4, 9])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_shared_keys_are_repeated_keys(n_kv_head, t):
    q, k, v = random_heads(2, 4, 9, 4)
    k, v = k[:, :n_kv_head], v[:, :n_kv_head]
    repeated = (x.repeat_interleave(4 // n_kv_head, dim=1) for x in (k, v))
    expected = attention_by_definition(q, *repeated)[:, :, -t:]
    assert torch.allclose(tr.causal_attention(q[:, :, -t:], k, v), expected, rtol=0, atol=1e-12)


def test_the_mask_ends_in_the_lower_right_corner():
    assert tr.causal_mask(1, 4).tolist() == [[True] * 4]
    assert torch.equal(tr.causal_mask(4, 4), torch.ones(4, 4).tril().bool())
    for t in range(1, 6):
        assert torch.equal(tr.causal_mask(t, 6), torch.ones(6, 6).tril().bool()[-t:])
    with pytest.raises(ValueError, match="n_queries must be at most n_keys = 2, got 3"):
        tr.causal_mask(3, 2)
    q, k, v = random_heads(1, 1, 4, 2)
    with pytest.raises(ValueError, match="n_queries"):
        tr.causal_attention(q, k[:, :, :3], v[:, :, :3])


def test_values_of_the_future_cannot_leak_through_a_weight_of_0():
    """Not even when they are huge: 0 times a large number is 0, and the softmax never sees them."""
    q, k, v = random_heads(1, 2, 8, 4)
    before = tr.causal_attention(q, k, v)[:, :, :5]
    k[:, :, 5:], v[:, :, 5:] = 1e6, 1e300
    assert torch.equal(tr.causal_attention(q, k, v)[:, :, :5], before)


# --- one function, two ways to evaluate it ----------------------------------------------------------------------------


@layouts
def test_models_keep_the_promises_of_the_interface(layout):
    """S19, S45, S46."""
    assert max(conformance.check_conformance(make(layout)).values()) < 1e-10
    assert max(conformance.check_conformance(make(layout, dtype=torch.float32)).values()) < 1e-4


chunks = st.lists(st.integers(1, T), min_size=1, max_size=T).filter(lambda sizes: sum(sizes) <= T)


@layouts
@given(sizes=chunks, seed=st.integers(0, 3))
@settings(max_examples=15)
def test_any_chunks_give_what_one_pass_gives(layout, sizes, seed):
    """S46: 1e-10 in float64, 1e-4 in float32, where logits are of the order of 10 and rounding is 1e-6 of that."""
    ids = random_ids(2, sum(sizes), seed=seed)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = make(layout, seed=seed, dtype=dtype)
        with torch.no_grad():
            expected = model(ids)
        assert (ob.read_in_steps(model, ids, sizes) - expected).abs().max() < tolerance


@layouts
def test_a_row_of_a_batch_gives_what_it_gives_alone(layout):
    """A9 no. 9."""
    model, ids = make(layout), random_ids(4, 13)
    rows = torch.cat([model(row) for row in ids.split(1)])
    assert torch.allclose(model(ids), rows, rtol=0, atol=1e-12)


@layouts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_future_tokens_do_not_change_past_logits(layout, dtype):
    """S45: bit for bit."""
    model, ids = make(layout, dtype=dtype), random_ids(2, T)
    before = model(ids)
    for t in range(1, T):
        other = ids.clone()
        other[:, t:] = (other[:, t:] + 1 + t) % V
        assert torch.equal(model(other)[:, :t], before[:, :t])


@layouts
def test_every_output_depends_on_its_whole_past(layout):
    """S2: a full lower triangle, and nothing above it."""
    depends = ob.causal_check(make(layout), random_ids(1, 9))
    assert torch.equal(depends, torch.ones(9, 9).tril().bool())


def test_positions_matter_except_where_there_are_none():
    """One layer without positions sees a bag; learned and rotary positions see the order."""
    ids = random_ids(1, 9)
    swapped = ids[:, [1, 0, *range(2, 9)]]
    for layout, same in (("bare", True), ("gpt2", False), ("modern", False)):
        model = make(layout, n_layer=1)
        assert torch.allclose(model(ids)[:, 2:], model(swapped)[:, 2:], atol=1e-9) == same


def test_rotary_heads_see_distances_only():
    """The weights of the same vectors are the same from every start; those of a learned table would not be."""
    model = make("modern")
    attention, x = model.blocks[0].attention, random_heads(2, 6, 24)[0]
    maps = []
    for start in (0, 7, 14):
        rows = slice(start, start + 6)
        q, k, _ = attention.heads(x, (model.rotary_cos[rows], model.rotary_sin[rows]))
        maps.append(tr.attention_weights(q, k))
    assert torch.allclose(maps[0], maps[1], rtol=0, atol=1e-12)
    assert torch.allclose(maps[0], maps[2], rtol=0, atol=1e-12)
    q, k, _ = attention.heads(x)
    assert not torch.allclose(tr.attention_weights(q, k), maps[0], atol=1e-3)


@layouts
def test_the_loss_is_that_of_the_logits_with_all_gradients(layout):
    model, ids, targets = make(layout), random_ids(2, 9), random_ids(2, 9, seed=1)
    targets[1, 4:] = ob.IGNORE
    weights = list(model.parameters())
    for reduction in ("mean", "sum"):
        found = model.loss(ids, targets, reduction)
        expected = ob.autoregressive_loss(model(ids), targets, reduction)
        assert abs(found - expected) < 1e-10
        for a, b in zip(
            torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True
        ):
            assert torch.allclose(a, b, rtol=0, atol=1e-10)
    each = model.loss(ids, targets, "none")
    assert torch.allclose(each, ob.autoregressive_loss(model(ids), targets, "none"), atol=1e-10)
    assert torch.allclose(
        model.log_prob(ids)[:, 3], model(ids)[:, 3].log_softmax(-1).gather(1, ids[:, 4:5])[:, 0]
    )


class LargestTensor(TorchDispatchMode):
    """Watch every operation, and remember the size of the largest tensor that one returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


def test_the_loss_never_makes_all_logits(monkeypatch):
    """No tensor of (B, T, V) elements, with gradients and without; `forward` is seen to make one."""
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 5_000 * 8)
    model = tr.GPT(tr.GPTConfig(5_000, 64, 8, n_layer=1, n_head=2))
    ids = random_ids(2, 64, vocab_size=5_000)
    with LargestTensor() as seen:
        model(ids)
    assert seen.numel == 2 * 64 * 5_000
    for grad in (True, False):
        with LargestTensor() as seen, torch.set_grad_enabled(grad):
            model.loss(ids, ids)
        assert seen.numel <= 5_000 * 8 < 2 * 64 * 5_000


def test_evaluation_takes_no_dropout_and_training_does():
    model, ids = make("gpt2", dropout=0.5), random_ids(1, 9)
    assert torch.equal(model(ids), make("gpt2")(ids))
    torch.manual_seed(0)
    model.train()
    assert not torch.allclose(model(ids), model(ids))


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@layouts
def test_the_cache_has_the_bytes_of_the_formula(layout, dtype, batch_size):
    """S46: 2 L B H_kv T D times the bytes of a number."""
    model = make(layout, dtype=dtype)
    c, cache = model.config, model.init_state(batch_size)
    expected = 2 * c.n_layer * batch_size * c.kv_heads * T * c.head_dim * dtype.itemsize
    assert cache.nbytes == expected == cache.keys.nbytes + cache.values.nbytes
    assert cache.length == 0 and cache.batch_size == batch_size and cache.context_length == T


def test_the_example_of_the_checklist():
    """S46: 6 layers, 6 heads of 64 channels, 256 positions, float32."""
    model = tr.GPT(tr.GPTConfig(10, 256, 384, n_layer=6, n_head=6))
    assert model.init_state(1).nbytes == 4_718_592
    assert "0 of 256" in repr(model.init_state(1))


def test_the_memory_of_the_cache_is_reserved_once():
    model = make("grouped")
    cache = model.init_state(2)
    place = cache.keys.data_ptr()
    for t in range(5):
        _, after = model.step(random_ids(2, 2, seed=t), cache)
        assert after is cache and cache.keys.data_ptr() == place and cache.length == 2 * (t + 1)


@layouts
def test_a_cache_can_be_rewound_copied_and_reordered(layout):
    model, ids, other = make(layout), random_ids(3, 8), random_ids(3, 5, seed=1)
    _, cache = model.step(ids, model.init_state(3))
    branch, turned = cache.copy(), cache.select([2, 0, 0])
    first, _ = model.step(other, cache)
    assert torch.equal(model.step(other, cache.rewind(8))[0], first)
    assert torch.equal(model.step(other, branch)[0], first)
    rows = torch.tensor([2, 0, 0])
    expected = model(torch.cat([ids[rows], other], dim=1))[:, 8:]
    assert torch.allclose(model.step(other, turned)[0], expected, rtol=0, atol=1e-10)
    restarted, _ = model.step(other, cache.rewind(0))
    assert torch.allclose(restarted, model(other), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.rewind(5), "length must be at most 4, got 5"),
        (lambda c: c.rewind(-1), "length must be at least 0"),
        (lambda c: c.select([2]), "between 0 and 1"),
        (lambda c: c.select([-1]), "between 0 and 1"),
        (lambda c: c.select([]), "one or more integers"),
        (lambda c: c.select([[0]]), "one or more integers"),
        (lambda c: c.select([0.0]), "one or more integers"),
        (lambda c: c.select([True, False]), "one or more integers"),
        (lambda c: c.advance(-1), "t must be at least 1, got -1"),
        (lambda c: c.write(0, *torch.zeros(2, 1, 3, 2, 8)), r"k must have shape \(2, 3, t, 8\)"),
        (
            lambda c: c.write(0, torch.zeros(2, 3, 2, 8), torch.zeros(2, 3, 1, 8)),
            r"v must have shape \(2, 3, t, 8\), got \(2, 3, 1, 8\)",
        ),
        (lambda c: c.advance(T), f"4 of {T} positions are taken"),
        (lambda c: c.write(0, *torch.zeros(2, 2, 3, T, 8)), "context is full"),
        (lambda c: tr.KVCache(1, 0, 1, 1, 1), "batch_size must be at least 1"),
        (lambda c: tr.KVCache(1, 1, 1, 0, 1), "context_length must be at least 1"),
    ],
)
def test_caches_refuse_bad_input(call, message):
    _, cache = (model := make("gpt2")).step(random_ids(2, 4), model.init_state(2))
    with pytest.raises(ValueError, match=message):
        call(cache)
    assert cache.length == 4


def test_rows_and_lengths_of_any_integer_type_are_taken():
    model = make("modern")
    _, cache = model.step(random_ids(3, 4), model.init_state(3))
    expected = cache.select([2, 0])
    for dtype in (torch.int8, torch.uint8, torch.int32):
        found = cache.select(torch.tensor([2, 0], dtype=dtype))
        assert torch.equal(found.keys, expected.keys) and found.length == 4
    assert type(cache.rewind(np.int64(2)).length) is int


def test_a_cache_made_in_inference_mode_can_be_used_outside_it():
    model, ids = make("modern"), random_ids(2, 9)
    with torch.inference_mode():
        _, cache = model.step(ids[:, :4], model.init_state(2))
    logits, _ = model.step(ids[:, 4:], cache.copy())
    assert torch.equal(model.step(ids[:, 4:], cache)[0], logits)
    assert torch.allclose(logits, model(ids)[:, 4:], rtol=0, atol=1e-10)


def test_a_cache_may_be_narrower_than_its_model_but_holds_floats():
    """The logits move by the rounding of bfloat16, a few parts in a thousand, and are not the same."""
    model, ids = make("modern", dtype=torch.float32), random_ids(2, 9)
    c = model.config
    sizes = (c.n_layer, 2, c.kv_heads, c.context_length, c.head_dim)
    narrow = tr.KVCache(*sizes, dtype=torch.bfloat16)
    assert 2 * narrow.nbytes == model.init_state(2).nbytes
    found, expected = model.step(ids, narrow)[0], model(ids)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(TypeError, match="dtype must be a type of floats, got torch.int64"):
        tr.KVCache(*sizes, dtype=torch.int64)


def test_steps_refuse_a_cache_on_another_device():
    model = make("gpt2")
    elsewhere = tr.KVCache(2, 2, 3, T, 8, device="meta")
    with pytest.raises(ValueError, match="state is on meta, but ids are on cpu"):
        model.step(random_ids(2, 3), elsewhere)


def test_steps_refuse_states_that_are_not_theirs():
    model, ids = make("gpt2"), random_ids(2, 3)
    for wrong, name in ((ids, "Tensor"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"must come from init_state, got {name}"):
            model.step(ids, wrong)
    for wrong in (model.init_state(3), make("grouped").init_state(2)):
        with pytest.raises(ValueError, match=r"state must have keys of shape \(2, 2, 3, 20, 8\)"):
            model.step(ids, wrong)
    with pytest.raises(ValueError, match="batch_size"):
        model.init_state(0)


def test_steps_record_no_gradients():
    model = make("gpt2").train()
    logits, cache = model.step(random_ids(1, 3), model.init_state(1))
    assert not logits.requires_grad and not cache.keys.requires_grad
    assert model(random_ids(1, 3)).requires_grad


# --- past the context -------------------------------------------------------------------------------------------------


@layouts
def test_texts_past_the_context_are_refused_at_once_and_in_steps(layout):
    """S49."""
    model = make(layout)
    with pytest.raises(
        ValueError, match=f"ids has {T + 1} positions; this model reads at most {T}"
    ):
        model(random_ids(1, T + 1))
    _, cache = model.step(random_ids(1, T - 1), model.init_state(1))
    with pytest.raises(ValueError, match=f"{T - 1} of {T} positions are taken, and 2 more"):
        model.step(random_ids(1, 2), cache)
    assert cache.length == T - 1  # nothing was read
    model.step(random_ids(1, 1), cache)


def test_cropping_keeps_the_last_tokens():
    ids = torch.arange(10).view(1, 10).repeat(2, 1)
    assert tr.crop(ids, 10) is ids and tr.crop(ids, 99) is ids
    assert tr.crop(ids, 4).tolist() == [[6, 7, 8, 9]] * 2
    assert tr.crop(ids, 4, keep=1).tolist() == [[9]] * 2
    assert tr.crop(ids[:, :4], 4, keep=2).shape == (2, 4)  # it fits: nothing is cut
    for arguments, message in (
        ({"context_length": 4, "keep": 5}, "keep must be at most context_length = 4, got 5"),
        ({"context_length": 0}, "context_length"),
        ({"context_length": 4, "keep": 0}, "keep"),
    ):
        with pytest.raises(ValueError, match=message):
            tr.crop(ids, **arguments)
    with pytest.raises(ValueError, match=r"shape \(B, n\)"):
        tr.crop(torch.arange(4), 2)
    with pytest.raises(TypeError, match="torch.Tensor of integers, got list"):
        tr.crop([[1, 2, 3]], 2)


def test_generation_longer_than_the_context_is_the_function_of_its_last_tokens():
    """S49: step by step with a cache that is made anew, and by the definition."""
    model, ids, cache = make("modern"), random_ids(1, 15), None
    for _ in range(2 * T):
        if cache is None or cache.length == T:
            cache, unread = model.init_state(1), tr.crop(ids, T, keep=T // 2)
        start = ids.shape[1] - unread.shape[1] - cache.length
        logits, cache = model.step(unread, cache)
        expected = model(ids[:, start:])[:, -1]
        assert torch.allclose(logits[:, -1], expected, rtol=0, atol=1e-10)
        unread = logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, unread], dim=1)
    assert ids.shape[1] == 15 + 2 * T


# --- configuration and counts -----------------------------------------------------------------------------------------

ROOM = {"vocab_size": 7, "context_length": 5, "n_embd": 12, "n_layer": 1, "n_head": 3}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        *(({name: 0}, ValueError, f"{name} must be at least 1, got 0") for name in ROOM),
        *(({name: 2.0}, TypeError, f"{name} must be an integer, got 2.0") for name in ROOM),
        ({"n_layer": True}, TypeError, "n_layer must be an integer"),
        ({"n_head": 5}, ValueError, "n_embd must be a multiple of n_head = 5, got 12"),
        ({"n_kv_head": 2}, ValueError, "n_kv_head must divide n_head = 3, got 2"),
        ({"n_kv_head": 0}, ValueError, "n_kv_head must be at least 1"),
        ({"n_hidden": 0}, ValueError, "n_hidden must be at least 1"),
        ({"n_hidden": 1.5}, TypeError, "n_hidden must be an integer"),
        ({"positions": "sinusoidal"}, ValueError, "positions must be one of learned, rotary, none"),
        ({"norm": "batchnorm"}, ValueError, "norm must be one of layernorm, rmsnorm"),
        ({"activation": "relu"}, ValueError, "activation must be one of gelu, relu2, swiglu"),
        ({"bias": 1}, TypeError, "bias must be True or False, got 1"),
        ({"tied": None}, TypeError, "tied must be True or False"),
        ({"qk_norm": "yes"}, TypeError, "qk_norm must be True or False"),
        ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, ValueError, "dropout must be"),
        ({"dropout": math.nan}, ValueError, "dropout must be"),
        ({"dropout": "0.1"}, TypeError, "dropout must be a number"),
        ({"dropout": None}, TypeError, "dropout must be a number"),
        ({"norm_eps": 0}, ValueError, "norm_eps must be above 0"),
        ({"rotary_base": 1}, ValueError, "rotary_base must be above 1"),
        ({"rotary_base": math.inf}, ValueError, "rotary_base must be"),
        ({"positions": "rotary", "n_head": 4}, ValueError, "must be even for rotary"),
    ],
)
def test_every_bad_field_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        tr.GPTConfig(**{**ROOM, **changes})


def test_presets_and_unknown_arguments():
    assert tr.GPTConfig.gpt2() == tr.GPTConfig(50_257, 1_024, 768, 12, 12)
    assert tr.GPTConfig.gpt2("xl", dropout=0.1).n_embd == 1_600
    with pytest.raises(ValueError, match="size must be one of small, medium, large, xl"):
        tr.GPTConfig.gpt2("huge")
    with pytest.raises(TypeError, match="config must be a GPTConfig, got dict"):
        tr.GPT(ROOM)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tr.GPTConfig(**ROOM).n_embd = 5
    grown = dataclasses.replace(tr.GPTConfig(**ROOM), n_head=6, n_embd=24)
    assert (grown.kv_heads, grown.hidden_width, grown.head_dim) == (6, 96, 4)


@pytest.mark.parametrize("bad", [random_ids(1, 3).float(), random_ids(3), [[1, 2]], None])
def test_what_is_no_batch_of_ids_is_refused(bad):
    model = make("gpt2")
    for call in (model, lambda x: model.step(x, model.init_state(1))):
        with pytest.raises((TypeError, ValueError), match="ids"):
            call(bad)


def test_ids_outside_the_vocabulary_are_refused():
    model = make("gpt2")
    for bad in (V, -1):
        with pytest.raises(ValueError, match=rf"ids\[0, 1\] is {bad}; it must be between 0 and"):
            model(torch.tensor([[0, bad]]))
        with pytest.raises(ValueError, match="must be between"):
            model.step(torch.tensor([[0, bad]]), model.init_state(1))


variations = st.builds(
    lambda n_head, groups, half, **rest: tr.GPTConfig(
        n_head=n_head * groups, n_kv_head=n_head, n_embd=2 * half * n_head * groups, **rest
    ),
    n_head=st.integers(1, 3),
    groups=st.integers(1, 3),
    half=st.integers(1, 4),
    vocab_size=st.integers(1, 9),
    context_length=st.integers(1, 9),
    n_layer=st.integers(1, 3),
    n_hidden=st.none() | st.integers(1, 9),
    positions=st.sampled_from(("learned", "rotary", "none")),
    norm=st.sampled_from(("layernorm", "rmsnorm")),
    activation=st.sampled_from(list(tr.ACTIVATIONS)),
    qk_norm=st.booleans(),
    bias=st.booleans(),
    tied=st.booleans(),
)


@given(variations)
@settings(max_examples=60)
def test_the_parameter_count_is_the_number_of_parameters(config):
    """S47: for every combination of the configuration."""
    model = tr.GPT(config)
    assert sum(tr.parameter_counts(config).values()) == sum(p.numel() for p in model.parameters())
    ids = torch.zeros(1, config.context_length, dtype=torch.int64)
    with torch.no_grad():
        assert torch.allclose(
            ob.read_in_steps(model, ids, [1] * ids.shape[1]), model(ids), atol=1e-5
        )


def test_gpt2_has_its_published_number_of_parameters():
    """S47; the other sizes as counted from the published weights."""
    sizes = [sum(tr.parameter_counts(tr.GPTConfig.gpt2(size)).values()) for size in tr.GPT2_SIZES]
    assert sizes == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]
    with torch.device("meta"):
        model = tr.GPT(tr.GPTConfig.gpt2())
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


@layouts
def test_steps_take_the_operations_and_token_passes_of_the_cost_model(layout):
    """S43, S44: counted by PyTorch. T token passes with a cache, T (T + 1) / 2 prefix by prefix."""
    model, ids, read = make(layout), random_ids(1, T), []
    model.embedding.register_forward_hook(lambda _, args, out: read.append(args[0].numel()))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ob.read_in_steps(model, ids, [1] * T)
    assert sum(read) == T
    assert counter.get_total_flops() == tr.forward_flops(model.config, T)
    assert tr.forward_flops(model.config, T) == sum(
        tr.forward_flops(model.config, 1, past=t) for t in range(T)
    )
    assert tr.forward_flops(model.config, T) == (
        tr.forward_flops(model.config, 7) + tr.forward_flops(model.config, T - 7, past=7)
    )
    read.clear()
    for t in range(T):
        model(ids[:, : t + 1])
    assert sum(read) == T * (T + 1) // 2
    for arguments in ((0,), (1, -1)):
        with pytest.raises(ValueError, match="must be at least"):
            tr.forward_flops(model.config, *arguments)


def chain(tensor):
    """Length of the longest path in the graph of recorded operations."""
    depths, stack = {}, [tensor.grad_fn]
    while stack:
        node = stack[-1]
        before = [n for n, _ in node.next_functions if n is not None]
        waiting = [n for n in before if n not in depths]
        if waiting:
            stack += waiting
        else:
            depths[stack.pop()] = 1 + max((depths[n] for n in before), default=0)
    return depths[tensor.grad_fn]


def test_the_longest_chain_does_not_grow_with_the_text_but_with_the_layers():
    """S83."""
    by_length = [chain(make("modern")(random_ids(1, t))) for t in (2, 5, T)]
    assert len(set(by_length)) == 1
    by_depth = [chain(make("modern", n_layer=n)(random_ids(1, 5))) for n in (1, 2, 3)]
    assert by_depth[1] - by_depth[0] == by_depth[2] - by_depth[1] > 0


def test_initial_weights_have_the_stated_deviations_and_come_from_the_generator():
    config = tr.GPTConfig(200, 64, 128, n_layer=8, n_head=4)
    torch.manual_seed(5)
    model = tr.GPT(config, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(6)
    twin = tr.GPT(config, generator=torch.Generator().manual_seed(0))
    for (name, weight), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(weight, other)
        if weight.ndim == 1:
            assert (weight == (0 if name.endswith("bias") else 1)).all()
            continue
        ends_branch = name.endswith(("projection.weight", "down.weight"))
        expected = 0.02 / 4 if ends_branch else 0.02
        assert abs(weight.std() / expected - 1) < 0.05 and abs(weight.mean()) < 0.1 * expected
    ids = random_ids(4, 64, vocab_size=200)
    assert abs(model.loss(ids, random_ids(4, 64, vocab_size=200, seed=1)) - math.log(200)) < 0.1


# --- precision, devices, compilers ------------------------------------------------------------------------------------


def test_tables_of_angles_are_never_rounded_to_half_precision():
    model = make("modern", dtype=torch.float32)
    exact = make("modern").rotary_cos
    assert exact.dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model.to(dtype)
        assert model.rotary_cos.dtype == torch.float32 and model.embedding.weight.dtype == dtype
        assert (model.rotary_cos - exact).abs().max() < 1e-7
    assert torch.equal(model.double().rotary_cos, exact)
    assert not any("rotary" in name for name in model.state_dict())


@pytest.mark.parametrize("layout", ["gpt2", "modern", "grouped"])
def test_half_precision_and_autocast_work_in_all_ways_to_evaluate(layout):
    """Relative to float32, logits agree to the 8 bits of bfloat16, some tens of operations deep."""
    ids, exact = random_ids(2, T), make(layout, dtype=torch.float32)
    expected = exact(ids)
    cast = make(layout, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = [exact(ids), ob.read_in_steps(exact, ids, [6, 1, 1, T - 8])]
        loss = exact.loss(ids, ids)
        loss.backward()
    found += [cast(ids), ob.read_in_steps(cast, ids, [6, 1, 1, T - 8])]
    for logits in found:
        assert (logits - expected).norm() < 0.05 * expected.norm()
    assert loss.dtype == torch.float32 and abs(loss - ob.autoregressive_loss(expected, ids)) < 0.1
    assert all(p.grad.dtype == torch.float32 for p in exact.parameters())


@layouts
def test_copies_pickles_and_assigned_weights_are_the_same_function(layout):
    """Also a model made without memory: its tables of angles follow the weights that are assigned to it."""
    model, ids = make(layout), random_ids(2, 9)
    with torch.device("meta"):
        empty, assigned = tr.GPT(model.config), tr.GPT(model.config)
    empty.to(torch.float64).to_empty(device="cpu").load_state_dict(model.state_dict())
    assigned.load_state_dict(model.state_dict(), assign=True)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        empty.eval(),
        assigned.eval(),
    ):
        assert torch.equal(twin(ids), model(ids))
        assert (twin.output_weight is twin.embedding.weight) == model.config.tied


@pytest.mark.parametrize("head_dim", [1, 3])
def test_heads_of_odd_width_work_where_nothing_is_rotated(head_dim):
    model = make("gpt2", n_embd=3 * head_dim, qk_norm=True)
    assert max(conformance.check_conformance(model).values()) < 1e-10


@layouts
@pytest.mark.parametrize("length", [1, 2, 7, T])
def test_a_step_of_training_takes_three_times_the_operations_of_a_pass(layout, length):
    """Per position: a pass forwards, and twice as much backwards; what is looked up is free."""
    model = make(layout)
    assert model.flops(length) == 3 * tr.forward_flops(model.config, length) / length


def test_a_model_says_its_blocks_and_the_rows_and_the_past_of_its_state():
    model, ids = (
        make("modern"),
        torch.randint(V, (3, 9), generator=torch.Generator().manual_seed(0)),
    )
    assert model.parts() == list(model.blocks)
    _, state = model.step(ids[:, :6], model.init_state(3))
    chosen = model.select(state, torch.tensor([2, 0, 2]))
    back = model.rewind(state, 4)
    assert back.length == 4 and chosen.length == 6
    for rows, start, one in (([2, 0, 2], 6, chosen), ([0, 1, 2], 4, back)):
        logits, _ = model.step(ids[rows, start:], one)
        assert torch.allclose(logits, model(ids)[rows, start:], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["gpt2", "grouped"])
def test_the_forward_pass_is_one_graph_for_the_compiler(layout):
    """`fullgraph` refuses any Python that depends on data."""
    model, ids = make(layout), random_ids(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(ids), model(ids), rtol=0, atol=1e-12)


# --- looking inside ---------------------------------------------------------------------------------------------------


@layouts
def test_attention_maps_are_the_weights_with_which_values_are_mixed(layout):
    model, ids = make(layout).train(), random_ids(2, 9)
    maps = tr.attention_maps(model, ids)
    c = model.config
    assert maps.shape == (c.n_layer, 2, c.n_head, 9, 9) and model.training
    assert torch.allclose(maps.sum(-1), torch.ones((), dtype=maps.dtype))
    assert (maps.triu(1) == 0).all() and not maps.requires_grad
    mixed = []
    for block in model.blocks:
        block.attention.projection.register_forward_pre_hook(lambda _, a: mixed.append(a[0]))
        block.attention.register_forward_pre_hook(lambda m, a: mixed.append(m.heads(*a[:2])[2]))
    with ob.evaluating(model), torch.no_grad():
        model(ids)
    for weights, v, y in zip(maps, mixed[::2], mixed[1::2], strict=True):
        v = v.repeat_interleave(c.n_head // c.kv_heads, dim=1)
        assert torch.allclose((weights @ v).transpose(1, 2).flatten(2), y, rtol=0, atol=1e-12)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_activations_are_their_formulas():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    exact = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    assert (tr.gelu(x) - exact).abs().max() < 1e-3 and torch.equal(tr.gelu(x * 0), x * 0)
    assert torch.equal(tr.relu2(x), x.clamp(min=0) ** 2)
    pair = torch.stack([x, x + 1], dim=-1)
    assert torch.allclose(tr.swiglu(pair)[:, 0], x / (1 + (-x).exp()) * (x + 1))


# --- files ------------------------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_saved_model_is_read_back_exactly(layout, dtype, tmp_path):
    model, ids = make(layout, dtype=dtype, dropout=0.1), random_ids(1, T)
    model.save(tmp_path / "new" / "folder")
    found = tr.GPT.load(tmp_path / "new" / "folder")
    assert found.config == model.config and not found.training
    assert {n: w.dtype for n, w in found.state_dict().items()} == {
        n: w.dtype for n, w in model.state_dict().items()
    }
    assert torch.equal(found(ids), model(ids))
    found.train().loss(ids, ids).backward()  # its weights learn like any others
    assert all(p.grad is not None for p in found.parameters())
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(
        files.CHECKPOINT_FILES
    )


def test_a_class_derived_from_gpt_loads_as_itself(tmp_path):
    class Mine(tr.GPT):
        pass

    make("gpt2").save(tmp_path)
    assert type(Mine.load(tmp_path)) is Mine


@pytest.fixture
def saved(tmp_path):
    make("modern").save(tmp_path / "ours")
    tr.export_gpt2(make("gpt2", dtype=torch.float32), tmp_path / "gpt2")
    return tmp_path


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    record = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def rewrite_weights(folder, change, metadata=None):
    path = folder / "model.safetensors"
    state, old = files.read_weights(path)
    change(state)
    path.write_bytes(safetensors_bytes(state, old if metadata is None else metadata))


READERS = {"ours": tr.GPT.load, "gpt2": tr.GPT.from_pretrained}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(saved, kind, keep):
    path = saved / kind / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(files.CheckpointError, match="damaged, or not a safetensors file"):
        READERS[kind](saved / kind)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_damaged_configurations_are_refused(saved, kind, content):
    (saved / kind / "config.json").write_bytes(content)
    with pytest.raises(files.CheckpointError, match="config.json"):
        READERS[kind](saved / kind)


@pytest.mark.parametrize("kind", READERS)
def test_pickles_are_not_read(saved, kind):
    path = saved / kind / "model.safetensors"
    torch.save({"wte.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(files.CheckpointError, match="damaged, or not a safetensors file"):
        READERS[kind](saved / kind)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", files.CHECKPOINT_FILES)
def test_missing_files_are_named(saved, kind, name):
    (saved / kind / name).unlink()
    with pytest.raises(files.CheckpointNotFoundError, match=name):
        READERS[kind](saved / kind)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(next(n for n in s if "attn" in n or "qkv" in n)), "lacks"),
        (lambda s: s.update(extra=torch.zeros(2)), "extra"),
        (lambda s: s.update({k: v[:-1].clone() for k, v in s.items()}), "shape"),
        (
            lambda s: s.update(
                {k: torch.zeros(2, 3, 4) for k in s if "c_attn.w" in k or "qkv.w" in k}
            ),
            "shape",
        ),
        (lambda s: s.update({k: v * math.nan for k, v in s.items()}), "not finite"),
        (lambda s: s.update({k: v.long() for k, v in s.items()}), "shape|not finite"),
    ],
)
def test_foreign_weights_are_refused(saved, kind, change, message):
    rewrite_weights(saved / kind, change)
    with pytest.raises(files.CheckpointError, match=message):
        READERS[kind](saved / kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not of the format 'arbook-gpt'"),
        ({"version": 2}, "has version 2"),
        ({"norm_eps": 1e-6}, "belongs to another configuration"),
        ({"n_head": 1}, "belongs to another configuration"),
        ({"surplus": 1}, "belongs to another configuration"),
    ],
)
def test_configurations_that_do_not_belong_to_the_weights_are_refused(saved, changes, message):
    """The shapes of the weights do not tell the number of heads: a silent mixture would be wrong."""
    rewrite_config(saved / "ours", **changes)
    with pytest.raises(files.CheckpointError, match=message):
        tr.GPT.load(saved / "ours")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surplus": 1}, "must set"),
        ({"dropout": ...}, "must set"),
        ({"dropout": 2.0}, "dropout must be at least 0"),
        ({"vocab_size": V + 1}, "asks for"),
        ({"vocab_size": 10**18}, "makes no model"),
        ({"vocab_size": 10**30}, "makes no model"),
        ({"context_length": 10**15}, "out of proportion"),
    ],
)
def test_configurations_of_no_model_are_refused_even_if_the_weights_agree(saved, changes, message):
    rewrite_config(saved / "ours", **changes)
    record = json.loads((saved / "ours" / "config.json").read_text())
    rewrite_weights(saved / "ours", lambda state: None, {"config": json.dumps(record)})
    with pytest.raises(files.CheckpointError, match=message):
        tr.GPT.load(saved / "ours")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type must be 'gpt2', got 'llama'"),
        ({"model_type": ...}, "model_type must be 'gpt2', got None"),
        ({"activation_function": "gelu"}, "activation_function must be 'gelu_new', got 'gelu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_head": ...}, "does not say 'n_head'"),
        ({"n_head": 5}, "n_embd must be a multiple of n_head = 5"),
        ({"n_layer": "2"}, "n_layer must be an integer"),
        ({"n_layer": 3}, "lacks"),
        ({"n_layer": 10**9}, "holds 28 tensors for 1000000000 layers"),
        ({"n_layer": 1}, "does not have"),
        ({"vocab_size": V + 1}, "asks for"),
        ({"tie_word_embeddings": False}, "lacks 'head.weight'"),
        ({"vocab_size": 10**18}, "makes no model"),
    ],
)
def test_configurations_of_other_models_are_refused(saved, changes, message):
    rewrite_config(saved / "gpt2", **changes)
    with pytest.raises(files.CheckpointError, match=message):
        tr.GPT.from_pretrained(saved / "gpt2")


def test_weights_with_and_without_the_prefix_of_gpt2_are_read_but_not_both(saved):
    folder = saved / "gpt2"
    expected = tr.GPT.from_pretrained(folder)(random_ids(1, 5))
    state, _ = files.read_weights(folder / "model.safetensors")
    short = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    rewrite_weights(folder, lambda s: (s.clear(), s.update(short)))
    assert torch.equal(tr.GPT.from_pretrained(folder)(random_ids(1, 5)), expected)
    rewrite_weights(folder, lambda s: s.update({"transformer.wte.weight": torch.zeros(V, 24)}))
    with pytest.raises(files.CheckpointError, match="wte.weight' is there twice"):
        tr.GPT.from_pretrained(folder)


def test_each_reader_names_the_other(saved):
    with pytest.raises(files.CheckpointError, match="read it with GPT.load"):
        tr.GPT.from_pretrained(saved / "ours")
    with pytest.raises(files.CheckpointError, match="read by from_pretrained"):
        tr.GPT.load(saved / "gpt2")


def test_a_killed_save_leaves_the_old_model(tmp_path, monkeypatch):
    """Either old or new, at every point where writing may stop; a mixture is refused."""
    old, new = make("gpt2"), make("gpt2", seed=9)
    old.save(tmp_path)

    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path)
    monkeypatch.undo()
    ids = random_ids(1, 5)
    assert torch.equal(tr.GPT.load(tmp_path)(ids), old(ids))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("layout", ["modern", "grouped", "bare"])
def test_only_the_layout_of_gpt2_has_a_state_dict_of_gpt2(layout, tmp_path):
    model = make(layout)
    for call in (
        lambda: tr.to_gpt2_state_dict(model),
        lambda: tr.from_gpt2_state_dict({}, model.config),
        lambda: tr.export_gpt2(model, tmp_path),
    ):
        with pytest.raises(ValueError, match="must be .* in the layout of GPT-2"):
            call()
    with pytest.raises(ValueError, match="n_kv_head must be n_head"):
        tr.to_gpt2_config(tr.GPTConfig(7, 5, 12, 1, 3, n_kv_head=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_state_dicts_survive_the_translation_both_ways(tied):
    model = make("gpt2", tied=tied)
    theirs = tr.to_gpt2_state_dict(model)
    back = tr.from_gpt2_state_dict(theirs, model.config)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in model.state_dict().items())
    bare = {name.removeprefix("transformer."): weight for name, weight in theirs.items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, T, T), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    again = tr.from_gpt2_state_dict(bare, model.config)  # as in the first published files
    assert all(torch.equal(again[name], back[name]) for name in back)
    with pytest.raises(files.CheckpointError, match="'h.0.attn.rotary.weight' is not the name"):
        tr.from_gpt2_state_dict({"h.0.attn.rotary.weight": torch.ones(1)}, model.config)


def test_a_tied_model_with_two_tables_is_refused():
    model = make("gpt2")
    theirs = tr.to_gpt2_state_dict(model)
    theirs["lm_head.weight"] = theirs["lm_head.weight"] + 1
    with pytest.raises(files.CheckpointError, match="lm_head.weight differs"):
        tr.from_gpt2_state_dict(theirs, model.config)


def test_a_tied_table_is_read_under_either_name():
    model = make("gpt2")
    for lost in ("lm_head.weight", "transformer.wte.weight"):
        theirs = tr.to_gpt2_state_dict(model)
        del theirs[lost]
        ours = tr.from_gpt2_state_dict(theirs, model.config)
        assert ours.keys() == model.state_dict().keys()
        assert torch.equal(ours["embedding.weight"], model.embedding.weight)


# --- GPT-2 of the transformers library --------------------------------------------------------------------------------


def peer(**changes):
    """A small random GPT-2 of another implementation, with weights large enough to matter."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": V, "n_positions": T, "n_embd": 24, "n_layer": 3, "n_head": 4}
    config = transformers.GPT2Config(**{**sizes, **changes})
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.filterwarnings("ignore")  # of the peer
@pytest.mark.parametrize("changes", [{}, {"n_inner": 50}, {"tie_word_embeddings": False}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_are_those_of_transformers_from_the_same_files(changes, dtype, tmp_path):
    """S115: all at once and with the caches of both, 1e-10 in float64 and 1e-4 in float32."""
    theirs = peer(**changes)
    theirs.save_pretrained(tmp_path)
    ours = tr.GPT.from_pretrained(tmp_path).to(dtype)
    theirs.to(dtype)
    ids, tolerance = random_ids(2, T), {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (ours(ids) - expected).abs().max() < tolerance
        assert (ob.read_in_steps(ours, ids, [7, 1, 1, T - 9]) - expected).abs().max() < tolerance
        past, state = None, ours.init_state(2)
        for piece in ids.split([5, 1, 1, T - 7], dim=1):
            answer = theirs(piece, past_key_values=past, use_cache=True)
            past = answer.past_key_values
            logits, state = ours.step(piece, state)
            assert (logits - answer.logits).abs().max() < tolerance
        loss = theirs(ids, labels=ids).loss  # computed in float32 there
        assert abs(ours.loss(ids[:, :-1], ids[:, 1:]) - loss) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_we_write(tied, tmp_path):
    """As a folder and as a state dict; the logits are the same."""
    transformers = pytest.importorskip("transformers")
    ours, ids = make("gpt2", dtype=torch.float32, tied=tied), random_ids(2, T)
    tr.export_gpt2(ours, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert (theirs(ids).logits - ours(ids)).abs().max() < 1e-4
    assert theirs.config.attn_pdrop == 0 and theirs.config.resid_pdrop == ours.config.dropout
    other = transformers.GPT2LMHeadModel(theirs.config).eval()
    other.load_state_dict(tr.to_gpt2_state_dict(ours))
    with torch.no_grad():
        assert (other(ids).logits - ours(ids)).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_keeps_the_tied_table_as_its_head_is_read(tmp_path):
    """`safetensors.torch.save_model` keeps one name of two, and not the one that transformers keeps."""
    from safetensors.torch import save_model

    theirs, ids = peer(), random_ids(2, T)
    theirs.save_pretrained(tmp_path)
    save_model(theirs, str(tmp_path / "model.safetensors"))
    assert "transformer.wte.weight" not in files.read_weights(tmp_path / "model.safetensors")[0]
    with torch.no_grad():
        assert (tr.GPT.from_pretrained(tmp_path)(ids) - theirs(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "name", ["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"]
)
def test_activations_are_read_under_every_name_of_the_same_function(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    if name in transformers.activations.ACT2FN:
        theirs = transformers.activations.ACT2FN[name](x)
        assert torch.allclose(tr.gelu(x), theirs, rtol=0, atol=1e-9)
    record = tr.to_gpt2_config(make("gpt2").config) | {"activation_function": name}
    assert tr.from_gpt2_config(record) == tr.from_gpt2_config(
        tr.to_gpt2_config(make("gpt2").config)
    )


@pytest.mark.parametrize("name", ["gelu", "gelu_10", "quick_gelu", "relu", "silu", "relu2"])
def test_activations_of_another_function_are_refused(name):
    record = tr.to_gpt2_config(make("gpt2").config) | {"activation_function": name}
    with pytest.raises(files.CheckpointError, match="activation_function must be"):
        tr.from_gpt2_config(record)


@pytest.fixture
def in_parts(tmp_path):
    """A folder that transformers wrote in several files, and the model."""
    theirs = peer()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    return tmp_path, theirs


@pytest.mark.filterwarnings("ignore")
def test_weights_in_several_files_are_read(in_parts):
    folder, theirs = in_parts
    ids = random_ids(2, T)
    with torch.no_grad():
        assert (tr.GPT.from_pretrained(folder)(ids) - theirs(ids).logits).abs().max() < 1e-4


INDEX = "model.safetensors.index.json"


def change_index(folder, change):
    record = json.loads((folder / INDEX).read_text())
    change(record["weight_map"])
    (folder / INDEX).write_text(json.dumps(record))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.clear(), files.CheckpointError, "must say in 'weight_map'"),
        (lambda m: m.update(x="../secret.safetensors"), files.CheckpointError, "beside it"),
        (lambda m: m.update(x="/etc/model.safetensors"), files.CheckpointError, "beside it"),
        (lambda m: m.update(x="pytorch_model.bin"), files.CheckpointError, "beside it"),
        (lambda m: m.update(x=3), files.CheckpointError, "beside it"),
        (lambda m: m.update(x="no.safetensors"), files.CheckpointNotFoundError, "no.safetensors"),
        (lambda m: m.update(x=min(m.values())), files.CheckpointError, "lacks 'x', which"),
        (lambda m: m.pop(min(m)), files.CheckpointError, "does not say"),
        (lambda m: m.update({k: max(m.values()) for k in m}), files.CheckpointError, "lacks"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(in_parts, change, error, message):
    change_index(in_parts[0], change)
    with pytest.raises(error, match=message):
        tr.GPT.from_pretrained(in_parts[0])


@pytest.mark.filterwarnings("ignore")
def test_missing_and_damaged_parts_are_named(in_parts):
    folder, _ = in_parts
    part = sorted(folder.glob("model-*.safetensors"))[1]
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(files.CheckpointError, match=f"{part.name} is damaged"):
        tr.GPT.from_pretrained(folder)
    part.unlink()
    with pytest.raises(files.CheckpointNotFoundError, match=f"{part.name} does not exist"):
        tr.GPT.from_pretrained(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(files.CheckpointError, match="not valid JSON"):
        tr.GPT.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
def test_weights_in_several_files_come_from_the_hub(in_parts, monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError

    folder, theirs = in_parts
    asked = []

    def download(repo_id, filename, *, revision=None):
        asked.append(filename)
        if not (folder / filename).is_file():
            raise EntryNotFoundError("404")
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    ids = random_ids(2, T)
    with torch.no_grad():
        found = tr.GPT.from_pretrained("somebody/gpt2")(ids)
        assert (found - theirs(ids).logits).abs().max() < 1e-4
    parts = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert asked == ["config.json", "model.safetensors", INDEX, *parts]


def test_a_folder_that_is_misspelt_is_not_looked_for_on_the_hub(saved, monkeypatch):
    """Unless a revision says that a name of the hub is meant."""
    asked = []

    def download(repo_id, filename, *, revision=None):
        asked.append(repo_id)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.chdir(saved.parent)
    name = f"{saved.name}/gpt-2"
    with pytest.raises(
        files.CheckpointNotFoundError, match=f"no folder here; there is '{saved.name}/gpt2'"
    ):
        tr.GPT.from_pretrained(name)
    for other in (
        "./gpt2",
        str(saved / "gtp2"),
        "a/b/gpt2",
        saved / "missing",
        "-x",
        ".." + "/nowhere",
    ):
        with pytest.raises(files.CheckpointNotFoundError, match="is no folder here"):
            tr.GPT.from_pretrained(other)
    with pytest.raises(files.CheckpointNotFoundError, match="is a file; pass the folder"):
        tr.GPT.from_pretrained(saved / "gpt2" / "config.json")
    assert not asked
    for options in ({"revision": "main"}, {}):
        with pytest.raises(files.CheckpointNotFoundError, match="no route to host"):
            tr.GPT.from_pretrained(name if options else "somebody/gpt2", **options)
    assert asked == [name, "somebody/gpt2"]


def test_names_are_asked_from_the_hub(saved, monkeypatch):
    asked = []

    def download(repo_id, filename, *, revision=None):
        asked.append((repo_id, filename, revision))
        return str(saved / "gpt2" / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = tr.GPT.from_pretrained("somebody/gpt2", revision="main")
    assert torch.equal(found(random_ids(1, 5)), make("gpt2", dtype=torch.float32)(random_ids(1, 5)))
    assert asked == [("somebody/gpt2", name, "main") for name in files.CHECKPOINT_FILES]


def test_without_a_network_the_error_says_what_to_do(monkeypatch, tmp_path):
    def download(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(files.CheckpointNotFoundError, match="no route to host.*pass a folder"):
        tr.GPT.from_pretrained("openai-community/gpt2")
    monkeypatch.undo()
    with pytest.raises(files.CheckpointNotFoundError, match="no folder here"):
        tr.GPT.from_pretrained(tmp_path / "missing" / "folder")
    with pytest.raises(files.CheckpointNotFoundError, match="does not exist"):
        tr.GPT.load(tmp_path / "missing")


def test_the_model_learns():
    """A loss far below the entropy of independent tokens, on a text of period 5: only attention can do that."""
    ids = torch.arange(T).remainder(5)[None].repeat(4, 1)
    ids = (ids + torch.arange(4)[:, None]) % 5
    model = tr.GPT(tr.GPTConfig.modern(5, T, 16, 1, 2), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    assert model.loss(ids[:, :-1], ids[:, 1:]) < 0.2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_save_pretrained_writes_what_from_pretrained_reads_here_and_there(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours, ids = make("gpt2", dtype=torch.float32, tied=tied), random_ids(2, T)
    ours.save_pretrained(tmp_path / "model")
    back = tr.GPT.from_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(back(ids), ours(ids))
        assert (theirs(ids).logits - ours(ids)).abs().max() < 1e-4


def test_save_pretrained_refuses_a_layout_that_is_not_that_of_gpt2(tmp_path):
    with pytest.raises(ValueError, match="positions"):
        make("modern").save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- the pictures of the idea pages -----------------------------------------------------------------------------------


def drawn(name: str) -> str:
    return (ROOT / "nbs" / "pictures" / f"{name}.svg").read_text("utf8")


def test_arcs_are_as_thick_as_the_weights_that_they_show():
    keys = torch.tensor([1.0, 2.0, 3.0]).log()[:, None]
    weights = tr.attention_weights(torch.ones(3, 1), keys)[-1]
    widths = re.findall(r'class="line now"[^>]* stroke-width="(\d+)"', drawn("attention-arcs"))
    thick = torch.tensor([float(width) for width in widths])
    assert torch.allclose(thick / thick.sum(), weights)
    assert (weights @ torch.tensor([6.0, 0.0, 12.0])).item() == pytest.approx(7)
    assert "= 7</text>" in drawn("attention-arcs")


def test_the_drawn_staircases_are_those_of_the_masks():
    seen = [sign == "0" for sign in re.findall(r">(0|−∞)</text>", drawn("staircase"))]
    assert torch.equal(torch.tensor(seen).view(6, 6), tr.causal_mask(6, 6))
    cells = re.findall(r'class="fill (off|past|now)"', drawn("mask-trap"))
    by_torch, wanted = torch.tensor([cell != "off" for cell in cells]).view(2, 2, 6)
    assert torch.equal(wanted, tr.causal_mask(2, 6))
    assert torch.equal(by_torch, torch.ones(2, 6).bool().tril())


def test_the_drawn_cache_keeps_what_came_before_and_adds_one():
    shapes = re.findall(r'class="(fill past|fill now|line mute)"[^>]* height="28"', drawn("cache"))
    for t, row in enumerate(torch.arange(30).view(5, 6).tolist()):
        kinds = [shapes[i] for i in row]
        assert kinds == ["fill past"] * t + ["fill now"] + ["line mute"] * (5 - t)


def test_the_drawn_window_reaches_as_far_as_two_layers_of_it():
    """Each layer reaches w - 1 places further back, so two windows of three see five tokens, two of them outside."""
    dots = re.findall(r'<circle class="fill (\w+)"[^>]* cy="(\d+)"', drawn("window-stack"))
    tokens = [kind for kind, height in dots if height == "140"]
    assert tokens == ["off"] * 2 + ["now"] * 2 + ["past"] * 3
