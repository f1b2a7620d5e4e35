"""Files of strangers: whatever their bytes, a reader returns or raises what it documents, soon and in little memory.

Every test changes good files in many ways: flipped bits, cut and spliced parts, numbers at their extremes; and puts the
checksums right again where there are some, so that the changes reach what lies behind them. The dice are fixed.
"""

import os
import copy
import io
import json
import math
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from arbook import checkpoints, workshop
from arbook.compression import (
    AdaptiveNGram,
    ArchiveError,
    WrongModelError,
    archive_info,
    compress,
    decompress,
    unpack_archives,
    varint,
)
from arbook.ngram import NGramLM
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.tokens import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer
from arbook.transformer import GPT, CheckpointError, GPTConfig, export_gpt2
from safetensors.torch import save as safetensors_bytes
from torch.utils._python_dispatch import TorchDispatchMode

TEXT = "It was the best of times, it was the worst of times.\nWe had nothing before us.\n" * 3
IDS = np.frombuffer(TEXT.encode(), dtype=np.uint8).astype(np.int64)
EXTREMES = [0, 1, 2, 127, 128, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**32, 2**63 - 1, 2**64, 10**30]
ODD_VALUES = [
    None,
    True,
    False,
    -1,
    0.5,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    "",
    "x",
    "<eos>",
    "\ud800",
]
ODD_VALUES += [[], {}, [[]], {"": 0}, ["a", "a"], "0" * 999, 10**400, *EXTREMES]
MEMORY, SECONDS = 64 << 20, 1.0

# A million inputs in place of a hundred thousand take ten minutes: ARBOOK_FUZZ=1 asks for them.
times = pytest.mark.parametrize("times", [10] if os.environ.get("ARBOOK_FUZZ") else [1])


