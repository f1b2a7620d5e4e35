"""Train on this processor beside others: the time of a step, and the loss that a given time buys.

Run it with `python -m bench.training`; it takes half an hour. The figures are printed and written to
`runs/bench_training.json`. `--dry --quick` shows in a minute that it works.

Speed: steps of training in one process, taken in turn, optimiser included: ours against `transformers` GPT-2 of the
same size, bfloat16 against full precision, dropout against none. Quality: Tiny Shakespeare's characters, equal wall
time for a published recipe and for ours, each run in a process of its own, on the whole validation part.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from arbook import data
from arbook.ngram import NGramLM
from arbook.runs import PRESETS
from arbook.tokens import CharTokenizer
from arbook.steps import evaluate, parameter_groups, random_windows, update
from arbook.training import TrainConfig, learning_rate, make_optimizers
from arbook.transformer import GPT, GPTConfig, to_gpt2_config
from torch import Tensor, nn

from bench._record import ROOT, provenance, run_apart, write

RECORD = ROOT / "runs" / "bench_training.json"
NOTE = "milliseconds are medians over the rounds; a ratio above 1 means that the first variant is faster"
V = 65
SIZES = {  # block, width, layers, heads, batch
    "small": (64, 128, 4, 4, 12),
    "large": (256, 384, 6, 6, 64),
}
# nanoGPT's settings for a processor, and those of our preset, each with its steps of warm-up. `max_steps` is a scale:
# the schedules run over the time that is given.
RECIPES = {
    "published": (
        GPTConfig(V, 64, 128, 4, 4, bias=False),
        TrainConfig(
            10_000, batch_size=12, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, grad_clip=1.0
        ),
        100,
    ),
    "ours": (
        GPTConfig.modern(V, **PRESETS["cpu"].model),
        TrainConfig(**PRESETS["cpu"].training | {"warmup_steps": 0}),
        20,
    ),
}

Step = Callable[[Tensor, Tensor], None]


def our_step(config: GPTConfig, *, low: bool = False, fused: bool = True) -> Step:
    model = GPT(config, generator=torch.Generator().manual_seed(0)).train()
    optimizers = make_optimizers(model, TrainConfig(1))
    if not fused:
        groups = parameter_groups(model.parameters(), 0.1)
        optimizers = [torch.optim.AdamW(groups, foreach=False)]

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            return model.loss(inputs, targets, "sum")

    return lambda inputs, targets: update(
        loss, [(inputs, targets)], optimizers, lr=1e-3, grad_clip=1.0
    )


def their_step(config: GPTConfig, *, low: bool = False, dropout: float = 0.0) -> Step:
    """Return a step of `transformers` GPT-2 of the same size: its loss, PyTorch's AdamW, clipping."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shares = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    settings = to_gpt2_config(config) | shares | {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(**settings))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)

    def step(inputs: Tensor, _: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = model(inputs, labels=inputs).loss  # it moves the labels by one itself
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def race(steps: dict[str, Step], batch_size: int, block: int, rounds: int) -> dict[str, float]:
    """Return the median time of a step of each, in milliseconds; in each round all take one step, on the same batch."""
    ids = torch.randint(V, (10_000,), generator=torch.Generator().manual_seed(1))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 2):
        batch = random_windows(ids, batch_size, block, generator=torch.Generator().manual_seed(i))
        for name, step in steps.items():
            start = time.perf_counter()
            step(*batch)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(spent[2:]) for name, spent in times.items()}


def speed(size: str, rounds: int) -> dict:
    """Race all variants of a size."""
    block, width, n_layer, n_head, batch_size = SIZES[size]
    plain = GPTConfig(V, block, width, n_layer, n_head)
    dropped = GPTConfig(V, block, width, n_layer, n_head, dropout=0.2)
    modern = GPTConfig.modern(V, block, width, n_layer, n_head, activation="relu2")
    if size == "small":
        steps = {
            "ours": our_step(plain),
            "ours, plain AdamW": our_step(plain, fused=False),
            "ours, modern layout": our_step(modern),
            "transformers": their_step(plain),
            "transformers, dropout 0.1": their_step(plain, dropout=0.1),  # its default
        }
        pairs = [("ours", other) for other in steps if other != "ours"]
    else:
        steps = {
            "bf16": our_step(plain, low=True),
            "full": our_step(plain),
            "bf16, dropout 0.2": our_step(dropped, low=True),
            "transformers, bf16": their_step(plain, low=True),
            "transformers, bf16, dropout 0.2": their_step(plain, low=True, dropout=0.2),
        }
        pairs = [
            ("bf16", "full"),
            ("bf16", "transformers, bf16"),
            ("bf16", "bf16, dropout 0.2"),
            ("transformers, bf16", "transformers, bf16, dropout 0.2"),
            ("bf16, dropout 0.2", "transformers, bf16, dropout 0.2"),
        ]
    found = race(steps, batch_size, block, rounds)
    ratios = {f"{a} / {b}": found[b] / found[a] for a, b in pairs}
    return {"block": block, "width": width, "layers": n_layer, "heads": n_head} | {
        "batch": batch_size,
        "ms": found,
        "ratios": ratios,
    }


