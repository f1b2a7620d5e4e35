"""What a model's own text does to it, and what helps: two measurements of chapter 13.

Run it with `python -m bench.exposure`; it takes some ten minutes of one core and writes `runs/exposure.json`.
`--quick --dry` shows in a minute that all of it works.

Distance: models of characters continue 32 real ones of the validation text of Tiny Shakespeare. The Transformer of the
record `train_cpu_seed0`, which knows that text better than each of them, scores what they write and how it really went
on, at each distance from the prompt. Beside it, the share of contexts of six characters that the training text does
not hold.

Remedies: a small LSTM learns 300 sentences of the grammar of `arbook.sources`. Its law is known: so is whether a
sentence that the model writes is right. All methods make equally many steps on batches of the same size; those that
need a trained model start from that of teacher forcing, with a tenth of the steps more. Sentences and steps are as many
as leave teacher forcing something to improve; nothing else was tuned, for any method.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from arbook import data
from arbook.checkpoints import recorded_model
from arbook.exposure import (
    continuation_log_prob,
    continuation_pairs,
    minimum_risk_loss,
    noise_inputs,
    preference_loss,
    reinforce_loss,
    scheduled_inputs,
    seen_before,
    teacher_share,
    unlikelihood_loss,
)
from arbook.files import read_json
from arbook.ngram import NGramLM
from arbook.objective import LanguageModel
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.rules import Greedy
from arbook.sampling import beam_search, generate
from arbook.sources import sources
from arbook.steps import evaluate, fit
from arbook.training import TrainConfig, train
from torch import Tensor

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "exposure.json"
PARTS = ("distance", "remedies")
NOTE = (
    "distance: nats per character of the judge, and share of new contexts, at each distance from the prompt, for each "
    "seed; remedies: for each seed, nats per token of held-out text, share of a thousand written sentences that the "
    "grammar knows, and how many different ones are among these; curves: the share in the course of training"
)

# Distance

PROMPT, WRITTEN, CONTEXT = 32, 96, 6


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_lstm(ids: np.ndarray, vocab_size: int, seed: int, steps: int) -> LSTMLM:
    """A network of characters that has not learned for long."""
    model = LSTMLM(LSTMConfig(vocab_size, n_embd=32, n_hidden=128), generator=rng(seed))
    fixed: dict[str, Any] = {"progress": False, "device": "cpu", "seed": seed, "order": "stream"}
    size = {"batch_size": 32, "block_size": 64, "optimizer": "muon", "lr": 0.01}
    train(model, ids, None, TrainConfig(steps, **size, **fixed))
    return model


def judged(judge: LanguageModel, texts: Tensor) -> list[float]:
    """The mean loss of the judge at each distance from the prompt."""
    with torch.no_grad():
        losses = -judge.log_prob(texts)[:, PROMPT - 1 :]  # (B, WRITTEN)
    return [round(x, 4) for x in losses.mean(0).tolist()]


def new_contexts(texts: Tensor, known: set[bytes]) -> list[float]:
    """The share of contexts that are not known, at each distance from the prompt."""
    rows = texts.numpy().astype(np.uint8)
    ends = range(PROMPT + 1, PROMPT + WRITTEN + 1)
    shares = [np.mean([row[e - CONTEXT : e].tobytes() not in known for row in rows]) for e in ends]
    return [round(float(share), 4) for share in shares]


def distance(seeds: range, n_texts: int, steps: int) -> dict[str, Any]:
    """Let models go on, and judge them."""
    judge, tokenizer = recorded_model("train_cpu_seed0")
    parts = data.splits("tinyshakespeare")
    ids = tokenizer.encode_array(parts.train)
    valid = torch.from_numpy(np.asarray(tokenizer.encode_array(parts.valid))).long()
    stream = np.asarray(ids, dtype=np.uint8).tobytes()
    known = {stream[i : i + CONTEXT] for i in range(len(stream) - CONTEXT + 1)}
    starts = torch.linspace(0, len(valid) - PROMPT - WRITTEN - 1, n_texts).long()
    real = valid[starts[:, None] + torch.arange(PROMPT + WRITTEN)]
    curves = {"real": {"judge": [judged(judge, real)], "new": [new_contexts(real, known)]}}
    V = tokenizer.vocab_size
    writers: dict[str, Callable[[int], LanguageModel]] = {
        "3-grams": lambda seed: NGramLM(3, vocab_size=V).fit(ids),
        "5-grams": lambda seed: NGramLM(5, vocab_size=V).fit(ids),
        "LSTM": lambda seed: small_lstm(ids, V, seed, steps),
    }
    for name, make in writers.items():
        found: dict[str, list] = {"judge": [], "new": [], "own": []}
        for seed in seeds:
            model = make(seed)
            with torch.no_grad():
                forced = -model.log_prob(real)[:, PROMPT - 1 :]
            drawn = generate(model, real[:, :PROMPT], max_new_tokens=WRITTEN, generator=rng(seed))
            texts = torch.stack(drawn.texts)
            found["judge"].append(judged(judge, texts))
            found["new"].append(new_contexts(texts, known))
            found["own"].append(round(forced.mean().item(), 4))  # its loss on the real text
            print(f"{name:8} {seed} own {found['own'][-1]:.3f}", flush=True)
        curves[name] = found
    return {"prompt": PROMPT, "texts": n_texts, "context": CONTEXT, "curves": curves}


# Remedies

GRAMMAR = sources()["grammar"]
WORDS = ["<end>", *GRAMMAR.words]
NUMBER = {word: i for i, word in enumerate(WORDS)}
SENTENCES, STEPS, ROWS, LENGTH, LONGEST = 300, 500, 8, 32, 40
RATE, RATE_AFTER = 0.005, 0.002


def stream_of(n: int, seed: int) -> Tensor:
    """A text of n sentences, between ends."""
    ids = [0]
    for sentence in GRAMMAR.sample(n, rng=seed):
        ids += [*(NUMBER[word] for word in sentence), 0]
    return torch.tensor(ids)


def windows(text: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets, in rows of equal length."""
    n = (len(text) - 1) // LENGTH
    return text[: n * LENGTH].view(n, LENGTH), text[1 : n * LENGTH + 1].view(n, LENGTH)


