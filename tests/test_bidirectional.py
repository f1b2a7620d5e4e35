"""Masks, blanks, orders, middles at the end, and the alarm: against definitions, enumeration and an exact model."""

import itertools
import math

import numpy as np
import pytest
import torch
from arbook.bidirectional import (
    LeakError,
    LeftToRight,
    MaskedTransformer,
    any_order_loss,
    attention_mask,
    fim,
    fim_inverse,
    leak_alarm,
    log_odds_ratios,
    mlm_batch,
    order_log_prob,
    pseudo_log_prob,
    pseudo_perplexity,
    unmask,
)
from arbook.compression import compress, decompress
from arbook.conformance import check_conformance
from arbook.losses import IGNORE
from arbook.objective import causal_check
from arbook.perplexity import score
from arbook.sampling import generate
from arbook.sources import MarkovSource, sources
from arbook.transformer import GPT, GPTConfig, KVCache, causal_attention
from bench.bidirectional import posteriors
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import rng
from torch import Tensor

V, T = 2, 4
KINDS = ("causal", "full", "prefix", "sliding", "segments")
TEXTS = torch.tensor(list(itertools.product(range(V), repeat=T)))


class Exact:
    """Fills in blanks as a joint distribution has it: by the definition of conditional probability."""

    mask_id = V

    def __init__(self, weights: np.ndarray):
        self.p = torch.as_tensor(weights / weights.sum())  # (V ** T,)

    def __call__(self, ids: Tensor) -> Tensor:
        differs = (ids[:, None] != TEXTS) & (ids[:, None] != V)  # (B, N, T): from each text
        others = differs.sum(-1, keepdim=True) - differs.long()  # elsewhere than at t
        p = self.p[:, None] * (others == 0)  # (B, N, T)
        return torch.stack([(p * (TEXTS == v)).sum(1) for v in range(V)], dim=-1).log()


@pytest.fixture(scope="module")
def exact() -> Exact:
    return Exact(np.random.default_rng(0).gamma(0.5, size=V**T) + 0.01)


def tiny(vocab_size: int = 8, outputs: int | None = None, seed: int = 0, **changes):
    config = GPTConfig.modern(vocab_size, 12, 16, 2, 2, **changes)
    model = MaskedTransformer(config, outputs or vocab_size - 1, generator=rng(seed)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.ndim == 2 else 1)  # or it would hardly look at its neighbours
    return model.eval()


# Masks