def texts() -> tuple[Tensor, Tensor]:
    parts = data.splits("tinyshakespeare")
    tokenizer = CharTokenizer.train(parts.train + parts.valid)
    train, valid = (torch.from_numpy(tokenizer.encode_array(p)) for p in (parts.train, parts.valid))
    return train, valid


def quality(recipe: str, seconds: float, seed: int) -> dict:
    """Train for so long, the schedule stretched over the time, and measure the loss on all of the validation text."""
    model_config, config, warmup = RECIPES[recipe]
    train, valid = texts()
    model = GPT(model_config, generator=torch.Generator().manual_seed(seed)).train()
    optimizers = make_optimizers(model, config)
    generator = torch.Generator().manual_seed(seed)
    steps, curve, start = 0, [], time.perf_counter()
    while (share := (time.perf_counter() - start) / seconds) < 1:
        lr = learning_rate(share * config.max_steps, config) * min(1.0, (steps + 1) / warmup)
        batch = random_windows(train, config.batch_size, model.context_length, generator=generator)
        loss, _ = update(
            lambda x, y: model.loss(x, y, "sum"),
            [batch],
            optimizers,
            lr=lr,
            grad_clip=config.grad_clip,
        )
        steps += 1
        curve.append(loss.item())
    loss = evaluate(model, valid, block_size=model.context_length)
    return {
        "recipe": recipe,
        "seconds": seconds,
        "seed": seed,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_loss": statistics.mean(curve[-100:]),
        "val_loss": loss,
    }


def baseline() -> dict:
    """Return what counting reaches: chapter 5's n-gram model of order 7, and its time."""
    train, valid = texts()
    start = time.perf_counter()
    model = NGramLM(7, vocab_size=V).fit(train)
    loss = -model.log_prob(valid[None]).mean().item()
    return {"recipe": "n-gram of order 7", "seconds": time.perf_counter() - start, "val_loss": loss}


def report(record: dict) -> str:
    lines = []
    for size, case in record["speed"].items():
        lines += [f"{size}: {name} {ms:.0f} ms" for name, ms in case["ms"].items()]
        lines += [f"{size}: {name} {ratio:.2f}" for name, ratio in case["ratios"].items()]
    first = record["baseline"]
    lines.append(f"{first['recipe']}: {first['val_loss']:.4f} nats in {first['seconds']:.1f} s")
    for run in record["quality"]:
        lines.append(
            f"{run['recipe']}, {run['seconds']:.0f} s, seed {run['seed']}: {run['val_loss']:.4f} nats "
            f"after {run['steps']} steps"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="steps of each small model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small numbers, to try the script")
    parser.add_argument("--dry", action="store_true", help="write no record")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)  # one measurement, apart
    arguments = parser.parse_args()
    if arguments.case:
        kind, *rest = arguments.case
        done = {
            "speed": lambda size, rounds: speed(size, int(rounds)),
            "quality": lambda recipe, s, seed: quality(recipe, float(s), int(seed)),
            "baseline": baseline,
        }[kind](*rest)
        print(json.dumps(done))
        return
    rounds = {"small": arguments.rounds, "large": 5}
    budgets = [(60, "published"), (180, "published"), (15, "ours"), (60, "ours"), (180, "ours")]
    if arguments.quick:
        rounds, budgets, arguments.seeds = {"small": 3}, [(3, recipe) for recipe in RECIPES], 1
    record = {
        "provenance": provenance("training", ["torch", "transformers"], NOTE),
        "speed": {s: run_apart("training", "--case", "speed", s, n) for s, n in rounds.items()},
        "baseline": run_apart("training", "--case", "baseline"),
        "quality": [
            run_apart("training", "--case", "quality", recipe, seconds, seed)
            for seed in range(arguments.seeds)
            for seconds, recipe in budgets
        ],
    }
    print(report(record))
    if not arguments.dry:
        write(RECORD, record)


if __name__ == "__main__":
    main()
