"""The solver of least squares: what it sums, what it corrects, and whom it asks when it cannot."""

from fractions import Fraction

import numpy as np
import pytest
from arbook import ar
from arbook import leastsquares as ls
from bench.ar import accuracy_series, qr_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

EPS = np.finfo(float).eps


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def walk(n: int, seed: int = 0) -> np.ndarray:
    return rng(seed).normal(size=n).cumsum()


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(0, 400), st.integers(0, 10**6))
def test_lag_gram_equals_the_product_of_the_windows(width, extra, seed):
    z = rng(seed).normal(size=width + extra) + 3
    windows = sliding_window_view(z, width)
    found = ls.lag_gram(z, width)
    np.testing.assert_allclose(found, windows.T @ windows, rtol=0, atol=50 * EPS * (z @ z))
    assert (found == found.T).all()


@pytest.mark.parametrize("n_lags", [0, 1, ls.DIRECT_LAGS, ls.DIRECT_LAGS + 1, 700])
@pytest.mark.parametrize("extra", [1, 2, 4_095, 9_001])
def test_lag_products_are_the_same_by_dot_products_and_by_fourier_blocks(n_lags, extra):
    z = rng(n_lags).normal(size=n_lags + extra)
    expected = [z[:extra] @ z[k : k + extra] for k in range(n_lags + 1)]
    np.testing.assert_allclose(
        ls.lag_products(z, n_lags), expected, rtol=0, atol=50 * EPS * (z @ z)
    )


@pytest.mark.parametrize("order", [1, ls.DIRECT_ORDER, ls.DIRECT_ORDER + 1, 150])
def test_residual_moments_equal_their_definition(order):
    z, coef = walk(5_000), rng(1).normal(size=order) / order
    X, y = ar.lag_matrix(z, order)
    residual = y - X @ coef - 0.3
    gradient, total, rss = ls.residual_moments(z, coef, 0.3)
    np.testing.assert_allclose(gradient, X.T @ residual, rtol=1e-11)
    assert total == pytest.approx(residual.sum(), rel=1e-11) and rss == pytest.approx(
        residual @ residual, rel=1e-11
    )


def test_moments_of_pieces_add_up():
    z, width = walk(500), 7
    whole = ls.window_moments(z, width)
    parts = ls.window_moments(z[:200], width) + ls.window_moments(z[194:], width)
    assert parts.n_rows == whole.n_rows
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-12)
    np.testing.assert_allclose(
        whole.sums, sliding_window_view(z, width).sum(0), rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("order", [8, 64, 336])
@pytest.mark.parametrize("name", [*accuracy_series(2_000), "ETTh1, oil"])
def test_weights_are_within_1e8_of_qr_in_float64(name, order, intercept):
    """The accuracy table of the chapter, 1e-8 relative; measured 1e-15 to 3e-12."""
    series = accuracy_series()
    if name not in series:
        pytest.skip("ETTh1.csv is not on this machine; set ARBOOK_DATA to its folder")
    z = series[name]
    model = ar.LinearAR(order, intercept=intercept).fit(z)
    coef, bias = qr_reference(z, order, intercept)
    hardest = name == "large offset" and order == 336 and not intercept
    assert model.solver_ == ("qr" if hardest else "normal")
    assert np.linalg.norm(model.coef_ - coef) < 1e-8 * np.linalg.norm(coef)
    assert np.abs(model.coef_ - coef).max() < 1e-8 * np.abs(coef).max()
    assert abs(model.intercept_ - bias) < 1e-8 * max(abs(bias), np.abs(z).mean())


def exact_solution(z, order):
    """Solve the normal equations in rational arithmetic: no rounding at all."""
    rows = [[Fraction(float(v)) for v in window] for window in sliding_window_view(z, order + 1)]
    table = [[sum(r[a] * r[b] for r in rows) for b in range(order + 1)] for a in range(order)]
    for a in range(order):
        table[a] = [v / table[a][a] for v in table[a]]
        for b in set(range(order)) - {a}:
            table[b] = [v - table[b][a] * p for v, p in zip(table[b], table[a], strict=True)]
    return np.array([float(row[order]) for row in table])


@pytest.mark.parametrize("amount", [1e-1, 1e-3, 1e-5, 1e-6])
def test_corrections_reach_the_accuracy_of_qr_against_exact_arithmetic(amount):
    z = np.sin(0.3 * np.arange(150)) + amount * rng(1).normal(size=150)
    exact = exact_solution(z, 4)

    def error(coef):
        return np.linalg.norm(coef - exact) / np.linalg.norm(exact)

    by_qr, _ = qr_reference(z, 4, False)
    assert error(ar.LinearAR(4).fit(z).coef_) < max(10 * error(by_qr), 1e-14)


def test_an_ill_conditioned_series_is_handed_to_qr():
    z = np.sin(0.3 * np.arange(2_000)) + 1e-9 * rng(1).normal(size=2_000)
    model = ar.LinearAR(8).fit(z)
    coef, _ = qr_reference(z, 8, False)
    X, y = ar.lag_matrix(z, 8)
    assert model.solver_ == "qr" and model.rank_ == 8 and model.condition_ > 1e7
    assert ar.ls_loss(model.coef_, X, y) <= ar.ls_loss(coef, X, y) * (1 + 1e-6)


@pytest.mark.parametrize("intercept", [False, True])
def test_streamed_qr_equals_the_normal_solver_on_easy_data(intercept):
    z = walk(9_000) + 4
    one, other = (ar.LinearAR(20, intercept=intercept, solver=s).fit(z) for s in ("qr", "normal"))
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=0, atol=1e-10)
    assert one.intercept_ == pytest.approx(
        other.intercept_, abs=1e-9
    ) and one.sigma2_ == pytest.approx(other.sigma2_)


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
@pytest.mark.parametrize("intercept", [False, True])
def test_weights_do_not_depend_on_the_unit_even_where_squares_overflow(exponent, intercept):
    z = ar.simulate([-0.5, 1.0], 400, rng=rng(), intercept=2.0)
    one, other = (
        ar.LinearAR(2, intercept=intercept).fit(series) for series in (z, z * 2.0**exponent)
    )
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-12)
    assert other.intercept_ * 2.0**-exponent == pytest.approx(one.intercept_, rel=1e-12)