TEXT, TEST = stream_of(SENTENCES, 0), stream_of(2000, 1).numpy()
FEW, MANY = windows(TEXT), windows(stream_of(10 * SENTENCES, 0))


def is_right(row: list[int]) -> bool:
    """Whether the grammar writes this sentence, its end included."""
    words = [WORDS[i] for i in row]
    return row[-1] == 0 and bool(np.isfinite(GRAMMAR.sentence_log_prob(words[:-1])))


def sentences(model: LanguageModel, n: int, seed: int) -> list[list[int]]:
    """Sentences that the model writes; share 0 of scheduled sampling is nothing but its own samples."""
    rows = scheduled_inputs(
        model, torch.zeros(n, LONGEST + 1, dtype=torch.int64), 0.0, generator=rng(seed)
    )
    rows = [row[1:] for row in rows.tolist()]
    return [row[: row.index(0) + 1] if 0 in row else row for row in rows]


def quality(model: LanguageModel, rows: list[list[int]]) -> list[Any]:
    """Loss on the test text, share of right sentences, number of different right ones."""
    good = [tuple(row) for row in rows if is_right(row)]
    loss = round(evaluate(model, TEST, block_size=64), 4)
    return [loss, round(len(good) / len(rows), 4), len(set(good))]


def new_model(seed: int, width: int = 32) -> LSTMLM:
    config = LSTMConfig(len(WORDS), n_embd=width, n_hidden=width)
    return LSTMLM(config, generator=rng(seed))


def learn(seed: int, steps: int, loss: Callable, curve: list[float], text=FEW) -> LSTMLM:
    """Train anew: loss(model, x, y, step, generator) is a sum over a batch."""
    inputs, targets = text
    model, dice = new_model(seed), rng(1000 + seed)
    adam = torch.optim.Adam(model.parameters(), RATE)
    for step in range(steps):
        rows = torch.randint(len(inputs), (ROWS,), generator=dice)
        batch = (inputs[rows], targets[rows])
        fit(lambda x, y, step=step: loss(model, x, y, step, dice), [batch], adam)
        if step % 100 == 99:
            share = np.mean([is_right(row) for row in sentences(model, 300, seed)])
            curve.append(round(float(share), 4))
    return model


def forced(model, x, y, step, dice):
    return model.loss(x, y, "sum")


