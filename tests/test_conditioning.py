"""Conditions: scores that add up, posteriors by enumeration, sources that are seen as a whole, bounds that hold."""

import itertools

import numpy as np
import pytest
import torch
from arbook import data
from arbook.ar import LinearAR, simulate
from arbook.compression import compress, decompress
from arbook.conditioning import (
    CausalTransformer,
    Conditional,
    CrossAttention,
    Given,
    LatentLM,
    Seq2Seq,
    Seq2SeqConfig,
    SequenceVAE,
    VAEConfig,
    add_tokens,
    classify,
    least_squares_in_context,
    score_continuation,
    with_prefix,
)
from arbook.conformance import check_conformance
from arbook.distributions import Gaussian, ValueModel
from arbook.files import read_weights
from arbook.objective import LanguageModel, causal_check, conditionals, read_in_steps
from arbook.perplexity import score
from arbook.sampling import beam_search, generate
from arbook.transformer import GPT, GPTConfig
from torch import nn


def tiny_gpt(V: int = 7, T: int = 12, **layout) -> GPT:
    generator = torch.Generator().manual_seed(0)
    return GPT(GPTConfig(V, T, 8, 2, 2, **layout), generator=generator).double()


def tiny_pairs(V: int = 9, *, seed: int = 0, layers: int = 2) -> Seq2Seq:
    config = Seq2SeqConfig(V, 8, 14, 8, layers, 2)
    return Seq2Seq(config, generator=torch.Generator().manual_seed(seed)).double()


SOURCE = torch.tensor([[3, 4, 5, 3]])


# Prompts and labels


@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_the_scores_of_prompt_and_continuation_add_up(cut):
    model, ids = tiny_gpt(), [1, 2, 3, 4, 5, 6, 0, 1, 1]
    prompt = score_continuation(model, ids[:1], ids[1:cut]) if cut > 1 else 0.0
    rest = score_continuation(model, ids[:cut], ids[cut:])
    whole = model.log_prob(torch.tensor([ids])).sum().item()
    assert abs(prompt + rest - whole) < 1e-10


def test_the_probabilities_of_all_continuations_of_one_length_sum_to_one():
    model = tiny_gpt(V=4)
    every = itertools.product(range(4), repeat=3)
    total = sum(np.exp(score_continuation(model, [2, 0], list(rest))) for rest in every)
    assert abs(total - 1) < 1e-12


def test_a_score_leaves_the_mode_of_the_model_and_ignores_dropout():
    model = tiny_gpt(dropout=0.5).train()
    first, second = (score_continuation(model, [1], [2, 3]) for _ in range(2))
    assert first == second and model.training


@pytest.mark.parametrize(
    ("prompt", "continuation", "error"),
    [
        ([], [1], "prompt must hold at least one token"),
        ([1], [], "continuation must hold at least one token"),
        ([1], [7], r"continuation\[0\] is 7"),
        ([0] * 8, [0] * 5, "must fit into 12 positions, got 13"),
    ],
)
def test_a_score_names_what_is_wrong(prompt, continuation, error):
    with pytest.raises(ValueError, match=error):
        score_continuation(tiny_gpt(), prompt, continuation)


class Table(LanguageModel):
    """The conditionals of a joint distribution, looked up."""

    def __init__(self, joint: np.ndarray):
        super().__init__()
        self.vocab_size, self.context_length = len(joint), joint.ndim
        self.tables = conditionals(joint)

    def forward(self, ids):
        rows = [
            [np.log(self.tables[t + 1][tuple(row[: t + 1])]) for t in range(ids.shape[1])]
            for row in ids.tolist()
        ]
        return torch.tensor(np.array(rows))


@pytest.mark.parametrize("seed", range(3))
def test_label_probabilities_are_the_posterior_of_the_source(seed):
    rng = np.random.default_rng(seed)
    prior, letters = rng.dirichlet([1, 1, 1]), rng.dirichlet([1, 1], size=3)
    joint = np.full((6, 6, 6), 1e-300)  # letters 0 and 1, labels 2 to 4, and 5: no label
    for a, b in np.ndindex(2, 2):
        each = prior * letters[:, a] * letters[:, b]
        joint[a, b, 2:5] = 0.7 * each
        joint[a, b, 5] = 0.3 * each.sum()
    model = Table(joint / joint.sum())
    for a, b in np.ndindex(2, 2):
        each = prior * letters[:, a] * letters[:, b]
        found = classify(model, [a, b], [[2], [3], [4]])
        assert np.allclose(found, each / each.sum(), rtol=1e-12)


