"""Linear autoregression: the exact checks of the first chapter's rows, its edges, and its peers."""

import subprocess
import sys
import warnings
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from arbook import ar, data
from arbook import leastsquares as ls
from arbook.guards import NotFittedError
from arbook.objective import causal_check
from conftest import unavailable
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.exceptions import RankWarning
from numpy.lib.stride_tricks import sliding_window_view

FIBONACCI = [1, 1, 2, 3, 5, 8, 13, 21]
EPS = np.finfo(float).eps


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def walk(n: int, seed: int = 0) -> np.ndarray:
    return rng(seed).normal(size=n).cumsum()


# --- pairs and the lag matrix -----------------------------------------------------------------------------------------


def test_growing_pairs_hold_the_whole_past():
    """S4: N - T pairs, the last instance of length N - 1."""
    pairs = ar.growing_pairs(np.arange(10), first=4)
    assert len(pairs) == 6 and len(pairs[-1][0]) == 9
    assert all((x == np.arange(len(x))).all() and y == len(x) for x, y in pairs)


def test_lag_matrix_of_one_to_six():
    """S5, S9, S10."""
    X, y = ar.lag_matrix([1, 2, 3, 4, 5, 6], 3)
    assert X.tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 5]] and y.tolist() == [4, 5, 6]
    assert (X[1, :-1] == X[0, 1:]).all() and len(X) == 6 - 3


@given(st.integers(1, 40), st.integers(1, 20))
def test_lag_matrix_rows_are_windows_and_targets_follow(extra, order):
    z = np.arange(order + extra, dtype=float)
    X, y = ar.lag_matrix(z, order)
    assert X.shape == (extra, order) and np.shares_memory(X, z) and np.shares_memory(y, z)
    assert (X == np.arange(extra)[:, None] + np.arange(order)).all() and (
        y == np.arange(extra) + order
    ).all()


def test_lag_matrix_cannot_be_written_through():
    X, _ = ar.lag_matrix(np.arange(9.0), 3)
    with pytest.raises(ValueError, match="read-only"):
        X[0, 0] = 1


def test_reuse_count_of_interior_values_is_the_order():
    """S16: p times as a feature; every value after the first p is a target once."""
    counts = ar.reuse_count(50, 6)
    assert (counts[5:-6] == 6).all() and counts.sum() == 44 * 6 and counts[-1] == 0


# --- the least-squares problem ----------------------------------------------------------------------------------------


def test_loss_gradient_matches_differences():
    """S11."""
    X, y = ar.lag_matrix(walk(60), 3)
    w, h = np.array([0.1, -0.4, 0.8]), 1e-5
    numeric = [
        (ar.ls_loss(w + h * e, X, y) - ar.ls_loss(w - h * e, X, y)) / (2 * h) for e in np.eye(3)
    ]
    np.testing.assert_allclose(-2 * X.T @ (y - X @ w), numeric, rtol=1e-6)


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_fibonacci_and_cosine_laws_are_found(solver):
    """S12."""
    model = ar.LinearAR(2, solver=solver).fit(FIBONACCI)
    np.testing.assert_allclose(model.coef_, [1, 1], rtol=1e-10)
    assert model.step([13, 21]) == pytest.approx(34, rel=1e-10)
    cosine = ar.LinearAR(2, solver=solver).fit(np.cos(0.7 * np.arange(200)))
    np.testing.assert_allclose(cosine.coef_, [-1, 2 * np.cos(0.7)], rtol=1e-10)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("order", [3, 40, 200])
def test_residual_is_orthogonal_to_the_columns(order, intercept):
    """S14."""
    z = 5 + walk(3_000)
    model = ar.LinearAR(order, intercept=intercept).fit(z)
    X, y = ar.lag_matrix(z, order)
    columns = np.column_stack([np.ones(len(X)), X]) if intercept else X
    residual = y - model.predict(X)
    assert np.abs(columns.T @ residual).max() < 1e-11 * np.linalg.norm(
        columns, axis=0
    ).max() * np.linalg.norm(y)
    assert model.sigma2_ == pytest.approx((residual**2).mean(), rel=1e-9)


def test_loop_and_matrix_give_the_same_weights():
    """S13."""
    z, order = walk(300), 4
    gram, moment = np.zeros((order, order)), np.zeros(order)
    for t in range(order, len(z)):
        gram += np.outer(z[t - order : t], z[t - order : t])
        moment += z[t - order : t] * z[t]
    np.testing.assert_allclose(
        ar.LinearAR(order).fit(z).coef_, np.linalg.solve(gram, moment), rtol=1e-9, atol=1e-12
    )


def test_gradient_descent_arrives_at_the_closed_form():
    """S8."""
    X, y = ar.lag_matrix(ar.simulate([-0.5, 1.0], 500, rng=rng()), 2)
    w = ar.descend(lambda w: -X.T @ (y - X @ w) / len(y), np.zeros(2), rate=0.1, steps=2_000)
    target = np.linalg.lstsq(X, y, rcond=None)[0]
    assert np.linalg.norm(w - target) < 1e-6


# --- the estimator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("order", [1, 2, 17, 64])
def test_parallel_and_incremental_predictions_agree(order, intercept):
    """S17, S18, S19: the function of the fit is the function of the forecast."""
    z = walk(400)
    model = ar.LinearAR(order, intercept=intercept).fit(z)
    X, y = ar.lag_matrix(z, order)
    np.testing.assert_allclose(model.predict(X), [model.step(x) for x in X], rtol=1e-13, atol=1e-13)
    assert ((y - model.predict(X)) ** 2).mean() == pytest.approx(model.sigma2_, rel=1e-9)
    assert model.predict(X.reshape(1, *X.shape)).shape == (1, len(X))


def dependence(f, x):
    """Say which outputs of a function of a series, shape (T,), depend on which of its values."""

    def of_a_batch(batch):
        return torch.tensor(np.array([f(row) for row in batch.numpy()]))

    return causal_check(of_a_batch, torch.tensor(np.array(x, dtype=float))[None]).numpy()


def test_changing_the_future_does_not_change_the_prediction():
    """S2, S17: the dependence is lower triangular, and bit for bit."""
    model = ar.LinearAR(8).fit(walk(200))

    def outputs(x):
        return np.array(
            [model.step(np.concatenate([np.zeros(8), x[: t + 1]])[-8:]) for t in range(len(x))]
        )

    assert (dependence(outputs, walk(8, seed=1)) == np.tril(np.ones((8, 8), bool))).all()
    leaky = dependence(lambda x: outputs(x - x.mean()), walk(8, seed=1))
    assert leaky[0, -1]


def test_an_output_that_is_nan_either_way_is_no_dependence():
    assert not dependence(lambda z: np.full(len(z), np.nan), [1.0, 2.0, 3.0]).any()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_dependence_is_seen_at_every_value(x):
    """S2: -1 and 0 included."""
    assert (dependence(lambda z: z * 2, x) == np.eye(len(x), dtype=bool)).all()


def test_prefix_outputs_equal_one_parallel_pass():
    """S7."""
    model, x = ar.LinearAR(4).fit(walk(200)), walk(30, seed=2)
    padded = np.concatenate([np.zeros(3), x])
    slow = [model.step(np.concatenate([np.zeros(3), x[: t + 1]])[-4:]) for t in range(len(x))]
    np.testing.assert_allclose(model.predict(sliding_window_view(padded, 4)), slow, rtol=1e-13)


def test_log_prob_is_the_sum_of_the_next_distributions():
    """S1."""
    z = ar.simulate([0.3, 0.5], 300, rng=rng())
    model = ar.LinearAR(2, intercept=True).fit(z)
    X, y = ar.lag_matrix(z, 2)
    stepwise = [
        np.log(model.next_distribution(x).pdf(target)) for x, target in zip(X, y, strict=True)
    ]
    np.testing.assert_allclose(model.log_prob(z), stepwise, rtol=1e-10)


