"""Time a step of training on this processor: bfloat16 against full precision, and fused AdamW against the plain loop.

Run it with `python -m bench.training`. It takes some minutes. The figures are printed and written to
`runs/bench_training.json`.
"""

import argparse
import statistics
import time

import torch
from arbook.training import make_optimizers, parameter_groups, update, TrainConfig, random_windows
from arbook.transformer import GPT, GPTConfig

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bench_training.json"
WIDTHS = (128, 256, 384)
NOTE = "milliseconds are medians of the repeats; a ratio above 1 means that the second variant is faster"


def make_model(width: int) -> GPT:
    config = GPTConfig.modern(65, 128, width, 4, 4)
    return GPT(config, generator=torch.Generator().manual_seed(0))


def time_steps(model: GPT, optimizers: list, low: bool, repeats: int) -> float:
    """Return the median time of a step, in milliseconds."""
    ids = torch.randint(65, (10_000,), generator=torch.Generator().manual_seed(1))

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            return model.loss(inputs, targets, "sum")

    times = []
    for step in range(repeats + 2):
        batch = random_windows(ids, 16, 128, generator=torch.Generator().manual_seed(step))
        start = time.perf_counter()
        update(loss, [batch], optimizers, lr=1e-3, grad_clip=1.0)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])  # the first two make buffers


def precision_case(width: int, repeats: int) -> dict:
    found = {}
    for name, low in (("full", False), ("bfloat16", True)):
        model = make_model(width)
        found[name] = time_steps(model, make_optimizers(model, TrainConfig(1)), low, repeats)
    return {"width": width, "ms": found, "ratio": found["full"] / found["bfloat16"]}


def optimizer_case(width: int, repeats: int) -> dict:
    found = {}
    for name in ("plain", "fused"):
        model = make_model(width)
        groups = parameter_groups(model.parameters(), 0.1)
        options = {"fused": True} if name == "fused" else {"foreach": False}
        found[name] = time_steps(model, [torch.optim.AdamW(groups, **options)], False, repeats)
    return {"width": width, "ms": found, "ratio": found["plain"] / found["fused"]}


def report(record: dict) -> str:
    lines = []
    for part in ("precision", "optimizer"):
        for case in record[part]:
            (first, a), (second, b) = case["ms"].items()
            lines.append(
                f"{part}, width {case['width']}: {first} {a:.0f} ms, {second} {b:.0f} ms, ratio {case['ratio']:.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=15, help="how often to time each (default 15)"
    )
    parser.add_argument("--dry", action="store_true", help="write no record")
    arguments = parser.parse_args()
    record = {
        "provenance": provenance("training", ["torch"], NOTE),
        "precision": [precision_case(width, arguments.repeats) for width in WIDTHS],
        "optimizer": [optimizer_case(width, arguments.repeats) for width in WIDTHS[:2]],
    }
    print(report(record))
    if not arguments.dry:
        write(RECORD, record)


if __name__ == "__main__":
    main()