def test_labels_of_several_tokens_are_compared_as_wholes():
    model, labels = tiny_gpt(), [[1, 2], [1, 3, 3], [4]]
    logs = []
    for label in labels:  # token by token, each by a pass of its own
        text, total = [0, 5], 0.0
        for token in label:
            total += model(torch.tensor([text])).log_softmax(-1)[0, -1, token].item()
            text.append(token)
        logs.append(total)
    expected = np.exp(logs) / np.exp(logs).sum()
    assert np.allclose(classify(model, [0, 5], labels), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([[1]], "at least two labels, got 1"),
        ([[1], [1, 2]], r"labels\[0\] must not be the beginning of labels\[1\]"),
        ([[1, 2], [3], [1, 2]], "must not be the beginning"),
        ([[1], [9]], r"labels\[1\]\[0\] is 9"),
    ],
)
def test_labels_that_are_no_separate_events_are_refused(labels, error):
    with pytest.raises(ValueError, match=error):
        classify(tiny_gpt(), [0], labels)


# Prefixes and codes


@pytest.mark.parametrize("prefix", [[5], [5, 6, 6]])
def test_a_prefix_is_read_and_not_learned(prefix):
    model, ids = tiny_gpt(), [1, 2, 3]
    inputs, targets = with_prefix(prefix, ids, 7)
    loss = model.loss(inputs[None], targets[None], "sum").item()
    assert loss == pytest.approx(-score_continuation(model, prefix, ids), abs=1e-12)
    assert (targets != -100).sum() == len(ids)


@pytest.mark.parametrize("tied", [True, False])
def test_more_tokens_leave_the_logits_of_the_old_ones_alone(tied):
    model = tiny_gpt(tied=tied)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    grown = add_tokens(model, 3, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 2, 6, 0]])
    assert torch.equal(grown(ids)[..., :7], model(ids))
    assert grown.vocab_size == 10 and grown(torch.tensor([[9, 1]])).shape == (1, 2, 10)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert max(check_conformance(grown).values()) < 1e-9
    rows = grown.embedding.weight[7:]
    assert not torch.equal(rows[0], rows[1])  # or training could not tell them apart


def test_only_a_gpt_can_grow():
    with pytest.raises(TypeError, match="model must be a GPT, got Table"):
        add_tokens(Table(np.full((2, 2), 0.25)), 1)
    with pytest.raises(ValueError, match="n must be at least 1"):
        add_tokens(tiny_gpt(), 0)


# Cross-attention


def test_cross_attention_is_that_of_pytorch():
    torch.manual_seed(0)
    ours, peer = (
        CrossAttention(8, 2).double(),
        nn.MultiheadAttention(8, 2, batch_first=True).double(),
    )
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        peer.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        peer.out_proj.load_state_dict(ours.projection.state_dict())
    x, source = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]]).bool()
    expected, weights = peer(x, source, source, key_padding_mask=~seen, average_attn_weights=False)
    assert torch.allclose(ours(x, source, seen), expected, atol=1e-12)
    assert torch.allclose(ours.weights(x, ours.keys(source)[0], seen), weights, atol=1e-12)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width must be a multiple of n_head = 3, got 8"):
        CrossAttention(8, 3)


# Encoder and decoder


def test_a_decoder_sees_its_past_and_all_of_the_source():
    model, ids = tiny_pairs(), torch.tensor([[1, 5, 4, 3, 8]])
    assert not causal_check(model.given(SOURCE), ids).triu(1).any()
    seen = causal_check(lambda source: model.given(source)(ids[:, :4]), SOURCE, vocab_size=9)
    assert seen.all()


def test_given_a_source_it_is_a_language_model():
    assert max(check_conformance(tiny_pairs().given(SOURCE)).values()) < 1e-9


def test_sources_of_a_batch_are_read_as_if_alone_however_they_are_filled_up():
    model = tiny_pairs()
    sources = torch.tensor([[3, 4, 5, 3, 0, 0], [6, 0, 0, 0, 0, 0], [8, 7, 6, 5, 4, 3]])
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 1, 1]])
    together = model.given(sources)(ids)
    for row, (source, text) in enumerate(zip(sources, ids, strict=True)):
        alone = model.given(source[source != 0][None])(text[None])
        assert torch.allclose(together[row], alone[0], atol=1e-12)
    steps = read_in_steps(model.given(sources), ids, [1, 1, 1])
    assert torch.allclose(together, steps, atol=1e-12)


