"""Everything that needs a graphics processor, in one run: is it right, how fast is it, what does it reach.

Run it with `python -m bench.cuda --out FOLDER`, or in parts, since a machine may be lent for some minutes only:

    python -m bench.cuda --out FOLDER --parts correctness throughput
    python -m bench.cuda --out FOLDER --parts search shakespeare   # choose settings of the preset, then train it
    python -m bench.cuda --out FOLDER --parts ptb --time-limit 500   # again, until it says that all is done

Results go into `FOLDER/cuda.json`, a part at a time, and records of finished training runs beside it, as
`arbook train --record` writes them. Checkpoints stay in `--work`, from which an interrupted run goes on.
`--quick --device cpu` runs all of it in tiny sizes on a processor: that is its test.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from arbook import losses, machines, objective, runs, steps, training
from arbook.runs import as_setting
from arbook.objective import LanguageModel, autoregressive_loss
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.files import write_atomically
from arbook.training import TrainConfig, train
from arbook.transformer import GPT, GPTConfig, to_gpt2_config
from torch import Tensor

from bench.sampling import decoding_case

PARTS = ("correctness", "search", "shakespeare", "throughput", "decoding", "ptb")
# Settings for the preset "gpu", tried side by side with one seed.
CANDIDATES: dict[str, dict[str, Any]] = {
    "dropout 0.3": {"dropout": 0.3},
    "dropout 0.4, mean": {"dropout": 0.4, "lr": 4e-3, "average_fraction": 0.3},
    "dropout 0.4, decay 0.5, mean": {
        "dropout": 0.4, "lr": 4e-3, "weight_decay": 0.5, "average_fraction": 0.3,
    },
    "dropout 0.3, decay 1, mean": {
        "dropout": 0.3, "lr": 4e-3, "weight_decay": 1.0, "average_fraction": 0.3,
    },
    "dropout 0.45, fast, mean": {
        "dropout": 0.45, "lr": 8e-3, "weight_decay": 0.2, "average_fraction": 0.3,
    },
    "AdamW": {
        "optimizer": "adamw", "lr": 1e-3, "dropout": 0.4, "weight_decay": 0.3, "average_fraction": 0.3,
    },
}  # fmt: skip
PTB = ("ptb-lstm", "ptb-transformer", "ptb-awd-lstm")
TOLERANCE = 1e-9  # between two devices in float64, where only the order of sums differs
V, N_TOKENS = 65, 4_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_text() -> Tensor:
    return torch.randint(V, (N_TOKENS,), generator=seeded(1))


# --- is it right? -----------------------------------------------------------------------------------------------------


def small_models() -> dict[str, Callable[[], LanguageModel]]:
    """Return makers of small models in float64, without dropout, whose random numbers differ between devices."""
    gpts = {
        "gpt, modern": GPTConfig.modern(V, 32, 32, 2, 4),
        "gpt, as gpt-2": GPTConfig(V, 32, 32, 2, 4),
        "gpt, grouped heads": GPTConfig.modern(V, 32, 32, 2, 4, n_kv_head=2, tied=True),
    }
    cells = {
        f"recurrent, {cell}": LSTMConfig(V, 16, 24, 2, cell=cell) for cell in ("lstm", "gru", "rnn")
    }
    makers = {name: functools.partial(GPT, config) for name, config in gpts.items()}
    makers |= {name: functools.partial(LSTMLM, config) for name, config in cells.items()}
    return {
        name: lambda make=make: make(generator=seeded()).double() for name, make in makers.items()
    }


def numbers_of(model: LanguageModel, device: torch.device) -> list[Tensor]:
    """Return logits, loss, gradients, and the logits of a text read in pieces, on the processor."""
    model = model.to(device)
    ids = random_text()[: 4 * 33].view(4, 33).to(device)
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    with objective.evaluating(model), torch.no_grad():
        logits = model(ids[:, :-1])
        pieces = objective.read_in_steps(model, ids[:, :-1], [5, 1, 1, 25])
    found = [logits, loss, pieces, *(p.grad for p in model.parameters())]
    return [t.detach().cpu() for t in found]


def largest_gap(a: list[Tensor], b: list[Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def runs_to_compare() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return a model and settings for short runs, whose losses do not depend on the device."""
    stream = {"order": "stream", "block_size": 16, "average_fraction": 0.3}
    return {
        "adamw": ("gpt, modern", {"accumulation": 2}),
        "muon": ("gpt, modern", {"optimizer": "muon"}),
        "sgd, mean of the last steps": (
            "gpt, as gpt-2",
            {"optimizer": "sgd", "average_fraction": 0.5},
        ),
        "streams": ("recurrent, lstm", stream),
    }