def sees(kind: str, i: int, j: int, size: int | None) -> bool:
    if kind == "full":
        return True
    if kind == "prefix" and j < size:
        return True
    if j > i:
        return False
    if kind == "sliding":
        return i - j < size
    if kind == "segments":
        return j >= (i // size) * size - size
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", range(1, 9))
def test_masks_equal_their_definitions(kind, n):
    for size in [None] if kind in ("causal", "full") else range(1, 11):
        wanted = [[sees(kind, i, j, size) for j in range(n)] for i in range(n)]
        assert attention_mask(kind, n, size).tolist() == wanted


def test_a_mask_of_documents_stops_at_their_borders():
    documents = torch.tensor([[0, 0, 7, 7, 7], [1, 2, 2, 1, 1]])
    mask = attention_mask("causal", 5, documents=documents)
    for b, i, j in np.ndindex(2, 5, 5):
        assert mask[b, i, j] == (j <= i and documents[b, i] == documents[b, j])
    assert torch.equal(mask[0], attention_mask("causal", 5, documents=documents[0]))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("half", 3), {}, ValueError, "kind"),
        (("causal", 0), {}, ValueError, "T must be"),
        (("causal", 3, 2), {}, ValueError, "size is not needed"),
        (("sliding", 3), {}, ValueError, "size must be"),
        (("sliding", 3, 0), {}, ValueError, "size"),
        (("prefix", 3, 1.5), {}, TypeError, "size"),
        (
            ("full", 3),
            {"documents": torch.zeros(2).long()},
            ValueError,
            "documents must have shape",
        ),
        (("full", 3), {"documents": torch.zeros(3)}, TypeError, "documents"),
        (("full", 3), {"documents": [0, 0, 1]}, TypeError, "documents"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(arguments, options, error, said):
    with pytest.raises(error, match=said):
        attention_mask(*arguments, **options)


# A Transformer under a mask


def test_under_a_causal_mask_the_blocks_are_those_of_a_gpt():
    for layout in ({}, {"n_kv_head": 1}, {"positions": "learned", "qk_norm": False}):
        model = tiny(**layout)
        ids = torch.randint(7, (2, 9), generator=rng())
        plain = model.head(model.body.hidden(ids))
        assert torch.allclose(model(ids, attention_mask("causal", 9)), plain, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_an_output_depends_on_what_the_mask_shows_in_as_many_steps_as_layers(seed):
    mask = torch.rand(6, 6, generator=rng(seed)) < 0.25
    mask |= torch.eye(6, dtype=torch.bool)
    reached = torch.eye(6, dtype=torch.int64)
    for _ in range(2):  # layers
        reached = ((mask.long() @ reached) > 0).long()
    model = tiny()
    found = causal_check(
        lambda x: model(x, mask), torch.randint(7, (3, 6), generator=rng()), vocab_size=8
    )
    assert torch.equal(found, reached.bool())


def test_attention_under_a_mask_is_the_mean_of_what_is_seen():
    model = tiny(5, 3)
    layer = model.body.blocks[0].attention
    x = torch.randn(1, 5, 16, dtype=torch.float64, generator=rng())
    mask = torch.tensor(
        [[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [1, 0, 0, 0, 1]]
    ).bool()
    from arbook.bidirectional import _View

    rotary = model.body.rotary_cos[:5], model.body.rotary_sin[:5]
    q, k, v = (part.detach() for part in layer.heads(x, rotary))  # (1, H, T, D)
    found = _View(mask).attend(0, q, k, v)
    for h, i in np.ndindex(2, 5):
        seen = mask[i].nonzero()[:, 0]
        w = np.exp([float(q[0, h, i] @ k[0, h, j]) / math.sqrt(8) for j in seen])
        wanted = sum(a * v[0, h, j].detach() for a, j in zip(w / w.sum(), seen, strict=True))
        assert torch.allclose(found[0, h, i], wanted, atol=1e-12)


def test_packed_documents_are_read_as_if_each_stood_alone():
    model, parts = tiny(), [torch.randint(7, (1, n), generator=rng(n)) for n in (3, 5, 4)]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor([3, 5, 4]))
    for kind in ("causal", "full"):
        packed = model(torch.cat(parts, 1), attention_mask(kind, 12, documents=documents))
        alone = [model(part, attention_mask(kind, part.shape[1])) for part in parts]
        assert torch.allclose(packed, torch.cat(alone, 1), atol=1e-10)


def test_each_row_can_have_a_mask_of_its_own():
    model, ids = tiny(), torch.randint(7, (2, 6), generator=rng())
    masks = torch.stack([attention_mask("causal", 6), attention_mask("full", 6)])
    both = model(ids, masks)
    assert torch.allclose(both[:1], model(ids[:1], masks[0]), atol=1e-12)
    assert torch.allclose(both[1:], model(ids[1:]), atol=1e-12)


class LastTwoSegments(KVCache):
    """The recurrence of Transformer-XL: keys and values of the segment before stay, older ones are dropped."""

    def attend(self, layer, q, k, v):
        k, v = (past[:, :, -2 * q.shape[2] :] for past in self.write(layer, k, v))
        return causal_attention(q, k, v)


def test_segments_with_a_memory_are_one_pass_under_a_mask():
    model, n = tiny(), 3
    ids = torch.randint(7, (2, 12), generator=rng())
    sizes = model.body.config.cache_shape(2)
    memory = LastTwoSegments(*sizes, dtype=torch.float64)
    with torch.no_grad():
        parts = [model.body.hidden(part, memory) for part in ids.split(n, dim=1)]
        whole = model(ids, attention_mask("segments", 12, n))
    assert torch.allclose(model.head(torch.cat(parts, 1)), whole, atol=1e-10)


def test_gradients_flow_under_a_mask_and_not_through_a_cache():
    model, ids = tiny(), torch.randint(7, (2, 6), generator=rng())
    model(ids).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not model.body.hidden(ids, model.body.init_state(2)).requires_grad


@pytest.mark.parametrize(
    ("mask", "error", "said"),
    [
        (torch.ones(6, 6), TypeError, "truth values"),
        ([[True]], TypeError, "truth values"),
        (torch.ones(6, dtype=torch.bool), ValueError, "shape"),
        (torch.ones(5, 5, dtype=torch.bool), ValueError, r"\(6, 6\)"),
        (torch.ones(3, 6, 6, dtype=torch.bool), ValueError, r"\(2, 6, 6\)"),
        (torch.ones(6, 6, dtype=torch.bool).tril(-1), ValueError, "row .0. is empty"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, error, said):
    with pytest.raises(error, match=said):
        tiny()(torch.zeros(2, 6).long(), mask)


# Blanks


def test_of_the_chosen_tokens_most_become_blanks_and_some_others():
    ids = torch.randint(50, (400, 40), generator=rng())
    inputs, targets = mlm_batch(ids, 50, rate=0.2, generator=rng(1))
    chosen = targets != IGNORE
    assert (chosen.sum(1) == 8).all()
    assert torch.equal(targets[chosen], ids[chosen]) and torch.equal(inputs[~chosen], ids[~chosen])
    n = int(chosen.sum())
    changed = chosen & (inputs != ids) & (inputs != 50)
    for count, p in ((int((inputs == 50).sum()), 0.8), (int(changed.sum()), 0.1 * 49 / 50)):
        assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p))
    assert len(inputs[changed].unique()) == 50
    places = chosen.sum(0).double()  # no place is preferred
    assert (places - 80).abs().max() < 5 * math.sqrt(400 * 0.2 * 0.8)


def test_at_least_one_token_is_chosen_and_all_if_asked():
    ids = torch.randint(5, (3, 4), generator=rng())
    assert ((mlm_batch(ids, 5, rate=0)[1] != IGNORE).sum(1) == 1).all()
    inputs, targets = mlm_batch(ids, 5, rate=1, blank=1, swapped=0)
    assert (inputs == 5).all() and torch.equal(targets, ids)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"rate": 1.5}, "rate"), ({"blank": -0.1}, "blank"), ({"blank": 0.95}, "blank . swapped")],
)
def test_shares_that_are_none_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        mlm_batch(torch.zeros(1, 4).long(), 5, **options)
    with pytest.raises(ValueError, match="ids"):
        mlm_batch(torch.tensor([[5]]), 5)


