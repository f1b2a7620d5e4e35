"""Five kinds of tasks, each by a model that sees the past and by one that sees both sides, on sources that are known.

Run it with `python -m bench.bidirectional`; it takes some six minutes of one core. The pages read what it writes to
`runs/bidirectional.json`. `--quick --dry` shows in seconds that all of it works.

All networks have the same blocks, the same number of steps and texts of the same source; what differs is the mask and
what is asked of them. All draw from their distributions as they are. What the best possible reader reaches is computed
from the source, where it can be.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from arbook.bidirectional import MaskedTransformer, any_order_loss, attention_mask, fim, unmask
from arbook.losses import autoregressive_loss
from arbook.rules import sample_next_token
from arbook.sources import MarkovSource
from arbook.training import ancestral_sample
from arbook.transformer import GPT, GPTConfig
from torch import Tensor, nn

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bidirectional.json"
SEEDS = range(3)
STEPS, BATCH, JUDGED = 500, 32, 500
T = 16
ROUNDS = (1, 2, 4, 8, T - 1)
NOTE = "what each model reached, for each seed; `best` is what the source itself allows; seconds of one core in all"

TEXTS = MarkovSource.random(6, 2, rng=15)  # for generation and infilling
HOLE = 4


def blocks(vocab_size: int, positions: str = "rotary") -> GPTConfig:
    return GPTConfig.modern(vocab_size, 32, 32, 2, 4, positions=positions)


def network(
    vocab_size: int, generator: torch.Generator, n_outputs: int, positions: str = "rotary"
) -> MaskedTransformer:
    return MaskedTransformer(blocks(vocab_size, positions), n_outputs, generator=generator)


def causal_network(vocab_size: int, generator: torch.Generator) -> GPT:
    return GPT(blocks(vocab_size), generator=generator)


def learn(model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterator[Any], steps: int):
    """Train with Adam, at a rate that falls to zero in a straight line."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss(next(batches)).backward()
        optimizer.step()
    return model.eval()


def windows(generator: torch.Generator, length: int, *streams: np.ndarray) -> Iterator[list]:
    """Cut the same random windows out of streams of the same length: lists of tensors (B, T)."""
    tensors = [torch.from_numpy(stream) for stream in streams]
    while True:
        starts = torch.randint(len(streams[0]) - length + 1, (BATCH,), generator=generator)
        at = starts[:, None] + torch.arange(length)
        yield [tensor[at] for tensor in tensors]