def scheduled(schedule: str, steps: int, last: float = 0.1, passes: int | None = None) -> Callable:
    def loss(model, x, y, step, dice):
        share = teacher_share(step, steps, schedule, last=last)
        return model.loss(
            scheduled_inputs(model, x, share, passes=passes, generator=dice), y, "sum"
        )

    return loss


def noisy(p: float) -> Callable:
    def loss(model, x, y, step, dice):
        return model.loss(noise_inputs(x, p, vocab_size=len(WORDS), generator=dice), y, "sum")

    return loss


def unlikely(model, x, y, step, dice):
    negatives = seen_before(x, len(WORDS))
    negatives[..., 0] = False  # the end may come again
    return unlikelihood_loss(model(x), y, negatives, weight=0.2, reduction="sum")


def prompts_of(dice: torch.Generator, n: int) -> list[Tensor]:
    """The beginnings of sentences of the training text: an end and two words."""
    ends = (TEXT[:-3] == 0).nonzero()[:, 0]
    chosen = ends[torch.randint(len(ends), (n,), generator=dice)]
    return [TEXT[start : start + 3] for start in chosen.tolist()]


def rewards_of(found) -> Tensor:
    return torch.tensor([float(is_right(text[1:].tolist())) for text in found.texts])


def drawn(model, prompts, dice):
    return generate(model, prompts, max_new_tokens=LONGEST, stop=0, generator=dice)


def reinforced(kind: str) -> Callable:
    """A loss of 32 samples; the baseline is none, their mean, or the reward of the greedy sentence."""

    def loss(model, reference, dice):
        prompts = prompts_of(dice, 32)
        found = drawn(model, prompts, dice)
        rewards, baseline = rewards_of(found), 0.0
        if kind == "greedy":
            best = generate(model, prompts, max_new_tokens=LONGEST, stop=0, sampler=Greedy())
            baseline = rewards_of(best)
        return reinforce_loss(
            continuation_log_prob(model, found.prompts, found.ids), rewards, baseline
        )

    return loss


def candidates(model, dice, n: int = 8, k: int = 8):
    """Different sentences for each of some prompts: k draws, without repeats; only prompts with two or more."""
    prompts = prompts_of(dice, n)
    found = drawn(model, [prompt for prompt in prompts for _ in range(k)], dice)
    rewards = rewards_of(found)
    for b in range(n):
        rows = {tuple(found.ids[i].tolist()): i for i in range(b * k, b * k + k)}
        if len(rows) > 1:
            kept = sorted(rows.values())
            yield found.take(kept), rewards[kept]


def risky(model, reference, dice):
    losses = [
        minimum_risk_loss(continuation_log_prob(model, some.prompts, some.ids), 1 - rewards)
        for some, rewards in candidates(model, dice)
    ]
    return torch.stack(losses).mean()


def preferred(model, reference, dice):
    """A right sentence against a wrong one of the same prompt, where both were drawn."""
    chosen, rejected = [], []
    for some, rewards in candidates(model, dice):
        if 0 < rewards.sum() < len(rewards):
            chosen.append(some.take([int(rewards.argmax())]))
            rejected.append(some.take([int(rewards.argmin())]))
    if not chosen:
        return None
    pairs = [
        ([some.prompts[0] for some in part], [some.ids[0] for some in part])
        for part in (chosen, rejected)
    ]
    now = [continuation_log_prob(model, *pair) for pair in pairs]
    with torch.no_grad():
        before = [continuation_log_prob(reference, *pair) for pair in pairs]
    return preference_loss(*now, reference_chosen=before[0], reference_rejected=before[1])


def more(start: LSTMLM, seed: int, steps: int, loss: Callable) -> LSTMLM:
    """Go on from a trained model, which is left alone."""
    model, dice = copy.deepcopy(start), rng(2000 + seed)
    adam = torch.optim.Adam(model.parameters(), RATE_AFTER)
    for _ in range(steps):
        value = loss(model, start, dice)
        if value is not None:
            adam.zero_grad()
            value.backward()
            adam.step()
    return model


def forced_more(model, reference, dice):
    rows = torch.randint(len(FEW[0]), (ROWS,), generator=dice)
    return model.loss(FEW[0][rows], FEW[1][rows])