def test_pseudo_log_probs_are_the_conditionals_of_a_joint(exact):
    found = pseudo_log_prob(exact, TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        for t in range(T):
            fits = (TEXTS == text).sum(1) - (TEXTS[:, t] == text[t]).long() == T - 1
            assert row[t] == pytest.approx(
                math.log(exact.p[(TEXTS == text).all(1)].item() / exact.p[fits].sum().item())
            )
    assert pseudo_perplexity(exact, TEXTS) == pytest.approx(math.exp(-found.mean()))


def test_the_pseudo_likelihood_of_doubled_words_is_one_and_its_sum_is_not():
    # Texts a a b b: each token is certain given its twin.
    doubled = (TEXTS[:, ::2] == TEXTS[:, 1::2]).all(1)
    model = Exact(doubled.numpy() + 1e-300)
    assert pseudo_perplexity(model, TEXTS[doubled]) == pytest.approx(1)
    assert pseudo_log_prob(model, TEXTS[doubled]).sum(1).exp().sum() == pytest.approx(4)
    assert order_log_prob(model, TEXTS[doubled], range(T)).sum(1).exp().sum() == pytest.approx(1)


def test_both_sides_say_the_same_odds_if_there_is_a_joint(exact):
    for i, j in itertools.permutations(range(T), 2):
        found = log_odds_ratios(exact, TEXTS, i, j, (0, 1), (0, 1))
        assert torch.allclose(found[:, 0], found[:, 1], atol=1e-12)
        p = exact.p.reshape((V,) * T).movedim((i, j), (0, 1))  # the joint, by its axes
        odds = (p[0, 0] * p[1, 1] / (p[1, 0] * p[0, 1])).log()
        rest = [t for t in range(T) if t not in (i, j)]
        assert torch.allclose(found[:, 0], odds[tuple(TEXTS[:, rest].T)], atol=1e-12)


def test_a_network_that_nobody_ties_to_a_joint_says_different_odds():
    ids = torch.randint(7, (20, 6), generator=rng())
    found = log_odds_ratios(tiny(), ids, 1, 4, (0, 1), (2, 3))
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="i and j"):
        log_odds_ratios(tiny(), ids, 1, 1, (0, 1), (2, 3))
    with pytest.raises(ValueError, match="i and j"):
        log_odds_ratios(tiny(), ids, 0, 6, (0, 1), (2, 3))