def rows(generator: torch.Generator, length: int, *streams: np.ndarray) -> list[Tensor]:
    """Cut JUDGED windows, for the test."""
    batches = windows(generator, length, *streams)
    drawn = [next(batches) for _ in range(-(-JUDGED // BATCH))]
    return [torch.cat(parts)[:JUDGED] for parts in zip(*drawn, strict=True)]


def impossible(x: Tensor) -> Tensor:
    """Tell which steps of texts the source never does: (B, T) -> (B, T - 1)."""
    return torch.from_numpy(TEXTS.transition == 0)[x[:, :-1], x[:, 1:]]


def texts(dice: torch.Generator, rng: np.random.Generator, steps: int) -> dict[str, Any]:
    """Generation and infilling: a causal model, one that learned with the middle at the end, and a masked one."""
    stream, new = (TEXTS.sample(n, rng=rng) for n in (100_000, 30_000))
    batches, V = windows(dice, T, stream), len(TEXTS)

    causal = causal_network(V, dice)
    learn(causal, lambda b: causal.loss(b[0][:, :-1], b[0][:, 1:]), batches, steps)

    masked = network(V + 1, dice, V)
    learn(masked, lambda b: any_order_loss(masked, b[0], generator=dice).mean(), batches, 2 * steps)

    marks = (V, V + 1, V + 2)

    def middle_last(x: Tensor, start: int) -> Tensor:
        moved = [fim(row, start, start + HOLE, marks=marks) for row in x.tolist()]
        return torch.tensor(moved)  # (B, T + 3)

    def moved_loss(batch: list) -> Tensor:
        start = int(torch.randint(1, T - HOLE, (), generator=dice))
        x = middle_last(batch[0], start)
        return moved.loss(x[:, :-1], x[:, 1:])

    moved = causal_network(V + 3, dice)
    learn(moved, moved_loss, batches, 2 * steps)

    (x,) = rows(dice, T, new)
    blanks = torch.full_like(x, masked.mask_id)
    blanks[:, 0] = x[:, 0]
    written = ancestral_sample(causal, x[:, :1], T - 1, generator=dice)
    by_rounds = {
        n: 100 * impossible(unmask(masked, blanks, steps=n, generator=dice)).double().mean().item()
        for n in ROUNDS
    }
    generation = {
        "causal": 100 * impossible(written).double().mean().item(),
        f"masked, {ROUNDS[-1]} rounds": by_rounds[ROUNDS[-1]],
        "masked, 4 rounds": by_rounds[4],
        "masked, 1 round": by_rounds[1],
    }

    start = T // 2 - HOLE // 2
    gap = slice(start, start + HOLE)
    holes = x.clone()
    holes[:, gap] = masked.mask_id

    def filled(middle: Tensor) -> float:
        whole = x.clone()
        whole[:, gap] = middle
        return 100 * (~impossible(whole).any(1)).double().mean().item()

    prompt = middle_last(x, start)[:, :-HOLE]
    infilling = {
        "causal, from the left": filled(
            ancestral_sample(causal, x[:, :start], HOLE, generator=dice)[:, -HOLE:]
        ),
        "causal, middle at the end": filled(
            # a mark in the middle counts as a wrong token: it is mapped to one, and mostly impossible
            ancestral_sample(moved, prompt, HOLE, generator=dice)[:, -HOLE:].clamp(max=V - 1)
        ),
        f"masked, {HOLE} rounds": filled(unmask(masked, holes, steps=HOLE, generator=dice)[:, gap]),
        "masked, 1 round": filled(unmask(masked, holes, steps=1, generator=dice)[:, gap]),
    }
    return {"generation": generation, "infilling": infilling, "rounds": by_rounds}


def classification(dice: torch.Generator, rng: np.random.Generator, steps: int) -> dict[str, Any]:
    """Which of two similar sources wrote a text? Read off at its last position, under either mask."""
    length, V = 16, 5
    first = MarkovSource(np.random.default_rng(1).dirichlet(np.ones(V), V))
    other = MarkovSource(np.random.default_rng(2).dirichlet(np.ones(V), V))
    pair = [first, MarkovSource(0.4 * first.transition + 0.6 * other.transition)]
    streams = [source.sample(50_000, rng=rng) for source in pair]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        both = [windows(dice, length, stream) for stream in streams]
        while True:
            x = torch.cat([next(one)[0][: BATCH // 2] for one in both])
            yield x, torch.arange(2).repeat_interleave(len(x) // 2)

    test = torch.cat([rows(dice, length, source.sample(30_000, rng=rng))[0] for source in pair])
    labels = torch.arange(2).repeat_interleave(JUDGED)
    log_p = np.array(
        [
            [np.log(s.stationary[row[0]]) + s.log_prob(row).sum() for s in pair]
            for row in test.numpy()
        ]
    )
    found = {"best": {"Bayes' rule": 100 * (log_p.argmax(1) == labels.numpy()).mean()}}
    for kind in ("causal", "full"):
        mask = attention_mask(kind, length)
        model = network(V, dice, 2)
        learn(
            model,
            lambda b, m=model, k=mask: autoregressive_loss(m(b[0], k)[:, -1], b[1]),
            batches(),
            steps,
        )
        with torch.no_grad():
            right = model(test, mask)[:, -1].argmax(-1) == labels
        found[kind] = 100 * right.double().mean().item()
    return found


def tagging(dice: torch.Generator, rng: np.random.Generator, steps: int) -> dict[str, Any]:
    """The hidden states of a source whose symbols are ambiguous: from the past, and from both sides."""
    length, S = 16, 4
    states = MarkovSource(0.1 + 0.6 * np.eye(S))
    emission = np.random.default_rng(3).dirichlet(0.6 * np.ones(6), S)  # (S, V)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        path = states.sample(n, rng=rng)
        u = rng.random((n, 1))
        return (u > emission.cumsum(1)[path][:, :-1]).sum(1), path

    symbols, path = sample(100_000)
    x, tags = rows(dice, length, *sample(30_000))
    past, both = posteriors(states, emission, x.numpy())
    best = {
        name: 100 * (p.argmax(-1) == tags.numpy()).mean()
        for name, p in (("the past", past), ("both sides", both))
    }
    found: dict[str, Any] = {"best": best}
    for kind in ("causal", "full"):
        mask = attention_mask(kind, length)
        model = network(6, dice, S)
        learn(
            model,
            lambda b, m=model, k=mask: autoregressive_loss(m(b[0], k), b[1]),
            windows(dice, length, symbols, path),
            steps,
        )
        with torch.no_grad():
            right = model(x, mask).argmax(-1) == tags
        found[kind] = 100 * right.double().mean().item()
    return found


def posteriors(
    states: MarkovSource, emission: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact distributions of the hidden states given the past, and given all: (B, T) -> (B, T, S), twice."""
    likelihood = emission.T[x]  # (B, T, S)
    forward, backward = np.empty_like(likelihood), np.ones_like(likelihood)
    before = np.broadcast_to(states.stationary, likelihood[:, 0].shape)
    for t in range(x.shape[1]):
        forward[:, t] = before * likelihood[:, t]
        forward[:, t] /= forward[:, t].sum(-1, keepdims=True)
        before = forward[:, t] @ states.transition
    for t in range(x.shape[1] - 2, -1, -1):
        backward[:, t] = (backward[:, t + 1] * likelihood[:, t + 1]) @ states.transition.T
        backward[:, t] /= backward[:, t].sum(-1, keepdims=True)
    both = forward * backward
    return forward, both / both.sum(-1, keepdims=True)


def translation(dice: torch.Generator, steps: int) -> dict[str, Any]:
    """Six digits, said backwards in one of two dialects: right if all words are, and of one dialect."""
    n = 6
    V = 31  # ten digits, ten words of each dialect, the sign between

    def pairs(count: int) -> Tensor:
        digits = torch.randint(10, (count, n), generator=dice)
        dialect = torch.randint(2, (count, 1), generator=dice)
        sign = torch.full((count, 1), 30)
        return torch.cat([digits, sign, digits.flip(1) + 10 + 10 * dialect], 1)  # (B, 2n + 1)

    def batches() -> Iterator[Tensor]:
        while True:
            yield pairs(BATCH)

    def right(x: Tensor, answer: Tensor) -> float:
        wanted = x[:, :n].flip(1)
        words = [(answer == wanted + shift).all(1) for shift in (10, 20)]
        return 100 * (words[0] | words[1]).double().mean().item()

    test, found = pairs(JUDGED), {}
    for name, kind in (("causal", "causal"), ("prefix", "prefix")):
        mask = attention_mask(kind, 2 * n, n + 1 if kind == "prefix" else None)
        model = network(V, dice, V, "learned")
        learn(
            model,
            lambda x, m=model, k=mask: autoregressive_loss(m(x[:, :-1], k)[:, n:], x[:, n + 1 :]),
            batches(),
            2 * steps,
        )
        x = test[:, : n + 1]
        with torch.no_grad():
            for _ in range(n):
                size = x.shape[1]
                logits = model(x, mask[:size, :size])[:, -1]
                x = torch.cat([x, sample_next_token(logits, generator=dice)[:, None]], 1)
        found[name] = right(test, x[:, n + 1 :])

    masked = network(V + 1, dice, V, "learned")

    def loss(x: Tensor) -> Tensor:
        k = torch.randint(1, n + 1, (len(x), 1), generator=dice)
        covered = torch.zeros_like(x, dtype=torch.bool)
        covered[:, n + 1 :] = torch.rand(len(x), n, generator=dice).argsort(1).argsort(1) < k
        logits = masked(x.masked_fill(covered, masked.mask_id))
        losses = autoregressive_loss(logits, x.masked_fill(~covered, -100), "none")
        return (losses.sum(1) / k[:, 0]).mean()

    learn(masked, loss, batches(), 2 * steps)
    blanks = test.clone()
    blanks[:, n + 1 :] = masked.mask_id
    for rounds in (n, 1):
        answer = unmask(masked, blanks, steps=rounds, generator=dice)[:, n + 1 :]
        name = f"masked, {rounds} round" + "s" * (rounds > 1)
        found[name] = right(test, answer)
    return found


def measure(seed: int, steps: int) -> dict[str, Any]:
    """Run all tasks with one seed."""
    dice, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    return {
        **texts(dice, rng, steps),
        "classification": classification(dice, rng, steps),
        "tagging": tagging(dice, rng, steps),
        "translation": translation(dice, steps),
    }


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn a list of nested results into one of lists, rounded."""
    if isinstance(found[0], dict):
        return {str(key): together([one[key] for one in found]) for key in found[0]}
    return [round(float(value), 2) for value in found]


def main(arguments: list[str] | None = None) -> None:
    """Run all seeds, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.bidirectional", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.process_time()
    found = []
    for seed in SEEDS[:1] if chosen.quick else SEEDS:
        found.append(measure(seed, 20 if chosen.quick else STEPS))
        print(found[-1], flush=True)
    seconds = {"seconds": round(time.process_time() - start)}
    about = provenance("bidirectional", ["torch", "numpy"], NOTE) | {"steps": STEPS} | seconds
    if not chosen.dry:
        write(RECORD, about | {"tasks": together(found)})


if __name__ == "__main__":
    main()
