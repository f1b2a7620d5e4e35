"""Time and memory of the loss in chunks against `F.cross_entropy` on full logits, in one run.

Run it with `make bench`, or `python -m bench.objective`. It takes some minutes and 8 GB of memory. The figures are
printed and written to `runs/bench_objective.json`, which the fourth chapter shows.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from arbook.objective import linear_cross_entropy

from bench._record import ROOT, peak_mb, provenance, run_apart, write

RECORD = ROOT / "runs" / "bench_objective.json"
SIZE = {"N": 8_192, "C": 768, "V": 50_304}
NOTE = (
    "forward and backward in float32; times are medians of the repeats, relative to the first method; "
    "extra memory is the peak of a process beyond what it held before the loss, gradients included"
)


def full_logits(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = F.linear(
        hidden, weight
    )  # held until the end, as by a training loop that reports on them
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    return loss.detach()


def full_logits_freed(hidden, weight, targets) -> torch.Tensor:
    loss = F.cross_entropy(F.linear(hidden, weight), targets)
    loss.backward()
    return loss.detach()


def in_chunks(hidden, weight, targets) -> torch.Tensor:
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    return loss.detach()


METHODS = {
    "cross_entropy on full logits": full_logits,
    "the same, logits not kept": full_logits_freed,
    "linear_cross_entropy": in_chunks,
}


def make_inputs(N: int, C: int, V: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, C).requires_grad_()
    weight = torch.empty(V, C).normal_(std=0.02).requires_grad_()  # filled in place: no second copy
    return hidden, weight, torch.randint(V, (N,))


def measure(method: str, N: int, C: int, V: int) -> dict:
    """Time one loss with its gradients in this process, and its memory beyond the arguments."""
    METHODS[method](*make_inputs(8, C, 16))  # thread pools are not what is measured
    arguments = make_inputs(N, C, V)
    before, start = peak_mb(), time.perf_counter()
    METHODS[method](*arguments)
    return {"seconds": time.perf_counter() - start, "extra_memory_mb": peak_mb() - before}


def agreement(N: int = 512) -> dict:
    """Largest relative differences of loss and gradients, at full width and vocabulary."""
    found = []
    for method in METHODS.values():
        hidden, weight, targets = make_inputs(N, SIZE["C"], SIZE["V"])
        found.append((method(hidden, weight, targets), hidden.grad, weight.grad))
    names = ("loss", "hidden_gradient", "weight_gradient")
    first, last = found[0], found[-1]
    return {
        name: float((b - a).norm() / a.norm())
        for name, a, b in zip(names, first, last, strict=True)
    }


def compare(repeats: int) -> dict:
    runs = {method: [] for method in METHODS}
    for _ in range(repeats):  # in turn, so that a slow minute of the machine hits all
        for method in METHODS:
            runs[method].append(run_apart("objective", "--measure", method))
    seconds = {m: statistics.median(run["seconds"] for run in found) for m, found in runs.items()}
    base = next(iter(seconds.values()))
    return {
        method: {
            "extra_memory_mb": statistics.median(run["extra_memory_mb"] for run in found),
            "time_ratio": seconds[method] / base,
        }
        for method, found in runs.items()
    }


def report(record: dict) -> str:
    lines = [f"{'':32}{'extra memory':>16}{'time':>8}"]
    lines += [
        f"{method:32}{case['extra_memory_mb']:>13,.0f} MB{case['time_ratio']:>8.2f}"
        for method, case in record["loss"].items()
    ]
    lines += [f"relative difference of the {k}: {v:.0e}" for k, v in record["agreement"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", choices=METHODS, help="one measurement, as JSON")
    parser.add_argument(
        "--size", nargs=3, type=int, default=list(SIZE.values()), metavar=tuple(SIZE)
    )
    parser.add_argument("--repeats", type=int, default=3, help="how often (default 3)")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, *arguments.size)))
        return
    record = {
        "provenance": provenance("objective", ["torch"], NOTE),
        "size": SIZE,
        "repeats": arguments.repeats,
        "loss": compare(arguments.repeats),
        "agreement": agreement(),
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