# Orders


def test_every_order_gives_the_joint_if_there_is_one(exact):
    for order in itertools.permutations(range(T)):
        found = order_log_prob(exact, TEXTS, order).sum(1)
        assert torch.allclose(found, exact.p.log(), atol=1e-12)


def test_every_order_of_any_network_sums_to_one():
    model = tiny(4, 3)
    texts = torch.tensor(list(itertools.product(range(3), repeat=4)))
    sums, first = [], []
    for order in itertools.permutations(range(4)):
        found = order_log_prob(model, texts, order).sum(1)
        sums.append(found.exp().sum().item())
        first.append(found[5].item())
    assert np.allclose(sums, 1, atol=1e-12)
    assert max(first) - min(first) > 0.1  # and yet the orders disagree


def test_an_order_has_to_be_one(exact):
    for order in ([0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="order"):
            order_log_prob(exact, TEXTS, order)


def test_the_loss_of_random_blanks_is_the_mean_over_all_orders():
    model = tiny(4, 3)
    text = torch.tensor([[2, 0, 1, 1]])
    orders = list(itertools.permutations(range(4)))
    wanted = -np.mean([order_log_prob(model, text, o).sum().item() for o in orders]) / 4
    with torch.no_grad():
        drawn = any_order_loss(model, text.expand(6_000, -1), generator=rng(3))
    assert abs(drawn.mean() - wanted) < 4.5 * drawn.std() / 6_000**0.5


def test_blanks_filled_one_by_one_follow_the_joint(exact):
    n = 3_000
    seen = unmask(exact, torch.full((n, T), V), generator=rng(2))
    counts = torch.bincount(seen @ (V ** torch.arange(T - 1, -1, -1)), minlength=V**T)
    chi_square = ((counts - n * exact.p) ** 2 / (n * exact.p)).sum()
    assert chi_square < 45  # 15 degrees of freedom: one in ten thousand


def test_blanks_filled_at_once_are_independent_of_each_other():
    same = (TEXTS == TEXTS[:, :1]).all(1)  # all tokens are equal
    model = Exact(same.numpy() + 1e-300)
    at_once = unmask(model, torch.full((600, T), V), steps=1, generator=rng(2))
    share = (at_once == at_once[:, :1]).all(1).double().mean()
    assert abs(share - 1 / 8) < 4.5 * math.sqrt(1 / 8 * 7 / 8 / 600)
    one_by_one = unmask(model, torch.full((50, T), V), generator=rng(2))
    assert (one_by_one == one_by_one[:, :1]).all()


def test_what_is_no_blank_stays_and_every_blank_is_filled():
    model = tiny()
    ids = torch.randint(8, (30, 9), generator=rng())  # blanks at random, in some rows many
    ids[0], ids[1] = 7, 3
    for steps in (None, 1, 2, 5, 100):
        filled = unmask(model, ids, steps=steps, generator=rng(1))
        assert torch.equal(filled[ids != 7], ids[ids != 7]) and (filled < 7).all()
    assert (ids[0] == 7).all()  # what was given is not changed
    with pytest.raises(ValueError, match="steps"):
        unmask(model, ids, steps=0)


def test_the_order_from_left_to_right_makes_a_language_model():
    inner = tiny()
    model = LeftToRight(inner, 12)
    assert max(check_conformance(model).values()) < 1e-9
    ids = torch.randint(7, (2, 12), generator=rng())
    by_order = order_log_prob(inner, ids, range(12))[:, 1:]
    logits = model(ids[:, :-1]).log_softmax(-1)
    assert torch.allclose(logits.gather(-1, ids[:, 1:, None])[..., 0], by_order, atol=1e-12)
    judged = score(model, ids[0], context_length=11, stride=11)
    assert judged.nll / judged.n_tokens == pytest.approx(-by_order[0].mean().item())
    assert len(generate(model, ids[0, :3].tolist(), max_new_tokens=5, generator=rng()).ids[0]) == 5


def test_a_masked_model_compresses_by_the_order_from_left_to_right():
    inner = MaskedTransformer(GPTConfig(257, 8, 8, 1, 2), 256, generator=rng()).eval()
    model, data = LeftToRight(inner, 8), b"there and back again"
    assert decompress(compress(data, model), model) == data


# The middle at the end


def test_the_middle_at_the_end_and_back_is_the_identity_on_ten_thousand_strings():
    dice = np.random.default_rng(0)
    for _ in range(10_000):
        ids = dice.integers(0, 5, dice.integers(0, 12)).tolist()
        start, end = np.sort(dice.integers(0, len(ids) + 1, 2)).tolist()
        moved = fim(ids, start, end, marks=(5, 6, 7))
        assert fim_inverse(moved, marks=(5, 6, 7)) == ids
        assert sorted(moved) == sorted([*ids, 5, 6, 7])
        assert moved[-(end - start) :] == ids[start:end] or start == end


def test_the_middle_comes_last():
    text = "once upon a time"
    moved = fim(text.encode(), 5, 9, marks=(256, 257, 258))
    assert moved == [256, *b"once ", 257, *b" a time", 258, *b"upon"]


@pytest.mark.parametrize(
    "ids",
    [[], [1, 2], [5, 1, 6, 2], [5, 6, 7, 7], [6, 5, 7], [1, 5, 6, 7], [5, 7, 6], [5, 6, 5, 7]],
)
def test_a_text_without_the_three_marks_in_their_places_is_refused(ids):
    with pytest.raises(ValueError, match="marks"):
        fim_inverse(ids, marks=(5, 6, 7))


@pytest.mark.parametrize(
    ("ids", "start", "end", "marks", "said"),
    [
        ([1, 5], 0, 1, (5, 6, 7), "marks must not be"),
        ([1, 2], 2, 1, (5, 6, 7), "start and end"),
        ([1, 2], 0, 3, (5, 6, 7), "start and end"),
        ([1, 2], -1, 1, (5, 6, 7), "start and end"),
        ([1, 2], 0, 1, (5, 5, 7), "three different"),
        ([1, 2], 0, 1, (5, 6), "three different"),
    ],
)
def test_a_middle_that_cannot_be_moved_is_refused(ids, start, end, marks, said):
    with pytest.raises(ValueError, match=said):
        fim(ids, start, end, marks=marks)


# The alarm


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.002])
def test_false_alarms_are_as_rare_as_promised_for_any_honest_model(alpha):
    texts = np.array(list(itertools.product((0, 1), repeat=10)))
    p = np.array([0.7, 0.3])
    probability = p[texts].prod(1)
    for q in ([0.7, 0.3], [0.8, 0.2], [0.3, 0.7], [0.99, 0.01]):
        false = 0.0
        for text, chance in zip(texts, probability, strict=True):
            try:
                leak_alarm(-np.log(np.array(q)[text]), -np.log(p[text]), alpha=alpha)
            except LeakError:
                false += chance
        assert false <= alpha