def test_one_source_serves_any_batch_and_several_serve_their_own():
    one, two = tiny_pairs().given(SOURCE), tiny_pairs().given(SOURCE.repeat(2, 1))
    ids = torch.tensor([[1, 2], [3, 4]])
    assert torch.allclose(one(ids), two(ids), atol=1e-12)
    with pytest.raises(ValueError, match="batch_size must be 2, one row for each condition, got 3"):
        two(torch.ones(3, 2, dtype=torch.int64))


def test_a_source_that_nobody_sees_or_that_is_too_long_is_refused():
    model = tiny_pairs()
    with pytest.raises(ValueError, match="not pad_id in every row"):
        model.given(torch.zeros(1, 3, dtype=torch.int64))(SOURCE)
    with pytest.raises(ValueError, match="this model reads at most 8"):
        model.given(torch.ones(1, 9, dtype=torch.int64))(SOURCE)
    state = model.given(SOURCE).step(torch.ones(1, 14, dtype=torch.int64), model.begin(SOURCE))[1]
    with pytest.raises(ValueError, match="the context is full: 14 of 14"):
        model.given(SOURCE).step(torch.tensor([[1]]), state)


def test_the_loss_of_the_target_trains_the_encoder():
    model = tiny_pairs()
    model.given(SOURCE).loss(torch.tensor([[1, 5]]), torch.tensor([[5, 4]])).backward()
    gradients = [p.grad for p in model.encoder.parameters()]
    assert all(g is not None for g in gradients) and any(g.abs().max() > 1e-6 for g in gradients)


def test_it_samples_searches_scores_and_compresses_by_the_common_functions():
    model = tiny_pairs(256, layers=1).float()
    given = model.given(torch.tensor([[65, 66, 67]]))
    drawn = generate(given, [1], max_new_tokens=5, generator=torch.Generator().manual_seed(0))
    assert len(drawn.ids[0]) == 5
    found = beam_search(given, [1], max_new_tokens=4, beam_width=3)
    greedy = generate(given, [1], max_new_tokens=4, sampler={"top_k": 1}).ids[0]
    best = score_continuation(given, [1], found.ids[0])
    assert best >= score_continuation(given, [1], greedy) - 1e-5
    text = torch.tensor([1, 7, 200, 31])
    assert score(given, text).nll == pytest.approx(
        -given.log_prob(text[None]).sum().item(), rel=1e-5
    )
    content = b"conditions"
    assert decompress(compress(content, given), given) == content
    other = model.given(torch.tensor([[65, 66, 68]]))
    with pytest.raises(ValueError, match="model"):
        decompress(compress(content, given), other)


