"""Sizes and speed of `arbook.compression` against gzip, bzip2, xz and, where they are installed, zstd and brotli.

Run it with `make bench`, or `python -m bench.compression`. It takes some minutes. The figures are printed and written
to `runs/bench_compression.json`. It needs Tiny Shakespeare and Penn Treebank (see `arbook.data`).
"""

import argparse
import bz2
import gzip
import lzma
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from arbook import data
from arbook.compression import AdaptiveNGram, byte_bits, compress, decompress
from arbook.ngram import NGramLM
from arbook.training import TrainConfig, train
from arbook.transformer import GPT, GPTConfig

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bench_compression.json"
ORDER = 6
NOTE = (
    "times are medians of the repeats; models have read the training part of the same text, the adaptive one nothing; "
    "sizes do not count models"
)


def timed(call: Callable, repeats: int) -> tuple[float, object]:
    """Return the median time of a call in seconds, and what it returned last."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def programs() -> dict[str, tuple[Callable, Callable]]:
    """How to write and read with each general-purpose program that is here."""
    found = {
        "gzip -9": (lambda x: gzip.compress(x, 9), gzip.decompress),
        "bzip2 -9": (lambda x: bz2.compress(x, 9), bz2.decompress),
        "xz -9e": (lambda x: lzma.compress(x, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    }
    try:
        import zstandard

        found["zstd -22"] = (
            zstandard.ZstdCompressor(level=22).compress,
            zstandard.ZstdDecompressor().decompress,
        )
    except ImportError:
        pass
    try:
        import brotli

        found["brotli -11"] = (lambda x: brotli.compress(x, quality=11), brotli.decompress)
    except ImportError:
        pass
    return found


def small_gpt(train_ids: np.ndarray, steps: int) -> GPT:
    """A Transformer of bytes, trained for a minute or so."""
    config = GPTConfig.modern(256, context_length=128, n_embd=96, n_layer=3, n_head=4)
    model = GPT(config, generator=torch.Generator().manual_seed(0))
    plan = TrainConfig(
        steps, lr=1e-2, warmup_steps=20, optimizer="muon", device="cpu", progress=False
    )
    train(model, train_ids, None, plan)
    return model.eval()


def case(name: str, content: bytes, write_it: Callable, read_it: Callable, repeats: int) -> dict:
    """Measure one way to compress, after making sure that it is lossless."""
    write_seconds, blob = timed(lambda: write_it(content), repeats)
    read_seconds, found = timed(lambda: read_it(blob), repeats)
    if found != content:
        raise RuntimeError(f"{name} did not return what it was given")
    return {
        "name": name,
        "size": len(blob),
        "bits_per_byte": 8 * len(blob) / len(content),
        "write_kb_per_s": len(content) / 1e3 / write_seconds,
        "read_kb_per_s": len(content) / 1e3 / read_seconds,
    }


def corpus(name: str, repeats: int, steps: int) -> dict:
    """Compress the held-out part of a text in every way."""
    parts = data.splits(name)
    content = (parts.test or parts.valid).encode()
    train_ids = np.frombuffer(parts.train.encode(), dtype=np.uint8).astype(np.int64)
    cases = [case(program, content, *ways, repeats) for program, ways in programs().items()]
    models = {
        f"n-grams, order {ORDER}": (NGramLM(ORDER, vocab_size=256).fit(train_ids), None),
        f"adaptive n-grams, order {ORDER}": (AdaptiveNGram(ORDER), None),
    }
    if steps:
        models["Transformer"] = (small_gpt(train_ids, steps), 128)
    for label, (model, streams) in models.items():
        found = case(
            label,
            content,
            lambda x, m=model, s=streams: compress(x, m, streams=s),
            lambda blob, m=model: decompress(blob, m),
            1,
        )
        found["own_bytes"] = float(byte_bits(content, model, streams=streams).sum() / 8)
        cases.append(found)
    return {"text": name, "bytes": len(content), "cases": cases}


def report(record: dict) -> str:
    lines = []
    for text in record["texts"]:
        lines.append(f"\n{text['text']}, held-out part: {text['bytes']:,} bytes")
        lines.append(
            f"{'':28}{'bytes':>10}{'bits/byte':>11}{'own -log2 p':>13}{'write kB/s':>12}{'read kB/s':>12}"
        )
        for found in sorted(text["cases"], key=lambda found: -found["size"]):
            own = f"{found['own_bytes']:,.0f}" if "own_bytes" in found else ""
            lines.append(
                f"{found['name']:28}{found['size']:>10,}{found['bits_per_byte']:>11.3f}{own:>13}"
                f"{found['write_kb_per_s']:>12,.0f}{found['read_kb_per_s']:>12,.0f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often to time the programs (default 3)"
    )
    parser.add_argument(
        "--steps", type=int, default=500, help="training steps of the Transformer; 0 leaves it out"
    )
    parser.add_argument("--texts", nargs="+", default=["tinyshakespeare", "ptb"])
    arguments = parser.parse_args()
    record = {
        "provenance": provenance("compression", ["numpy", "torch"], NOTE),
        "texts": [corpus(name, arguments.repeats, arguments.steps) for name in arguments.texts],
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