def losses_of(model: LanguageModel, device: str, **settings: Any) -> list[float]:
    text = random_text()
    config = TrainConfig(
        **{"max_steps": 12, "batch_size": 8, "log_every": 1, "eval_every": 6, "warmup_steps": 2},
        **{"device": device, "progress": False, **settings},
    )
    result = train(model, text, text[:500], config)
    return [x.get("loss", x.get("val_loss")) for x in result.history]


@contextlib.contextmanager
def alone_in_a_group(device: torch.device) -> Iterator[None]:
    """Be a group of one process, which switches data parallelism on."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def warnings_of_dropped_weights(device: torch.device, quick: bool) -> list[str]:
    """Return what PyTorch warns of in some steps of an AWD-LSTM: nothing, if its weights lie in one block of memory."""
    sizes = {"n_embd": 16, "n_hidden": 24} if quick else {}
    model = LSTMLM(LSTMConfig.awd(V, **sizes)).to(device)
    ids = random_text()[: 8 * 33].view(8, 33).to(device)
    optimizer, state = torch.optim.SGD(model.parameters(), lr=0.1), None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            loss, penalty, state = model.loss_and_state(ids[:, :-1], ids[:, 1:], state)
            (loss + penalty).backward()
            optimizer.step()
            optimizer.zero_grad()
        with objective.evaluating(model), torch.no_grad():
            model(ids)
    return [str(w.message) for w in seen]


def correctness(device: torch.device, quick: bool) -> dict:
    """Compare this device with the processor in float64, and one process of a group with one that is alone."""
    cpu, found = torch.device("cpu"), {}
    for name, make in small_models().items():
        found[name] = largest_gap(numbers_of(make(), cpu), numbers_of(make(), device))
    for name, (model, settings) in runs_to_compare().items():
        make = small_models()[model]
        here, there = (losses_of(make(), str(d), **settings) for d in (cpu, device))
        found[f"12 steps, {name}"] = max(abs(a - b) for a, b in zip(here, there, strict=True))
    for model in ("gpt, modern", "recurrent, lstm"):
        make = small_models()[model]
        settings = {"order": "stream", "block_size": 16} if "lstm" in model else {}
        alone = losses_of(make(), str(device), **settings)
        for sharded, name in ((False, "DDP"), (True, "FSDP")):
            if sharded and "lstm" in model and device.type == "cuda":
                continue  # `train` refuses it, since this very comparison found a difference of 0.001
            with alone_in_a_group(device):
                together = losses_of(make(), str(device), sharded=sharded, **settings)
            found[f"{name} of one process, {model}"] = max(
                abs(a - b) for a, b in zip(alone, together, strict=True)
            )
    warned = warnings_of_dropped_weights(device, quick)
    worst = max(found.values())
    return {
        "tolerance": TOLERANCE,
        "largest_gap": worst,
        "gaps": found,
        "warnings_of_weight_drop": warned,
        "passed": worst < TOLERANCE and not warned,
    }


# --- how fast is it? --------------------------------------------------------------------------------------------------


class AllLogits(LanguageModel):
    """The same model with the plain loss, which makes all logits at once: more memory, fewer and larger kernels."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model, self.config = model, model.config
        self.vocab_size, self.context_length = model.vocab_size, model.context_length

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def loss(self, ids, targets, reduction="mean", *, ignore_index=objective.IGNORE):
        return autoregressive_loss(self(ids), targets, reduction, ignore_index=ignore_index)


class Theirs(LanguageModel):
    """GPT-2 of the transformers library, with its own logits and the same loss."""

    def __init__(self, config: GPTConfig):
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__()
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        settings = to_gpt2_config(config) | {"use_cache": False, "attn_implementation": "sdpa"}
        self.model = GPT2LMHeadModel(GPT2Config(**settings))

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits

    loss = AllLogits.loss