def test_samples_follow_the_fitted_law():
    """S1: one step ahead, mean and variance of many samples."""
    z = ar.simulate([0.3, 0.5], 500, rng=rng())
    model = ar.LinearAR(2, intercept=True).fit(z)
    generator = rng(7)
    drawn = np.array([model.sample(z, 1, rng=generator)[0] for _ in range(4_000)])
    law = model.next_distribution(z[-2:])
    assert abs(drawn.mean() - law.mean) < 4 * law.stdev / np.sqrt(4_000)
    assert drawn.std() == pytest.approx(law.stdev, rel=0.05)


def test_a_random_walk_has_weight_one_on_the_last_value():
    """S3."""
    np.testing.assert_allclose(ar.LinearAR(4).fit(walk(50_000)).coef_, [0, 0, 0, 1], atol=0.02)


def test_a_line_has_rank_two_and_still_forecasts_nine():
    """S15: minimum norm, with a warning."""
    with pytest.warns(RankWarning, match="2 of 3 weights"):
        model = ar.LinearAR(3).fit(np.arange(1, 9))
    assert model.rank_ == 2 and model.step([6, 7, 8]) == pytest.approx(9, rel=1e-12)
    X, y = ar.lag_matrix(np.arange(1, 9), 3)
    np.testing.assert_allclose(model.coef_, np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-9)


def test_constant_series_have_a_documented_answer():
    """S15: without intercept [1/2, 1/2]; with one, no weights and the constant."""
    with pytest.warns(RankWarning):
        np.testing.assert_allclose(ar.LinearAR(2).fit(np.ones(8)).coef_, [0.5, 0.5], rtol=1e-12)
    with pytest.warns(RankWarning):
        model = ar.LinearAR(2, intercept=True).fit(np.full(8, 7.0))
    assert (
        model.coef_.tolist() == [0, 0]
        and model.intercept_ == 7
        and model.sigma2_ == 0
        and model.rank_ == 0
    )
    with pytest.warns(RankWarning):
        assert ar.LinearAR(2).fit(np.zeros(8)).coef_.tolist() == [0, 0]


def test_fewer_rows_than_weights_give_the_shortest_exact_fit():
    with pytest.warns(RankWarning):
        model = ar.LinearAR(5).fit([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    X, y = ar.lag_matrix([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0], 5)
    np.testing.assert_allclose(model.predict(X), y, rtol=1e-10)
    np.testing.assert_allclose(model.coef_, np.linalg.pinv(X) @ y, rtol=1e-9)


def test_the_normal_solver_refuses_a_singular_matrix():
    with pytest.raises(np.linalg.LinAlgError, match="solver='auto'"):
        ar.LinearAR(2, solver="normal").fit(np.zeros(8))


@pytest.mark.parametrize("solver", ["normal", "qr", "auto"])
@pytest.mark.parametrize("intercept", [False, True])
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 999), max_size=8), seed=st.integers(0, 99))
def test_a_stream_in_any_chunks_gives_the_fit_of_the_whole(solver, intercept, cuts, seed):
    z = walk(1_000, seed) + 2
    streamed = ar.LinearAR(6, intercept=intercept, solver=solver, ridge=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RankWarning
        )  # a first chunk may be too short to determine the weights
        for chunk in np.split(z, sorted(set(cuts))):
            streamed.partial_fit(chunk)
    whole = ar.LinearAR(6, intercept=intercept, ridge=0.5).fit(z)
    np.testing.assert_allclose(streamed.coef_, whole.coef_, rtol=0, atol=1e-9)
    assert (
        streamed.intercept_ == pytest.approx(whole.intercept_, abs=1e-8)
        and streamed.n_rows_ == whole.n_rows_
    )


def test_a_stream_after_fit_is_refused():
    with pytest.raises(ValueError, match="new model"):
        ar.LinearAR(2).fit(FIBONACCI).partial_fit([1.0, 2.0])


def test_a_stream_shorter_than_the_order_is_not_fitted_yet():
    model = ar.LinearAR(3).partial_fit([1.0, 2.0])
    with pytest.raises(NotFittedError, match="call fit first"):
        model.step([1, 2, 3])


STEPS = {
    "last": np.r_[np.full(50, 20.5), 21.0],
    "late": np.r_[np.full(60, 5.0), np.full(6, 6.0)],
    "tenths": np.full(77, 0.1),
    "tiny": np.r_[np.full(99, 5.0), 5.0 + 1e-9],
}


@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
@pytest.mark.parametrize("z", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(
    "model",
    [
        ar.LinearAR(1, intercept=True),
        ar.LinearAR(3, intercept=True),
        ar.LinearAR(3),
        ar.DirectAR(2, 3, anchor="last"),
        ar.DirectAR(3, 3, anchor="mean", intercept=True),
        ar.DirectAR(2, 3, intercept=True),
    ],
    ids=repr,
)
def test_a_constant_past_never_makes_wild_forecasts(model, z):
    """The rounding of a subtraction must not pass for a feature."""
    forecast = model.fit(z).forecast(z, 3)
    assert np.abs(forecast - z[-1]).max() <= 2 * np.ptp(z) + 1e-9
    result = ar.backtest(model, z, horizon=3, start=40, refit=True)
    assert np.abs(result.forecasts - result.actuals).max() <= 2 * np.ptp(z) + 1e-9


@pytest.mark.parametrize("amount", [1e-6, 1e-5, 1e-4])
def test_anchored_weights_keep_six_digits_on_a_noisy_line(amount):
    for seed in range(10):
        z = np.arange(500) + amount * rng(seed).normal(size=500)
        one, other = (
            ar.DirectAR(3, 1, anchor="last", intercept=True, solver=s).fit(z)
            for s in ("auto", "qr")
        )
        np.testing.assert_allclose(one.coef_, other.coef_, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.sigma2_, other.sigma2_, rtol=1e-5)


def test_direct_variance_of_a_well_predictable_series_is_that_of_qr():
    z = np.sin(0.3 * np.arange(200)) + 1e-8 * rng(1).normal(size=200)
    one, other = (ar.DirectAR(2, 1, solver=s).fit(z) for s in ("auto", "qr"))
    np.testing.assert_allclose(one.sigma2_, other.sigma2_, rtol=1e-5)


@pytest.mark.parametrize(
    "z, order, intercept",
    [(np.resize([1.0, 2, 4], 399), 3, True), (0.97 ** np.arange(400), 2, False)],
)
def test_exact_dependence_is_found_where_cholesky_survives_by_rounding(z, order, intercept):
    with pytest.warns(RankWarning):
        model = ar.LinearAR(order, intercept=intercept).fit(z)
    assert model.rank_ == order - 1 and model.solver_ == "qr"


def test_one_enormous_value_does_not_cost_the_digits_of_the_others():
    noise = rng(1).normal(size=200)
    for z in (np.r_[1e12, noise], np.r_[noise, 1e8]):
        X, y = ar.lag_matrix(z, 2)
        exact = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)[0][:2]
        np.testing.assert_allclose(ar.LinearAR(2, intercept=True).fit(z).coef_, exact, rtol=1e-8)
        np.testing.assert_allclose(ar.fit_each([z], 2, intercept=True)[0][0], exact, rtol=1e-7)
        stream = ar.LinearAR(2, intercept=True).partial_fit(z[:1]).partial_fit(z[1:])
        np.testing.assert_allclose(stream.coef_, exact, rtol=1e-8)


@pytest.mark.parametrize("exponent", [-560, 0, 660])
def test_every_estimator_works_in_any_unit(exponent):
    z = ar.simulate([-0.5, 1.2], 300, rng=rng())
    far = z * 2.0**exponent
    assert ar.select_order(far, 3).order == ar.select_order(z, 3).order
    np.testing.assert_allclose(ar.yule_walker(far, 2)[0], ar.yule_walker(z, 2)[0], rtol=1e-12)
    np.testing.assert_allclose(ar.fit_each([far], 2)[0], ar.fit_each([z], 2)[0], rtol=1e-12)
    for solver in ("normal", "qr"):
        one, other = (ar.LinearAR(2, solver=solver).partial_fit(series) for series in (far, z))
        np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-12)