def distilled(seed: int, steps: int, start: LSTMLM) -> LSTMLM:
    """A new model that learns what beam search finds in the trained one."""
    starts = torch.unique(torch.stack(prompts_of(rng(seed), 300)), dim=0)
    found = [
        beam_search(start, row, max_new_tokens=LONGEST, stop=0, beam_width=4) for row in starts
    ]
    prompts = [row[:1] for some in found for row in some.prompts]
    texts = [text[1:] for some in found for text in some.texts]
    inputs, targets = continuation_pairs(prompts, texts)
    model, dice = new_model(seed), rng(3000 + seed)
    adam = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (4 * ROWS,), generator=dice)
        fit(lambda x, y: model.loss(x, y, "sum"), [(inputs[rows], targets[rows])], adam)
    return model


def reranked(model: LSTMLM, n: int, seed: int) -> list[list[int]]:
    """Of four sentences each the one with the highest mean log-probability."""
    rows = sentences(model, 4 * n, seed)
    with torch.no_grad():
        scores = continuation_log_prob(model, [[0]] * len(rows), rows)
    scores /= torch.tensor([len(row) for row in rows])
    best = scores.view(n, 4).argmax(1) + 4 * torch.arange(n)
    return [rows[i] for i in best.tolist()]


def cooled(model: LSTMLM, n: int, seed: int) -> list[list[int]]:
    """Sentences at a temperature of 0.7."""
    found = generate(
        model,
        [[0]] * n,
        max_new_tokens=LONGEST,
        stop=0,
        sampler={"temperature": 0.7},
        generator=rng(seed),
    )
    return [row.tolist() for row in found.ids]


def remedies(seeds: range, steps: int, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """All methods, seed by seed."""
    anew = {
        "scheduled, linear to 0.1": scheduled("linear", steps),
        "scheduled, exponential to 0.1": scheduled("exponential", steps, passes=1),
        "scheduled, sigmoid to 0.1": scheduled("sigmoid", steps, passes=1),
        "scheduled, linear to 0.75": scheduled("linear", steps, 0.75, passes=1),
        "noise, a tenth": noisy(0.1),
        "unlikelihood": unlikely,
    }
    after = {
        "more teacher forcing": forced_more,
        "REINFORCE": reinforced("none"),
        "self-critical": reinforced("greedy"),
        "minimum risk": risky,
        "preferences": preferred,
    }
    found: dict[str, list] = {}
    curves: dict[str, list] = {}

    def note(name: str, model: LSTMLM, rows: list[list[int]]) -> None:
        found.setdefault(name, []).append(quality(model, rows))
        print(f"{seed} {name:28} {found[name][-1]}", flush=True)

    for seed in seeds:
        curve: list[float] = []
        start = learn(seed, steps, forced, curve)
        curves.setdefault("teacher forcing", []).append(curve)
        note("teacher forcing", start, sentences(start, n, seed))
        for name, loss in anew.items():
            curve = []
            model = learn(seed, steps, loss, curve)
            curves.setdefault(name, []).append(curve)
            note(name, model, sentences(model, n, seed))
        model = learn(seed, steps, forced, [], MANY)
        note("ten times the text", model, sentences(model, n, seed))
        for name, loss in after.items():
            model = more(start, seed, steps // 10, loss)
            note(name, model, sentences(model, n, seed))
        model = distilled(seed, steps, start)
        note("distillation", model, sentences(model, n, seed))
        note("temperature 0.7", start, cooled(start, n, seed))
        note("best of 4", start, reranked(start, n, seed))
    return found, curves


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.exposure", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    quick = chosen.quick
    seeds = range(1) if quick else range(3)
    record = read_json(RECORD) if RECORD.exists() else {}
    record |= provenance("exposure", ["torch", "numpy"], NOTE)
    if "distance" in chosen.only:
        record["distance"] = distance(seeds, 40 if quick else 300, 20 if quick else 300)
        if not chosen.dry:
            write(RECORD, record)
    if "remedies" in chosen.only:
        truth = {tuple(sentence) for sentence in GRAMMAR.sample(1000, rng=9)}
        record["grammar"] = {"entropy_rate": GRAMMAR.entropy_rate, "different": len(truth)}
        record |= {"sentences": SENTENCES, "steps": STEPS}
        size = (50, 100) if quick else (STEPS, 1000)
        record["remedies"], record["curves"] = found, _ = remedies(seeds, *size)
        for name, rows in found.items():
            means = [round(statistics.mean(column), 3) for column in zip(*rows, strict=True)]
            print(f"{name:30}", *means)
        if not chosen.dry:
            write(RECORD, record)


if __name__ == "__main__":
    main()
