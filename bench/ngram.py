"""Speed and figures of `arbook.ngram` against NLTK and, where `LMPLZ` names the program, KenLM, in one run.

Run it with `make bench`, or `python -m bench.ngram`. It takes a minute or two, nearly all of it in NLTK. The figures
are printed and written to `runs/bench_ngram.json`, which the chapter on n-grams shows. It needs Penn Treebank and
Tiny Shakespeare (see `arbook.data`).
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from arbook import data
from arbook.ngram import NGramLM
from arbook.objective import perplexity
from arbook.tokens import CharTokenizer, WordTokenizer

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bench_ngram.json"
ORDERS = (2, 3, 4, 5)
PEER_ORDER = 3
SAMPLE = 40  # tokens that NLTK scores: it manages some 17 a second
NOTE = (
    "times are medians of the repeats; those of NLTK and lmplz, which take long, of a single one. "
    "lmplz also reads the text and writes its file"
)


def timed(call: Callable, repeats: int = 1) -> tuple[float, object]:
    """Return the median time of a call in seconds, and what it returned last."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


class PennTreebank:
    """The text, as ids for us and as words for the others."""

    def __init__(self):
        parts = data.splits("ptb")
        self.lines = [part.replace("<unk>", "[unk]") for part in (parts.train, parts.test)]
        marked = [text.replace("\n", " </s> ") for text in self.lines]
        words = WordTokenizer.train(marked[0], split="whitespace", unk=None)
        self.train, self.test = map(words.encode_array, marked)
        self.vocab, self.eos = words.vocab, words.vocab.id("</s>")

    def model(self, order: int, smoothing: str = "modified-kneser-ney") -> NGramLM:
        return NGramLM(order, vocab_size=len(self.vocab), smoothing=smoothing, eos_id=self.eos).fit(
            self.train
        )


def ours(text: PennTreebank, order: int, repeats: int) -> dict:
    fit_seconds, model = timed(lambda: text.model(order), repeats)
    score_seconds, scores = timed(lambda: model.sentence_log_prob(text.test), repeats)
    return {
        "order": order,
        "n_grams": sum(len(level.keys) for level in model.levels),
        "fit_seconds": fit_seconds,
        "score_seconds": score_seconds,
        "perplexity": perplexity(-scores),
    }


def nltk_case(text: PennTreebank, repeats: int) -> dict:
    """Estimate on the whole training text, score a few tokens, and say how many times longer NLTK takes."""
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import pad_both_ends, padded_everygram_pipeline

    sentences = [line.split() for line in text.lines[0].splitlines()]

    def fit() -> KneserNeyInterpolated:
        model = KneserNeyInterpolated(PEER_ORDER)
        model.fit(*padded_everygram_pipeline(PEER_ORDER, sentences))
        return model

    fit_seconds, peer = timed(fit)
    padded = [
        list(pad_both_ends(line.split(), n=PEER_ORDER))
        for line in text.lines[1].splitlines()[: SAMPLE // 10]
    ]
    questions = [
        (sentence[i], sentence[i - PEER_ORDER + 1 : i])
        for sentence in padded
        for i in range(PEER_ORDER - 1, len(sentence) - PEER_ORDER + 2)
    ][:SAMPLE]
    score_seconds, _ = timed(lambda: [peer.score(word, context) for word, context in questions])
    our_fit, model = timed(lambda: text.model(PEER_ORDER, "kneser-ney"), repeats)
    our_score, _ = timed(lambda: model.sentence_log_prob(text.test), repeats)
    return {
        "order": PEER_ORDER,
        "fit_ratio": fit_seconds / our_fit,
        "score_ratio": (score_seconds / len(questions)) / (our_score / len(text.test)),
        "tokens_per_second": len(questions) / score_seconds,
        "our_tokens_per_second": len(text.test) / our_score,
    }


def kenlm_case(text: PennTreebank, order: int, repeats: int) -> dict:
    """Estimate with KenLM's `lmplz`, read its file, and compare probabilities token by token."""
    program = os.environ.get("LMPLZ")
    if not program:
        return {"absent": "set LMPLZ to the path of KenLM's lmplz to compare with it"}
    with tempfile.TemporaryDirectory() as folder:
        arpa, corpus = Path(folder) / "model.arpa", Path(folder) / "train.txt"
        corpus.write_text(text.lines[0])
        command = [program, "-o", str(order), "-S", "2G", "-T", folder]
        command += ["--text", str(corpus), "--arpa", str(arpa)]
        seconds, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True))
        peer, vocab = NGramLM.read_arpa(arpa)
    ids = np.array([vocab.id(word) for word in text.vocab.tokens])
    theirs = peer.sentence_log_prob(ids[text.test])
    our_fit, model = timed(lambda: text.model(order), repeats)
    scores = model.sentence_log_prob(text.test)
    return {
        "order": order,
        "fit_ratio": seconds / our_fit,
        "perplexity": perplexity(-theirs),
        "difference": abs(perplexity(-scores) / perplexity(-theirs) - 1),
        "largest_difference_of_a_token": float(np.abs(scores - theirs).max()),
    }


def characters(repeats: int) -> list[dict]:
    parts = data.splits("tinyshakespeare")
    chars = CharTokenizer.train(parts.train + parts.valid)
    train, valid = map(chars.encode_array, (parts.train, parts.valid))
    found = []
    for order in range(1, 11):
        model = NGramLM(order, vocab_size=chars.vocab_size)
        fit_seconds, _ = timed(lambda model=model: model.fit(train), repeats)
        seconds, scores = timed(lambda model=model: model.sentence_log_prob(valid), repeats)
        case = {"order": order, "fit_seconds": fit_seconds, "score_seconds": seconds}
        found.append({**case, "loss": float(-scores.mean())})
    return found


def report(record: dict) -> str:
    lines = ["Penn Treebank, modified Kneser-Ney", "order   n-grams   fit s  score s  perplexity"]
    for case in record["penn_treebank"]:
        lines.append(
            f"{case['order']:>5} {case['n_grams']:>9,} {case['fit_seconds']:>7.2f} "
            f"{case['score_seconds']:>8.3f} {case['perplexity']:>11.4f}"
        )
    peer = record["nltk"]
    lines.append(
        f"\nNLTK, order {peer['order']}: our estimate is {peer['fit_ratio']:.0f} times faster, "
        f"our scoring {peer['score_ratio']:,.0f} times"
    )
    for case in record["kenlm"]:
        lines.append(
            f"KenLM: {case['absent']}"
            if "absent" in case
            else f"KenLM, order {case['order']}: perplexity {case['perplexity']:.4f}, relative difference "
            f"{case['difference']:.0e}; lmplz takes {case['fit_ratio']:.1f} times our time"
        )
    lines.append("\nTiny Shakespeare, characters: nats per character by order")
    lines.append(", ".join(f"{c['order']}: {c['loss']:.4f}" for c in record["characters"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="how often to time each call")
    repeats = parser.parse_args().repeats
    text = PennTreebank()
    kenlm = [kenlm_case(text, order, repeats) for order in ORDERS]
    record = {
        "provenance": provenance("ngram", ["numpy", "nltk"], NOTE),
        "penn_treebank": [ours(text, order, repeats) for order in ORDERS],
        "nltk": nltk_case(text, repeats),
        "kenlm": kenlm[:1] if "absent" in kenlm[0] else kenlm,
        "characters": characters(repeats),
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
