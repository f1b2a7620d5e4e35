"""Decoders that write what their model writes: packed weights, fixed shapes, whatever changes in between."""

import copy
import io
import pickle

import pytest
import torch
from arbook import conformance
from arbook import decoders as de
from arbook import objective as ob
from arbook import rules as ru
from arbook import sampling as sa
from arbook.transformer import GPT
from writers import LAYOUTS, V, make_gpt, make_ngram, seed, seeds

# --- packed weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["modern", "gpt-2", "grouped", "bare"])
def test_a_packed_model_is_the_same_function(layout):
    """In one pass, in steps, in batches of other sizes; it shares what is not packed, and leaves the model alone."""
    model = make_gpt(torch.float32, **LAYOUTS[layout]).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    packed = de.pack(model, batch_size=2)
    assert model.training and not packed.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert packed.embedding.weight is model.embedding.weight
    assert isinstance(packed.blocks[0].mlp.up, de.PackedLinear)
    model.eval()
    for B in (1, 2, 5):
        ids = torch.randint(V, (B, 12), generator=seed(B))
        with torch.no_grad():
            assert torch.allclose(packed(ids), model(ids), rtol=0, atol=1e-4)
    assert max(conformance.check_conformance(packed).values()) < 1e-4
    texts = [
        sa.generate(m, [[1], [2, 3]], max_new_tokens=25, generator=seeds(2)).ids
        for m in (packed, model)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*texts, strict=True))


def test_what_cannot_be_packed_is_copied():
    model = make_gpt()
    copied, ids = de.pack(model), torch.tensor([[1, 2, 3]])
    assert copied is not model and torch.equal(copied(ids), model(ids))
    with pytest.raises(TypeError, match="model must be a GPT"):
        de.pack(make_ngram())


def test_a_packed_model_follows_its_model():
    """New weights, copies, saved files, gradients and another dtype: all are right, with or without the second copy."""
    model, ids = make_gpt(torch.float32), torch.tensor([[1, 2, 3]])
    packed = de.pack(model)
    assert packed.state_dict().keys() == model.state_dict().keys()
    for same in (copy.deepcopy(packed), de.pack(packed), pickle.loads(pickle.dumps(packed))):
        with torch.no_grad():
            assert torch.allclose(same(ids), model(ids), rtol=0, atol=1e-4)
    gradients = []
    for m in (model, packed):
        m.zero_grad()
        m.loss(ids, ids).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)
    with torch.no_grad():
        before = packed(ids)
        model.blocks[0].mlp.up.weight.mul_(-1)
        assert not torch.allclose(packed(ids), before, rtol=0, atol=1e-3)
        assert torch.allclose(packed(ids), model(ids), rtol=0, atol=1e-5)
        assert packed.double()(ids).dtype == torch.float64


def descend(kind, model):
    """One step of an optimiser."""
    make = {
        "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
        "foreach adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
        "fused sgd": lambda p: torch.optim.SGD(p, lr=1.0, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        "muon": lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=0.1),
    }[kind]
    optimizer = make(list(model.parameters()))
    ids = torch.tensor([[1, 2, 3, 4]])
    model.loss(ids, ids).backward()
    optimizer.step()


def with_numpy(model):
    model.blocks[1].mlp.down.weight.detach().numpy()[3, 5] += 1  # a single number


def with_data(model):
    model.blocks[0].attention.qkv.weight.data[-1, -1] += 2.0


def with_another_tensor(model):
    for part in model.blocks:
        part.mlp.up.weight.data = part.mlp.up.weight.data.flip(0)


def with_a_swap(model):
    """Exchange two neurons of one matrix: every sum of the numbers stays what it was."""
    weight = model.blocks[0].mlp.down.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def with_a_state(model):
    model.load_state_dict({k: -v for k, v in model.state_dict().items()})


def with_foreach(model):
    with torch.no_grad():
        torch._foreach_mul_([p for p in model.parameters()], 0.5)


def with_averaging(model):
    other = make_gpt(torch.float32, seed=7)
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.lerp_(q, 0.5)


def with_copy(model):
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.copy_(2 * model.blocks[0].mlp.up.weight)


OPTIMIZERS = ["fused adamw", "adamw", "foreach adamw", "fused sgd", "sgd", "muon"]

CHANGES = {kind: (lambda model, kind=kind: descend(kind, model)) for kind in OPTIMIZERS}