class SizeGuard(TorchDispatchMode):
    """Fails before PyTorch takes more memory than is allowed; tensors without memory, on "meta", are free."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        makes = any(
            word in str(func) for word in ("empty", "zeros", "ones", "full", "rand", "new_")
        )
        sizes = [x for x in args if isinstance(x, (list, tuple, torch.Size))]
        if makes and sizes and str(kwargs.get("device")) != "meta":
            assert all(4 * math.prod(size) <= self.most for size in sizes), (str(func), sizes)
        if "arange" in str(func) and str(kwargs.get("device")) != "meta":
            assert all(8 * x <= self.most for x in args), (str(func), args)
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor) and found.device.type != "meta":
            assert found.nbytes <= self.most, (str(func), found.shape)
        return found


def survive(
    good: Sequence[bytes],
    inputs: Iterable[bytes],
    read: Callable,
    errors: type | tuple[type, ...],
    *,
    every: int = 40,
) -> None:
    """Let a reader read inputs: nothing but some errors may come out, soon, and for a sample with little memory."""
    with SizeGuard(
        MEMORY
    ):  # the good ones first: what is imported and made only once is not theirs
        for content in good:
            read(content)
    n_read = 0
    for i, content in enumerate(inputs):
        sampled = i % every == 0
        most = MEMORY + 4 * len(content)
        guard = SizeGuard(most)
        if sampled:
            tracemalloc.start()
            guard.__enter__()
        began = time.process_time()
        try:
            read(content)
            n_read += 1
        except errors:
            pass
        except BaseException as error:
            raise AssertionError(f"input {i}, {content[:500]!r}: {error!r}") from error
        finally:
            took = time.process_time() - began
            if sampled:
                guard.__exit__(None, None, None)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                assert peak <= most, f"input {i}, {content[:500]!r}: {peak:,} bytes"
        assert took <= SECONDS, f"input {i}, {content[:500]!r}: {took:.1f} s"
    assert n_read < 0.9 * (i + 1)  # or else nothing was damaged


def try_each(call: Callable, arguments: Sequence, wrong: type) -> None:
    """Make a call with each argument, of which one may be right: an error of this kind is raised if none is."""
    errors = []
    for argument in arguments:
        try:
            call(argument)
        except wrong as error:
            errors.append(error)
    if len(errors) == len(arguments):
        raise errors[0]


# --- the ways to damage a file ----------------------------------------------------------------------------------------


def damage(content: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """Change some bytes: one to three times something of what happens to files, or of what people do to them."""
    found = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at, to = sorted(dice.randrange(len(found) + 1) for _ in range(2))
        kind = dice.randrange(8)
        if kind == 0 and found:
            found[at - 1] ^= 1 << dice.randrange(8)
        elif kind == 1 and found:
            found[at - 1] = dice.choice((0, 1, 9, 10, 32, 34, 45, 48, 57, 127, 128, 254, 255))
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            del found[at : min(to, at + 40)]
        elif kind == 4:
            found[at:at] = dice.randbytes(dice.choice((1, 2, 8, 300)))
        elif kind == 5:
            found[at:at] = found[at : min(to, at + 200)] * dice.choice((1, 2, 50))
        elif kind == 6:
            other = dice.choice(others)
            found[at:to] = other[dice.randrange(len(other) + 1) :]
        else:
            found[at:to] = bytes([dice.choice((0, 48, 91, 123, 128, 255))]) * min(to - at, 2000)
    return bytes(found)


def damaged(good: Sequence[bytes], n: int, seed: int) -> Iterator[bytes]:
    """Yield n files that were good."""
    dice = random.Random(seed)
    return (damage(dice.choice(good), good, dice) for _ in range(n))


def changed(record, dice: random.Random):
    """Return JSON with one value anywhere replaced by an odd one, or one entry left out, added or renamed."""
    record = copy.deepcopy(record)
    place, key = [record], 0
    while isinstance(place[key], (dict, list)) and place[key] and dice.random() < 0.85:
        place = place[key]
        key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
    kind = dice.randrange(10)
    if kind == 0 and isinstance(place, dict):
        del place[key]
    elif kind == 1 and isinstance(place, dict):
        place[dice.choice(("", "x", "version", "format"))] = place.pop(key)
    elif kind == 2 and isinstance(place, list):
        place.insert(key, copy.deepcopy(dice.choice(ODD_VALUES)))
    elif kind == 3 and isinstance(place[key], int):
        place[key] = place[key] + dice.choice((-1, 1)) * dice.choice((1, 2, 8))
    else:
        place[key] = copy.deepcopy(dice.choice(ODD_VALUES))
    return record


def as_bytes(record) -> bytes:
    return json.dumps(record).encode()


DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b'{"format": ' + b"[" * 50_000)


# --- archives ---------------------------------------------------------------------------------------------------------


def archives() -> tuple[list[bytes], list]:
    """Good archives of each kind, and the models that read them."""
    counted, adaptive = NGramLM(2, vocab_size=256).fit(IDS), AdaptiveNGram(2)
    content, noise = TEXT[:60].encode(), random.Random(0).randbytes(40)
    good = [compress(content, model) for model in (counted, adaptive)]
    good += [compress(content, counted, streams=7, name="ngram:2"), compress(noise, counted)]
    good += [compress(b"", counted), good[0] + good[3] + compress(bytes(9), counted)]
    return good, [counted, adaptive]


def with_right_checksum(blob: bytes) -> bytes:
    return blob[:4] + struct.pack("<I", zlib.crc32(blob[8:])) + blob[8:]


@times
def test_any_bytes_are_an_archive_or_a_named_error(times):
    good, models = archives()

    def read(blob):
        archive_info(blob)
        try_each(lambda model: decompress(blob, model), models, WrongModelError)

    survive(good, damaged(good, 30_000 * times, times), read, ArchiveError)


@times
def test_archives_with_right_checksums_and_wrong_contents_are_read_or_refused(times):
    """Damaged behind the checksum, which is put right; then the integers of the head at their extremes."""
    good, models = archives()
    dice = random.Random(times)

    def forged() -> Iterator[bytes]:
        for blob in damaged([blob for blob in good if len(blob) < 200], 12_000 * times, times):
            yield with_right_checksum(b"ARB" + bytes([dice.choice((1, 1, 2))]) + blob[4:])
        heads = [(blob, next(unpack_archives(blob))) for blob in good]
        for _ in range(3_000 * times):
            blob, archive = dice.choice(heads)
            payload = dice.choice((archive.payload, b"", bytes(9), dice.randbytes(20)))
            sizes = [archive.n_bytes, archive.n_streams, len(payload)]
            for _ in range(dice.choice((1, 1, 2))):
                sizes[dice.randrange(3)] = (
                    dice.choice(EXTREMES) + dice.choice((-1, 0, 0, 1)) & 2**80 - 1
                )
            head = 21 if blob[3] == 1 else 22 + blob[21]
            yield with_right_checksum(blob[:head] + b"".join(map(varint, sizes)) + payload)

    def read(blob):
        archive_info(blob)
        try_each(lambda model: decompress(blob, model), models, WrongModelError)

    survive(good, forged(), read, ArchiveError)


# --- tokens -----------------------------------------------------------------------------------------------------------


def tokenizers(tmp_path: Path) -> list[bytes]:
    found = []
    for tokenizer in (
        WordTokenizer.train(TEXT, special_tokens=["<eos>"]),
        CharTokenizer.train(TEXT, unk="<unk>"),
        BPETokenizer.train(TEXT, 280, special_tokens=["<eos>"]),
    ):
        tokenizer.save(tmp_path / "good.json")
        found.append((tmp_path / "good.json").read_bytes())
    return found


@times
def test_any_bytes_are_a_tokenizer_or_a_named_error(tmp_path, times):
    good, dice = tokenizers(tmp_path), random.Random(times)
    records, path = [json.loads(content) for content in good], tmp_path / "tokenizer.json"

    def inputs() -> Iterator[bytes]:
        yield from DEEP
        yield from damaged(good, 6_000 * times, times)
        for _ in range(9_000 * times):
            yield as_bytes(changed(dice.choice(records), dice))

    def read(content):
        path.write_bytes(content)
        tokenizer = Tokenizer.load(path)
        assert tokenizer.vocab_size >= 1

    survive(good, inputs(), read, ValueError)


def hub_tokenizers(tmp_path: Path) -> list[bytes]:
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers import decoders, models, pre_tokenizers

    rust = RustTokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["<|endoftext|>"])
    return [rust.to_str().encode()]


@times
def test_any_bytes_are_a_tokenizer_of_the_hub_or_a_named_error(tmp_path, times):
    good, dice = hub_tokenizers(tmp_path), random.Random(times)
    path = tmp_path / "tokenizer.json"

    def inputs() -> Iterator[bytes]:
        yield from DEEP
        yield from damaged(good, 2_000 * times, times)
        for _ in range(4_000 * times):
            yield as_bytes(changed(json.loads(good[0]), dice))

    def read(content):
        path.write_bytes(content)
        workshop.load_tokenizer(path)

    survive(good, inputs(), read, ValueError)


@times
def test_any_bytes_are_a_file_of_tokens_or_a_named_error(tmp_path, times):
    path, dice = tmp_path / "ids", random.Random(times)
    good, sizes = [], (256, 2**16, 2**20)
    for vocab_size in sizes:
        checkpoints.write_token_file(path, IDS[:50], vocab_size=vocab_size)
        good.append(path.read_bytes())

    def inputs() -> Iterator[bytes]:
        yield b"[" * 256
        yield from damaged(good, 9_000 * times, times)
        for _ in range(8_000 * times):
            content = dice.choice(good)
            record = changed(json.loads(content[:256]), dice)
            if dice.random() < 0.3 and isinstance(record, dict):
                odd = ("O", "V9", "<u2,<u2", "(2,)<u2", "S1", ">u2", "(", "", {"names": ["a"]})
                record["dtype"] = dice.choice(odd)
            yield as_bytes(record).ljust(255) + b"\n" + content[256:]

    def read(content):
        path.write_bytes(content)
        try_each(lambda V: checkpoints.open_token_file(path, vocab_size=V), sizes, ValueError)

    survive(good, inputs(), read, ValueError)


# --- n-gram models ----------------------------------------------------------------------------------------------------


def npz(arrays: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@times
def test_any_bytes_are_an_ngram_model_or_a_named_error(tmp_path, times):
    path, dice = tmp_path / "model.npz", random.Random(times)
    good = []
    for options in ({}, {"smoothing": "add-k", "k": 0.1}, {"eos_id": 1}):
        NGramLM(2, vocab_size=4, **options).fit([0, 2, 3, 1, 2, 3, 0, 1]).save(path)
        good.append(path.read_bytes())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(arrays["header"].tobytes())

    def forged() -> bytes:
        """Right checksums; another header, or an array of another shape, type or content, or one that lies about it."""
        found = dict(arrays)
        if dice.random() < 0.5:
            found["header"] = np.frombuffer(as_bytes(changed(header, dice)), dtype=np.uint8)
            return npz(found)
        name = dice.choice(list(found))
        odd = [np.zeros(0), np.zeros((2, 2)), found[name][:-1], found[name][::-1], found[name] * 2]
        odd += [found[name].astype(t) for t in ("float32", "complex", "U3", bool)] + [np.float64(1)]
        found[name] = dice.choice(odd)
        return npz(found)

    def lying() -> Iterator[bytes]:
        """An array says that it is huge, and a part says that it unpacks to much; the checksums are right."""
        for shape in ("(1000000000000,)", "(99999999999999999999,)", "(-1,)", "(2, 2", "(4,) " * 5):
            for dtype in ("<i8", "|O", "<f8", "|V1000000000"):
                text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
                data = b"\x93NUMPY\1\0" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"
                buffer = io.BytesIO()
                with zipfile.ZipFile(buffer, "w") as file:
                    for name in arrays:
                        file.writestr(f"{name}.npy", data + bytes(32))
                yield buffer.getvalue()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays, bomb=np.zeros(2**25))
        yield buffer.getvalue()

    def inputs() -> Iterator[bytes]:
        yield from lying()
        yield npz(arrays | {"header": np.frombuffer(DEEP[0], dtype=np.uint8)})
        yield from damaged(good, 3_000 * times, times)
        for _ in range(2_000 * times):
            yield forged()

    def read(content):
        path.write_bytes(content)
        NGramLM.load(path)

    survive(good, inputs(), read, ValueError, every=20)


@times
def test_any_text_is_an_arpa_file_or_a_named_error(tmp_path, times):
    path, dice = tmp_path / "model.arpa", random.Random(times)
    words = WordTokenizer.train(TEXT, split="whitespace", special_tokens=["<eos>"])
    ids = words.encode(TEXT.replace("\n", " <eos> "), allowed_special="all")
    model = NGramLM(2, vocab_size=words.vocab_size, eos_id=words.vocab.ids["<eos>"]).fit(ids)
    model.write_arpa(path, words.vocab)
    good = [path.read_bytes()]

    def inputs() -> Iterator[bytes]:
        yield from damaged(good, 3_000 * times, times)
        for _ in range(2_000 * times):
            lines = good[0].split(b"\n")
            at = dice.randrange(len(lines))
            fields = lines[at].replace(b"\t", b" ").split(b" ")
            odd = str(dice.choice([*EXTREMES, "nan", "-inf", "1e999", "-99", "<s>", ""])).encode()
            fields[dice.randrange(len(fields))] = odd
            lines[at] = b" ".join(fields)
            yield b"\n".join(lines)

    def read(content):
        path.write_bytes(content)
        NGramLM.read_arpa(path)

    survive(good, inputs(), read, ValueError)


# --- folders of networks ----------------------------------------------------------------------------------------------


def split_weights(content: bytes) -> tuple[dict, bytes]:
    n = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def join_weights(header, data: bytes) -> bytes:
    text = as_bytes(header)
    return struct.pack("<Q", len(text)) + text + data


def networks(tmp_path: Path) -> dict[str, tuple[Callable, dict, bytes]]:
    """For each kind of folder its reader, its configuration and its weights."""
    dice, found = torch.Generator().manual_seed(0), {}
    ours = GPT(GPTConfig.modern(5, 4, n_embd=8, n_layer=1, n_head=2), generator=dice)
    checkpoints.save_model(ours, tmp_path / "modern")
    export_gpt2(GPT(GPTConfig(5, 4, 8, 1, 2), generator=dice), tmp_path / "gpt2")
    checkpoints.save_model(LSTMLM(LSTMConfig(5, 4, 4, 1), generator=dice), tmp_path / "lstm")
    readers = {"modern": checkpoints.load_model, "gpt2": GPT.from_pretrained}
    for name in ("modern", "gpt2", "lstm"):
        folder = tmp_path / name
        config = json.loads((folder / "config.json").read_text())
        reader = readers.get(name, checkpoints.load_model)
        found[name] = reader, config, (folder / "model.safetensors").read_bytes()
    return found


@times
@pytest.mark.parametrize("kind", ["modern", "gpt2", "lstm"])
def test_any_folder_is_a_network_or_a_named_error(tmp_path, times, kind):
    reader, config, weights = networks(tmp_path)[kind]
    dice, folder = random.Random(times), tmp_path / "tried"
    folder.mkdir()
    header, data = split_weights(weights)
    sizes = [key for key, value in config.items() if type(value) in (int, float, type(None))]

    def pair() -> tuple[bytes, bytes]:
        """Return configuration and weights, damaged; they still belong together in most cases."""
        kind = dice.randrange(6)
        if kind == 0:
            return damage(as_bytes(config), [weights], dice), weights
        if kind == 1:
            return as_bytes(config), damage(weights, [as_bytes(config)], dice)
        if kind == 2:
            return as_bytes(config), join_weights(changed(header, dice), data)
        record = changed(config, dice) if kind < 5 else copy.deepcopy(config)
        if kind == 5:
            for key in dice.sample(sizes, dice.choice((1, 2))):
                record[key] = dice.choice(EXTREMES)
        about = copy.deepcopy(header)
        about.setdefault("__metadata__", {})["config"] = json.dumps(record)
        if kind == 4:
            name = dice.choice([key for key in about if key != "__metadata__"])
            odd = ("F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "U64", "F4")
            about[name]["dtype"] = dice.choice(odd)
            size = about[name]["data_offsets"][1] - about[name]["data_offsets"][0]
            about[name]["shape"] = dice.choice(([size], [size // 2], [size, 1], [0], [2**63 - 1]))
        return as_bytes(record), join_weights(about, data)

    def inputs() -> Iterator[bytes]:
        for deep in DEEP:
            yield deep + b"|" + weights
            about = header | {"__metadata__": {"config": deep.decode()}}
            yield as_bytes(config) + b"|" + join_weights(about, data)
        for _ in range(1_500 * times):
            yield b"|".join(pair())

    def read(content):
        record, _, tensors = content.partition(b"|")
        (folder / "config.json").write_bytes(record)
        (folder / "model.safetensors").write_bytes(tensors)
        reader(folder)

    survive([as_bytes(config) + b"|" + weights], inputs(), read, CheckpointError, every=10)


@times
def test_any_bytes_are_a_checkpoint_or_a_named_error(tmp_path, times):
    path, dice = tmp_path / "checkpoint.safetensors", random.Random(times)
    tensors = {"model.a": torch.arange(6.0), "optimizer.a.step": torch.tensor(3.0)}
    checkpoints.save_run(path, tensors, {"step": 3, "val_loss": 2.0})
    good = path.read_bytes()
    header, data = split_weights(good)

    def inputs() -> Iterator[bytes]:
        for deep in DEEP:
            yield with_text(deep.decode())
        yield from damaged([good], 1_000 * times, times)
        for _ in range(1_500 * times):
            yield join_weights(changed(header, dice), data)
            yield with_text(json.dumps(changed(json.loads(header["__metadata__"]["run"]), dice)))

    def with_text(text: str) -> bytes:
        about = {"run": text, "sha256": checkpoints.checksum(tensors, text)}
        return safetensors_bytes(tensors, about)

    def read(content):
        path.write_bytes(content)
        checkpoints.load_run(path)

    survive([good], inputs(), read, CheckpointError)