def test_attention_maps_are_those_that_the_decoder_uses():
    model = tiny_pairs(layers=1)
    ids = torch.tensor([[1, 5, 4]])
    maps = model.attention(SOURCE, ids)  # (1, 1, 2, 3, 4)
    assert maps.shape == (1, 1, 2, 3, 4) and torch.allclose(maps.sum(-1), maps.new_ones(()))
    block = model.decoder[0]
    found = []
    block.source.projection.register_forward_hook(lambda _, inputs, __: found.append(inputs[0]))
    with torch.no_grad():
        model.given(SOURCE)(ids)
        values = block.source.keys(model.encode(SOURCE)[0])[1]
    mixed = (maps[0] @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(mixed, found[0], atol=1e-12)


def test_a_configuration_says_what_does_not_fit():
    with pytest.raises(ValueError, match="pad_id must be below 9, got 9"):
        Seq2SeqConfig(9, 8, 8, 8, 1, 2, pad_id=9)
    with pytest.raises(ValueError, match="n_embd must be a multiple of n_head = 3"):
        Seq2SeqConfig(9, 8, 8, 8, 1, 3)
    with pytest.raises(TypeError, match="config must be a Seq2SeqConfig, got dict"):
        Seq2Seq({})
    with pytest.raises(TypeError, match="model must be a Conditional, got GPT"):
        Given(tiny_gpt(), SOURCE)


# Conditions that nobody tells


class Chains(Conditional):
    """Markov chains over three tokens; the condition is the number of the chain."""

    vocab_size = 3

    def __init__(self, tables: torch.Tensor):
        super().__init__()
        self.register_buffer("tables", tables.log())

    def begin(self, condition):
        return condition

    def read(self, ids, state):
        return self.tables[state[:, None], ids], state


def some_chains(K: int = 4, seed: int = 0) -> tuple[LatentLM, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    tables = torch.from_numpy(rng.dirichlet([1, 1, 1], size=(K, 3)))
    prior = torch.from_numpy(rng.dirichlet(np.ones(K)))
    return LatentLM(Chains(tables), torch.arange(K), prior.log()), tables, prior


def test_an_unknown_condition_is_summed_over():
    model, tables, prior = some_chains()
    for text in itertools.product(range(3), repeat=4):
        pairs = list(itertools.pairwise(text))
        joint = prior * torch.stack([tables[:, a, b] for a, b in pairs]).prod(0)  # (K,)
        ids = torch.tensor([text])
        assert model.log_prob(ids).sum().item() == pytest.approx(
            joint.sum().log().item(), abs=1e-12
        )
        assert torch.allclose(model.posterior(ids)[0], joint / joint.sum(), atol=1e-12)
        assert torch.allclose(model.log_joint(ids)[0].exp(), joint, atol=1e-15)


def test_the_bound_is_below_the_evidence_and_equal_at_the_posterior():
    model, _, _ = some_chains()
    ids, rng = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 2, 0, 1]]), np.random.default_rng(1)
    evidence = model.log_prob(ids).sum(1)
    for _ in range(50):
        q = torch.from_numpy(rng.dirichlet(np.full(4, 0.5), size=2))
        gap = evidence - model.elbo(ids, q)
        divergence = (q * (q / model.posterior(ids)).log()).nan_to_num(0).sum(1)
        assert (gap > 0).all() and torch.allclose(gap, divergence, atol=1e-10)
    assert torch.allclose(model.elbo(ids, model.posterior(ids)), evidence, atol=1e-12)
    certain = torch.tensor([[1.0, 0, 0, 0]] * 2).double()
    assert torch.allclose(model.elbo(ids, certain), model.log_joint(ids)[:, 0])


def test_a_latent_model_keeps_the_promises_of_a_language_model():
    assert max(check_conformance(some_chains()[0]).values()) < 1e-9
    sources = torch.tensor([[3, 4, 5], [5, 4, 3], [6, 0, 0]])
    which = LatentLM(tiny_pairs(), sources)
    assert max(check_conformance(which).values()) < 1e-6  # its prior is single
    ids = torch.tensor([[1, 5, 4]])
    each = [which.model.given(source[None]).log_prob(ids).sum() for source in sources]
    expected = torch.stack(each).logsumexp(0) - np.log(3)
    assert which.log_prob(ids).sum().item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_latent_prior_can_be_learned():
    model, tables, _ = some_chains(2)
    text = [0]
    rng = np.random.default_rng(3)
    for _ in range(60):
        text.append(int(rng.choice(3, p=tables[1, text[-1]].numpy())))
    ids = torch.tensor([text])
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    gradient = model.log_prior.grad
    assert gradient is not None and gradient[1] < 0 < gradient[0]


@pytest.mark.parametrize(
    ("q", "shape"), [([[0.5, 0.5]], 4), ([[0.5, 0.6, 0, 0]], 4), ([[1.5, -0.5, 0, 0]], 4)]
)
def test_a_guess_must_be_a_distribution(q, shape):
    with pytest.raises(ValueError, match="q must hold distributions"):
        some_chains(shape)[0].elbo(torch.tensor([[0, 1]]), torch.tensor(q).double())


def test_a_prior_must_fit_the_conditions():
    with pytest.raises(ValueError, match="log_prior must hold 4 numbers"):
        LatentLM(Chains(torch.ones(4, 3, 3) / 3), torch.arange(4), torch.zeros(3))
    with pytest.raises(TypeError, match="model must be a Conditional"):
        LatentLM(tiny_gpt(), torch.arange(4))


# A latent that is a vector


def tiny_vae(**how) -> SequenceVAE:
    config = VAEConfig(5, 4, 6, 1, **how)
    return SequenceVAE(config, generator=torch.Generator().manual_seed(0)).double()


TEXTS = torch.tensor([[1, 2, 3, 4, 0], [0, 0, 1, 1, 2]])