def test_rank_report_names_the_undetermined_direction():
    """S15."""
    report = ls.rank_report(ar.lag_matrix(np.arange(1, 9), 3)[0])
    assert report.rank == 2 and report.condition > 1e14
    np.testing.assert_allclose(
        np.abs(report.null_space[:, 0]), np.array([1, 2, 1]) / np.sqrt(6), rtol=1e-10
    )
    assert ls.rank_report(np.ones((5, 2))).rank == 1
    wide = ls.rank_report(rng().normal(size=(2, 5)))
    assert wide.rank == 2 and wide.null_space.shape == (5, 3) and wide.condition == np.inf


@given(st.lists(st.integers(1, 80), max_size=6), st.booleans(), st.sampled_from(ls.SOLVERS))
def test_a_running_fit_is_that_of_all_chunks_joined(cuts, intercept, solver):
    z = walk(120) + 5
    running = ls.RunningFit(4, intercept, solver)
    for chunk in np.split(z, sorted(cuts)):
        if len(chunk):
            running.add(chunk)
    found, expected = (
        running.solve(ridge=2.0),
        ls.least_squares([z], 4, intercept=intercept, ridge=2.0),
    )
    np.testing.assert_allclose(found.coef, expected.coef, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.rss, expected.rss, rtol=1e-7)
    assert running.n_rows == expected.n_rows == 116


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_steps_ahead_without_a_level_are_one_regression_each(solver):
    z = walk(300)
    windows = sliding_window_view(z, 8)
    fit = ls.least_squares_ahead([z], np.zeros(5), 3, intercept=False, ridge=0.0, solver=solver)
    expected, rss, *_ = np.linalg.lstsq(windows[:, :5], windows[:, 5:], rcond=None)
    np.testing.assert_allclose(fit.coef, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(fit.rss, rss, rtol=1e-7)
    assert fit.rank == 5 and (fit.intercept == 0).all()


def test_each_row_of_a_table_says_whether_its_weights_can_be_trusted():
    rows = np.array([walk(60), np.ones(60), np.arange(60.0)])
    coef, bias, safe = ls.least_squares_each(rows, 3, intercept=True, ridge=0.0)
    alone = ls.least_squares([rows[0]], 3, intercept=True)
    assert safe.tolist() == [True, False, False]
    np.testing.assert_allclose(coef[0], alone.coef[:, 0], rtol=0, atol=1e-9)
    assert bias[0] == pytest.approx(alone.intercept[0], abs=1e-9)
