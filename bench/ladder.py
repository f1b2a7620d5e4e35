"""One score board for the whole book: each kind of model on one text, one split, one protocol.

Run it with `python -m bench.ladder`; it takes about two hours of one core. Each rung is written to `runs/ladder.json`
as soon as it is measured, and the pages show what stands there. `--only GPT` measures one rung anew; `--quick --dry`
shows in a minute that all of it works.

The protocol: characters; all models learn from the training part and are judged on the whole validation part, in bits
per byte, by `perplexity.score`; a model that reads windows moves by half a window. Networks have at most as many
parameters as the GPT of the preset "cpu", and see as many characters; there are three seeds of each. All but the GPT
share one setting, Muon at a rate of 0.01. On the last tenth of the training part of Tiny Shakespeare, with a quarter of
the steps, it did better than Adam at 0.002, 0.004 and 0.008 (MLP and RNN) and than Muon at 0.005 (GRU) and 0.03 (MLP).
The GPT's settings are those of the preset, chosen on the validation part of that text; on the other text nothing was.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from arbook import data
from arbook.files import read_json
from arbook.ngram import NGramLM
from arbook.objective import LanguageModel
from arbook.perplexity import score
from arbook.recurrent import LSTMLM, LSTMConfig, WindowConfig, WindowLM
from arbook.runs import PRESETS, encode_parts, read_records
from arbook.training import TrainConfig, ancestral_sample, train
from arbook.transformer import GPT, GPTConfig
from torch import Tensor

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "ladder.json"
CORPORA = ("tinyshakespeare", "shakespeare")
SEEDS = range(3)
STEP = 2_048  # characters of a step of training
STEPS = 2_000
BUDGET = 456_000  # parameters, those of the GPT
WRITTEN = 120  # characters that a rung writes
NOTE = (
    "bits per byte of the validation part, for each seed; seconds of processor time to learn, on one core; what the "
    "first seed writes after an empty line"
)


class Uniform(LanguageModel):
    """The model that knows nothing but the number of tokens."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, ids: Tensor) -> Tensor:
        """Return the same logits for all tokens."""
        return torch.zeros(*ids.shape, self.vocab_size)