CHANGES |= {
    f.__name__: f
    for f in (
        with_numpy,
        with_data,
        with_another_tensor,
        with_a_swap,
        with_a_state,
        with_foreach,
        with_averaging,
        with_copy,
    )
}


def assert_same_function(packed, model):
    """In all ways to evaluate it: in one pass, in steps, in a static decoder, in a generated text."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        expected = model(ids)
        assert torch.allclose(packed(ids), expected, rtol=0, atol=1e-4)
        assert torch.allclose(packed.loss(ids, ids), model.loss(ids, ids), atol=1e-5)
        for one in (packed, de.StaticDecoder(packed, compile=False)):
            for sizes in ([1] * 6, [3, 1, 2]):
                read = ob.read_in_steps(one, ids, sizes)
                assert torch.allclose(read, expected, rtol=0, atol=1e-4)
    options = {"max_new_tokens": 8, "sampler": ru.Greedy()}
    pair = [sa.generate(m, [1], **options).log_probs[0] for m in (packed, model)]
    assert torch.allclose(*pair, rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", CHANGES)
def test_a_packed_model_has_the_weights_of_its_model_whatever_changes_them(how):
    """Also those of which PyTorch keeps no count; before and after, and again."""
    model = make_gpt(torch.float32)
    packed = de.pack(model)
    assert_same_function(packed, model)
    for _ in range(2):
        before = model(torch.tensor([[1, 2]])).detach()
        CHANGES[how](model)
        assert (model(torch.tensor([[1, 2]])) - before).abs().max() > 1e-3
        assert_same_function(packed, model)


@pytest.mark.parametrize("how", [*OPTIMIZERS, "with_a_state", "with_foreach", "with_averaging"])
def test_weights_that_change_in_the_middle_of_a_text_are_seen(how):
    """The cache is then of no model; but what reads it is the same function, packed or not."""
    model = make_gpt(torch.float32)
    packed, ids, found = de.pack(model), torch.tensor([[1, 2, 3, 4]]), []
    states = [m.init_state(1) for m in (packed, model)]
    for m, state in zip((packed, model), states, strict=True):
        m.next_logits(ids, state)
    CHANGES[how](model)
    for m, state in zip((packed, model), states, strict=True):
        found.append(m.next_logits(ids[:, :1], state)[0])
    assert torch.allclose(*found, rtol=0, atol=1e-4)


def test_a_copy_of_a_packed_model_has_weights_of_its_own():
    """Also where it reads into a cache: it is not the model from which it was copied that reads there."""
    packed = de.pack(make_gpt(torch.float32))
    before = packed(torch.tensor([[1, 2]])).detach()
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        other.blocks[0].mlp.up.weight.data.mul_(3)
        assert_same_function(other, de.pack(other))
        with torch.no_grad():
            expected = other(torch.tensor([[1, 2]]))
            read = ob.read_in_steps(other, torch.tensor([[1, 2]]), [1, 1])
        assert torch.allclose(read, expected, rtol=0, atol=1e-4)
        assert not torch.allclose(expected, before, rtol=0, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(packed(torch.tensor([[1, 2]])), before)


def test_packed_weights_do_serve():
    """They are what is multiplied, in a text, at every step: without that all tests of them are empty."""
    packed = de.pack(make_gpt(torch.float32))
    layer = packed.blocks[0].mlp.up
    if not isinstance(layer, de.PackedLinear):
        pytest.skip("this PyTorch, or this processor, cannot pack")
    state = packed.init_state(1)
    packed.next_logits(torch.tensor([[1]]), state)
    first = layer.packed
    assert first is not None
    packed.next_logits(torch.tensor([[2]]), state)
    assert layer.packed is first  # nothing has changed: not made again
    other = torch.ops.mkldnn._reorder_linear_weight(torch.zeros_like(layer.weight), 1)
    before = packed.next_logits(torch.tensor([[3]]), state.copy())[0]
    layer.packed = other
    assert not torch.allclose(packed.next_logits(torch.tensor([[3]]), state)[0], before)


@pytest.mark.parametrize("where", ["made", "made and packed", "packed", "used"])
def test_models_of_inference_mode_can_be_packed(where, tmp_path):
    with torch.inference_mode(where in ("made", "made and packed")):
        model = make_gpt(torch.float32)
    with torch.inference_mode(where in ("packed", "made and packed")):
        packed = de.pack(model)
    with torch.inference_mode(where == "used"):
        assert_same_function(packed, model)
    model.save(tmp_path)
    with torch.inference_mode():
        loaded = GPT.load(tmp_path)
    assert_same_function(de.pack(loaded), model)


def test_a_class_derived_from_gpt_is_packed_as_itself():
    model = make_gpt(torch.float32)
    derived = Doubled(model.config)
    derived.load_state_dict(model.state_dict())
    packed = de.pack(derived.eval())
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        read = ob.read_in_steps(packed, ids, [2, 1, 1])
        assert isinstance(packed, Doubled)
        assert torch.allclose(packed(ids), 2 * model(ids), rtol=0, atol=1e-4)
        assert torch.allclose(read, 2 * model(ids), rtol=0, atol=1e-4)


def test_the_weights_of_a_packed_model_are_saved_and_loaded_without_running_code():
    """What lies beside the weights are plain numbers too, as for any other module."""
    model = make_gpt(torch.float32)
    packed, file = de.pack(model), io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], w) for name, w in model.state_dict().items())
    versions = [about["version"] for about in packed.state_dict()._metadata.values()]
    assert all(isinstance(version, int) for version in versions)


def test_without_the_private_operations_a_model_is_only_copied(monkeypatch):
    model = make_gpt(torch.float32)

    def broken(*args):
        raise RuntimeError("no such operation on this processor")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", broken)
    copied = de.pack(model)
    assert not any(isinstance(part, de.PackedLinear) for part in copied.modules())
    assert copied.embedding.weight is model.embedding.weight


# --- static shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_static_steps_are_steps(layout, dtype):
    """At every position of the context, with old rubbish in the cache."""
    model = make_gpt(dtype, **LAYOUTS[layout])
    ids = torch.randint(V, (3, 12), generator=seed(0))
    decoder, tolerance = de.StaticDecoder(model, 3), 1e-10 if dtype == torch.float64 else 1e-4
    decoder.cache.keys.fill_(100), decoder.cache.values.fill_(-100)
    for prefix in (1, 5):
        state, expected = decoder.init_state(3), model(ids)
        logits, state = decoder.next_logits(ids[:, :prefix], state)
        assert torch.allclose(logits, expected[:, prefix - 1], rtol=0, atol=tolerance)
        for t in range(prefix, 12):
            logits, state = decoder.step(ids[:, t : t + 1], state)
            assert torch.allclose(logits[:, 0], expected[:, t], rtol=0, atol=tolerance)
    with pytest.raises(ValueError, match="the context is full"):
        decoder.next_logits(ids[:, :1], state)


class Doubled(GPT):
    """A reader's class: another function, told in one place."""

    def hidden(self, ids, cache=None):
        return 2 * super().hidden(ids, cache)


