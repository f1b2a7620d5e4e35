"""What the chapter on conditioning shows of trained models: reading series in context, reversing, writing dates.

Run it with `python -m bench.conditioning`; it takes some ten minutes of one core. Three seeds of each; the weights of
the first are kept, in half precision, for the pages to look at. `--only dates` measures one part anew; `--quick --dry`
shows in a minute that all of it works.

Hardly anything was tuned. A first reader of series, without a window and on series nearer to the edge of the triangle,
learned too slowly and was given up. After 1500 steps one seed of reversal had one string in a thousand wrong, so there
are 2500. Every model is judged on data that it has not seen: new series, and strings and dates that
were kept out of training.
"""

import argparse
import datetime
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from arbook.conditioning import CausalTransformer, Seq2Seq, Seq2SeqConfig
from arbook.conditioning import least_squares_in_context as least_squares
from arbook.distributions import Gaussian, ValueModel
from arbook.files import read_json
from arbook.objective import shifted_pairs
from arbook.sampling import generate
from arbook.steps import update
from torch import Tensor, nn

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "conditioning.json"
SEEDS = range(3)
NOTE = (
    "errors of each seed on new series, strings and dates; seconds of processor time to learn, on one core, which did "
    "other work too"
)

# Series: autoregressions of order 2, drawn uniformly from a triangle within that of all stationary ones.
ORDER, LENGTH, SHRINK = 2, 18, 0.9
READER = {"width": 32, "context_length": LENGTH, "n_layer": 2, "n_head": 2, "window": ORDER + 1}