def test_small_noise_on_an_offset_is_not_taken_for_rounding():
    x = ar.simulate([0.2, -0.5, 1.1], 500, rng=rng(4))
    assert ar.select_order(1e6 + 1e-8 * x, 4).order == 3


def test_a_warned_chunk_is_counted_once():
    model = ar.LinearAR(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RankWarning):
            model.partial_fit(np.ones(10))
    assert model.n_rows_ == 7 and len(model.coef_) == 3


def test_a_refused_fit_does_not_lose_the_stream():
    model = ar.LinearAR(2, solver="normal").partial_fit(walk(50))
    with pytest.raises(np.linalg.LinAlgError):
        model.fit(np.zeros(9))
    assert model.partial_fit(walk(50)).n_rows_ == 98


def test_a_list_of_series_is_one_fit_without_windows_across_the_joints():
    parts = [walk(300, seed) for seed in range(5)]
    model = ar.LinearAR(4, intercept=True).fit(parts)
    X, y = (
        np.concatenate(both) for both in zip(*(ar.lag_matrix(z, 4) for z in parts), strict=True)
    )
    solution = np.linalg.lstsq(np.column_stack([np.ones(len(X)), X]), y, rcond=None)[0]
    np.testing.assert_allclose([model.intercept_, *model.coef_], solution, rtol=0, atol=1e-10)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 5.0])
@pytest.mark.parametrize("order", [1, 3, 20])
def test_fitting_each_of_many_series_equals_fitting_one_at_a_time(order, ridge, intercept):
    """S14: smooth and offset rows included, which the batch hands to the careful solver."""
    z = np.array([walk(150, seed) for seed in range(20)])
    z[3] = np.sin(0.3 * np.arange(150)) + 1e-6 * rng(3).normal(size=150)
    z[4] += 1e4
    z[5] *= 2.0**400
    coef, bias = ar.fit_each(z, order, intercept=intercept, ridge=ridge)
    for row, found, constant in zip(z, coef, bias, strict=True):
        model = ar.LinearAR(order, intercept=intercept, ridge=ridge).fit(row)
        np.testing.assert_allclose(found, model.coef_, rtol=0, atol=1e-8)
        assert constant == pytest.approx(model.intercept_, rel=1e-6, abs=1e-7 * np.abs(row).max())


def test_a_batch_with_a_constant_row_warns_and_keeps_the_others():
    z = np.array([np.ones(40), walk(40)])
    with pytest.warns(RankWarning):
        coef, _ = ar.fit_each(z, 2)
    np.testing.assert_allclose(coef[0], [0.5, 0.5], rtol=1e-9)
    np.testing.assert_allclose(coef[1], ar.LinearAR(2).fit(z[1]).coef_, rtol=1e-9)


def test_a_batch_refuses_what_a_single_fit_refuses():
    for bad, error, message in [
        (np.ones(9), ValueError, r"got \(9,\)"),
        (np.empty((0, 9)), ValueError, "B >= 1"),
        (np.ones((3, 2)), ValueError, r"series\[0\] must have at least 3"),
        (np.array([[1.0, 2, 3, 4], [1, np.nan, 3, 4]]), ValueError, r"series\[1\]\[1\] is nan"),
        (np.ones((3, 9)) * 1j, TypeError, "complex"),
    ]:
        with pytest.raises(error, match=message):
            ar.fit_each(bad, 2)
    with pytest.raises(ValueError, match="ridge"):
        ar.fit_each(np.ones((3, 9)), 2, ridge=-1)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_ridge_solves_the_penalised_problem(intercept, solver):
    z, ridge = walk(200) + 5, 30.0
    model = ar.LinearAR(5, intercept=intercept, ridge=ridge, solver=solver).fit(z)
    X, y = ar.lag_matrix(z, 5)
    if intercept:
        X, y = X - X.mean(0), y - y.mean()
    expected = np.linalg.solve(X.T @ X + ridge * np.eye(5), X.T @ y)
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-8)
    assert model.sigma2_ == pytest.approx(((y - X @ expected) ** 2).mean(), rel=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool])
def test_any_real_dtype_is_computed_in_float64(dtype):
    z = np.round(2 * rng().random(300)).astype(dtype)
    model = ar.LinearAR(3, intercept=True).fit(z)
    assert model.coef_.dtype == np.float64
    np.testing.assert_array_equal(
        model.coef_, ar.LinearAR(3, intercept=True).fit(z.astype(np.float64)).coef_
    )


def test_the_series_is_not_changed_and_may_be_strided():
    z = walk(1_000)
    before = z.copy()
    strided = ar.LinearAR(3, intercept=True).fit(z[::-2]).coef_
    np.testing.assert_array_equal(strided, ar.LinearAR(3, intercept=True).fit(z[::-2].copy()).coef_)
    np.testing.assert_array_equal(z, before)


def test_peers_agree():
    from statsmodels.tsa.ar_model import AutoReg

    z = data.series("sunspots").values
    ours = ar.LinearAR(9, intercept=True).fit(z)
    theirs = AutoReg(z, 9, trend="c").fit()
    np.testing.assert_allclose(ours.coef_, theirs.params[:0:-1], rtol=1e-8)
    assert ours.intercept_ == pytest.approx(theirs.params[0], rel=1e-8)
    assert ours.log_prob(z).sum() == pytest.approx(theirs.llf, rel=1e-9)
    np.testing.assert_allclose(ours.forecast(z, 12), theirs.forecast(12), rtol=1e-8)


# --- many steps -------------------------------------------------------------------------------------------------------


def test_ar1_forecast_variances():
    """S20: 1, 1.81, ..., the closed form, and its limit."""
    found = ar.forecast_variance([0.9], 400)
    h = np.arange(1, 401)
    np.testing.assert_allclose(found, (1 - 0.81**h) / (1 - 0.81), rtol=1e-12)
    np.testing.assert_allclose(
        [found[0], found[1], found[4], found[-1]], [1, 1.81, 3.428, 5.263], atol=5e-4
    )
    assert ar.forecast_variance([0.9], 1, sigma2=4.0).tolist() == [4.0]


def test_forecast_feeds_predictions_back():
    model = ar.LinearAR(2).fit(FIBONACCI)
    np.testing.assert_allclose(model.forecast(FIBONACCI, 5), [34, 55, 89, 144, 233], rtol=1e-9)


