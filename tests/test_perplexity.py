"""Perplexity: windows, units and policies of a score; streams; models of another library; bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from arbook import data
from arbook.ngram import NGramLM, chain_deviation
from arbook.conformance import check_conformance
from arbook.objective import LanguageModel, compute_perplexity, perplexity
from arbook.perplexity import (
    Policy,
    Score,
    ScoreMismatchError,
    TransformersLM,
    block_error,
    check_causal,
    choose_policy,
    context_sizes,
    overlapping_windows,
    score,
    token_losses,
)
from arbook.recurrent import LSTMLM, LSTMConfig, NeuralCache, per_position_loss
from arbook.runs import encode_parts
from arbook.checkpoints import open_token_file, write_token_file
from arbook.steps import evaluate, text_windows
from arbook.transformer import GPT, GPTConfig
from conftest import unavailable
from hypothesis import given
from hypothesis import strategies as st

V, T = 13, 6
TEXT = np.random.default_rng(0).integers(0, V, 101)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt() -> GPT:
    """Small, in float64, and with weights large enough that the context matters."""
    model = GPT(GPTConfig.modern(V, T, 16, 2, 2, dropout=0.2), generator=rng()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng(1)).double()
    return model


@pytest.fixture(scope="module")
def lstm() -> LSTMLM:
    return LSTMLM(LSTMConfig(V, 8, 8), generator=rng()).double()


class Uniform(LanguageModel):
    def __init__(self, vocab_size: int = V):
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, ids):
        return torch.zeros(*ids.shape, self.vocab_size, dtype=torch.float64)


class Fixed(Uniform):
    """The same distribution everywhere."""

    def __init__(self, probs):
        super().__init__(len(probs))
        self.log_p = torch.as_tensor(np.asarray(probs, dtype=np.float64)).log()

    def forward(self, ids):
        return self.log_p.expand(*ids.shape, -1)


def losses_of(model, ids, policy=None, **options) -> np.ndarray:
    return np.concatenate(list(token_losses(model, ids, policy, **options)))


def one_by_one(model, ids, contexts) -> np.ndarray:
    """The loss of each token of a text but the first, from as many tokens before it as `contexts` says."""
    losses = []
    model.eval()
    with torch.no_grad():
        for t, size in enumerate(contexts, start=1):
            past = torch.as_tensor(np.asarray(ids[t - size : t]))[None]
            losses.append(-model(past)[0, -1].log_softmax(-1)[ids[t]].item())
    return np.array(losses)


# --- the number ---


class Priced(Uniform):
    """Token i costs i nats; they are no probabilities, which is not looked at."""

    def log_prob(self, ids):
        return -ids[:, 1:].double()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_nats_are_added_and_divided_once(batch_size):
    """S92, A9 no. 1: four tokens at 2 nats and one at 10 are 36.6, not 403.4."""
    ids = [0, 2, 2, 2, 2, 10]
    whole = score(Priced(), ids, context_length=4, batch_size=batch_size)
    assert (whole.n_tokens, whole.nll) == (5, 18)
    assert round(whole.perplexity, 1) == 36.6 == round(perplexity([2, 10], [4, 1]), 1)
    parts = list(token_losses(Priced(), ids, Policy(4), batch_size=1))
    assert [part.tolist() for part in parts] == [[2, 2, 2, 2], [10]]
    assert round(perplexity([part.mean() for part in parts]), 1) == 403.4


@pytest.mark.parametrize("vocab_size", [1, 2, 100])
@pytest.mark.parametrize(
    "policy", [{}, {"context_length": 3}, {"context_length": 5, "stride": 2, "start_id": 0}]
)
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(vocab_size, policy):
    """S93"""
    ids = np.random.default_rng(1).integers(0, vocab_size, 57)
    found = score(Uniform(vocab_size), ids, **policy)
    assert found.perplexity == pytest.approx(vocab_size, rel=1e-13)
    assert found.n_tokens == 57 - ("start_id" not in policy)


def test_a_certain_model_has_perplexity_one():
    assert score(Fixed([0, 1]), [1, 1, 1]).perplexity == 1


# --- windows ---


@given(st.integers(2, 60), st.integers(1, 9), st.data())
def test_windows_cover_a_stream_however_it_is_cut(n, length, more):
    stride = more.draw(st.integers(1, length))
    stream = np.arange(n)
    cuts = sorted(more.draw(st.lists(st.integers(0, n), max_size=5)))
    windows = list(overlapping_windows(np.split(stream, cuts), length, stride))
    at_once = list(overlapping_windows([stream], length, stride))
    assert [w.tolist() for w in windows] == [w.tolist() for w in at_once]
    assert all(len(w) == length + 1 for w in windows[:-1])
    assert [w[0] for w in windows] == list(range(0, stride * len(windows), stride))
    predicted = np.concatenate(
        [w[1:] if i == 0 else w[1 + length - stride :] for i, w in enumerate(windows)]
    )
    assert predicted.tolist() == list(range(1, n))  # each token once


@given(st.integers(1, 8), st.integers(1, 40), st.data())
def test_context_sizes_are_what_the_windows_hold(length, n, more):
    stride = more.draw(st.integers(1, length))
    sizes = context_sizes(n, Policy(length, stride))
    found = []
    for i, window in enumerate(overlapping_windows([np.arange(n + 1)], length, stride)):
        new = window[1:] if i == 0 else window[1 + length - stride :]
        found += [t - window[0] for t in new]
    assert sizes.tolist() == found
    assert (sizes[length:] >= length - stride + 1).all() and sizes.max() <= length
    assert context_sizes(n, Policy()).tolist() == list(range(1, n + 1))


@pytest.mark.parametrize("stride", [1, 2, 5, 6])
def test_every_prediction_sees_what_the_policy_says(gpt, stride):
    """S92: stride 1 is brute force, to 1e-10 in float64; so is every other stride with its own contexts."""
    policy = Policy(T, stride)
    expected = one_by_one(gpt, TEXT, context_sizes(len(TEXT) - 1, policy))
    assert np.abs(losses_of(gpt, TEXT, policy) - expected).max() < 1e-10
    if stride == 1:
        full = one_by_one(gpt, TEXT, [min(t, T) for t in range(1, len(TEXT))])
        assert np.array_equal(full, expected)
    assert score(gpt, TEXT, stride=stride).nll == pytest.approx(expected.sum(), abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, T, T + 1, T + 2, 2 * T + 1])
def test_short_texts_and_the_last_window(gpt, n):
    for stride in (1, 4, T):
        policy = Policy(T, stride)
        expected = one_by_one(gpt, TEXT[:n], context_sizes(n - 1, policy))
        assert np.abs(losses_of(gpt, TEXT[:n], policy) - expected).max() < 1e-10


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_neither_batches_nor_pieces_change_the_result(gpt, size):
    """A9 no. 9"""
    reference = score(gpt, TEXT, stride=4, start_id=3)
    batched = score(gpt, TEXT, stride=4, start_id=3, batch_size=size)
    assert batched.nll == pytest.approx(reference.nll, abs=1e-10)
    pieces = (TEXT[i : i + size] for i in range(0, len(TEXT), size))
    assert score(gpt, pieces, stride=4, start_id=3) == reference  # to the last bit


@pytest.mark.parametrize(
    "kind", [list, torch.tensor, lambda ids: ids.astype(np.uint16), lambda ids: iter([ids])]
)
def test_texts_of_any_kind(gpt, kind):
    assert score(gpt, kind(TEXT)) == score(gpt, TEXT)


def test_evaluate_and_compute_perplexity_are_special_cases(gpt):
    whole = score(gpt, TEXT)
    assert whole.policy == Policy(T, T)
    assert whole.nats == pytest.approx(evaluate(gpt, TEXT, block_size=T), abs=1e-12)
    found = compute_perplexity(gpt, text_windows(TEXT, T, 5))
    assert whole.perplexity == pytest.approx(found, rel=1e-12)
    inputs, targets = next(text_windows(TEXT[: 5 * T + 1], T, 5))
    by_position = per_position_loss(gpt, inputs, targets)
    assert score(gpt, TEXT[: 5 * T + 1]).nats == pytest.approx(by_position.mean().item(), abs=1e-12)


# --- where a text begins ---


@pytest.mark.parametrize("stride", [1, 3, 6])
def test_a_start_token_is_read_and_not_predicted(gpt, stride):
    with_start = losses_of(gpt, TEXT, Policy(T, stride, start_id=5))
    longer = np.append(5, TEXT)
    assert np.array_equal(with_start, losses_of(gpt, longer, Policy(T, stride)))
    assert len(with_start) == len(TEXT)
    assert score(gpt, TEXT, stride=stride).n_tokens == len(TEXT) - 1


@pytest.mark.parametrize("stride", [1, 3, 6])
def test_a_start_token_in_every_window_takes_the_place_of_its_first_token(gpt, stride):
    policy = Policy(T, stride, start_id=5, start_in="window")
    stream, expected = np.append(5, TEXT), []
    for t, size in enumerate(context_sizes(len(TEXT), policy), start=1):
        past = np.append(5, stream[t - size + 1 : t])
        window = np.append(past, stream[t])
        expected.append(one_by_one(gpt, window, range(1, size + 1))[-1])
    assert np.abs(losses_of(gpt, TEXT, policy) - expected).max() < 1e-10


def test_ids_that_are_scored_are_left_alone(gpt):
    ids = TEXT.copy()
    score(gpt, ids, start_id=1, start_in="window", stride=2)
    assert np.array_equal(ids, TEXT)


# --- models with a state ---


@pytest.mark.parametrize("size", [1, 30, 1000])
def test_a_recurrent_model_is_scored_exactly_in_pieces(lstm, size, monkeypatch):
    with torch.no_grad():
        expected = -lstm.eval().log_prob(torch.from_numpy(TEXT)[None])[0].numpy()
    monkeypatch.setattr("arbook.perplexity.STRETCH", 8)  # the state is handed on many times
    pieces = (TEXT[i : i + size] for i in range(0, len(TEXT), size))
    assert np.abs(losses_of(lstm, pieces) - expected).max() < 1e-10
    assert choose_policy(lstm) == Policy()


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("eos_id", [None, 0])
@pytest.mark.parametrize("smoothing", ["modified-kneser-ney", "add-k"])
def test_an_ngram_model_is_scored_exactly_in_pieces(order, eos_id, smoothing, monkeypatch):
    model = NGramLM(order, vocab_size=V, smoothing=smoothing, eos_id=eos_id)
    model.fit(np.random.default_rng(2).integers(0, V, 2_000))
    monkeypatch.setattr("arbook.perplexity.STRETCH", 7)
    expected = -model.sentence_log_prob(TEXT)
    assert np.allclose(losses_of(model, TEXT), expected[1:], rtol=0, atol=1e-12)
    if eos_id is not None:  # the end of a sentence starts the next: the first token is scored too
        assert np.allclose(losses_of(model, TEXT, Policy(start_id=0)), expected, rtol=0, atol=1e-12)
    slow, short, state = LanguageModel.loss_and_state, NGramLM.loss_and_state, model.init_state(1)
    for piece in torch.from_numpy(TEXT[:99]).split(9):
        ids, targets = piece[None, :-1], piece[None, 1:]
        found = (f(model, ids, targets, state, "none") for f in (slow, short))
        (by_step, _, after), (by_table, _, same) = found
        assert torch.allclose(by_step, by_table, rtol=0, atol=1e-12) and torch.equal(after, same)
        state = after


def test_other_states_go_through_step(lstm, monkeypatch):
    cache = NeuralCache(lstm, size=20, theta=1.0, lam=0.3)
    monkeypatch.setattr("arbook.perplexity.STRETCH", 9)
    with torch.no_grad():
        expected = -cache.eval().log_prob(torch.from_numpy(TEXT)[None])[0].numpy()
    assert np.abs(losses_of(cache, TEXT) - expected).max() < 1e-10


def test_windows_cut_the_memory_of_a_state(lstm):
    policy = Policy(4, 2)
    expected = one_by_one(lstm, TEXT, context_sizes(len(TEXT) - 1, policy))
    assert np.abs(losses_of(lstm, TEXT, policy) - expected).max() < 1e-10


def test_modes_and_gradients_are_as_before(gpt):
    """E13: between two parts, too, since the caller goes on meanwhile."""
    gpt.train()
    gpt.blocks[0].eval()
    modes = [part.training for part in gpt.modules()]
    for _ in token_losses(gpt, TEXT, batch_size=1):
        assert [part.training for part in gpt.modules()] == modes
        assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in gpt.parameters())
    assert score(gpt, TEXT) == score(gpt, TEXT)  # no dropout
    gpt.eval()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("policy", [Policy(T, 2, start_id=0), Policy(T)])
def test_a_gpu_scores_like_the_processor(gpt, policy):
    """float64 on both: only the order of sums differs."""
    on_gpu = copy.deepcopy(gpt).cuda()
    assert np.abs(losses_of(on_gpu, TEXT, policy) - losses_of(gpt, TEXT, policy)).max() < 1e-9


# --- larger than memory ---


def test_a_mapped_file_gives_what_the_array_gives(gpt, tmp_path, monkeypatch):
    write_token_file(tmp_path / "text.tokens", TEXT, vocab_size=V)
    mapped = open_token_file(tmp_path / "text.tokens", vocab_size=V)
    monkeypatch.setattr("arbook.perplexity.PIECE", 10)
    assert isinstance(mapped, np.memmap)
    assert score(gpt, mapped, stride=4, n_bytes=300) == score(gpt, TEXT, stride=4, n_bytes=300)


@pytest.mark.parametrize("policy", [Policy(), Policy(8, 3)])
def test_memory_does_not_grow_with_the_text(policy):
    import tracemalloc

    model = NGramLM(2, vocab_size=V).fit(TEXT)

    def peak(n_pieces):
        source = np.random.default_rng(0)
        pieces = (source.integers(0, V, 5_000) for _ in range(n_pieces))
        tracemalloc.start()
        n = sum(map(len, token_losses(model, pieces, policy)))
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n == 5_000 * n_pieces - 1
        return memory

    peak(2)  # what is done only once
    small, large = peak(5), peak(20)
    assert large < 1.2 * small < 2e6 < 8 * 5_000 * 100


def test_a_stream_is_read_only_as_it_is_needed(gpt):
    taken = []

    def pieces():
        for i in range(10):
            taken.append(i)
            yield TEXT[10 * i : 10 * i + 10]

    losses = token_losses(gpt, pieces(), batch_size=1)
    assert not taken
    next(losses)
    assert taken == [0]


# --- units ---


def test_one_total_in_three_units():
    """S95, E2: bits per token, word and byte are one total over three counts."""
    found = score(Uniform(32), np.zeros(41, int), n_bytes=160, n_words=20)
    assert found.nll == pytest.approx(40 * math.log(32))
    assert (found.bits, found.bits_per_token) == (pytest.approx(5), pytest.approx(5))
    assert found.bits_per_word == pytest.approx(10) and found.bits_per_byte == pytest.approx(1.25)
    assert found.per("word").perplexity == pytest.approx(1024)
    assert found.per("byte").perplexity == pytest.approx(2**1.25)
    for unit in ("token", "word", "byte"):
        s = found.per(unit)
        assert s.perplexity == pytest.approx(2**s.bits) == pytest.approx(math.exp(s.nats))
        assert s.per("token") == found


@given(st.floats(0, 1e6), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 1000))
def test_units_convert_back_and_forth(nll, n_tokens, more, n_words):
    n_bytes = max(n_tokens, n_words) + more
    s = Score(nll, n_tokens, Policy(), n_bytes, n_words)
    assert s.bits_per_byte * n_bytes == pytest.approx(s.bits_per_token * n_tokens)
    assert s.bits_per_word * n_words == pytest.approx(s.bits_per_token * n_tokens)
    assert s.per("byte").per("word").per("token") == s


def test_the_same_distribution_in_two_vocabularies():
    """S98: letters and pairs of letters; other perplexities, the same bits per byte, exactly."""
    p = np.array([0.5, 0.3, 0.2])
    letters = np.random.default_rng(0).choice(3, 1_000, p=p)
    pairs = letters.reshape(-1, 2) @ [3, 1]
    single = score(Fixed(p), letters, start_id=0, n_bytes=1_000)
    double = score(Fixed(np.outer(p, p).ravel()), pairs, start_id=0, n_bytes=1_000)
    assert double.perplexity == pytest.approx(single.perplexity**2, rel=1e-12)
    assert double.bits_per_byte == pytest.approx(single.bits_per_byte, rel=1e-12)
    with pytest.raises(ScoreMismatchError, match="n_tokens is 1000 and 500; compare them per byte"):
        single.versus(double)
    assert single.per("byte").versus(double.per("byte")) == pytest.approx(1)


def test_the_true_model_of_a_source_meets_its_entropy_rate():
    """S96: within 4 standard errors of the exact entropy rate; others lie above by their KL rate."""
    source = data.MarkovSource.random(5, 3, rng=np.random.default_rng(0))
    ids = source.sample(40_000, rng=np.random.default_rng(1))
    with np.errstate(divide="ignore"):
        log_p = np.log(source.transition)

    class Table(Uniform):
        def forward(self, ids):
            return torch.from_numpy(log_p)[ids]

    found = score(Table(5), ids, context_length=1)
    error = chain_deviation(source.transition, -log_p) / math.sqrt(found.n_tokens)
    assert abs(found.nats - source.entropy_rate) < 4 * error
    assert found.nll == pytest.approx(-source.log_prob(ids).sum(), rel=1e-12)
    learned = score(NGramLM(2, vocab_size=5).fit(ids[:2_000]), ids)
    assert learned.versus(found, any_policy=True) > 1


def test_a_score_prints_every_unit_it_knows_and_its_policy():
    text = str(score(Uniform(16), np.zeros(9, int), context_length=3, n_bytes=16, n_words=4))
    for number in ("4.0000", "8.0000", "2.0000", "16", "256", "windows of 3 tokens, stride 3"):
        assert number in text
    assert "byte" not in str(score(Uniform(16), [0, 0]))
    assert "all text before each token; token 0 starts the text" in repr(
        score(Uniform(16), [0], start_id=0)
    )


def test_a_unit_that_was_not_counted_is_refused():
    with pytest.raises(ValueError, match="a score per byte needs n_bytes"):
        _ = score(Uniform(), TEXT).bits_per_byte
    with pytest.raises(ValueError, match="unit must be one of token, word, byte, got 'character'"):
        score(Uniform(), TEXT).per("character")


# --- comparisons ---


def test_scores_of_one_text_and_policy_have_an_order(gpt):
    better, worse = (
        score(Fixed(np.bincount(TEXT, minlength=V) / len(TEXT)), TEXT),
        score(Uniform(), TEXT),
    )
    assert better < worse and worse > better and better <= worse and worse >= worse
    assert not worse < better and min([worse, better]) is better
    assert worse.versus(better) == pytest.approx(worse.perplexity / better.perplexity)
    other = score(gpt, TEXT, stride=2)
    with pytest.raises(ScoreMismatchError, match="the policies differ"):
        sorted([better, other])
    expected = better.perplexity / other.perplexity
    assert better.versus(other, any_policy=True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "byte"}, "one score is per token, the other per byte"),
        ({"policy": Policy(7)}, "the policies differ"),
        ({"policy": Policy(8, 7)}, "the policies differ"),
        ({"policy": Policy(8, start_id=1)}, "the policies differ"),
        ({"n_tokens": 9}, "n_tokens is 10 and 9"),
        ({"text_id": "other"}, "text_id is this and other"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_a_name(change, message):
    """A9 no. 2"""
    about = {"nll": 5.0, "n_tokens": 10, "policy": Policy(8), "n_bytes": 20, "text_id": "this"}
    one, other = Score(**about), Score(**about | change)
    for compare in (one.__lt__, one.__le__, one.versus):
        with pytest.raises(ScoreMismatchError, match=message):
            compare(other)
    with pytest.raises(TypeError, match="a Score can be compared with a Score, got float"):
        one.versus(3.0)


def test_scores_per_byte_need_the_same_text():
    about = {"nll": 5.0, "n_tokens": 10, "policy": Policy(), "n_bytes": 20, "unit": "byte"}
    one = Score(**about)
    assert one <= Score(**about | {"n_tokens": 5, "text_id": "other ids"})
    with pytest.raises(ScoreMismatchError, match="n_bytes is 20 and 21"):
        one.versus(Score(**about | {"n_bytes": 21}))


def test_what_is_unknown_of_a_text_is_not_held_against_it():
    about = {"nll": 5.0, "n_tokens": 10, "policy": Policy()}
    known, unknown = Score(**about, n_bytes=20, n_words=3, text_id="this"), Score(**about)
    assert known.versus(unknown) == 1 == unknown.versus(known)
    assert known.per("byte").versus(Score(**about, n_bytes=20).per("byte")) == 1


def test_the_fingerprint_tells_texts_apart(gpt):
    one, other = score(gpt, TEXT), score(gpt, TEXT[::-1].copy())
    with pytest.raises(ScoreMismatchError, match="text_id"):
        one.versus(other)


# --- impossible and broken predictions ---


@pytest.mark.parametrize(
    "policy", [{}, {"context_length": 3}, {"context_length": 3, "start_id": 0}]
)
def test_a_token_of_probability_zero_is_found(policy):
    ids = np.array([2, 0, 1, 1, 0, 2, 0, 1])
    found = score(Fixed([0.5, 0.5, 0.0]), ids, **policy)
    first = 0 if "start_id" in policy else 5
    assert found.perplexity == math.inf and found.impossible == first
    assert f"position {first} has probability 0" in str(found)
    finite = score(Uniform(3), ids, **policy)
    assert finite < found and found.versus(finite) == math.inf and finite.versus(found) == 0
    with pytest.raises(ScoreMismatchError, match="both perplexities are infinite"):
        found.versus(found)
    assert score(Fixed([0.5, 0.5, 0.0]), ids[1:5], **policy).impossible is None


@pytest.mark.parametrize("value", [math.nan, 0.5])
@pytest.mark.parametrize("start_id", [None, 0])
def test_a_prediction_that_is_no_log_probability_is_an_error(value, start_id):
    class Broken(Uniform):
        def log_prob(self, ids):
            found = -torch.ones(len(ids), ids.shape[1] - 1, dtype=torch.float64)
            return found.masked_fill(ids[:, 1:] == 7, value)

    ids = np.array([0, 1, 2, 3, 7, 4, 7])
    for size in (1, 2, None):  # in the first part of the losses, or in a later one
        with pytest.raises(ValueError, match=r"the model gives ids\[4\] a log-probability of"):
            score(Broken(), ids, context_length=2, start_id=start_id, batch_size=size)


# --- bad input ---


@pytest.mark.parametrize("pieces", [[], [[]], [[3]], [[], [3], []]])
@pytest.mark.parametrize("options", [{}, {"context_length": 4}])
def test_a_text_without_a_prediction(pieces, options):
    pieces = [np.array(piece, dtype=np.int64) for piece in pieces]
    with pytest.raises(ValueError, match="ids must hold at least 2 tokens, got fewer"):
        score(Uniform(), iter(pieces), **options)
    whole = np.concatenate([np.empty(0, np.int64), *pieces])
    with pytest.raises(ValueError, match="ids must hold at least 2 tokens, got fewer"):
        score(Uniform(), whole, **options)


def test_one_token_is_enough_after_a_start_token():
    assert score(Uniform(), [3], start_id=0).n_tokens == 1
    with pytest.raises(ValueError, match="ids must hold at least 1 token, got fewer"):
        score(Uniform(), np.empty(0, int), start_id=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": T + 1}, ValueError, f"stride must be at most context_length = {T}"),
        ({"stride": 1.5}, TypeError, "stride"),
        ({"context_length": 0}, ValueError, "context_length must be at least 1, got 0"),
        ({"context_length": T + 1}, ValueError, f"context_length must be at most {T}"),
        ({"start_id": V}, ValueError, f"start_id must be between 0 and {V - 1}, got {V}"),
        ({"start_id": -1}, ValueError, "start_id must be at least 0, got -1"),
        ({"start_in": "window"}, ValueError, "start_in='window' needs a start_id"),
        ({"start_in": "line"}, ValueError, "start_in must be one of text, window, got 'line'"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"n_bytes": 0}, ValueError, "n_bytes must be at least 1, got 0"),
        ({"n_bytes": 99}, ValueError, "n_bytes must be at least the number of tokens, 100, got 99"),
        ({"n_words": 2.0}, TypeError, "n_words"),
        ({"n_bytes": 200, "n_words": 201}, ValueError, "n_words = 201 words do not fit"),
    ],
)
def test_bad_options(gpt, options, error, message):
    with pytest.raises(error, match=message):
        score(gpt, TEXT, **options)


def test_counts_are_checked_before_the_work_where_that_is_possible():
    class Never(Uniform):
        def log_prob(self, ids):
            raise AssertionError("the model was asked")

    with pytest.raises(ValueError, match="n_bytes"):
        score(Never(), TEXT, context_length=4, n_bytes=5)
    with pytest.raises(ValueError, match="n_bytes must be at least the number of tokens, 100"):
        score(Uniform(), iter([TEXT]), n_bytes=5)


def test_windows_are_needed_for_a_stride(lstm):
    with pytest.raises(ValueError, match="without a context_length there are none"):
        score(lstm, TEXT, stride=2)
    with pytest.raises(ValueError, match="without a context_length there are none"):
        Policy(start_id=1, start_in="window")


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, V], ValueError, rf"ids\[1\] is {V}; it must be between 0 and {V - 1}"),
        ([0, -1], ValueError, r"ids\[1\] is -1"),
        ([0.0, 1.0], TypeError, "ids must be integers"),
        ("text", TypeError, "encode them first"),
        (np.zeros((2, 3), int), ValueError, r"ids must have shape \(N,\), got \(2, 3\)"),
        (np.array(3), ValueError, r"ids must have shape \(N,\), got \(\)"),
        (torch.zeros(2, 3).long(), ValueError, r"got \(2, 3\)"),
        (iter([1, 2]), ValueError, "piece 0 of ids"),
    ],
)
def test_bad_ids(gpt, ids, error, message):
    with pytest.raises(error, match=message):
        score(gpt, ids)
    if not isinstance(ids, (str, np.ndarray, torch.Tensor, list)):
        return
    with pytest.raises(error):
        score(gpt, (part for part in [TEXT, ids]))


def test_ids_far_behind_are_named_by_their_place(gpt, monkeypatch):
    monkeypatch.setattr("arbook.perplexity.PIECE", 10)
    ids = TEXT.copy()
    ids[57] = V
    with pytest.raises(ValueError, match=rf"ids\[50:\]\[7\] is {V}"):
        score(gpt, ids)
    pieces = (ids[i : i + 10] for i in range(0, 100, 10))
    with pytest.raises(ValueError, match=rf"piece 5 of ids\[7\] is {V}"):
        score(gpt, pieces)


def test_other_modules_are_told_what_to_do():
    with pytest.raises(
        TypeError, match=r"must be a LanguageModel, got Linear; TransformersLM\(model\)"
    ):
        score(torch.nn.Linear(2, 2), TEXT)


@pytest.mark.parametrize("nll", [math.nan, -math.inf, -0.1])
def test_a_total_must_be_a_number(nll):
    with pytest.raises(ValueError, match="nll must be a number of nats, at least 0"):
        Score(nll, 3, Policy())
    assert Score(-1e-7, 3, Policy()).perplexity == pytest.approx(1)  # a certain model, rounded


@pytest.mark.parametrize("policy", [8, (8, 2), {"stride": 2}, "stride 2"])
def test_only_a_policy_is_a_policy(gpt, policy):
    for wrong in (lambda: Score(1.0, 3, policy), lambda: token_losses(gpt, TEXT, policy)):
        with pytest.raises(TypeError, match="policy must be a Policy, got"):
            wrong()
    with pytest.raises(TypeError, match="policy must be a Policy, got NoneType"):
        Score(1.0, 3, None)


# --- errors of means ---


def test_the_block_error_of_independent_losses_is_the_usual_one():
    losses = np.random.default_rng(0).exponential(size=200_000)
    assert block_error(losses, 1) == pytest.approx(losses.std(ddof=1) / math.sqrt(200_000))
    assert block_error(losses, 500) == pytest.approx(1 / math.sqrt(200_000), rel=0.15)


def test_the_block_error_knows_that_neighbours_agree():
    losses = np.repeat(np.random.default_rng(0).exponential(size=2_000), 100)
    assert block_error(losses, 1_000) == pytest.approx(1 / math.sqrt(2_000), rel=0.2)
    assert block_error(losses, 1) < 0.15 * block_error(losses, 1_000)


@pytest.mark.parametrize("losses", [np.zeros(9), np.zeros((2, 10)), []])
def test_the_block_error_needs_two_blocks(losses):
    with pytest.raises(ValueError, match="at least two blocks of 5"):
        block_error(losses, 5)


def test_the_block_error_needs_finite_losses():
    with pytest.raises(ValueError, match="finite"):
        block_error([1.0, math.inf, 1.0, 1.0], 1)


# --- models of the transformers library ---


def peer(kind: str = "GPT2", **changes) -> torch.nn.Module:
    """A small model of another library with random weights, large enough to matter."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": V, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def documented(model, ids, length, stride) -> tuple[list[float], list[int], list[int]]:
    """The library's loop: mean loss of each window, targets that it counts, targets that it has."""
    ids, end, losses, counted, there = torch.as_tensor(ids)[None], 0, [], [], []
    model.eval()
    for begin in range(0, ids.shape[1], stride):
        before, end = end, min(begin + length, ids.shape[1])
        window, new = ids[:, begin:end], end - before
        labels = window.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            losses.append(model(window, labels=labels).loss.item())
        counted.append(int((labels != -100).sum()) - 1)
        there.append(int((labels[:, 1:] != -100).sum()))
        if end == ids.shape[1]:
            break
    return losses, counted, there


