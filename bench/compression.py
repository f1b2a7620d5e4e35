"""Sizes and speed of `arbook.compression` against gzip, bzip2, xz and, where they are installed, zstd, brotli and ppmd.

Run it with `make bench`, or `python -m bench.compression`. It takes some minutes. The figures are printed and written
to `runs/bench_compression.json`, which the eleventh chapter shows. It needs Tiny Shakespeare and Penn Treebank (see
`arbook.data`). `--quick` tries it in seconds, also with `--texts pydoc`, which is always here. `--add PROGRAM` adds the
sizes of one more program to the record, without times, on any machine: sizes are the same everywhere.
"""

import argparse
import bz2
import gzip
import json
import lzma
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from arbook import data
from arbook.compression import AdaptiveNGram, ByteAdapter, byte_bits, compress, decompress
from arbook.ngram import NGramLM
from arbook.objective import LanguageModel
from arbook.checkpoints import recorded_files, recorded_model

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bench_compression.json"
ORDER = 6
NETWORK = "train_cpu_seed0"
PACKAGES = {"zstd -22": "zstandard", "brotli -11": "brotli", "ppmd -o6": "pyppmd"}
NOTE = (
    "times of the programs are medians of the repeats, those of the models are of one run, on one thread; models have "
    "read the training part of the same text, the adaptive one nothing; sizes do not count models, which stand beside "
    "them as `xz -0` stores them; the Transformer is the recorded run " + NETWORK
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
    try:
        import pyppmd

        ways = pyppmd.compress, pyppmd.decompress
        found["ppmd -o6"] = tuple(partial(way, max_order=6, mem_size=16 << 20) for way in ways)
    except ImportError:
        pass
    return found


def stored_size(files: Iterable[Path]) -> int:
    """Return what the files of a model take, each compressed by `xz -0`."""
    return sum(len(lzma.compress(file.read_bytes(), preset=0)) for file in files)


def models_for(parts: data.Splits, n_train: int | None) -> dict[str, tuple[LanguageModel, int]]:
    """Return models that have read the training part of a text, or nothing, each with its stored size."""
    train_ids = np.frombuffer(parts.train.encode()[:n_train], dtype=np.uint8).astype(np.int64)
    ngram = NGramLM(ORDER, vocab_size=256).fit(train_ids)
    with tempfile.TemporaryDirectory() as folder:
        ngram.save(Path(folder) / "model")
        counted = stored_size(Path(folder).iterdir())
    found = {
        f"n-grams, order {ORDER}": (ngram, counted),
        f"adaptive n-grams, order {ORDER}": (AdaptiveNGram(ORDER), 0),
    }
    if parts.name == data.record(f"runs/{NETWORK}.json")["corpus"]:
        network = ByteAdapter.from_tokenizer(*recorded_model(NETWORK))
        found["Transformer"] = (network, stored_size(recorded_files(NETWORK)))
    return found


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


def corpus(name: str, repeats: int, n_bytes: int | None = None, n_train: int | None = None) -> dict:
    """Compress the held-out part of a text, or its first bytes, in every way."""
    parts, content = data.splits(name), held_out(name)[:n_bytes]
    cases = [case(program, content, *ways, repeats) for program, ways in programs().items()]
    for label, (model, stored) in models_for(parts, n_train).items():
        ways = (partial(compress, model=model), partial(decompress, model=model))
        own = float(byte_bits(content, model).sum() / 8)
        cases.append(case(label, content, *ways, 1) | {"own_bytes": own, "model_bytes": stored})
    return {"text": name, "bytes": len(content), "cases": cases}


def held_out(name: str) -> bytes:
    """Return the held-out part of a text."""
    parts = data.splits(name)
    return (parts.test or parts.valid).encode()


def add_sizes(record: dict, added: str) -> dict:
    """Return a record with the sizes of one more program; the others run too, and must take what they took there."""
    texts = []
    for text in record["texts"]:
        content, cases = held_out(text["text"]), []
        for name, (write_it, read_it) in programs().items():
            blob = write_it(content)
            if read_it(blob) != content:
                raise RuntimeError(f"{name} did not return what it was given")
            known = {case["name"]: case["size"] for case in text["cases"] if case["name"] != added}
            if known.get(name, len(blob)) != len(blob):
                raise RuntimeError(f"{name} takes {len(blob)} bytes here, and {known[name]} there")
            if name == added:
                rate = 8 * len(blob) / len(content)
                cases = [{"name": name, "size": len(blob), "bits_per_byte": rate}]
        if not cases:
            raise ValueError(f"{added!r} is not one of {', '.join(programs())}")
        rest = [case for case in text["cases"] if case["name"] != added]
        texts.append(text | {"cases": rest + cases})
    note = "sizes only: the programs of the record that are here were run again, and took as many bytes as there"
    packages = [PACKAGES[added]] if added in PACKAGES else []
    about = provenance(f"compression --add '{added}'", packages, note)
    return record | {"texts": texts, "added": record.get("added", {}) | {added: about}}


def report(record: dict) -> str:
    lines = []
    for text in record["texts"]:
        lines.append(f"\n{text['text']}, held-out part: {text['bytes']:,} bytes")
        lines.append(
            f"{'':28}{'bytes':>10}{'bits/byte':>11}{'own -log2 p':>13}{'model':>12}{'write kB/s':>12}{'read kB/s':>11}"
        )
        for found in sorted(text["cases"], key=lambda found: -found["size"]):
            own, model = (
                f"{found[key]:,.0f}" if key in found else "" for key in ("own_bytes", "model_bytes")
            )
            lines.append(
                f"{found['name']:28}{found['size']:>10,}{found['bits_per_byte']:>11.3f}{own:>13}{model:>12}"
                f"{speed(found, 'write_kb_per_s'):>12}{speed(found, 'read_kb_per_s'):>11}"
            )
    return "\n".join(lines)


def speed(found: dict, key: str) -> str:
    """Return a speed as text, or nothing where it was not measured."""
    return f"{found[key]:,.0f}" if key in found else ""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often to time the programs (default 3)"
    )
    parser.add_argument("--texts", nargs="+", default=["tinyshakespeare", "ptb"])
    parser.add_argument(
        "--quick", action="store_true", help="few bytes, and no record: to try the script"
    )
    parser.add_argument(
        "--add", metavar="PROGRAM", help="add its sizes to the record, and no times"
    )
    given = parser.parse_args(arguments)
    if given.add:
        record = add_sizes(json.loads(RECORD.read_text()), given.add)
        print(report(record))
        return write(RECORD, record)
    limits = {"n_bytes": 2_000, "n_train": 20_000} if given.quick else {}
    record = {
        "provenance": provenance("compression", ["numpy", "torch"], NOTE),
        "texts": [corpus(name, given.repeats, **limits) for name in given.texts],
    }
    print(report(record))
    if not given.quick:
        write(RECORD, record)


if __name__ == "__main__":
    main()