def evidence_by_quadrature(vae: SequenceVAE) -> torch.Tensor:
    """log P(x) of the texts: the integral over the latent, on a fine grid."""
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            said = vae.given(grid[:, None]).log_prob(text.expand(1601, -1)).sum(1)
            rows.append((said + prior).logsumexp(0) + np.log(0.01))
    return torch.stack(rows)


def test_given_a_vector_it_is_a_language_model():
    for how in ({}, {"word_dropout": 1.0}):
        vae = tiny_vae(**how)
        assert max(check_conformance(vae.given(torch.tensor([[0.7]]).double())).values()) < 1e-9
    with pytest.raises(ValueError, match=r"condition must have shape \(B, 1\), got \(1, 2\)"):
        tiny_vae().given(torch.zeros(1, 2).double())(TEXTS)


def test_the_bound_of_a_vae_is_below_the_evidence_and_more_samples_come_near_it():
    vae, generator = tiny_vae().eval(), torch.Generator().manual_seed(1)
    exact = evidence_by_quadrature(vae)
    with torch.no_grad():
        parts = [vae.bound(TEXTS, generator=generator) for _ in range(400)]
        bounds = torch.stack([said - kl for said, kl in parts])
        error = 3 * bounds.std(0) / 20
        assert (bounds.mean(0) - error < exact).all()
        near = vae.log_evidence(TEXTS, 4000, generator=generator)
    assert torch.allclose(near, exact, atol=0.05)


def test_the_divergence_is_that_of_two_gaussians():
    vae = tiny_vae()
    mean, scale = vae.recognise(TEXTS)
    guess, prior = torch.distributions.Normal(mean, scale), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(guess, prior).sum(1)
    assert torch.allclose(vae.bound(TEXTS)[1], expected, atol=1e-12)


def test_a_decoder_from_which_all_is_withheld_sees_nothing_of_its_past():
    vae = tiny_vae(word_dropout=1.0)
    seen = causal_check(vae.given(torch.zeros(1, 1).double()), TEXTS[:1])
    assert not seen.any()
    open_one = tiny_vae()
    assert causal_check(open_one.given(torch.zeros(1, 1).double()), TEXTS[:1]).diagonal().all()


def test_words_are_withheld_in_training_only():
    vae, generator = tiny_vae(word_dropout=0.5), torch.Generator()
    latent = vae.recognise(TEXTS)[0].detach()

    def said(training: bool, seed: int) -> torch.Tensor:
        vae.train(training)
        return vae.bound(TEXTS, generator=generator.manual_seed(seed))[0].detach()

    z = latent + vae.recognise(TEXTS)[1] * torch.randn(
        latent.shape, generator=generator.manual_seed(3), dtype=torch.float64
    )
    expected = vae.given(z).log_prob(TEXTS).sum(1)
    assert torch.allclose(said(False, 3), expected, atol=1e-12)
    assert not torch.allclose(said(True, 3), expected)


# Learning in context


def reader(**how) -> ValueModel:
    torch.manual_seed(0)
    encoder = CausalTransformer(8, 12, 2, 2, **how)
    return ValueModel(encoder, nn.Linear(8, 2), Gaussian()).double()


@pytest.mark.parametrize("window", [1, 3])
def test_a_series_is_read_at_once_as_step_by_step(window):
    model, z = reader(window=window), torch.randn(2, 12).double()
    whole = model(z)
    for sizes in ([1] * 12, [5, 7], [2, 1, 9]):
        assert torch.allclose(read_in_steps(model, z, sizes), whole, atol=1e-12)
    assert torch.equal(causal_check(model, z), torch.ones(12, 12).tril().bool())
    _, state = model.step(z[:, :4], model.init_state(2))
    rows = torch.tensor([1, 1, 0])
    chosen, _ = model.step(z[rows, 4:], model.select(state, rows))
    assert torch.allclose(chosen, whole[rows, 4:], atol=1e-12)


def test_a_series_longer_than_the_context_is_refused():
    with pytest.raises(
        ValueError, match="the context is full: 0 of 12 positions are taken, and 13"
    ):
        reader()(torch.zeros(1, 13).double())