@pytest.mark.filterwarnings("ignore")  # of the peer
def test_the_adapter_keeps_the_promises_of_the_interface():
    adapter = TransformersLM(peer())
    assert (adapter.vocab_size, adapter.context_length) == (V, 16)
    assert max(check_conformance(adapter).values()) < 1e-9
    assert TransformersLM(peer(), context_length=5).context_length == 5
    with pytest.raises(ValueError, match="this model reads at most 16"):
        adapter(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stride", [1, 4, 15])
def test_the_documented_recipe_is_score_where_its_counts_are_right(stride):
    """A9 no. 1: losses are equal with windows of one token less, and any stride that leaves no gap."""
    model = peer()
    losses, counted, there = documented(model, TEXT, 16, stride)
    ours = score(TransformersLM(model), TEXT, context_length=15, stride=stride)
    assert sum(there) == ours.n_tokens == len(TEXT) - 1
    assert perplexity(losses, there) == pytest.approx(ours.perplexity, rel=1e-5)  # float32 there
    assert sum(counted) == sum(there) - (len(losses) - 1)  # one too few for each later window
    if stride > 1:
        assert abs(perplexity(losses, counted) / ours.perplexity - 1) > 1e-4
        assert abs(perplexity(losses) / ours.perplexity - 1) > 1e-4  # plain mean of the windows


@pytest.mark.parametrize("stride", [2, 3, 4, 5, 7])
def test_beginning_with_a_stride_costs_context_only_where_it_does_not_divide_the_window(
    gpt, stride
):
    """A9 no. 1: the earlier recipe, whose first window has as many tokens as the stride."""
    L, losses, contexts = 8, [], []
    wide = GPT(GPTConfig.modern(V, L, 16, 2, 2), generator=rng()).double()
    for begin in range(0, len(TEXT), stride):
        first, end = max(begin + stride - L, 0), min(begin + stride, len(TEXT))
        with torch.no_grad():
            found = -wide.log_prob(torch.from_numpy(TEXT[first:end])[None])[0]
        new = range(max(begin, 1), end)
        losses += found[-len(new) :].tolist()
        contexts += [t - first for t in new]
    ours = context_sizes(len(TEXT) - 1, Policy(L - 1, stride))
    lost = (ours - contexts)[: L - 1]
    assert np.abs(losses - one_by_one(wide, TEXT, contexts)).max() < 1e-10
    assert (lost >= 0).all() and (lost.any() == (L % stride != 0))


@pytest.mark.filterwarnings("ignore")
def test_the_documented_recipe_skips_a_token_for_each_window_without_overlap():
    model = peer()
    losses, counted, there = documented(model, TEXT, 16, 16)
    assert counted == there and sum(there) == len(TEXT) - 1 - (len(losses) - 1)
    kept = np.ones(len(TEXT) - 1, dtype=bool)
    kept[15::16] = False  # the first token of every later window
    policy = Policy(16, 16)
    expected = np.concatenate(
        [losses_of(TransformersLM(model), TEXT[i : i + 16]) for i in range(0, len(TEXT), 16)]
    )
    assert perplexity(losses, there) == pytest.approx(math.exp(expected.mean()), rel=1e-5)
    assert kept.sum() == len(expected) < len(losses_of(TransformersLM(model), TEXT, policy))


@pytest.mark.filterwarnings("ignore")
def test_a_single_window_needs_no_correction():
    model = peer()
    with torch.no_grad():
        expected = model.eval()(
            torch.from_numpy(TEXT[:16])[None], labels=torch.from_numpy(TEXT[:16])[None]
        )
    found = score(TransformersLM(model), TEXT[:16])
    assert found.nats == pytest.approx(expected.loss.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_reads_ahead_has_no_perplexity():
    """S98: masked models."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=V, intermediate_size=16, **sizes)
    bert = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng())
    with pytest.raises(ValueError, match="model must be causal"):
        TransformersLM(bert)


def test_only_models_that_say_their_vocabulary_are_adapted():
    with pytest.raises(
        TypeError, match="must be a causal language model of transformers, got Linear"
    ):
        TransformersLM(torch.nn.Linear(2, 2))
    check_causal(Uniform(1))


# --- the treebank ---


def treebank():
    try:
        parts = data.Splits(
            "ptb", *(part_of_the_treebank(name) for name in ("train", "valid", "test"))
        )
    except data.DataNotFoundError:
        unavailable("the Penn Treebank is not on this machine; set ARBOOK_DATA to its folder")
    words, ids = encode_parts(parts, "word")
    return words.vocab.id("<eos>"), ids["train"], ids["test"], parts.test


def part_of_the_treebank(name: str) -> str:
    return data.find(f"ptb-{name}", download=False).read_text()


def test_the_rows_of_the_benchmark_table():
    """S94a, S94b, S95, E2: perplexity per word, and bits per word and byte, on the Penn Treebank."""
    eos, train, test, text = treebank()
    about = {"start_id": eos, "n_bytes": len(text.encode()), "n_words": len(test)}
    expected = {1: 639.301, 3: 148.2813, 4: 142.7154, 5: 141.1861}
    for order, value in expected.items():
        smoothing = "mle" if order == 1 else "modified-kneser-ney"
        model = NGramLM(order, vocab_size=10_000, smoothing=smoothing, eos_id=eos).fit(train)
        found = score(model, test, **about)
        assert found.n_tokens == 82_430 and found.perplexity == pytest.approx(value, rel=1e-5)
        if order == 3:
            assert found.bits_per_word == pytest.approx(math.log2(148.2813), rel=1e-6)
            assert round(found.bits_per_word, 2) == 7.21 and round(found.bits_per_byte, 2) == 1.32