def test_forecast_of_many_windows_equals_one_at_a_time():
    windows, coef = rng().normal(size=(3, 7, 4)), np.array([0.1, -0.2, 0.3, 0.5])
    together = ar.recursive_forecast(windows, coef, 6, intercept=0.7)
    assert together.shape == (3, 7, 6)
    for index in np.ndindex(3, 7):
        alone = ar.recursive_forecast(windows[index], coef, 6, intercept=0.7)
        np.testing.assert_allclose(together[index], alone, rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_as_often_as_they_promise(level):
    """S20: with weights from a long series, the promise holds to sampling error."""
    history = ar.simulate([-0.3, 0.9], 20_000, rng=rng())
    model = ar.LinearAR(2).fit(history)
    hits = []
    for seed in range(1_500):
        z = ar.simulate([-0.3, 0.9], 60, rng=rng(1_000 + seed))
        low, high = model.forecast(z[:50], 10, level=level).interval[9]
        hits.append(low <= z[59] <= high)
    assert abs(np.mean(hits) - level) < 4 * np.sqrt(level * (1 - level) / 1_500)


def test_direct_forecasts_are_one_regression_per_step():
    z = walk(800) + 3
    model = ar.DirectAR(5, 4, intercept=True).fit(z)
    windows = sliding_window_view(z, 9)
    X = np.column_stack([np.ones(len(windows)), windows[:, :5]])
    expected = np.linalg.lstsq(X, windows[:, 5:], rcond=None)[0]
    np.testing.assert_allclose(model.coef_, expected[1:], atol=1e-8)
    np.testing.assert_allclose(model.intercept_, expected[0], atol=1e-7)
    np.testing.assert_allclose(
        model.sigma2_, ((windows[:, 5:] - X @ expected) ** 2).mean(0), rtol=1e-7
    )


@pytest.mark.parametrize("solver", ls.SOLVERS)
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 25.0])
@pytest.mark.parametrize("anchor", ["last", "mean"])
def test_anchored_forecasts_solve_the_regression_of_changes(anchor, ridge, intercept, solver):
    z, order, horizon = walk(600) + 50, 6, 3
    model = ar.DirectAR(
        order, horizon, anchor=anchor, ridge=ridge, intercept=intercept, solver=solver
    ).fit(z)
    windows = sliding_window_view(z, order + horizon)
    level = (windows[:, order - 1] if anchor == "last" else windows[:, :order].mean(1))[:, None]
    X, Y = windows[:, :order] - level, windows[:, order:] - level
    centre = (X.mean(0), Y.mean(0)) if intercept else (0, 0)
    Xc, Yc = X - centre[0], Y - centre[1]
    penalised = np.vstack([Xc, np.sqrt(ridge) * np.eye(order)])
    weights = np.linalg.lstsq(penalised, np.vstack([Yc, np.zeros((order, horizon))]), rcond=1e-12)[
        0
    ]
    expected = level + (X - centre[0]) @ weights + centre[1]
    np.testing.assert_allclose(model.predict(windows[:, :order]), expected, atol=1e-7)
    np.testing.assert_allclose(
        model.coef_.sum(0), 1, rtol=1e-9
    )  # a shift of the window shifts the forecast


def test_direct_model_with_one_step_is_linear_ar():
    z = walk(500)
    np.testing.assert_allclose(
        ar.DirectAR(7, 1).fit(z).coef_[:, 0], ar.LinearAR(7).fit(z).coef_, atol=1e-9
    )


def test_direct_forecast_is_its_prediction_from_the_last_window():
    z = walk(300)
    model = ar.DirectAR(5, 4, anchor="last").fit([z, z[:100]])
    np.testing.assert_array_equal(model.forecast(z), model.predict(z[-5:]))
    assert model.forecast(z, 2).shape == (2,)
    with pytest.raises(ValueError, match="4 steps ahead, got horizon 5"):
        model.forecast(z, 5)


def test_a_line_is_continued_by_anchored_direct_forecasts():
    with pytest.warns(RankWarning):
        model = ar.DirectAR(4, 3, anchor="last").fit(np.arange(30.0))
    np.testing.assert_allclose(model.predict([7, 8, 9, 10]), [11, 12, 13], rtol=1e-9)


@pytest.mark.slow
def test_etth1_errors_are_below_the_published_table():
    """The benchmark of the chapter with its chosen setting: at most 0.371, 0.404, 0.428, 0.435."""
    try:
        values = data.series("etth1").values
    except data.DataNotFoundError:
        pytest.skip("ETTh1.csv is not on this machine; set ARBOOK_DATA to its folder")
    train, valid, test = 8640, 11520, 14400
    z = (values - values[:train].mean(0)) / values[:train].std(0)
    for horizon, limit in {96: 0.371, 192: 0.404, 336: 0.428, 720: 0.435}.items():
        model = ar.DirectAR(336, horizon, anchor="last", ridge=1e3).fit(list(z[:train].T))
        errors = [
            model.predict(w[:, :336]) - w[:, 336:]
            for w in (
                sliding_window_view(column[valid - 336 : test], 336 + horizon) for column in z.T
            )
        ]
        assert errors[0].shape == (test - valid - horizon + 1, horizon)  # no test window is dropped
        assert np.mean(np.square(errors)) <= limit


# --- stationarity, simulation, Yule and Walker ------------------------------------------------------------------------


def test_roots_tell_stationarity():
    """S54."""
    assert (
        ar.is_stationary([0.99]) and not ar.is_stationary([1.0]) and not ar.is_stationary([-1.01])
    )
    np.testing.assert_allclose(
        ar.characteristic_roots([-0.75, 1.5]), [0.75 + 0.4330127j, 0.75 - 0.4330127j], rtol=1e-6
    )
    coef = rng().normal(size=6)
    roots = ar.characteristic_roots(coef)
    np.testing.assert_allclose(roots**6, sum(c * roots**k for k, c in enumerate(coef)), rtol=1e-8)