def draw_coefficients(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the weights of n autoregressions, the oldest value first, with all roots within a circle: (n, 2)."""
    found = np.empty((0, 2))
    while len(found) < n:
        older, newer = rng.uniform(-1, 1, 4 * n), rng.uniform(-2, 2, 4 * n)
        stationary = older < 1 - abs(newer)
        found = np.concatenate([found, np.stack([older, newer], -1)[stationary]])
    return found[:n] * np.array([SHRINK**2, SHRINK])


def draw_series(coefficients: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a series of each autoregression, with noise of deviation 1: (n, length), after a run-in of 40 values."""
    z = rng.normal(size=(len(coefficients), 40 + length))
    for t in range(ORDER, z.shape[1]):
        z[:, t] += (z[:, t - ORDER : t] * coefficients).sum(-1)
    return z[:, 40:]


def log_start(pair: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the log-density of the first two values of stationary series, (n, 2), for each w of a grid: (n, G)."""
    older, newer = grid.T
    r = newer / (1 - older)  # the correlation of neighbours
    variance = (1 - older) / ((1 + older) * ((1 - older) ** 2 - newer**2))
    x, y = pair[:, :1], pair[:, 1:]
    distance = (x**2 - 2 * r * x * y + y**2) / (variance * (1 - r**2))
    return -distance / 2 - np.log(2 * np.pi * variance) - np.log(1 - r**2) / 2


def posterior_mean(z: np.ndarray, per_axis: int = 60) -> np.ndarray:
    """Forecast each value by the average over all autoregressions of a grid: (n, N) -> (n, N - 2).

    Each is weighted by how probable it makes the values before. On average over such series nobody can do better.
    """
    a, b = np.meshgrid(np.linspace(-1, 1, per_axis), np.linspace(-2, 2, 2 * per_axis))
    grid = np.stack([a, b], -1)[a < 1 - abs(b)] * np.array([SHRINK**2, SHRINK])  # (G, 2)
    log_weights = log_start(z[:, :2], grid)
    forecasts = []
    for t in range(ORDER, z.shape[1]):
        each = z[:, t - ORDER : t] @ grid.T  # (n, G)
        weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
        forecasts.append((weights * each).sum(1) / weights.sum(1))
        log_weights -= (z[:, t, None] - each) ** 2 / 2
    return np.stack(forecasts, axis=1)


def new_series() -> tuple[np.ndarray, np.ndarray]:
    """Return 4000 series to judge forecasts on, and the forecasts of the truth: (n, N), (n, N - 2)."""
    rng = np.random.default_rng(10_000)
    coefficients = draw_coefficients(4000, rng)
    z = draw_series(coefficients, LENGTH, rng)
    truth = [(z[:, t : t + ORDER] * coefficients).sum(-1) for t in range(LENGTH - ORDER)]
    return z, np.stack(truth, axis=1)


def exact() -> dict[str, list[float]]:
    """Measure the forecasts that need no training: the squared distance from those of the truth, by examples."""
    z, truth = new_series()
    answers = {"least_squares": least_squares(z, ORDER), "posterior": posterior_mean(z)}
    return {name: ((f - truth) ** 2).mean(0).tolist() for name, f in answers.items()}


def examples(seed: int, steps: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train a model on series of which no two are of the same autoregression, and measure its forecasts."""
    torch.manual_seed(seed)
    encoder = CausalTransformer(**READER)
    model = ValueModel(encoder, nn.Linear(encoder.width, 1), Gaussian(scale=1.0))
    rng = np.random.default_rng(seed)

    def batch() -> tuple[Tensor, Tensor]:
        z = torch.from_numpy(draw_series(draw_coefficients(64, rng), LENGTH, rng)).float()
        return z[:, :-1], z[:, 1:]

    learn(
        lambda z, targets: model.loss(z, targets, "sum"),
        batch,
        model,
        steps,
        count=64 * (LENGTH - 1),
    )
    z, truth = new_series()
    with torch.no_grad():
        ours = model(torch.from_numpy(z).float())[:, ORDER - 1 : -1, 0].double().numpy()
    # The squared distance from what the truth would forecast: the noise itself nobody can forecast.
    return model, {"errors": ((ours - truth) ** 2).mean(0).tolist()}


# Strings and dates: a vocabulary of characters, and three signs that no text holds.
PAD, START, END = 0, 1, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = "0123456789 ,./-" + LETTERS + LETTERS.upper()


def encode(text: str) -> list[int]:
    return [SIGNS.index(sign) + 3 for sign in text]


def decode(ids: list[int]) -> str:
    return "".join(SIGNS[i - 3] for i in ids if i > END)


def kept_out(word: str) -> bool:
    """Whether a string is for the test only: one in ten, by the sum of its letters."""
    return sum(LETTERS.index(letter) for letter in word) % 10 == 0


def random_strings(test: bool, n: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw strings of 3 to 10 letters, for the test or for training, each with itself backwards."""
    found: list[str] = []
    while len(found) < n:
        word = "".join(rng.choice(list(LETTERS), rng.integers(3, 11)))
        found += [word] * (kept_out(word) == test)
    return [(word, word[::-1]) for word in found]


DAYS = [datetime.date(1900, 1, 1) + datetime.timedelta(days) for days in range(73_000)]
KEPT_OUT = set(np.random.default_rng(0).permutation(len(DAYS))[:2000].tolist())
SEEN = [i for i in range(len(DAYS)) if i not in KEPT_OUT]
FORMATS = ("{day} {month} {year}", "{month} {day}, {year}", "{day}.{n}.{year}", "{n}/{day}/{year}")
MONTHS = (
    "January February March April May June July August September October November December".split()
)


def written(day: datetime.date, form: str) -> str:
    return form.format(day=day.day, n=day.month, month=MONTHS[day.month - 1], year=day.year)


def random_dates(days: list[int], n: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw dates, each in one of four forms, with the form of ISO 8601."""
    chosen = [DAYS[i] for i in rng.choice(days, n)]
    return [(written(day, FORMATS[rng.integers(4)]), day.isoformat()) for day in chosen]


def as_batch(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return sources (B, S), filled up, and inputs and targets (B, T) of what is to be written."""
    rows = [torch.tensor(encode(source)) for source, _ in pairs]
    sources = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return sources, *shifted_pairs([START, *encode(target), END] for _, target in pairs)


def pairs(
    config: Seq2SeqConfig, draw: Callable, new: Callable, seed: int, steps: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Train an encoder-decoder on pairs, and count how many new ones it gets right as a whole."""
    model = Seq2Seq(config, generator=torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    losses = learn(
        lambda batch, targets: model.given(batch[0]).loss(batch[1], targets, "sum"),
        lambda: (lambda s, x, y: ((s, x), y))(*as_batch(draw(32, rng))),
        model,
        steps,
    )
    model.eval()
    test = new(1000, np.random.default_rng(20_000))
    sources, _, _ = as_batch(test)
    found = generate(
        model.given(sources),
        torch.full((len(test), 1), START),
        max_new_tokens=config.context_length - 1,
        sampler={"top_k": 1},
        stop=END,
    )
    wrong = [
        [source, target, answer]
        for (source, target), answer in zip(
            test, (decode(row.tolist()) for row in found.ids), strict=True
        )
        if answer != target
    ]
    return model, {"right": 1 - len(wrong) / len(test), "wrong": wrong[:5], "losses": losses}


def reversal(seed: int, steps: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train on strings and the same strings backwards."""
    config = Seq2SeqConfig(len(SIGNS) + 3, 10, 12, 48, 1, 4)
    return pairs(config, partial(random_strings, False), partial(random_strings, True), seed, steps)


def dates(seed: int, steps: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train on dates in four forms, and the form of ISO 8601."""
    config = Seq2SeqConfig(len(SIGNS) + 3, 20, 12, 48, 1, 4)
    test = sorted(KEPT_OUT)
    return pairs(config, partial(random_dates, SEEN), partial(random_dates, test), seed, steps)


def learn(loss: Callable, batch: Callable, model: nn.Module, steps: int, **how: Any) -> list[float]:
    """Take so many steps of Adam, up to a rate of 0.003 and down to 0; return the loss of each hundredth."""
    optimizer, losses = (
        torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0),
        [],
    )
    for step in range(steps):
        lr = 3e-3 * min(1, (step + 1) / 100) * (1 - step / steps)
        value, _ = update(loss, [batch()], [optimizer], lr=lr, grad_clip=1.0, **how)
        if step % 100 == 99:
            losses.append(round(value.item(), 5))
    return losses


PARTS: dict[str, tuple[Callable, int]] = {
    "reversal": (reversal, 2500),
    "dates": (dates, 1500),
    "examples": (examples, 4000),
}


def keep(model: nn.Module, name: str) -> None:
    """Write the weights of a model, in half precision."""
    from safetensors.torch import save

    from arbook.files import write_atomically

    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    write_atomically(ROOT / "runs" / f"conditioning_{name}.safetensors", save(state))


def rounded(value: Any) -> Any:
    """Round all floats in lists and dicts to five digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> None:
    """Train and measure the parts, one after the other, and write each as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench.conditioning", description=__doc__)
    parts = [*PARTS, "exact"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    parser.add_argument("--quick", action="store_true", help="one seed, 30 steps")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = provenance("conditioning", ["torch", "numpy"], NOTE)
    record = read_json(RECORD) if RECORD.exists() else {}
    for name in chosen.only:
        if name == "exact":
            record |= about | {name: rounded(exact())}
            if not chosen.dry:
                write(RECORD, record)
            continue
        make, steps = PARTS[name]
        runs = []
        for seed in SEEDS[:1] if chosen.quick else SEEDS:
            start = time.process_time()
            model, found = make(seed, 30 if chosen.quick else steps)
            found["seconds"] = round(time.process_time() - start, 1)
            print(name, seed, found["seconds"], found.get("right"), flush=True)
            runs.append(rounded(found))
            if seed == 0:
                size = sum(p.numel() for p in model.parameters())
                if not chosen.dry:
                    keep(model, name)
        config = asdict(model.config) if isinstance(model, Seq2Seq) else READER
        found = {"steps": steps, "parameters": size, "config": config, "runs": runs}
        record |= about | {"signs": SIGNS, "shrink": SHRINK, name: found}
        if not chosen.dry:
            write(RECORD, record)


if __name__ == "__main__":
    main()