def test_a_fit_in_context_is_the_fit_of_chapter_one():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 12))
    for p in (1, 2, 3):
        found = least_squares_in_context(z, p)
        assert found.shape == (3, 12 - p) and (found[:, 0] == 0).all()
        for row, k in itertools.product(range(3), range(p, 12 - p)):
            fitted = LinearAR(p).fit(z[row, : p + k])
            assert found[row, k] == pytest.approx(fitted.predict(z[row, k : k + p]), abs=1e-9)


def test_with_fewer_examples_than_coefficients_the_fit_has_the_least_norm():
    z = np.random.default_rng(1).normal(size=(1, 8))
    found = least_squares_in_context(z, 3)[0]
    for k in (1, 2):
        X = np.stack([z[0, i : i + 3] for i in range(k)])
        weights = X.T @ np.linalg.solve(X @ X.T, z[0, 3 : 3 + k])
        assert found[k] == pytest.approx(z[0, k : k + 3] @ weights, abs=1e-9)


def test_without_noise_the_fit_is_exact_from_as_many_examples_as_coefficients():
    w = [-0.9, 1.5]
    z = simulate(w, 14, sigma=0.0, rng=0, initial=[1.0, 0.3])
    assert np.allclose(least_squares_in_context(z[None], 2)[0, 2:], z[4:], atol=1e-9)


@pytest.mark.parametrize("z", [[1.0, 2.0], [[1.0, 2.0]], [[1.0, 2.0, np.nan]]])
def test_series_that_cannot_be_fitted_are_refused(z):
    with pytest.raises(ValueError, match="z must hold finite series"):
        least_squares_in_context(z, 2)


# What was trained


def recorded_pairs(name: str) -> tuple[Seq2Seq, str]:
    record = data.record("runs/conditioning.json")
    model = Seq2Seq(Seq2SeqConfig(**record[name]["config"]))
    file = data.recorded_file(f"runs/conditioning_{name}.safetensors")
    model.load_state_dict(read_weights(file)[0])
    return model.eval(), record["signs"]


def written(model: Seq2Seq, signs: str, texts: list[str]) -> list[str]:
    rows = [torch.tensor([signs.index(s) + 3 for s in text]) for text in texts]
    sources = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    start = torch.ones(len(texts), 1, dtype=torch.int64)
    how = {"max_new_tokens": 11, "sampler": {"top_k": 1}, "stop": 2}
    found = generate(model.given(sources), start, **how)
    return ["".join(signs[i - 3] for i in row.tolist() if i > 2) for row in found.ids]


def test_the_recorded_model_reverses_every_string_that_training_left_out():
    model, signs = recorded_pairs("reversal")
    rng = np.random.default_rng(77)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    texts = ["".join(rng.choice(letters, rng.integers(3, 11))) for _ in range(3000)]
    texts = [text for text in texts if sum(map(letters.index, text)) % 10 == 0]
    assert len(texts) > 200 and written(model, signs, texts) == [text[::-1] for text in texts]


def test_the_recorded_model_writes_dates_in_one_form():
    model, signs = recorded_pairs("dates")
    forms = ["2 March 1931", "March 2, 1931", "2.3.1931", "3/2/1931"]
    assert written(model, signs, forms) == ["1931-03-02"] * 4


def test_the_recorded_reader_of_series_is_within_ten_percent_of_least_squares():
    record = data.record("runs/conditioning.json")["examples"]
    encoder = CausalTransformer(**record["config"])
    model = ValueModel(encoder, nn.Linear(encoder.width, 1), Gaussian(scale=1.0))
    model.load_state_dict(
        read_weights(data.recorded_file("runs/conditioning_examples.safetensors"))[0]
    )
    rng, series = np.random.default_rng(123), []
    while len(series) < 600:
        older, newer = rng.uniform(-1, 1), rng.uniform(-2, 2)
        if older < 1 - abs(newer):
            series.append(simulate([0.81 * older, 0.9 * newer], 18, rng=rng))
    z = np.array(series)
    with torch.no_grad():
        ours = model(torch.from_numpy(z).float())[:, 1:-1, 0].numpy()
    exact, came = least_squares_in_context(z, 2), z[:, 2:]
    for k in (4, 8, 15):  # 2 p examples and more
        assert np.mean((ours[:, k] - came[:, k]) ** 2) < 1.1 * np.mean(
            (exact[:, k] - came[:, k]) ** 2
        )
    squares = data.record("runs/conditioning.json")["exact"]["least_squares"]
    for run in record["runs"]:
        assert 1 + run["errors"][4] < 1.1 * (1 + squares[4])