@pytest.mark.parametrize("n", [1, 127, 128, 129, 1_000])
@pytest.mark.parametrize("coef", [[0.5], [-0.75, 1.5], [1.0, 1.0], [0.1, 0.2, 0.3, 0.2]])
def test_simulation_by_blocks_is_the_recursion(coef, n):
    """S54: to rounding, explosive processes included."""
    n = min(n, 300) if sum(coef) > 1 else n
    initial = np.ones(len(coef))
    drawn = ar.simulate(coef, n, sigma=0.3, rng=rng(5), intercept=0.2, initial=initial)
    noise = rng(5).normal(scale=0.3, size=(-(-n // 128), 128)).ravel()
    z = np.concatenate([initial, np.zeros(n)])
    for t in range(n):
        z[t + len(coef)] = z[t : t + len(coef)] @ coef + 0.2 + noise[t]
    np.testing.assert_allclose(drawn, z[len(coef) :], rtol=1e-9, atol=1e-9)


def test_simulation_starts_in_its_stationary_law():
    first = [ar.simulate([0.95], 1, rng=rng(seed))[0] for seed in range(3_000)]
    assert np.var(first) == pytest.approx(1 / (1 - 0.95**2), rel=0.1)


def test_ar1_autocorrelations_are_powers():
    """S54."""
    gamma = ar.autocovariance(ar.simulate([0.8], 400_000, rng=rng()), 5)
    np.testing.assert_allclose(gamma / gamma[0], 0.8 ** np.arange(6), atol=0.01)


def test_a_constant_has_no_yule_walker_weights():
    for constant in (0.0, 0.1, 1 / 3, 1e9):
        with pytest.raises(ValueError, match="constant"):
            ar.yule_walker(np.full(100, constant), 2)


def test_levinson_solves_the_toeplitz_system():
    """S14."""
    gamma = ar.autocovariance(walk(300), 12)
    coef, sigma2 = ar.levinson(gamma)
    matrix = gamma[np.abs(np.subtract.outer(np.arange(12), np.arange(12)))]
    expected = np.linalg.solve(matrix, gamma[1:])
    np.testing.assert_allclose(coef[::-1], expected, rtol=1e-8)
    assert sigma2 == pytest.approx(gamma[0] - expected @ gamma[1:], rel=1e-8)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_yule_walker_weights_are_always_stationary(seed, order):
    """S54."""
    assert ar.is_stationary(ar.yule_walker(walk(60, seed), order)[0])


def test_yule_walker_and_least_squares_meet():
    """S54: on a long series, and equal to statsmodels."""
    from statsmodels.regression.linear_model import yule_walker

    z = ar.simulate([-0.75, 1.5], 100_000, rng=rng())
    coef, sigma2 = ar.yule_walker(z, 2)
    np.testing.assert_allclose(coef, ar.LinearAR(2, intercept=True).fit(z).coef_, atol=1e-3)
    theirs, sigma = yule_walker(z, 2, method="mle", result_object=False)
    np.testing.assert_allclose(coef[::-1], theirs, rtol=1e-9)
    assert sigma2 == pytest.approx(sigma**2, rel=1e-9)


@pytest.mark.parametrize("autocov", [[1.0, 2.0, 1.0], [1.0, 2.0], [0.0, 0.0], [-1.0, 0.5]])
def test_levinson_refuses_what_is_no_autocovariance(autocov):
    with pytest.raises(ValueError, match="positive definite"):
        ar.levinson(autocov)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ar.CRITERIA)
@pytest.mark.parametrize("intercept", [False, True])
def test_scores_equal_separate_fits_on_the_same_targets(criterion, intercept):
    z, top = data.series("sunspots").values, 12
    selection = ar.select_order(z, top, criterion=criterion, intercept=intercept)
    n = len(z) - top
    split = n if criterion != "holdout" else round(0.8 * n)
    for order in range(top + 1):
        windows = sliding_window_view(z, top + 1)[:, top - order :]
        X = np.column_stack([np.ones(n), windows[:, :-1]])[:, 0 if intercept else 1 :]
        w = (
            np.linalg.lstsq(X[:split], windows[:split, -1], rcond=None)[0]
            if X.shape[1]
            else np.zeros(0)
        )
        judged = slice(split, None) if criterion == "holdout" else slice(None)
        error = ((windows[judged, -1] - X[judged] @ w) ** 2).mean()
        k = order + intercept
        expected = {
            "aic": n * np.log(error) + 2 * k,
            "bic": n * np.log(error) + k * np.log(n),
            "holdout": error,
        }
        assert selection.scores[order] == pytest.approx(expected[criterion], rel=1e-8)
    assert selection.order == np.argmin(selection.scores)


def test_order_of_a_simulated_process_is_found():
    z = ar.simulate([0.5, -0.6, 0.3], 5_000, rng=rng())
    assert ar.select_order(z, 12, criterion="bic").order == 3


def test_order_of_a_nearly_deterministic_series_is_scored_as_by_qr():
    z, top = np.sin(0.3 * np.arange(400)) + 1e-8 * rng(1).normal(size=400), 8
    selection = ar.select_order(z, top, criterion="aic")
    n = len(z) - top
    for order in range(top + 1):
        windows = sliding_window_view(z, top + 1)[:, top - order :]
        X = np.column_stack([np.ones(n), windows[:, :-1]])
        Q, R = np.linalg.qr(X)
        error = ((windows[:, -1] - X @ np.linalg.solve(R, Q.T @ windows[:, -1])) ** 2).mean()
        assert selection.scores[order] == pytest.approx(
            n * np.log(error) + 2 * (order + 1), abs=0.01
        )


def test_a_perfect_fit_is_chosen_at_its_smallest_order():
    for criterion in ar.CRITERIA:
        selection = ar.select_order(np.cos(0.7 * np.arange(200)), 6, criterion=criterion)
        assert selection.order == 2


def test_a_constant_series_needs_no_lags():
    assert ar.select_order(np.full(60, 3.0), 5).order == 0


# --- backtests --------------------------------------------------------------------------------------------------------


class Spy:
    """A forecaster that records what it was shown."""

    def __init__(self):
        self.fitted, self.seen = [], []

    def __deepcopy__(self, memo):
        return self

    def fit(self, z):
        self.fitted.append(z.copy())
        return self

    def forecast(self, z, horizon):
        self.seen.append(z.copy())
        return np.zeros(horizon)


@pytest.mark.parametrize("refit", [False, True])
def test_a_backtest_never_shows_the_future(refit):
    """S3: fits see z[:start] or z[:origin]; forecasts see z[:origin]; every complete future is used."""
    z, spy = np.arange(50.0), Spy()
    result = ar.backtest(spy, z, horizon=5, step=3, start=20, refit=refit)
    assert result.origins.tolist() == list(range(20, 46, 3))
    assert [len(seen) for seen in spy.seen] == result.origins.tolist()
    assert [len(fit) for fit in spy.fitted] == [20, *(result.origins.tolist() if refit else [])]
    np.testing.assert_array_equal(result.actuals, result.origins[:, None] + np.arange(5))


def test_a_backtest_refuses_forecasts_of_another_shape_and_protects_the_series():
    class Odd(Spy):
        def forecast(self, z, horizon):
            return z[-1:]

    class Rude(Spy):
        def forecast(self, z, horizon):
            z[-1] = 99
            return np.zeros(horizon)

    with pytest.raises(ValueError, match=r"\(3,\), got \(1,\)"):
        ar.backtest(Odd(), np.arange(20.0), horizon=3)
    with pytest.raises(ValueError, match="read-only"):
        ar.backtest(Rude(), np.arange(20.0), horizon=3)


def test_a_backtest_leaves_the_model_as_it_was():
    model = ar.LinearAR(2).fit(FIBONACCI)
    ar.backtest(model, walk(60), horizon=3)
    np.testing.assert_allclose(model.coef_, [1, 1], rtol=1e-9)


def test_baselines_by_hand():
    """S3."""
    z = [1.0, 5.0, 2.0, 8.0, 3.0]
    assert ar.Persistence().fit(z).forecast(z, 3).tolist() == [3, 3, 3]
    assert ar.SeasonalNaive(2).fit(z).forecast(z, 5).tolist() == [8, 3, 8, 3, 8]
    result = ar.backtest(ar.Persistence(), z, horizon=2, start=2)
    assert result.mae.tolist() == pytest.approx([(3 + 6) / 2, (3 + 1) / 2])
    assert result.mse.tolist() == pytest.approx([(9 + 36) / 2, (9 + 1) / 2])


def test_autoregression_does_not_beat_persistence_on_an_index():
    """S3."""
    index = data.series("simulated-index").values
    rivals = ar.LinearAR(5, intercept=True), ar.Persistence()
    model, naive = (ar.backtest(rival, index, horizon=5, start=4_000) for rival in rivals)
    assert (model.mae > 0.99 * naive.mae).all()


# --- bad input --------------------------------------------------------------------------------------------------------

BAD_SERIES = {
    "nan": ([1.0, np.nan, 2.0, 3.0, 4.0], ValueError, r"z\[1\] is nan"),
    "inf": ([1.0, 2.0, -np.inf, 3.0, 4.0], ValueError, r"z\[2\] is -inf"),
    "too short": ([1.0, 2.0], ValueError, "at least 3 values, got 2"),
    "empty": ([], ValueError, "at least 3 values, got 0"),
    "two-dimensional": (np.ones((9, 2)), ValueError, r"one-dimensional, got shape \(9, 2\)"),
    "scalar": (3.0, ValueError, "one-dimensional"),
    "complex": (np.ones(9) * 1j, TypeError, "complex128"),
    "text": (["a", "b", "c", "d"], TypeError, "real numbers"),
    "objects": (np.array([1, None, 2, 3]), TypeError, "dtype object"),
    "dates": (np.arange(9).astype("datetime64[D]"), TypeError, "datetime64"),
    "masked": (np.ma.masked_greater(np.arange(9.0), 5), ValueError, "masked"),
}


ENTRIES = ["fit", "partial_fit", "direct", "lag_matrix", "select", "forecast", "backtest"]
# two values are a valid chunk of a stream, and a valid past for order 2
VALID = {("partial_fit", "too short"), ("forecast", "too short")}


@pytest.mark.parametrize("entry, case", sorted(set(product(ENTRIES, BAD_SERIES)) - VALID))
def test_bad_series_are_refused_by_name(entry, case):
    z, error, message = BAD_SERIES[case]
    short = case in ("too short", "empty") or entry == "select"
    calls = {
        "fit": lambda: ar.LinearAR(2).fit(z),
        "partial_fit": lambda: ar.LinearAR(2).partial_fit(z),
        "direct": lambda: ar.DirectAR(1, 2).fit(z),
        "lag_matrix": lambda: ar.lag_matrix(z, 2),
        "select": lambda: ar.select_order(z, 1, intercept=False),
        "forecast": lambda: ar.LinearAR(2).fit(FIBONACCI).forecast(z, 2),
        "backtest": lambda: ar.backtest(ar.Persistence(), z, horizon=3),
    }
    with pytest.raises(
        error, match=None if short else message.replace("z", "(z|chunk)", message.startswith("z"))
    ):
        calls[entry]()


@pytest.mark.parametrize(
    "order, error",
    [
        (0, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        ("2", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_bad_orders_are_refused(order, error):
    for call in (
        lambda: ar.LinearAR(order),
        lambda: ar.lag_matrix(np.ones(9), order),
        lambda: ar.DirectAR(order, 3),
        lambda: ar.DirectAR(3, order),
        lambda: ar.select_order(np.arange(99.0), order),
    ):
        with pytest.raises(error, match="order|horizon"):
            call()


@pytest.mark.parametrize("horizon, error", [(0, ValueError), (-3, ValueError), (1.5, TypeError)])
def test_bad_horizons_are_refused(horizon, error):
    model = ar.LinearAR(2).fit(FIBONACCI)
    for call in (
        lambda: model.forecast(FIBONACCI, horizon),
        lambda: ar.forecast_variance([0.5], horizon),
        lambda: ar.backtest(ar.Persistence(), FIBONACCI, horizon=horizon),
        lambda: ar.recursive_forecast([1.0], [0.5], horizon),
    ):
        with pytest.raises(error, match="horizon"):
            call()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": np.nan}, "ridge"),
        ({"ridge": np.inf}, "ridge"),
        ({"solver": "lu"}, "auto, normal, qr"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ar.LinearAR(2, **options)
    with pytest.raises(ValueError, match=message):
        ar.DirectAR(2, 2, **options)


def test_other_bad_arguments_are_refused():
    model = ar.LinearAR(2).fit(FIBONACCI)
    for level in (0, 1, -0.5, 90):
        with pytest.raises(ValueError, match="level"):
            model.forecast(FIBONACCI, 2, level=level)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\), got \(3, 4\)"):
        model.predict(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"\(2,\), got \(3, 2\)"):
        model.step(np.ones((3, 2)))
    with pytest.raises(TypeError, match="complex"):
        model.predict(np.ones((3, 2)) * 1j)
    for use in (model.predict, model.step, ar.DirectAR(2, 2).fit(walk(30)).predict):
        with pytest.raises(ValueError, match="finite"):
            use([1.0, np.nan])
    with pytest.raises(ValueError, match="finite"):
        model.predict([[1.0, 2.0], [np.inf, 3.0]])
    with pytest.raises(ValueError, match="anchor"):
        ar.DirectAR(3, 2, anchor="first")
    with pytest.raises(ValueError, match="at least 2"):
        ar.DirectAR(1, 2, anchor="last")
    with pytest.raises(ValueError, match="criterion"):
        ar.select_order(np.arange(99.0), 3, criterion="r2")
    with pytest.raises(ValueError, match="holdout"):
        ar.select_order(np.arange(99.0), 3, criterion="holdout", holdout=1.0)
    with pytest.raises(ValueError, match="no origin"):
        ar.backtest(ar.Persistence(), np.arange(9.0), horizon=3, start=8)
    with pytest.raises(ValueError, match="initial must have 2"):
        ar.simulate([0.1, 0.2], 5, rng=rng(), initial=[1.0])
    with pytest.raises(ValueError, match="sigma"):
        ar.simulate([0.1], 5, rng=rng(), sigma=-1.0)
    model.sigma2_ = 0.0
    for X in (np.empty((0, 3)), np.ones(3), [[1.0, np.nan]]):
        with pytest.raises(ValueError, match="finite matrix"):
            ls.rank_report(X)
    with pytest.raises(ValueError, match="masked"):
        model.predict(np.ma.masked_array([[1.0, 1e6]], mask=[[0, 1]]))
    with pytest.raises(ValueError, match="sigma2"):
        ar.forecast_variance([0.5], 2, sigma2=-1.0)
    with pytest.raises(ValueError, match="intercept"):
        ar.simulate([0.5], 3, rng=rng(), intercept=np.nan)
    with pytest.raises(ValueError, match=r"coef\[0\] is nan"):
        ar.recursive_forecast([1.0], [np.nan], 2)
    with pytest.raises(ValueError, match="ridge"):
        ar.LinearAR(2, ridge="much")
    with pytest.raises(ValueError, match="no residual"):
        model.log_prob(FIBONACCI)


# --- scikit-learn's conventions ---------------------------------------------------------------------------------------


def scikit_learn():
    """The package, which the library does not need."""
    try:
        import sklearn.base
        import sklearn.utils.estimator_checks
    except ImportError:
        unavailable("scikit-learn is missing; install it with: pip install scikit-learn")
    return sklearn


MODELS = [
    ar.LinearAR(3, intercept=True, ridge=0.5, solver="qr"),
    ar.LinearAR(2),
    ar.DirectAR(4, 2, anchor="last", ridge=1.5, intercept=True),
    ar.DirectAR(2, 3, solver="normal"),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_model_is_its_parameters(model):
    params = model.get_params()
    assert repr(type(model)(**params)) == repr(model)
    assert eval(repr(model), vars(ar)).get_params() == params
    assert all(getattr(model, name) is value for name, value in params.items())
    twin = type(model)(**params).set_params(order=7, solver="auto")
    assert twin.get_params() == params | {"order": 7, "solver": "auto"}
    for bad, error in (
        ({"order": 0}, ValueError),
        ({"lag": 3}, ValueError),
        ({"intercept": "no"}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(bad))):
            twin.set_params(ridge=9.0, **bad)
    assert twin.get_params() == params | {"order": 7, "solver": "auto"}  # all or nothing


def test_a_model_whose_parameters_change_forgets_its_fit():
    model = ar.LinearAR(2).fit(FIBONACCI)
    assert model.set_params().set_params(order=2).coef_.round(6).tolist() == [1, 1]
    with pytest.raises(NotFittedError, match="call fit first"):
        model.set_params(order=3).predict(np.ones(3))
    assert model.fit(walk(30)).forecast(walk(30), 2).shape == (2,)
    assert ar.DirectAR(3, 2, anchor="last").set_params(order=2).fit(walk(30)).coef_.shape == (2, 2)


@pytest.mark.parametrize("X", [np.ones((4, 7)), "text", [[np.nan, 1]]])
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_missing_fit_is_told_before_anything_about_the_windows(model, X):
    for use in (
        model.predict,
        lambda X: model.forecast(X, 1),
        getattr(model, "step", model.predict),
    ):
        with pytest.raises(NotFittedError, match="call fit first"):
            use(X)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_models_can_be_cloned_by_scikit_learn(model):
    clone = scikit_learn().base.clone
    model = type(model)(**model.get_params()).fit(walk(40))
    twin = clone(model)
    assert repr(twin) == repr(model) and "coef_" not in twin.__dict__
    np.testing.assert_array_equal(twin.fit(walk(40)).coef_, model.coef_)


TABLE = "it asks for a table with a row for each instance; a model of a series is fitted to the series itself"
CALL = "it predicts from the data of the fit; these models predict from windows"
SPARSE = "it offers sparse tables; there are no sparse series"
EXPECTED_FAILURES = {
    "check_complex_data": "its words for complex numbers differ from ours: 'must hold real numbers'",
    "check_do_not_raise_errors_in_init_or_set_param": "wrong parameters are refused at once, not in fit",
    "check_do_not_raise_errors_in_init_or_set_params": "wrong parameters are refused at once, not in fit",
    "check_dont_overwrite_attributes": TABLE,
    "check_dont_overwrite_parameters": TABLE,
    "check_dict_unchanged": TABLE,
    "check_dtype_object": "numbers as objects are refused, with a hint to convert them",
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
    "check_estimator_sparse_tag": SPARSE,
    "check_estimators_dtypes": CALL,
    "check_estimators_empty_data_messages": TABLE,
    "check_estimators_nan_inf": "it wants the words NaN or infinity; ours name the value and its place",
    "check_estimators_pickle": CALL,
    "check_estimators_unfitted": "it asks for the very class of scikit-learn; ours has the same two bases",
    "check_f_contiguous_array_estimator": TABLE,
    "check_fit1d": "it demands that one-dimensional data are refused",
    "check_fit2d_1feature": TABLE,
    "check_fit2d_1sample": TABLE,
    "check_fit2d_predict1d": TABLE,
    "check_fit_idempotent": CALL,
    "check_fit_score_takes_y": "a stream has no targets beside itself",
    "check_methods_sample_order_invariance": TABLE,
    "check_methods_subset_invariance": TABLE,
    "check_n_features_in": "a series has no features to count",
    "check_n_features_in_after_fitting": "a series has no features to count",
}


def test_scikit_learns_own_checks_pass_but_for_those_that_ask_for_tables():
    """Its checks skip models of series; with another tag, and a target that is ignored, all of them run."""
    sklearn = scikit_learn()

    class Tested(ar.LinearAR):
        def __init__(self, order=2, *, intercept=False, ridge=0.0, solver="auto"):
            super().__init__(order, intercept=intercept, ridge=ridge, solver=solver)

        def fit(self, X, y=None):
            return super().fit(X)

        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array = True
            return tags

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = sklearn.utils.estimator_checks.check_estimator(
            Tested(), expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail=None
        )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    passed = {r["check_name"] for r in results if r["status"] == "passed"}
    assert not failed
    assert {
        "check_estimator_cloneable",
        "check_get_params_invariance",
        "check_set_params",
    } <= passed
    assert {"check_no_attributes_set_in_init", "check_fit_check_is_fitted"} <= passed
    assert len(passed) >= 14


def test_scikit_learn_skips_models_of_series_by_their_tags():
    sklearn = scikit_learn()
    for model in MODELS:
        tags = sklearn.utils.get_tags(model)
        assert tags.input_tags.one_d_array and not tags.input_tags.two_d_array
        with pytest.warns(sklearn.exceptions.SkipTestWarning, match="requires input"):
            sklearn.utils.estimator_checks.check_estimator(model, on_skip=None)


def test_the_library_needs_no_scikit_learn():
    program = (
        "import sys; sys.modules['sklearn'] = None; from arbook.ar import LinearAR; "
        "print(LinearAR(1).fit([1, 2, 4, 8]).set_params(order=1).get_params())"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert result.returncode == 0 and "'order': 1" in result.stdout, result.stderr


# --- the limits of the numbers ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
@pytest.mark.parametrize("exponent", [-200, 0, 200])
@pytest.mark.parametrize(
    "z, order",
    [
        (2.0 ** np.arange(6), 1),
        (FIBONACCI, 2),
        (np.cos(np.arange(300.0)), 2),
        (1e6 + np.cos(np.arange(300.0)), 3),
        (np.arange(50.0) ** 2, 3),
        (np.full(30, 3.7), 1),
    ],
)
def test_a_residual_that_is_rounding_has_no_density(z, order, exponent):
    """By the laws of these series the true residual is zero, whatever the computation leaves of it."""
    z = np.ldexp(np.asarray(z, dtype=float), exponent)
    with pytest.raises(ValueError, match="no residual but rounding"):
        ar.LinearAR(order, intercept=True).fit(z).log_prob(z)
    chunks = ar.LinearAR(order, intercept=True).partial_fit(z[:4]).partial_fit(z[4:])
    with pytest.raises(ValueError, match="no residual but rounding"):
        chunks.log_prob(z)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0])
def test_small_noise_is_no_rounding(size):
    """Far above the spacing of float64, a density is the one of the noise: -log(s sqrt(2 pi e)) on average."""
    z = 1 + size * rng().normal(size=500)
    model = ar.LinearAR(1, intercept=True).fit(z)
    expected = -0.5 * np.log(2 * np.pi * np.e * model.sigma2_)
    rounding = EPS / size  # of the values, in units of the noise
    assert model.log_prob(z).mean() == pytest.approx(expected, rel=1e-9, abs=rounding)
    assert np.sqrt(model.sigma2_) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("level", [[80, 95], (0.8, 0.9), np.array([0.8]), "0.9", True])
def test_a_forecast_has_one_level(level):
    with pytest.raises(TypeError, match="level must be a number"):
        ar.LinearAR(1).fit(walk(30)).forecast([1.0], 2, level=level)


@pytest.mark.parametrize("level", [1e-9, 0.5, 0.9, 1 - 1e-12, 0.9999999999999999])
def test_intervals_are_right_up_to_the_largest_level(level):
    """The bound leaves (1 - level) / 2 of a Gaussian above it, by the complementary error function."""
    from math import erfc, sqrt

    model = ar.LinearAR(1, intercept=True).fit(walk(60))
    mean, interval = model.forecast([1.0], 1, level=level)
    half = (interval[0, 1] - mean[0]) / sqrt(model.sigma2_)
    assert erfc(half / sqrt(2)) == pytest.approx(1 - level, rel=1e-9 if level > 0.1 else 1e-6)


def test_a_forecast_that_explodes_says_so_before_it_is_no_number():
    """The root is 1.25: after n steps a forecast is 1.25 to the n, and the largest float64 is 2 to the 1024."""
    z = 1.25 ** np.arange(40) + 1e-3 * rng().normal(size=40)
    model = ar.LinearAR(1, intercept=True).fit(z)
    steps = int((np.log(2) * 1024 - np.log(z[-1])) / np.log(1.25)) - 10
    mean, interval = model.forecast(z, steps, level=0.9)
    assert np.isfinite(interval).all() and (interval[:, 0] < mean).all()
    slope = np.diff(
        np.log(interval[-50:] - mean[-50:, None], where=[False, True], out=np.zeros((50, 2)))[:, 1]
    )
    np.testing.assert_allclose(slope, np.log(model.coef_[0]), rtol=1e-6)
    for level in (None, 0.9):
        with pytest.raises(
            ValueError, match=r"range of float64 at step 31\d\d, since the fit explodes: .* 1\.25"
        ):
            model.forecast(z, 5_000, level=level)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("solver", ls.SOLVERS)
@pytest.mark.parametrize("first", [1e-310, 0.0, 1e-160, 1.0])
@pytest.mark.parametrize("later", [1e160, 1e300])
@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
def test_a_stream_may_grow_by_any_factor(first, later, solver, intercept):
    z = np.concatenate(
        [first * rng(1).normal(size=30), later * ar.simulate([0.3, 0.5], 300, rng=rng())]
    )
    model = ar.LinearAR(2, intercept=intercept, solver=solver)
    for chunk in np.split(z, [10, 30, 150]):
        model.partial_fit(chunk)
    whole = ar.LinearAR(2, intercept=intercept, solver="qr").fit(z)
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-8)
    assert model.rank_ == 2 and model.n_rows_ == len(z) - 2


def test_copies_of_a_model_do_not_share_a_stream():
    import copy

    model = ar.LinearAR(2).partial_fit(walk(20))
    twin = copy.copy(model)
    twin.partial_fit(walk(20, 1))
    model.partial_fit(walk(20, 2))
    assert model.n_rows_ == twin.n_rows_ == 38
    joined = ar.LinearAR(2, solver="qr").fit(np.concatenate([walk(20), walk(20, 2)]))
    np.testing.assert_allclose(model.coef_, joined.coef_, rtol=1e-10)


# --- what is passed ---------------------------------------------------------------------------------------------------


def test_a_seed_is_a_generator_everywhere():
    z = walk(40)
    model = ar.LinearAR(2).fit(z)
    for draw in (lambda r: model.sample(z, 5, rng=r), lambda r: ar.simulate([0.5], 5, rng=r)):
        assert (draw(7) == draw(np.random.default_rng(7))).all()
        assert (draw(np.int64(7)) == draw(7)).all() and (draw(8) != draw(7)).any()
        for wrong in (None, "7", 7.0, True, np.random.RandomState(7), np.random):
            with pytest.raises(TypeError, match="rng must be a numpy.random.Generator or a seed"):
                draw(wrong)
        with pytest.raises(ValueError, match="rng must be at least 0"):
            draw(-1)


def test_a_series_of_the_book_is_a_series():
    spots = data.series("sunspots")
    model = ar.LinearAR(2).fit(spots)
    np.testing.assert_array_equal(model.coef_, ar.LinearAR(2).fit(spots.values).coef_)
    np.testing.assert_array_equal(model.forecast(spots, 3), model.forecast(spots.values, 3))
    np.testing.assert_array_equal(
        ar.LinearAR(2).fit([spots, spots]).coef_, ar.LinearAR(2).fit([spots.values] * 2).coef_
    )
    assert ar.select_order(spots, 5).order == ar.select_order(spots.values, 5).order
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(17420, 7\)"):
        ar.LinearAR(2).fit(data.series("simulated-load"))
    with pytest.raises(TypeError, match="real numbers"):
        ar.LinearAR(2).fit({"a": [1, 2, 3]})


@pytest.mark.parametrize("z", [[1.0, [2.0], 3.0, 4.0], [[1.0], [1.0, [2.0]]]])
def test_parts_of_different_lengths_are_no_series(z):
    for use in (ar.LinearAR(2).fit, ar.DirectAR(1, 1).fit, lambda z: ar.select_order(z, 1)):
        with pytest.raises(ValueError, match="z must hold numbers, got parts of different lengths"):
            use(z)


def test_rows_of_different_lengths_cannot_be_fitted_at_once():
    with pytest.raises(ValueError, match="rows of equal length; fit each by itself with LinearAR"):
        ar.fit_each([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0]], 1)


def test_objects_have_to_be_converted():
    with pytest.raises(TypeError, match=r"dtype object; convert it first, with astype\(float\)"):
        ar.LinearAR(1).fit(np.array([Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)]))


def test_a_backtest_says_what_a_model_lacks():
    class Forgetful(ar.Persistence):
        def fit(self, z):
            self.level = z[-1]

    class Silent:
        def fit(self, z):
            return self

    with pytest.raises(
        TypeError,
        match=r"fit of Forgetful must return the fitted model \(`return self`\), got None",
    ):
        ar.backtest(Forgetful(), walk(20), horizon=2)
    with pytest.raises(TypeError, match="model must have a method forecast"):
        ar.backtest(Silent(), walk(20), horizon=2)


@pytest.mark.parametrize(
    "use", [lambda m: m.predict(np.ones((1, 2))), lambda m: m.coef_, lambda m: m.sigma2_]
)
@pytest.mark.parametrize("model", [ar.LinearAR(2), ar.DirectAR(2, 2)])
def test_models_that_were_not_fitted_say_so(model, use):
    with pytest.raises(NotFittedError, match="call fit first"):
        use(model)


def test_models_can_be_copied_and_pickled():
    import copy
    import pickle

    model = ar.LinearAR(2, intercept=True).fit(walk(50))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.coef_, model.coef_)
        assert repr(twin) == repr(model) == "LinearAR(2, intercept=True, ridge=0, solver='auto')"


def test_memory_of_a_large_fit_stays_far_below_the_lag_matrix():
    """One million values and 256 lags: the matrix would fill two gigabytes."""
    import tracemalloc

    z = walk(1_000_000)
    tracemalloc.start()
    ar.LinearAR(256).fit(z)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions_from_a_view_of_the_lag_matrix_do_not_copy_it(dtype):
    import tracemalloc

    windows = sliding_window_view(walk(200_000).astype(dtype), 256)  # 400 MB in float64
    model = ar.LinearAR(256).fit(walk(2_000))
    for use in (model.predict, lambda w: ar.recursive_forecast(w, model.coef_, 1)):
        tracemalloc.start()
        result = use(windows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(result) == len(windows) and peak < 60e6


def pandas_indexes() -> dict:
    """Indexes of 43 labels at equal distances, of every kind that pandas has."""
    pandas = pytest.importorskip("pandas")
    days = pandas.date_range("2024-01-31", periods=43, name="day")
    return {
        "month ends": pandas.date_range("2024-01-31", periods=43, freq="ME"),
        "business days": pandas.date_range("2024-01-01", periods=43, freq="B"),
        "days without a freq": pandas.DatetimeIndex(list(days), name="day"),
        "hours over a change of the clock": pandas.date_range(
            "2024-03-30 00:00", periods=43, freq="h", tz="Europe/Berlin"
        ),
        "quarters": pandas.period_range("2000Q3", periods=43, freq="Q"),
        "elapsed time": pandas.timedelta_range("1h", periods=43, freq="30min"),
        "numbers": pandas.RangeIndex(43),
        "numbers that fall": pandas.RangeIndex(100, 14, -2),
        "years": pandas.Index(range(1700, 1743), name="year"),
        "years as floats": pandas.Index(np.arange(1700.0, 1743)),
    }


@pytest.mark.parametrize(
    "model",
    [
        ar.LinearAR(2, intercept=True),
        ar.DirectAR(3, 3, anchor="last"),
        ar.Persistence(),
        ar.SeasonalNaive(4),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("kind", pandas_indexes())
def test_the_labels_of_a_forecast_are_those_that_the_future_will_have(kind, model):
    index = pandas_indexes()[kind]
    pandas = pytest.importorskip("pandas")
    whole = pandas.Series(np.random.default_rng(0).normal(size=43), index, name="load")
    past = whole.iloc[:40]
    forecast = model.fit(past).forecast(past, 3)
    assert forecast.index.equals(index[40:]) and forecast.index.dtype == index.dtype
    assert forecast.name == "load" and forecast.index.name == index.name
    plain = model.fit(past.to_numpy()).forecast(past.to_numpy(), 3)
    assert type(plain) is np.ndarray
    np.testing.assert_array_equal(forecast.to_numpy(), plain)


def test_bounds_and_samples_are_labelled_like_forecasts():
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2024-01-01", periods=45, freq="D")
    past = pandas.Series(np.random.default_rng(0).normal(size=40), index[:40])
    model = ar.LinearAR(2).fit(past)
    mean, bounds = model.forecast(past, 5, level=0.9)
    plain = model.forecast(past.to_numpy(), 5, level=0.9)
    assert list(bounds.columns) == ["lower", "upper"]
    assert (bounds["lower"] < mean).all() and (mean < bounds["upper"]).all()
    np.testing.assert_array_equal(bounds.to_numpy(), plain.interval)
    for part in (mean, bounds, model.sample(past, 5, rng=0)):
        assert part.index.equals(index[40:])


@pytest.mark.parametrize(
    "labels",
    [
        [f"row {i}" for i in range(40)],
        [0, 1, 3, *range(4, 41)],
        [7] * 40,
        [True, False] * 20,
        np.array([*range(39), np.nan]),
        np.arange(40, 0, -1).astype(np.uint8),
        np.datetime64("2024-01-01") + np.arange(40) ** 2,
    ],
    ids=["words", "a gap", "one label", "truths", "a missing label", "unsigned", "uneven days"],
)
def test_after_labels_without_a_rule_a_forecast_counts_its_steps(labels):
    pandas = pytest.importorskip("pandas")
    past = pandas.Series(np.random.default_rng(0).normal(size=40), labels)
    forecast = ar.LinearAR(2).fit(past).forecast(past, 3)
    assert forecast.index.tolist() == [1, 2, 3] and forecast.index.name == "steps ahead"


def test_one_value_has_a_label_after_it_only_if_the_index_says_how_far():
    pandas = pytest.importorskip("pandas")
    forecast = ar.Persistence().forecast
    assert forecast(pandas.Series([5.0]), 2).index.tolist() == [1, 2]
    assert forecast(pandas.Series([5.0], [1700]), 2).index.name == "steps ahead"
    monthly = pandas.Series([5.0], pandas.period_range("2024-11", periods=1, freq="M"))
    assert forecast(monthly, 2).index.astype(str).tolist() == ["2024-12", "2025-01"]


def test_a_backtest_of_a_labelled_series_is_that_of_its_values():
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(0).normal(size=60)
    dated = pandas.Series(values, pandas.date_range("2024-01-01", periods=60))
    for model in (ar.LinearAR(2), ar.Persistence()):
        expected = ar.backtest(model, values, horizon=3).forecasts
        found = ar.backtest(model, dated, horizon=3).forecasts
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)