@dataclass(frozen=True)
class Rung:
    """A kind of model: the page that explains it, how it is made, and how it learns (None: it counts)."""

    page: str
    build: Callable[[int, torch.Generator], LanguageModel]
    training: dict[str, Any] | None = None

    def learn(self, ids: np.ndarray, vocab_size: int, seed: int, steps: int) -> LanguageModel:
        """Make a model and let it learn from a text."""
        model = self.build(vocab_size, torch.Generator().manual_seed(seed))
        if isinstance(model, NGramLM):
            model.fit(ids)
        elif self.training is not None:
            fixed = {"max_steps": steps, "warmup_steps": steps // 100, "seed": seed}
            fixed |= {"progress": False, "device": "cpu"}
            config = TrainConfig(**self.training | fixed)
            train(model, ids, None, config)
        return model


def largest(config: Callable[[int], Any]) -> Any:
    """Return the last of config(1), config(2), ... that is within the budget of parameters."""
    size = 1
    while config(size + 1).n_parameters <= BUDGET:
        size += 1
    return config(size)


def ngrams(order: int) -> Rung:
    return Rung("05_counts", lambda V, generator: NGramLM(order, vocab_size=V))


def window_model(V: int, generator: torch.Generator) -> WindowLM:
    config = largest(lambda R: WindowConfig(V, window=16, n_embd=24, n_hidden=R))
    return WindowLM(config, generator=generator)


def recurrent(cell: str) -> Rung:
    def build(V: int, generator: torch.Generator) -> LSTMLM:
        config = largest(lambda R: LSTMConfig(V, n_embd=64, n_hidden=R, cell=cell))
        return LSTMLM(config, generator=generator)

    return Rung("06_recurrent", build, ROWS | {"order": "stream"})


def gpt(V: int, generator: torch.Generator) -> GPT:
    return GPT(GPTConfig.modern(V, **PRESETS["cpu"].model), generator=generator)


ROWS = dict(batch_size=32, block_size=64, optimizer="muon", lr=0.01, min_lr_ratio=0.02)
RUNGS = {
    "uniform": Rung("02_cuts", lambda V, generator: Uniform(V)),
    "unigram": ngrams(1),
    "bigram": ngrams(2),
    "3-grams": ngrams(3),
    "5-grams": ngrams(5),
    "7-grams": ngrams(7),
    "MLP": Rung("06_recurrent", window_model, ROWS),
    "RNN": recurrent("rnn"),
    "GRU": recurrent("gru"),
    "LSTM": recurrent("lstm"),
    "GPT": Rung("07_attention", gpt, PRESETS["cpu"].training | {"batch_size": 16}),
}


def numbers(model: LanguageModel) -> int:
    """Count the numbers that a model consists of: parameters, or what a table of counts stores."""
    if isinstance(model, NGramLM):
        return sum(level.log_prob.size + level.log_backoff.size for level in model.levels)
    return sum(p.numel() for p in model.parameters())


def measure(rung: Rung, parts: data.Splits, seeds: range, steps: int) -> dict[str, Any]:
    """Let a model learn and judge it; what it writes is that of the first seed."""
    tokenizer, ids = encode_parts(parts, "character")
    n_bytes = len(parts.valid[1:].encode())
    found: dict[str, Any] = {"page": rung.page, "bits": [], "seconds": []}
    for seed in seeds if rung.training else seeds[:1]:
        start = time.process_time()
        model = rung.learn(ids["train"], tokenizer.vocab_size, seed, steps)
        found["seconds"].append(round(time.process_time() - start, 2))
        T = model.context_length
        stride = {} if T is None else {"context_length": T, "stride": math.ceil(T / 2)}
        judged = score(model, ids["valid"], n_bytes=n_bytes, **stride)
        found["bits"].append(round(judged.bits_per_byte, 4))
        if seed == 0:
            found |= {"parameters": numbers(model), "reads": str(judged.policy)}
            found["writes"] = written(model, tokenizer)
    return found


def written(model: LanguageModel, tokenizer: Any) -> str:
    """What a model writes after an empty line, drawn token by token from its own distribution."""
    prompt = torch.tensor(tokenizer.encode_array("\n\n"))[None]
    drawn = ancestral_sample(model, prompt, WRITTEN, generator=torch.Generator().manual_seed(0))
    return tokenizer.decode(drawn[0, prompt.shape[1] :].tolist())


def recorded(parts: data.Splits) -> dict[str, Any]:
    """The rung of the GPT that a graphics processor has trained, from the records of those runs.

    It has more parameters and has read the text more often, and its loss is the best of some twenty measurements on the
    text that it is judged on. So it stands beside the others, and not in one race with them.
    """
    runs = [
        run
        for (name, _), all_runs in read_records(ROOT / "runs").items()
        for run in all_runs
        if name == "gpu"
    ]
    per_byte = len(parts.valid) / len(parts.valid.encode()) / math.log(2)
    return {
        "page": "08b_runs",
        "bits": [round(run["best_val_loss"] * per_byte, 4) for run in runs],
        "seconds": [round(run["best_seconds"]) for run in runs],
        "device": runs[0]["device"].split()[1],  # of "NVIDIA H100 80GB HBM3" the name of the chip
        "parameters": runs[0]["parameters"],
        "reads": runs[0]["context"],
        "writes": runs[0]["sample"][:WRITTEN],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure the rungs, one after the other, and write each as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench.ladder", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=RUNGS, default=list(RUNGS), metavar="RUNG")
    parser.add_argument("--corpus", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--quick", action="store_true", help="one seed, 30 steps")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds, steps = (range(1), 30) if chosen.quick else (SEEDS, STEPS)
    about = provenance("ladder", ["torch", "numpy"], NOTE)
    record = read_json(RECORD) if RECORD.exists() else {"texts": {}}
    for corpus in chosen.corpus:
        parts = data.splits(corpus)
        sizes = {"train": len(parts.train), "valid": len(parts.valid)}
        text = record["texts"].setdefault(corpus, {"characters": sizes, "rungs": {}})
        for name in chosen.only:
            found = measure(RUNGS[name], parts, seeds, steps)
            print(f"{corpus:16} {name:8} {found['bits']} {found['seconds']} s", flush=True)
            text["rungs"][name] = found
            # In the order of the book, whenever each was measured.
            text["rungs"] = {key: text["rungs"][key] for key in RUNGS if key in text["rungs"]}
            if corpus == PRESETS["gpu"].corpus:
                text["rungs"]["GPT on a GPU"] = recorded(parts)
            seen = {"characters_seen": STEPS * STEP, "budget": BUDGET}
            if not chosen.dry:
                write(RECORD, about | seen | {"texts": record["texts"]})


if __name__ == "__main__":
    main()