class Capped(GPT):
    """Another one, whose logits are bounded."""

    def forward(self, ids):
        return 3 * torch.tanh(super().forward(ids) / 3)

    def next_logits(self, ids, state):
        logits, state = super().next_logits(ids, state)
        return 3 * torch.tanh(logits / 3), state


@pytest.mark.parametrize("kind", [Doubled, Capped])
def test_a_static_decoder_is_the_function_of_a_derived_class(kind):
    plain = make_gpt()
    model = kind(plain.config).double()
    model.load_state_dict(plain.state_dict())
    model.eval()
    decoder, ids = de.StaticDecoder(model, 2), torch.randint(V, (2, 12), generator=seed(0))
    state, expected = decoder.init_state(2), model(ids)
    assert not torch.allclose(expected, plain(ids), atol=1e-2)
    for t in range(12):
        logits, state = decoder.next_logits(ids[:, t : t + 1], state)
        assert torch.allclose(logits, expected[:, t], rtol=0, atol=1e-10)


def test_a_static_step_serves_itself_of_packed_weights():
    """They are what is multiplied there, and are made anew when a text begins."""
    packed = de.pack(make_gpt(torch.float32))
    layer = packed.blocks[0].mlp.up
    if not isinstance(layer, de.PackedLinear):
        pytest.skip("this PyTorch, or this processor, cannot pack")
    decoder, one = de.StaticDecoder(packed, compile=False), torch.tensor([[1]])
    _, state = decoder.next_logits(one, decoder.init_state(1))
    first = layer.packed
    assert first is not None
    decoder.next_logits(one, state)
    assert layer.packed is first
    decoder.next_logits(one, decoder.init_state(1))
    assert layer.packed is not first


