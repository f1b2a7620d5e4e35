"""Which cells carry one symbol past others: a task that gates solve.

Run it with `python -m bench.recall`; it takes some five minutes of one core and writes `runs/recall.json`, which the
page on gates shows. A sequence is one of eight symbols, then distractors out of eight others, then a question mark;
only the answer counts. All networks have 64 units and see the same batches for a seed.
"""

import argparse
from dataclasses import replace

import torch
from arbook.objective import IGNORE
from arbook.recurrent import LSTMLM, LSTMConfig
from torch import Tensor

from bench._record import ROOT, provenance, write

SYMBOLS, STEPS, BATCH = 8, 400, 64
DELAYS, SEEDS = (10, 40), range(3)
PLAIN = LSTMConfig(2 * SYMBOLS + 1, n_embd=16, n_hidden=64)
CELLS = {
    "RNN": replace(PLAIN, cell="rnn"),
    "LSTM, bias 0": replace(PLAIN, forget_bias=0.0),
    "LSTM, bias 1": replace(PLAIN, forget_bias=1.0),
    "LSTM, bias 3": replace(PLAIN, forget_bias=3.0),
    "GRU": replace(PLAIN, cell="gru"),
}
NOTE = "nats of the answer on 1,024 new sequences, for each seed; ln 8 = 2.08 is a guess"


def batch(size: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw sequences: inputs (B, delay + 2), and targets that count at the last position only."""
    first = torch.randint(SYMBOLS, (size, 1), generator=generator)
    between = SYMBOLS + torch.randint(SYMBOLS, (size, delay), generator=generator)
    asked = torch.full((size, 1), 2 * SYMBOLS)
    targets = torch.full((size, delay + 2), IGNORE)
    targets[:, -1:] = first
    return torch.cat([first, between, asked], dim=1), targets


def recall(config: LSTMConfig, delay: int, seed: int, steps: int = STEPS) -> float:
    """Train a network on the task, and return its loss on new sequences."""
    source = torch.Generator().manual_seed(seed)
    model = LSTMLM(config, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = model.loss(*batch(BATCH, delay, source))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return model.loss(*batch(1_024, delay, torch.Generator().manual_seed(1_000))).item()


def main(arguments: list[str] | None = None) -> None:
    """Train all cells at all delays, and write what they remember."""
    parser = argparse.ArgumentParser(prog="python -m bench.recall", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 5 steps, write nothing")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for delay in DELAYS:
        for name, config in CELLS.items():
            seeds = SEEDS[:1] if quick else SEEDS
            losses = [
                round(recall(config, delay, seed, 5 if quick else STEPS), 4) for seed in seeds
            ]
            found.setdefault(str(delay), {})[name] = losses
            print(f"{delay:3} {name:14} {losses}", flush=True)
    if not quick:
        about = provenance("recall", ["torch"], NOTE) | {"steps": STEPS, "units": PLAIN.n_hidden}
        write(ROOT / "runs" / "recall.json", about | {"nats": found})


if __name__ == "__main__":
    main()