@pytest.fixture(scope="module")
def chain():
    source = sources()["markov"]
    path = source.sample(4_000, rng=1)
    return source, path, -source.log_prob(path)


def test_the_alarm_fires_on_a_reader_that_sees_the_next_token(chain):
    _, _, floor = chain
    losses = np.full_like(floor, -np.log(0.9))  # it believes what it sees, nine times out of ten
    with pytest.raises(
        LeakError, match=r"0.1054 nats per token, where the source itself needs 1\."
    ):
        leak_alarm(losses, floor)
    with pytest.raises(LeakError):  # one token in fifty is enough on a long text
        leak_alarm(np.where(np.arange(len(floor)) % 50, floor, 0.0), floor)


def test_the_alarm_is_silent_on_the_source_itself_and_on_whoever_knows_less(chain):
    source, path, floor = chain
    assert leak_alarm(floor, floor) == 0
    uniform = np.full(len(floor), np.log(len(source)))
    assert leak_alarm(uniform, floor) == pytest.approx(np.log(27) - floor.mean())
    wrong = MarkovSource(0.9 * source.transition + 0.1 / 27)
    assert 0 < leak_alarm(-wrong.log_prob(path), floor) < 0.2
    assert leak_alarm(np.where(np.arange(len(floor)), floor, np.inf), floor) == np.inf