def test_a_static_decoder_takes_the_place_of_its_model():
    """In generation, beyond the context, and as the target or draft of a speculation."""
    model = make_gpt()
    decoder = de.StaticDecoder(model, 2)
    options = {"max_new_tokens": 30, "stop": 0}
    for keep in (None, 5):
        ours, theirs = (
            sa.generate(m, [[1], [2, 3]], generator=seeds(2), keep=keep, **options)
            for m in (decoder, model)
        )
        assert all(torch.equal(a, b) for a, b in zip(ours.ids, theirs.ids, strict=True))
    single = de.StaticDecoder(model, 1)
    pair = sa.speculative_generate(
        single, make_ngram(), [1], max_new_tokens=20, sampler=ru.Greedy()
    )
    assert torch.equal(
        pair.ids[0], sa.generate(model, [1], max_new_tokens=20, sampler=ru.Greedy()).ids[0]
    )
    assert torch.equal(decoder(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))


def test_static_decoders_name_what_is_wrong():
    model = make_gpt()
    decoder = de.StaticDecoder(model, 2)
    with pytest.raises(TypeError, match="model must be a GPT"):
        de.StaticDecoder(make_ngram())
    with pytest.raises(ValueError, match="batch_size must be 2, got 1"):
        sa.generate(decoder, [0], max_new_tokens=2)
    with pytest.raises(ValueError, match="state must come from init_state of this decoder"):
        decoder.next_logits(torch.zeros(2, 1, dtype=torch.int64), model.init_state(2))
    with pytest.raises(ValueError, match="between 0 and 6"):
        decoder.next_logits(torch.full((2, 1), 9), decoder.init_state(2))
    with pytest.raises(ValueError, match="beam_search, need the decoder's .model"):
        sa.beam_search(de.StaticDecoder(model), [0], max_new_tokens=3)
    with pytest.raises(ValueError, match="batch_size must be 2, got 1: .* use its .model"):
        sa.beam_search(decoder, [0], max_new_tokens=3)


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3]])
def test_a_text_whose_decoder_begins_another_one_cannot_go_on(prompt):
    """Before, it went on with the keys of the other."""
    model = make_gpt()
    decoder = de.StaticDecoder(model)
    options = {"max_new_tokens": 30, "sampler": ru.Greedy()}
    first = sa.stream(decoder, prompt, **options)
    next(first), next(first)
    second = sa.stream(decoder, [4, 5], **options)
    shown = [next(second)]
    with pytest.raises(ValueError, match="another text has begun in it"):
        next(first)
    ids = torch.cat([step.ids for step in shown + list(second)])
    assert torch.equal(ids, sa.generate(model, [4, 5], **options).ids[0])
    state = decoder.init_state(1)
    decoder.init_state(1)
    for read in (decoder.step, decoder.next_logits):
        with pytest.raises(ValueError, match="state must come from init_state of this decoder"):
            read(torch.tensor([prompt]), state)
    with pytest.raises(ValueError, match="another text has begun in it"):
        sa.speculative_generate(decoder, decoder, [1], max_new_tokens=9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_writes_what_the_model_writes(compiled):
    model = make_gpt(torch.float32, T=64).cuda()
    decoder = de.StaticDecoder(model, 2, compile=compiled)
    ids = torch.randint(V, (2, 40), generator=seed(0)).cuda()
    state = decoder.init_state(2)
    for t in range(40):
        logits, state = decoder.next_logits(ids[:, t : t + 1], state)
        assert torch.allclose(logits, model(ids[:, : t + 1])[:, -1], atol=1e-3)
    for generators in (seeds(2), [torch.Generator("cuda").manual_seed(i) for i in range(2)]):
        found = sa.generate(decoder, [[1], [2, 3]], max_new_tokens=90, generator=generators, stop=0)
        assert all(0 < len(row) <= 90 for row in found.ids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts while it compiles
def test_a_compiled_step_is_the_step():
    model = make_gpt(torch.float32)
    decoder = de.StaticDecoder(model, 1, compile=True)
    texts = [
        sa.generate(m, [1, 2], max_new_tokens=8, sampler=ru.Greedy()).ids[0]
        for m in (decoder, model)
    ]
    assert torch.equal(*texts)