@contextlib.contextmanager
def chunks_of(elements: int | None) -> Iterator[None]:
    """Let the loss of the output layer compute so many logits at a time. (The compiler writes each chunk out.)"""
    before = losses.CHUNK_ELEMENTS
    losses.CHUNK_ELEMENTS = elements or before
    try:
        yield
    finally:
        losses.CHUNK_ELEMENTS = before


def gpt2_small(quick: bool) -> GPTConfig:
    """Return the configuration of GPT-2 small, or that of a tiny model of the same layout."""
    tiny = {"n_embd": 32, "n_layer": 2, "n_head": 2, "context_length": 64, "vocab_size": 300}
    return GPTConfig.gpt2("small", **(tiny if quick else {}))


@contextlib.contextmanager
def tensor_float_32(used: bool) -> Iterator[None]:
    """Let float32 products cut their factors to ten bits, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if used else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def step_seconds(
    model: LanguageModel,
    device: torch.device,
    batch_size: int,
    *,
    low: bool,
    compiled: bool,
    repeats: int,
) -> dict:
    """Return the median time of a step of training, after warming up, and the peak of memory."""
    T = model.context_length
    config = TrainConfig(1, device=str(device))
    module: Any = steps.WindowLoss(model.to(device), low=low)
    module = torch.compile(module) if compiled else module
    optimizers = training.make_optimizers(model, config)
    text = torch.randint(model.vocab_size, (20 * batch_size * T,), generator=seeded(2)).to(device)
    on_gpu, times = device.type == "cuda", []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for step in range(repeats + 3):
        pieces = [steps.cut_windows(text, steps.step_starts(len(text), batch_size, T, 0, step), T)]
        loss, _ = steps.update(
            lambda x, y: module(x, y)[0],
            pieces,
            optimizers,
            lr=1e-4,
            grad_clip=1.0,
            count=batch_size * T,
        )
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {
        "first_seconds": times[0],
        "seconds": statistics.median(times[3:]),
        "loss": loss.item(),
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
    }


def throughput(device: torch.device, quick: bool, batch_size: int = 16) -> dict:
    """Time steps of training of GPT-2 small, with one means of speed after the other, and those of transformers."""
    config = gpt2_small(quick)
    batch_size, repeats = (4, 2) if quick else (batch_size, 10)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    possible = machines.matmul_rate(device, dtype, repeats=2 if quick else 20)
    reference = GPT(config, generator=seeded())
    operations = reference.flops(config.context_length)
    found: dict[str, Any] = {
        "model": repr(config),
        "parameters": sum(p.numel() for p in reference.parameters()),
        "batch_size": batch_size,
        "matmul_flops": possible,
        "flops_per_token": operations,
        "cases": [],
    }

    def whole() -> LanguageModel:
        return AllLogits(GPT(config, generator=seeded()))

    # name, model, precision, compiled, logits in a chunk of the loss
    cases: list[tuple[str, Callable[[], LanguageModel], str, bool, int | None]] = [
        ("arbook, loss in chunks", lambda: GPT(config, generator=seeded()), "bf16", True, 2**28),
        ("transformers", lambda: Theirs(config), "bf16", True, None),
        ("arbook", whole, "bf16", True, None),
        ("arbook", whole, "bf16", False, None),
        ("transformers", lambda: Theirs(config), "bf16", False, None),
        ("arbook", whole, "TF32", False, None),
        ("arbook", whole, "float32", False, None),
    ]
    if quick:
        cases = [(name, make, "float32", False, chunk) for name, make, _, _, chunk in cases[:3]]
    if not importlib.util.find_spec("transformers"):
        cases = [case for case in cases if case[0] != "transformers"]
        found["note"] = "transformers is not installed here: no comparison"
    for name, make, precision, compiled, chunk in cases:
        torch.compiler.reset()
        with chunks_of(chunk), tensor_float_32(precision == "TF32"):
            how = {"low": precision == "bf16", "compiled": compiled, "repeats": repeats}
            case = step_seconds(make(), device, batch_size, **how)
        rate = batch_size * config.context_length / case["seconds"]
        case |= {"tokens_per_second": rate, "utilisation": rate * operations / possible}
        found["cases"].append({"name": name, "precision": precision, "compiled": compiled, **case})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


# --- what does it reach? ----------------------------------------------------------------------------------------------


def summary(record: dict) -> dict:
    """Return the figures of a record that one wants to see at once."""
    names = ("finished", "steps", "seconds", "best_val_loss", "best_step", "best_seconds")
    names += ("tokens_per_second", "utilisation", "parameters", "settings")
    return {name: record[name] for name in names} | {
        name: record[name] for name in ("scores", "baseline") if name in record
    }


def run_to_the_end(name: str, work: Path, out: Path, **options: Any) -> dict:
    """Train a preset, or go on with it; record it if it is done. A changed one is summed up, but not recorded."""
    record_to = None if options.get("settings") else out
    return summary(runs.run_preset(name, work, record_to=record_to, progress=False, **options))


def search(
    device: torch.device, quick: bool, work: Path, settings: dict, limit: float = 150.0, **_: Any
) -> dict:
    """Train the preset with each of `CANDIDATES`, side by side in processes of their own; the best becomes it."""
    name = "tiny" if quick else "gpu"
    candidates = {"one": {"dropout": 0.1}, "two": {"lr": 1e-3}} if quick else CANDIDATES
    common = settings or ({} if quick else {"max_steps": 3_000, "eval_every": 150})
    running = []
    for i, chosen in enumerate(candidates.values()):
        command = [sys.executable, "-m", "arbook", "train", "--preset", name]
        command += [
            "--device",
            str(device),
            "--out",
            str(work / f"search-{i}"),
            "--time-limit",
            str(limit),
        ]
        for key, value in {**common, **chosen}.items():
            command += [
                "--set",
                f"{key}={json.dumps(value) if not isinstance(value, str) else value}",
            ]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    found: dict[str, Any] = {"preset": name, "common": common, "candidates": {}}
    for i, (title, process) in enumerate(zip(candidates, running, strict=True)):
        _, errors = process.communicate()
        path = work / f"search-{i}" / "record.json"
        if process.returncode or not path.exists():
            found["candidates"][title] = {"error": errors.decode()[-500:]}
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        keys = ("finished", "steps", "seconds", "best_val_loss", "best_step")
        found["candidates"][title] = {key: run[key] for key in keys} | {
            "settings": candidates[title]
        }
    reached = {k: c["best_val_loss"] for k, c in found["candidates"].items() if "error" not in c}
    if reached:
        best = min(reached, key=reached.__getitem__)
        found["best"] = best
        runs.PRESETS[name] = runs.PRESETS[name].changed(candidates[best])
    return found


def shakespeare(device: torch.device, quick: bool, work: Path, out: Path, settings: dict) -> dict:
    """Train the preset "gpu" with three seeds: what is the best validation loss, and after how many seconds?"""
    name, seeds = ("tiny", 1) if quick else ("gpu", 3)
    trained = [
        run_to_the_end(
            name,
            work / f"{name}-{seed}",
            out,
            device=str(device),
            seed=seed,
            settings=settings,
        )
        for seed in range(seeds)
    ]
    losses = [run["best_val_loss"] for run in trained]
    return {
        "preset": name,
        "best_val_loss": losses,
        "mean": statistics.mean(losses),
        "runs": trained,
    }


def penn_treebank(
    device: torch.device,
    quick: bool,
    work: Path,
    out: Path,
    settings: dict,
    names: list[str],
    limit: float,
) -> dict:
    """Train the presets for Penn Treebank, one after the other, until time is up; the next call goes on."""
    start, found = time.perf_counter(), {}
    for name in ["tiny-lstm"] if quick else names:
        left = limit - (time.perf_counter() - start)
        if left <= 0:
            found[name] = {"finished": False, "note": "not reached in this call"}
            continue
        options = {"device": str(device), "max_seconds": left, "settings": settings}
        found[name] = run_to_the_end(name, work / name, out, **options)
    return {"all_done": all(run["finished"] for run in found.values()), "runs": found}


# --- decoding: measured by the chapter on sampling --------------------------------------------------------------------


def decoding(device: torch.device, quick: bool) -> dict:
    """Measure generation with a batch of one, as `bench.sampling` does."""
    model = GPT(gpt2_small(quick), generator=seeded()).to(device).eval()
    if device.type == "cuda":
        model = model.to(torch.bfloat16)
    return decoding_case(model, n_tokens=16 if quick else 256)


# --- the run ----------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict:
    """Return where and with what this runs."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if importlib.util.find_spec("transformers"):
        versions["transformers"] = importlib.metadata.version("transformers")
    if device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m bench.cuda",
        "revision": runs.code_revision(),
        "device": runs.device_name(device),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def add(path: Path, part: str, found: dict, device: torch.device) -> None:
    """Put the result of a part into the file, beside those of other calls."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record[part] = {"machine": machine(device), **found}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def report(part: str, found: dict) -> str:
    if part == "correctness":
        verdict = "passed" if found["passed"] else "FAILED"
        return f"{verdict}: largest gap {found['largest_gap']:.0e}, {len(found['warnings_of_weight_drop'])} warnings"
    if part == "throughput":
        return "\n".join(
            f"{case['name']}, {case['precision']}, {'compiled' if case['compiled'] else 'eager'}: "
            f"{1e3 * case['seconds']:.1f} ms, "
            f"{case['tokens_per_second']:,.0f} tokens/s, {case['utilisation']:.1%} of the measured matmul rate, "
            f"{case['memory_gb'] or 0:.1f} GB, first step {case['first_seconds']:.0f} s"
            for case in found["cases"]
        ) + (f"\n{found['note']}" if "note" in found else "")
    if part == "search":
        return "\n".join(
            f"{name}: {run.get('best_val_loss', run.get('error'))} at step {run.get('best_step')} "
            f"of {run.get('steps')}, {run.get('seconds', 0):.0f} s"
            for name, run in found["candidates"].items()
        )
    if part == "shakespeare":
        lines = [
            f"{found['preset']}, seed {seed}: {run['best_val_loss']:.4f} nats "
            f"after {run['best_seconds']:.0f} of {run['seconds']:.0f} s"
            for seed, run in enumerate(found["runs"])
        ]
        return "\n".join([*lines, f"mean {found['mean']:.4f}"])
    if part == "ptb":
        lines = []
        for name, run in found["runs"].items():
            scores = run.get("scores", {})
            reached = ", ".join(f"{k} perplexity {v['perplexity']:.2f}" for k, v in scores.items())
            best = run.get("best_val_loss", math.nan)
            lines.append(f"{name}: {reached or f'not done, best validation loss {best:.4f}'}")
        return "\n".join([*lines, "all done" if found["all_done"] else "call again to go on"])
    return json.dumps(found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the results (default: show them only)")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoints (default: a temporary one)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--presets", nargs="+", choices=PTB, default=PTB, help="which of Penn Treebank"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="of GPT-2 small (default 16)")
    parser.add_argument("--time-limit", type=float, default=500.0, help="seconds for Penn Treebank")
    parser.add_argument(
        "--set", action="append", default=[], help="as in arbook train; nothing is recorded"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests the script")
    given = parser.parse_args(arguments)
    try:
        device = machines.choose_device(given.device)
    except ValueError as error:
        print(f"nothing to do: {error}")
        return
    settings = dict(map(as_setting, given.set))
    with contextlib.ExitStack() as stack:
        folder = functools.partial(stack.enter_context, tempfile.TemporaryDirectory())
        out, work = (path or Path(folder()) for path in (given.out, given.work))
        out.mkdir(parents=True, exist_ok=True)
        places = {"work": work, "out": out, "settings": settings}
        calls: dict[str, Callable[..., dict]] = {
            "correctness": correctness,
            "throughput": functools.partial(throughput, batch_size=given.batch_size),
            "search": functools.partial(search, **places),
            "shakespeare": functools.partial(shakespeare, **places),
            "ptb": functools.partial(
                penn_treebank, **places, names=list(given.presets), limit=given.time_limit
            ),
            "decoding": decoding,
        }
        failed = False
        for part in given.parts:  # one that fails does not cost the others their time
            start = time.perf_counter()
            try:
                found = calls[part](device, given.quick)
                text = report(part, found)
            except Exception:
                found = {"error": traceback.format_exc()}
                text, failed = found["error"], True
            found["wall_seconds"] = time.perf_counter() - start
            add(out / "cuda.json", part, found, device)
            print(f"== {part}, {found['wall_seconds']:.0f} s\n{text}", flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