def test_a_text_that_is_easy_by_luck_raises_no_alarm(chain):
    source, _, _ = chain
    lucky = [0]
    for _ in range(200):  # always the most probable step
        lucky.append(int(source.transition[lucky[-1]].argmax()))
    losses = -source.log_prob(lucky)
    assert losses.mean() < source.entropy_rate - 0.3  # far below the entropy rate
    assert leak_alarm(losses + 1e-3, losses) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("losses", "floor", "options", "said"),
    [
        ([1.0], [1.0, 2.0], {}, "as many"),
        ([], [], {}, "as many"),
        ([np.nan], [1.0], {}, "numbers"),
        ([1.0], [np.inf], {}, "finite"),
        ([1.0], [1.0], {"alpha": 0}, "alpha"),
        ([1.0], [1.0], {"alpha": 1.5}, "alpha"),
    ],
)
def test_losses_that_cannot_be_compared_are_refused(losses, floor, options, said):
    with pytest.raises(ValueError, match=said):
        leak_alarm(losses, floor, **options)


@pytest.mark.slow
def test_a_gpt_with_a_broken_mask_is_caught_and_a_right_one_is_not(chain):
    source, path, floor = chain
    read = torch.from_numpy(source.sample(40_000, rng=2))
    new = torch.from_numpy(path)
    verdicts = []
    for reach in (0, 1):  # up to itself, and one token too far
        model = MaskedTransformer(GPTConfig.modern(27, 32, 32, 1, 2), 27, generator=rng())
        mask = torch.ones(32, 32, dtype=torch.bool).tril(reach)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        dice = rng(1)
        for _ in range(150):
            at = torch.randint(len(read) - 33, (16, 1), generator=dice) + torch.arange(33)
            logits = model(read[at][:, :-1], mask)
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), read[at][:, 1:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        at = torch.arange(0, len(new) - 33, 32)[:, None] + torch.arange(33)
        with torch.no_grad():
            log_p = model(new[at][:, :-1], mask).log_softmax(-1)
        losses = -log_p.gather(-1, new[at][:, 1:, None])[..., 0]
        try:
            verdicts.append(leak_alarm(losses, floor[at[:, :-1].numpy()]) >= 0)
        except LeakError:
            verdicts.append("leak")
    assert verdicts == [True, "leak"]


def test_the_causal_pass_of_a_gpt_is_bit_for_bit_what_it_was():
    # The door for masks must not change the path without one: the same call of PyTorch, by hand.
    config = GPTConfig(9, 8, 8, 1, 2)
    model = GPT(config, generator=rng()).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    x = model.embedding(ids) + model.position_embedding.weight[:4]
    block = model.blocks[0]
    q, k, v = block.attention.heads(block.norm_1(x))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + block.attention.projection(y.transpose(1, 2).flatten(2))
    x = x + block.mlp(block.norm_2(x))
    assert torch.equal(model.hidden(ids), model.norm(x))


# The measurements


def test_the_best_labels_from_the_past_and_from_both_sides_are_those_of_enumeration():
    states, dice = MarkovSource([[0.8, 0.2], [0.3, 0.7]]), np.random.default_rng(0)
    emission = dice.dirichlet(np.ones(3), 2)
    x = dice.integers(0, 3, (1, 4))

    def weights(n: int) -> dict:  # of all hidden paths, with the first n symbols
        found = {}
        for path in itertools.product(range(2), repeat=4):
            steps = [states.transition[a, b] for a, b in itertools.pairwise(path)]
            seen = [emission[s, v] for s, v in zip(path[:n], x[0, :n], strict=True)]
            found[path] = states.stationary[path[0]] * np.prod(steps) * np.prod(seen)
        return found

    past, both = posteriors(states, emission, x)
    for t in range(4):
        for found, n in ((past, t + 1), (both, 4)):
            w = weights(n)
            share = sum(v for path, v in w.items() if path[t] == 1) / sum(w.values())
            assert found[0, t, 1] == pytest.approx(share)
