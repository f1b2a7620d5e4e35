"""Heads, encoders and what is made of them: laws that sum to one, samples that follow them, one function."""

import math

import numpy as np
import pytest
import torch
from arbook import data
from arbook.ar import LinearAR, lag_matrix
from arbook.conformance import check_conformance
from arbook.distributions import (
    AffineFlow,
    Categorical,
    DilatedConvolution,
    Gaussian,
    GaussianMixture,
    LagWindow,
    Levels,
    LogisticMixture,
    Recurrent,
    TokenModel,
    ValueModel,
    melody,
    moving_squares,
    mu_law_decode,
    mu_law_encode,
)
from arbook.objective import causal_check, read_in_steps
from arbook.perplexity import score
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.sampling import generate
from arbook.steps import fit, random_windows
from scipy import stats
from torch import nn

REAL = [Gaussian(), Gaussian(scale=0.7), GaussianMixture(1), GaussianMixture(3)]
TOKENS = [Categorical(11), LogisticMixture(1, 11), LogisticMixture(3), LogisticMixture(2, 2)]


def numbers(head, n: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    """Parameters of some laws of a family, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, head.n_parameters, generator=generator, dtype=torch.float64)


# Laws


@pytest.mark.parametrize("head", REAL, ids=str)
def test_a_density_integrates_to_one_and_its_integral_is_the_cdf(head):
    grid = torch.linspace(-60, 60, 600_001, dtype=torch.float64)
    for row in numbers(head, 5):
        density = head.log_prob(row[None], grid).exp()
        areas = torch.cumulative_trapezoid(density, grid)
        assert abs(areas[-1].item() - 1) < 1e-6
        assert torch.allclose(areas[::1000], head.cdf(row[None], grid[1::1000]), atol=1e-6)


@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("head", TOKENS, ids=str)
def test_a_law_of_tokens_sums_to_one_and_logits_are_its_logarithms(head, size):
    rows = numbers(head, 50, size=size)
    log_p = torch.stack([head.log_prob(rows, torch.tensor(v)) for v in range(head.vocab_size)], -1)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(50).double(), atol=1e-6)
    assert torch.allclose(head.logits(rows).log_softmax(-1), log_p, atol=1e-9)
    assert log_p.isfinite().all()


def test_a_flow_integrates_to_one():
    flow, side = AffineFlow(2), torch.linspace(-14, 14, 1401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    for row in numbers(flow, 3, size=0.3):
        density = flow.log_prob(row[None], grid).exp().reshape(1401, 1401)
        whole = torch.trapezoid(torch.trapezoid(density, side), side)
        assert abs(whole.item() - 1) < 1e-3  # the tails of a funnel are long


@pytest.mark.parametrize("scale", [None, 0.7])
def test_one_component_is_the_gaussian_and_both_are_the_law_of_the_textbook(scale):
    values = torch.tensor([-30.0, 0.0, 1.5, 40.0], dtype=torch.float64)
    mean, log_scale = 0.3, math.log(scale or 1.7)
    row = torch.tensor([mean] if scale else [mean, log_scale], dtype=torch.float64)
    mixed = torch.tensor([9.0, mean, log_scale], dtype=torch.float64)
    expected = stats.norm(mean, math.exp(log_scale)).logpdf(values)
    assert np.allclose(Gaussian(scale).log_prob(row, values), expected, rtol=1e-12)
    assert np.allclose(GaussianMixture(1).log_prob(mixed, values), expected, rtol=1e-12)


def test_a_mixture_is_the_weighted_sum_of_its_bells_and_stays_finite_far_away():
    head, row = GaussianMixture(3), numbers(GaussianMixture(3), 1)[0]
    weights, means, scales = (part.numpy() for part in head.components(row))
    x = np.linspace(-5, 5, 41)
    expected = sum(
        w * stats.norm(m, s).pdf(x) for w, m, s in zip(weights, means, scales, strict=True)
    )
    assert np.allclose(head.log_prob(row, torch.tensor(x)).exp(), expected, rtol=1e-10)
    far = head.log_prob(row, torch.tensor(1e4, dtype=torch.float64))
    assert far.isfinite() and far.exp() == 0


@pytest.mark.parametrize("n_levels", [2, 11, 256])
def test_a_level_has_what_the_logistic_laws_give_to_its_interval(n_levels):
    head = LogisticMixture(2, n_levels)
    row = torch.tensor([0.4, -0.2, -0.5, 0.3, -1.2, 0.2], dtype=torch.float64)
    weights = row[:2].softmax(-1).numpy()
    edges = (np.arange(1, n_levels) - 0.5) / (n_levels - 1) * 2 - 1
    cdf = sum(
        w * stats.logistic(m, s).cdf(edges)
        for w, m, s in zip(weights, row[2:4], row[4:].exp(), strict=True)
    )
    expected = np.diff([0, *cdf, 1])
    assert np.allclose(head.logits(row).exp(), expected, atol=1e-12)


def test_far_levels_keep_an_exact_logarithm_where_a_difference_of_sigmoids_is_zero():
    row = torch.tensor([0.0, -1.0, -5.0])  # float32; the highest level is almost 300 scales away
    found = LogisticMixture(1).log_prob(row, torch.tensor(254))
    s, half = math.exp(-5), 1 / 255  # far in the tail sigma(a) - sigma(b) is e^-b - e^-a
    b = (2 * 254 / 255 - 1 - half + 1) / s
    expected = -b + math.log1p(-math.exp(-2 * half / s))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_very_narrow_logistic_counts_as_an_eighth_of_a_level():
    narrow = torch.tensor([0.0, 0.0, -50.0], dtype=torch.float64)
    eighth = torch.tensor([0.0, 0.0, math.log(2 / 255 / 8)], dtype=torch.float64)
    assert torch.equal(LogisticMixture(1).logits(narrow), LogisticMixture(1).logits(eighth))
    wide = LogisticMixture(1).logits(torch.tensor([0.0, 0.0, 500.0])).exp()
    assert wide[0].item() == pytest.approx(0.5) and wide[-1].item() == pytest.approx(0.5)


# Samples


@pytest.mark.parametrize("head", REAL, ids=str)
def test_samples_follow_the_law(head):
    row = numbers(head, 1)[0]
    drawn = head.sample(row.expand(20_000, -1), generator=torch.Generator().manual_seed(1))
    test = stats.kstest(drawn.numpy(), lambda x: head.cdf(row, torch.tensor(x)).numpy())
    assert test.pvalue > 0.001
    if isinstance(head, GaussianMixture):
        weights, means, scales = head.components(row)
        mean = (weights * means).sum()
        variance = (weights * (scales**2 + means**2)).sum() - mean**2
        assert abs(drawn.mean() - mean) < 5 * (variance / 20_000).sqrt()
        assert abs(drawn.var() / variance - 1) < 0.1


@pytest.mark.parametrize("head", TOKENS, ids=str)
def test_tokens_are_drawn_with_their_probabilities(head):
    row = numbers(head, 1)[0]
    drawn = head.sample(row.expand(20_000, -1), generator=torch.Generator().manual_seed(1))
    expected = 20_000 * head.logits(row).softmax(-1).numpy()
    counts = np.bincount(drawn, minlength=head.vocab_size)
    rare = expected < 10
    counts = [*counts[~rare], *([counts[rare].sum()] if expected[rare].sum() > 5 else [])]
    expected = [*expected[~rare], *([expected[rare].sum()] if expected[rare].sum() > 5 else [])]
    assert abs(sum(counts) - sum(expected)) < 20
    scaled = np.array(expected) * sum(counts) / sum(expected)
    assert stats.chisquare(counts, scaled).pvalue > 0.001


def test_a_flow_of_two_numbers_draws_the_funnel():
    row = torch.tensor([0.0, 0, 0, 0, 0, 1.0], dtype=torch.float64)
    drawn = AffineFlow(2).sample(row.expand(20_000, -1), generator=torch.Generator().manual_seed(2))
    first, second = drawn.unbind(-1)
    for values in (first, second * (-first).exp()):  # both standard normal, by the definition
        assert stats.kstest(values.numpy(), stats.norm.cdf).pvalue > 0.001


@pytest.mark.parametrize("head", [*REAL, *TOKENS, AffineFlow(3, 2)], ids=str)
def test_the_same_seed_draws_the_same_and_no_gradient_flows_through_a_sample(head):
    rows = numbers(head, 7, size=0.3).requires_grad_()
    one, two = (head.sample(rows, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and not one.requires_grad
    assert one.shape == ((7, 3) if head.n_dims else (7,))
    assert head.log_prob(rows, one).shape == (7,)


# Least squares is a head


def test_the_gradient_of_a_gaussian_with_fixed_scale_is_that_of_half_the_squared_error():
    mean = torch.randn(9, 1, dtype=torch.float64, requires_grad=True)
    values = torch.randn(9, dtype=torch.float64)
    (by_likelihood,) = torch.autograd.grad(-Gaussian(scale=1.0).log_prob(mean, values).sum(), mean)
    (by_squares,) = torch.autograd.grad(0.5 * (values - mean[:, 0]).square().sum(), mean)
    assert torch.allclose(by_likelihood, by_squares, rtol=1e-14)
    scaled = torch.autograd.grad(-Gaussian(scale=3.0).log_prob(mean, values).sum(), mean)[0]
    assert torch.allclose(scaled, by_squares / 9, rtol=1e-14)


@pytest.mark.parametrize("free_scale", [False, True])
def test_maximum_likelihood_of_a_gaussian_head_is_least_squares(free_scale):
    z = data.series("sunspots").values
    z = (z - z.mean()) / z.std()
    X, y = map(torch.tensor, lag_matrix(z, 3))
    head = Gaussian() if free_scale else Gaussian(scale=1.0)
    model = ValueModel(LagWindow(3), nn.Linear(3, head.n_parameters), head).double()
    if free_scale:  # one scale for all
        mask = torch.zeros_like(model.predictor.weight)
        mask[0] = 1
        model.predictor.weight.data *= mask
        model.predictor.weight.register_hook(lambda g: g * mask)
    search = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-18
    )

    def loss():
        search.zero_grad()
        nats = -head.log_prob(model(X)[:, -1], y).mean()
        nats.backward()
        return nats

    search.step(loss)
    fitted = LinearAR(3, intercept=True).fit(z)
    assert np.allclose(model.predictor.weight[0].detach(), fitted.coef_, atol=1e-6)
    assert model.predictor.bias[0].item() == pytest.approx(fitted.intercept_, abs=1e-6)
    if free_scale:
        assert model.predictor.bias[1].exp().item() ** 2 == pytest.approx(fitted.sigma2_, rel=1e-5)


def test_the_density_of_a_fitted_autoregression_is_that_of_its_three_parts():
    z = data.series("sunspots").values[:60] / 100
    fitted = LinearAR(2, intercept=True).fit(z)
    head = Gaussian(scale=math.sqrt(fitted.sigma2_))
    model = ValueModel(LagWindow(2), nn.Linear(2, 1), head).double()
    model.predictor.weight.data[0] = torch.tensor(fitted.coef_)
    model.predictor.bias.data[0] = fitted.intercept_
    log_p = model.log_prob(torch.tensor(z)[None])[0, 1:]  # the first value has a window of one
    assert np.allclose(log_p.detach(), fitted.log_prob(z), rtol=1e-9)


# Flows


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_dims", [1, 2, 4])
def test_a_flow_is_turned_round_exactly_and_its_determinant_is_that_of_autograds_jacobian(
    n_dims, n_layers
):
    flow = AffineFlow(n_dims, n_layers)
    for seed, row in enumerate(numbers(flow, 4, size=0.4)):
        x = torch.randn(n_dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        noise, log_det = flow.to_noise(row, x)
        assert torch.allclose(flow.from_noise(row, noise), x, atol=1e-10)
        jacobian = torch.autograd.functional.jacobian(
            lambda x, row=row: flow.to_noise(row, x)[0], x
        )
        assert log_det.item() == pytest.approx(jacobian.det().abs().log().item(), abs=1e-10)


def test_a_flow_without_moving_scales_is_a_gaussian_with_a_full_covariance():
    flow, row = AffineFlow(3), torch.zeros(12).double()
    row[:3], row[3:6] = torch.tensor([1.0, -2, 0.5]), torch.tensor([0.1, -0.3, 0.2])
    row[6:9] = torch.tensor([0.5, -0.7, 0.4])  # means of the second and third, from those before
    matrix = torch.zeros(3, 3).double()
    matrix[1, 0], matrix[2, 0], matrix[2, 1] = row[6:9]
    inverse = torch.linalg.inv(torch.eye(3).double() - matrix)
    mean = inverse @ row[:3]
    factor = inverse @ torch.diag(row[3:6].exp())
    expected = stats.multivariate_normal(mean.numpy(), (factor @ factor.T).numpy())
    x = torch.randn(20, 3, dtype=torch.float64)
    assert np.allclose(flow.log_prob(row, x), expected.logpdf(x.numpy()), rtol=1e-10)


# Sound


def test_the_mu_law_has_its_ends_its_middle_and_a_small_error():
    assert mu_law_encode([-1.0, 0.0, 1.0]).tolist() == [0, 128, 255]
    assert mu_law_encode(np.array([1, -1])).tolist() == [255, 0]
    levels = torch.arange(256)
    assert torch.equal(mu_law_encode(mu_law_decode(levels)), levels)
    nine = torch.linspace(-1, 1, 9).double()
    assert (mu_law_decode(mu_law_encode(nine)) - nine).abs().max() <= 0.0135
    x = torch.linspace(-1, 1, 100_001).double()
    error = (mu_law_decode(mu_law_encode(x)) - x).abs()
    bound = math.log(256) / 255 * (x.abs() + 1 / 255)  # half of a step, to first order
    assert (error <= 1.03 * bound + 1e-6).all()
    assert (mu_law_encode(x).diff() >= 0).all()


def test_the_levels_are_those_of_another_implementation():
    torchaudio = pytest.importorskip("torchaudio")
    x = torch.linspace(-1, 1, 4001)
    assert torch.equal(mu_law_encode(x), torchaudio.functional.mu_law_encoding(x, 256))


def test_a_melody_is_sound_of_five_tones():
    wave = melody(8000, rng=3)
    assert wave.shape == (8000,) and np.abs(wave).max() < 1
    assert np.array_equal(wave, melody(8000, rng=3)) and not np.array_equal(
        wave, melody(8000, rng=4)
    )
    scale = 220 * 2 ** (np.array([0, 3, 5, 7, 10]) / 12)
    piece = wave[40:560]  # within the first note, which has at least 600 samples
    power = np.abs(np.fft.rfft(piece * np.hanning(520), 1 << 15))
    tone = power.argmax() * 4000 / (1 << 15)
    assert np.abs(np.log2(tone / scale)).min() < 0.02


def test_a_square_moves_by_one_pixel_right_or_down():
    films = moving_squares(40, n_frames=4, size=8, rng=0)
    assert films.shape == (40, 4, 8, 8, 3) and films.min() >= 0 and films.max() <= 255
    inside = (films - 60).abs().sum(-1) > 60
    assert (inside.sum((2, 3)) == 9).all()
    corner = torch.stack([inside.any(3).int().argmax(2), inside.any(2).int().argmax(2)], -1)
    ways = corner.diff(dim=1)
    assert (ways.sum(-1) == 1).all() and (ways >= 0).all() and 30 < ways[..., 0].sum() < 90


# Encoders


@pytest.mark.parametrize(("kernel_size", "dilations"), [(2, [1, 2, 4]), (3, [1, 3]), (2, [5, 1])])
def test_a_convolution_reaches_as_far_as_the_formula_says_and_never_ahead(kernel_size, dilations):
    torch.manual_seed(0)
    encoder = DilatedConvolution(nn.Embedding(7, 6), 6, dilations, kernel_size=kernel_size)
    ids = torch.randint(7, (3, 20))
    seen = causal_check(lambda x: encoder.read(x)[0], ids, vocab_size=7)
    offsets = {0}
    for d in dilations:
        offsets = {o + j * d for o in offsets for j in range(kernel_size)}
    assert encoder.receptive_field == 1 + max(offsets)
    expected = torch.tensor([[i - j in offsets for j in range(20)] for i in range(20)])
    assert torch.equal(seen, expected)


def test_a_layer_is_the_convolution_of_torch():
    torch.manual_seed(0)
    encoder = DilatedConvolution(nn.Linear(2, 5), 5, [3]).double()
    x = torch.randn(4, 12, 2, dtype=torch.float64)
    h = encoder.read_in(x)
    weight = encoder.gates[0].weight.unflatten(1, (2, 5)).permute(0, 2, 1)  # (out, in, taps)
    padded = nn.functional.pad(h.mT, (3, 0))
    both = nn.functional.conv1d(padded, weight, encoder.gates[0].bias, dilation=3).mT
    expected = nn.functional.relu(h + encoder.mixers[0](nn.functional.glu(both, dim=-1)))
    assert torch.allclose(encoder.read(x)[0], expected, atol=1e-12)


def made_encoders():
    return {
        "window": LagWindow(3),
        "recurrent": Recurrent(1, 6),
        "convolution": DilatedConvolution(nn.Linear(1, 6), 6, [1, 2, 3]),
    }


@pytest.mark.parametrize("head", REAL, ids=str)
@pytest.mark.parametrize("name", made_encoders())
def test_a_model_of_values_is_one_function_all_at_once_and_step_by_step(name, head):
    torch.manual_seed(0)
    encoder = made_encoders()[name]
    model = ValueModel(encoder, nn.Linear(encoder.width, head.n_parameters), head).double()
    z = torch.randn(3, 17, dtype=torch.float64)
    whole = model(z)
    for sizes in ([1] * 17, [5, 1, 11], [2, 15]):
        assert torch.allclose(read_in_steps(model, z, sizes), whole, atol=1e-12)
    for row in range(3):
        assert torch.allclose(model(z[row : row + 1]), whole[row : row + 1], atol=1e-12)
    assert not causal_check(model, z).triu(1).any()
    cut = [model.loss_and_state(z[:, :6], z[:, 1:7], None, "none")]
    cut.append(model.loss_and_state(z[:, 6:-1], z[:, 7:], cut[0].state, "none"))
    assert torch.allclose(-torch.cat([c.loss for c in cut], 1), model.log_prob(z), atol=1e-12)
    _, state = model.step(z[:, :6], model.init_state(3))
    rows = torch.tensor([2, 0, 2])
    assert torch.allclose(
        model.step(z[rows, 6:], model.select(state, rows))[0], whole[rows, 6:], atol=1e-12
    )


def test_a_series_of_vectors_is_modelled_by_a_flow():
    torch.manual_seed(0)
    flow = AffineFlow(2)
    model = ValueModel(Recurrent(2, 5), nn.Linear(5, flow.n_parameters), flow).double()
    z = torch.randn(2, 9, 2, dtype=torch.float64)
    assert model.log_prob(z).shape == (2, 8)
    assert torch.allclose(read_in_steps(model, z, [1] * 9), model(z), atol=1e-12)
    assert model.sample(z, 4, generator=torch.Generator().manual_seed(0)).shape == (2, 4, 2)


def test_what_a_model_writes_has_the_law_that_it_states():
    """An AR(1) of known coefficients: variance and correlation of what it writes, in closed form."""
    model = ValueModel(LagWindow(1), nn.Linear(1, 1), Gaussian(scale=0.5)).double()
    model.predictor.weight.data.fill_(0.8)
    model.predictor.bias.data.fill_(0.2)
    start = torch.ones(400, 1).double()
    z = model.sample(start, 200, generator=torch.Generator().manual_seed(0))[:, 100:]
    assert z.shape == (400, 100)
    assert abs(z.mean() - 0.2 / 0.2) < 0.05
    assert abs(z.var() - 0.25 / (1 - 0.64)) < 0.05
    fitted = LinearAR(1, intercept=True).fit(list(z.numpy()))
    assert fitted.coef_[0] == pytest.approx(0.8, abs=0.02)


def test_training_finds_both_roads_of_a_fork_and_one_bell_does_not():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.choice([-1.0, 1.0], 4000, p=[0.3, 0.7]) + 0.1 * rng.normal(size=4000))
    truth = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7)) + 0.5 * math.log(
        2 * math.pi * math.e * 0.01
    )
    losses = {}
    for K in (1, 2):
        torch.manual_seed(1)
        head = GaussianMixture(K)
        model = ValueModel(LagWindow(1), nn.Linear(1, head.n_parameters), head).double()
        with torch.no_grad():
            model.predictor.weight.zero_()
            model.predictor.bias.copy_(torch.tensor([0.0] * K + [-0.5, 0.5][:K] + [0.0] * K))
        batches = [(z[None, :-1], z[None, 1:])] * 400
        optimizer = torch.optim.Adam(model.parameters(), 0.03)
        losses[K] = fit(lambda x, y, model=model: model.loss(x, y, "sum"), batches, optimizer)[-1]
    assert losses[2] == pytest.approx(truth, abs=0.03)
    spread = z.var().item()
    assert losses[1] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * spread), abs=0.01)


# Tokens


def made_models():
    torch.manual_seed(0)
    lstm = LSTMLM(LSTMConfig(vocab_size=30, n_embd=8))
    levels, few = LogisticMixture(2), LogisticMixture(2, 30)
    return {
        "characters": TokenModel(lstm, nn.Linear(128, 30), Categorical(30)),
        "an LSTM over levels in order": TokenModel(lstm, nn.Linear(128, 6), few),
        "sound": TokenModel(
            DilatedConvolution(nn.Embedding(256, 8), 8, [1, 2, 4]),
            nn.Linear(8, 256),
            Categorical(256),
        ),
        "pixels": TokenModel(
            DilatedConvolution(Levels(256, 8), 8, [1, 2, 5]),
            nn.Linear(8, 768),
            Categorical(256),
            channels=3,
        ),
        "pixels in order": TokenModel(
            DilatedConvolution(Levels(256, 8), 8, [3, 1]), nn.Linear(8, 18), levels, channels=3
        ),
    }


@pytest.mark.parametrize("name", made_models())
def test_a_model_of_tokens_keeps_every_promise(name):
    kept = check_conformance(made_models()[name].double())
    assert max(kept.values()) < 1e-9 and kept.keys() >= {
        "steps",
        "causality",
        "sum",
        "select",
        "loss",
    }


def test_the_model_of_another_chapter_in_three_parts_is_itself():
    lstm = LSTMLM(LSTMConfig(vocab_size=30, n_embd=8))
    model, ids = TokenModel(lstm, lstm.head, Categorical(30)), torch.randint(30, (2, 9))
    assert torch.equal(model(ids), lstm(ids))
    assert torch.equal(model.log_prob(ids), lstm.log_prob(ids)) or torch.allclose(
        model.log_prob(ids), lstm.log_prob(ids), atol=1e-6
    )


def test_the_position_says_which_third_of_768_logits_counts():
    torch.manual_seed(0)
    encoder = DilatedConvolution(Levels(256, 4), 4, [1])
    model = TokenModel(encoder, nn.Linear(4, 768), Categorical(256), channels=3)
    ids = torch.randint(256, (2, 7))
    all_logits = model.predictor(encoder.read(ids)[0])  # (B, T, 768)
    for t in range(7):
        channel = (t + 1) % 3  # of the next one: red is at 0, 3, 6
        expected = all_logits[:, t, 256 * channel : 256 * (channel + 1)]
        assert torch.equal(model(ids)[:, t], expected)


def test_raster_order_is_exactly_causal():
    """Frame by frame, row by row, pixel by pixel, red before green before blue; and nothing from later."""
    torch.manual_seed(0)
    films = moving_squares(1, n_frames=2, size=4, rng=0)
    ids = films.flatten(1)
    assert ids.shape == (1, 96)
    for n, (f, r, c, k) in enumerate(np.ndindex(2, 4, 4, 3)):
        assert ids[0, n] == films[0, f, r, c, k] and n == 48 * f + 12 * r + 3 * c + k
    encoder = DilatedConvolution(Levels(256, 8), 8, [47, 1, 2, 12])
    model = TokenModel(encoder, nn.Linear(8, 768), Categorical(256), channels=3)
    seen = causal_check(model, ids)
    assert not seen.triu(1).any() and seen.diagonal().all()
    assert seen[59, 12]  # what comes at 60 has its own place in the frame before among its inputs


def test_samples_scores_and_bytes_come_from_the_common_functions():
    from arbook.compression import compress, decompress

    torch.manual_seed(0)
    ids = mu_law_encode(melody(4000, rng=0))
    model = TokenModel(
        DilatedConvolution(nn.Embedding(256, 16), 16, [1, 2, 4, 8]),
        nn.Linear(16, 256),
        Categorical(256),
    )
    dice = torch.Generator().manual_seed(0)
    before = score(model, ids[:500]).bits_per_token
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    batches = [random_windows(ids, 8, 100, generator=dice) for _ in range(60)]
    fit(lambda x, y: model.loss(x, y, "sum"), batches, optimizer)
    after = score(model, ids[:500]).bits_per_token
    assert after < before - 1
    content = bytes(ids[:500].tolist())
    small = compress(content, model)
    assert decompress(small, model) == content and len(small) < 500 * after / 8 + 60
    song = generate(model, ids[:50], max_new_tokens=20, generator=dice).ids[0]
    assert song.shape == (20,) and song.max() < 256


# Bad input

BELL, WINDOW, ONE = Gaussian(), LagWindow(1), nn.Linear(1, 2)
NIL = torch.zeros(())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Gaussian(scale=0), ValueError, "scale must be above 0"),
        (lambda: GaussianMixture(0), ValueError, "n_components must be at least 1"),
        (lambda: LogisticMixture(1, 1), ValueError, "vocab_size must be at least 2"),
        (lambda: AffineFlow(0), ValueError, "n_dims must be at least 1"),
        (lambda: Categorical(2.5), TypeError, "vocab_size must be an integer"),
        (lambda: BELL.log_prob(torch.zeros(3), NIL), ValueError, r"parameters must have shape \(\.\.\., 2\)"),
        (lambda: BELL.log_prob(torch.zeros(2).long(), NIL), TypeError, "parameters must be a tensor of floats"),
        (lambda: Gaussian().log_prob(torch.zeros(2), 1.0), TypeError, "values must be a torch.Tensor"),
        (lambda: Gaussian().log_prob(torch.zeros(2), torch.tensor(1)), TypeError, "values must be floats"),
        (lambda: Gaussian().log_prob(torch.zeros(2), torch.tensor([0.0, math.nan])), ValueError, r"values\[1\] is nan"),
        (lambda: Categorical(3).log_prob(torch.zeros(3), torch.tensor([0, 3])), ValueError, r"values\[1\] is 3"),
        (lambda: LogisticMixture(1).log_prob(torch.zeros(3), torch.tensor([-1])), ValueError, r"values\[0\] is -1"),
        (lambda: Categorical(3).log_prob(torch.zeros(3), torch.tensor(1.0)), TypeError, "values must be integers"),
        (lambda: AffineFlow(2).log_prob(torch.zeros(6), torch.zeros(3)), ValueError, r"values must have shape"),
        (lambda: mu_law_encode([0.0, 1.5]), ValueError, "x must be between -1 and 1, got 1.5"),
        (lambda: mu_law_encode([math.nan]), ValueError, "x must be between -1 and 1, got nan"),
        (lambda: mu_law_encode([0.0], 1), ValueError, "n_levels must be at least 2"),
        (lambda: mu_law_decode(torch.tensor([256])), ValueError, r"levels\[0\] is 256; it must be between 0 and 255"),
        (lambda: DilatedConvolution(nn.Embedding(2, 2), 2, [1, 0]), ValueError, r"dilations\[1\] must be at least 1"),
        (lambda: LagWindow(0), ValueError, "order must be at least 1"),
        (lambda: ValueModel(LagWindow(1), nn.Linear(1, 3), Categorical(3)), TypeError, "head must be of real values"),
        (lambda: TokenModel(LagWindow(1), nn.Linear(1, 2), Gaussian()), TypeError, "head must be of tokens"),
        (lambda: ValueModel(nn.Linear(1, 1), nn.Linear(1, 2), Gaussian()), TypeError, "encoder must have read"),
        (lambda: ValueModel(LagWindow(1), nn.Linear(1, 2), nn.Linear(1, 1)), TypeError, "head must be a Head"),
        (lambda: ValueModel(LagWindow(1), None, Gaussian()), TypeError, "predictor must be an nn.Module"),
        (lambda: ValueModel(WINDOW, nn.Linear(1, 5), BELL)(torch.zeros(1, 3)), ValueError, "parameters must"),
        (lambda: ValueModel(WINDOW, ONE, BELL)(torch.zeros(3)), ValueError, r"values must have shape \(B, T\)"),
        (lambda: ValueModel(WINDOW, ONE, BELL).log_prob(torch.zeros(1, 1)), ValueError, "at least 2 positions"),
        (lambda: moving_squares(1, n_frames=5, size=6, rng=0), ValueError, "size must be at least 7"),
        (lambda: melody(0, rng=0), ValueError, "n must be at least 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_token_model_refuses_wrong_targets_and_a_predictor_of_the_wrong_width():
    encoder = DilatedConvolution(nn.Embedding(9, 4), 4, [1])
    model, ids = TokenModel(encoder, nn.Linear(4, 9), Categorical(9)), torch.zeros(1, 4).long()
    with pytest.raises(ValueError, match="targets"):
        model.loss(ids, torch.full((1, 4), 9))
    with pytest.raises(ValueError, match="ids"):
        model(torch.full((1, 4), 9))
    with pytest.raises(ValueError, match="predictor must return 9 numbers, got 8"):
        TokenModel(encoder, nn.Linear(4, 8), Categorical(9))(ids)
    with pytest.raises(ValueError, match="predictor must return 27 numbers, got 10"):
        TokenModel(encoder, nn.Linear(4, 10), Categorical(9), channels=3)(ids)
