"""Speed, memory and accuracy of `arbook.ar` against NumPy and statsmodels, in one run.

Run it with `make bench`, or `python -m bench.ar`. It takes some minutes and, for the peers, 10 GB of memory. The
figures are printed and written to `runs/bench_ar.json`, which the page on how least squares is solved shows.
"""

import argparse
import json
import statistics
import time

import numpy as np
from arbook import ar, data

from bench._record import ROOT, peak_mb, provenance, run_apart, write

RECORD = ROOT / "runs" / "bench_ar.json"
SPEED_CASES = [(10_000, 8), (100_000, 32), (1_000_000, 64), (1_000_000, 256)]
ORDERS = (8, 64, 336)


# --- speed and memory -------------------------------------------------------------------------------------------------


def fit_arbook(z: np.ndarray, order: int) -> np.ndarray:
    return ar.LinearAR(order).fit(z).coef_


def fit_lstsq(z: np.ndarray, order: int) -> np.ndarray:
    X, y = ar.lag_matrix(z, order)
    return np.linalg.lstsq(X, y, rcond=None)[0]


def fit_formula(z: np.ndarray, order: int) -> np.ndarray:
    X, y = ar.lag_matrix(z, order)
    return np.linalg.solve(X.T @ X, X.T @ y)


def fit_autoreg(z: np.ndarray, order: int) -> np.ndarray:
    from statsmodels.tsa.ar_model import AutoReg

    return AutoReg(z, order, trend="n").fit().params[::-1]


METHODS = {
    "arbook": fit_arbook,
    "lstsq": fit_lstsq,
    "formula": fit_formula,
    "autoreg": fit_autoreg,
}
PEERS = ("lstsq", "formula", "autoreg")


def measure(method: str, n: int, order: int, repeats: int) -> dict:
    """Time one method in this process; its peak memory includes the interpreter and the series."""
    z = np.random.default_rng(0).normal(size=n).cumsum()
    fit, times = METHODS[method], []
    fit(z[: 20 * order], order)  # imports and thread pools are not what is measured
    loops = 1 if n * order > 10**7 else 100  # enough for the clock where a fit takes a millisecond
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(loops):
            coef = fit(z, order)
        times.append((time.perf_counter() - start) / loops)
    return {"seconds": times, "peak_mb": peak_mb(), "coef": [float(c) for c in coef]}


def measure_apart(method: str, n: int, order: int, repeats: int) -> dict:
    """Run `measure` in a process of its own, so that nobody pays for the memory of another."""
    return run_apart("ar", "--measure", method, n, order, repeats)


def speed_case(n: int, order: int, repeats: int) -> dict:
    found = {method: measure_apart(method, n, order, repeats) for method in METHODS}
    median = {method: statistics.median(result["seconds"]) for method, result in found.items()}
    coef = {method: np.array(result["coef"]) for method, result in found.items()}
    return {
        "n": n,
        "p": order,
        "repeats": repeats,
        "times": {peer: median[peer] / median["arbook"] for peer in PEERS},
        "peak_mb": {method: result["peak_mb"] for method, result in found.items()},
        "difference": {peer: relative_difference(coef["arbook"], coef[peer]) for peer in PEERS},
    }


# --- accuracy ---------------------------------------------------------------------------------------------------------


def relative_difference(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def qr_reference(z: np.ndarray, order: int, intercept: bool) -> tuple[np.ndarray, float]:
    """Least squares by QR of the whole lag matrix in float64; with an intercept, of the series less its mean."""
    shift = z.mean() if intercept else 0.0
    X, y = ar.lag_matrix(z - shift, order)
    columns = np.column_stack([np.ones(len(X)), X]) if intercept else X
    Q, R = np.linalg.qr(columns)
    solution = np.linalg.solve(R, Q.T @ y)
    coef = solution[-order:]
    return coef, float(solution[0] + shift * (1 - coef.sum())) if intercept else 0.0


def accuracy_series(n: int = 20_000) -> dict[str, np.ndarray]:
    """Series that are hard in different ways: wandering, smooth, nearly deterministic, far from zero."""
    rng = np.random.default_rng(0)
    ar2 = ar.simulate([-0.75, 1.5], n, rng=rng)
    found = {
        "AR(2)": ar2,
        "random walk": rng.normal(size=n).cumsum(),
        "ARIMA-like": ar.simulate([0.2, 0.6], n, rng=rng).cumsum(),
        "sine + noise": np.sin(0.1 * np.arange(n)) + 0.1 * rng.normal(size=n),
        "large offset": 1e4 * ar2.std() + ar2,
        "exchange-like": 0.7 * np.exp(0.005 * rng.normal(size=n).cumsum()),
    }
    try:
        found["ETTh1, oil"] = data.series("etth1")["OT"]
    except data.DataNotFoundError:
        pass  # without the file, the table has one row less
    return found


def accuracy_case(z: np.ndarray, order: int, intercept: bool) -> float:
    model = ar.LinearAR(order, intercept=intercept).fit(z)
    coef, _ = qr_reference(z, order, intercept)
    return relative_difference(model.coef_, coef)


def accuracy() -> dict:
    settings = [(order, intercept) for order in ORDERS for intercept in (False, True)]
    return {
        "columns": [f"p = {order}{', intercept' * intercept}" for order, intercept in settings],
        "cases": [
            {"series": name, "errors": [accuracy_case(z, *setting) for setting in settings]}
            for name, z in accuracy_series().items()
        ],
    }


# --- provenance and output --------------------------------------------------------------------------------------------


NOTE = (
    "times are medians of the repeats, given as ratios to arbook; peak memory is of a whole process"
)


def report(record: dict) -> str:
    lines = ["arbook is so many times faster than its peers; peak memory in MB; largest difference"]
    lines.append(
        f"{'N':>8} {'p':>4}"
        + "".join(f"{peer:>10}" for peer in PEERS)
        + f"{'arbook':>9} MB"
        + "".join(f"{peer:>9} MB" for peer in PEERS)
    )
    for case in record["speed"]:
        times = "".join(f"{case['times'][peer]:>10.1f}" for peer in PEERS)
        peak = "".join(f"{case['peak_mb'][method]:>12.0f}" for method in METHODS)
        difference = max(case["difference"].values())
        lines.append(f"{case['n']:>8} {case['p']:>4}{times}{peak}   {difference:.0e}")
    lines += ["", "relative difference of the coefficients to float64 QR"]
    lines.append(f"{'':14}" + "".join(f"{column:>20}" for column in record["accuracy"]["columns"]))
    lines += [
        f"{case['series']:14}" + "".join(f"{error:>20.0e}" for error in case["errors"])
        for case in record["accuracy"]["cases"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--measure",
        nargs=4,
        metavar=("METHOD", "N", "ORDER", "REPEATS"),
        help="one timing, as JSON",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="how often to time each fit (default 5)"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        method, *numbers = arguments.measure
        print(json.dumps(measure(method, *map(int, numbers))))
        return
    record = {
        "provenance": provenance("ar", ["numpy", "statsmodels"], NOTE),
        "speed": [speed_case(n, order, arguments.repeats) for n, order in SPEED_CASES],
        "accuracy": accuracy(),
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
