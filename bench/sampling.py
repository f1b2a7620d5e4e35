"""Generation with `arbook.sampling` against `generate` of the transformers library, in one run.

Run it with `make bench`, or `python -m bench.sampling`. It takes some minutes. The figures are printed and written to
`runs/bench_sampling.json`, which the ninth chapter shows. With a CUDA GPU, GPT-2 small is timed there as well.
"""

import argparse
import importlib.util
import logging
import time
from collections.abc import Callable

import torch
from arbook.decoders import StaticDecoder, pack
from arbook.rules import Chain, Greedy, Temperature, TopK, TopP
from arbook.sampling import generate
from arbook.transformer import GPT, GPTConfig, to_gpt2_config, to_gpt2_state_dict

from bench._record import ROOT, provenance, write

RECORD = ROOT / "runs" / "bench_sampling.json"
V, T, N_PROMPT, N_NEW = 65, 512, 16, 256
BATCHES = (1, 32)
THREADS = 2
RULES = Chain([Temperature(0.8), TopK(50), TopP(0.9)])
NOTE = (
    "random weights in float32, the layout of GPT-2; greedy continuation of a prompt of 16 tokens by 256, without a "
    "stop token, both libraries in turn in one process, the least wall time of the repeats; 'rules' is ours with "
    "temperature, top-k and top-p instead of greedy; our weights are packed before"
)


def make_ours() -> GPT:
    config = GPTConfig(V, T, 384, n_layer=6, n_head=6)
    return GPT(config, generator=torch.Generator().manual_seed(0)).eval()


def make_theirs(ours: GPT):
    from transformers import GPT2Config, GPT2LMHeadModel

    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(ours.config))).eval()
    model.load_state_dict(to_gpt2_state_dict(ours))
    return model


def write_ours(model: GPT, ids: torch.Tensor, sampler=None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found = generate(
        model, ids, max_new_tokens=N_NEW, sampler=sampler or Greedy(), generator=generator
    )
    return found.padded(0)


def write_theirs(model, ids: torch.Tensor, n_tokens: int = N_NEW) -> torch.Tensor:
    options = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False}
    return model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)


def race(batch_size: int, repeats: int) -> dict:
    """Time all in turn, each at its best, and compare what the two libraries write."""
    ours = make_ours()
    theirs, ours = make_theirs(ours), pack(ours, batch_size)
    shape = (batch_size, N_PROMPT)
    ids = torch.randint(V, shape, generator=torch.Generator().manual_seed(1))
    methods = {
        "arbook": lambda: write_ours(ours, ids),
        "rules": lambda: write_ours(ours, ids, RULES),
        "transformers": lambda: write_theirs(theirs, ids),
    }
    seconds, texts = {name: [] for name in methods}, {}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            texts[name] = method()
            seconds[name].append(time.perf_counter() - start)
    speed = {name: batch_size * N_NEW / min(times) for name, times in seconds.items()}
    return {
        "batch_size": batch_size,
        "tokens_per_second": speed,
        "ratio": speed["arbook"] / speed["transformers"],
        "same_tokens": torch.equal(texts["arbook"], texts["transformers"]),
    }


def fastest(write: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the least wall time of the repeats, in seconds; a first call, which compiles and records, is left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        write()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def decoding_case(model: GPT, *, n_tokens: int = N_NEW, repeats: int = 3) -> dict:
    """Time a batch of one on the model's device, greedy: with a recorded step, without, and by `transformers`."""
    prompt = [0] * N_PROMPT
    options = {"max_new_tokens": n_tokens, "sampler": Greedy()}
    decoder = StaticDecoder(model)
    methods = {
        "arbook, static": lambda: generate(decoder, prompt, **options),
        "arbook": lambda: generate(model, prompt, **options),
    }
    if importlib.util.find_spec("transformers"):
        weight = model.output_weight
        theirs = make_theirs(model).to(weight.device, weight.dtype)
        ids = torch.tensor([prompt], device=weight.device)
        methods["transformers"] = lambda: write_theirs(theirs, ids, n_tokens)
    spent = {name: fastest(write, model.device, repeats) for name, write in methods.items()}
    speed = {name: n_tokens / seconds for name, seconds in spent.items()}
    ratio = speed["arbook, static"] / speed["transformers"] if "transformers" in speed else None
    return {"n_tokens": n_tokens, "tokens_per_second": speed, "ratio": ratio}


def on_gpu(repeats: int) -> dict | None:
    """Time GPT-2 small in bfloat16 at batch 1; None without a CUDA GPU."""
    if not torch.cuda.is_available():
        return None
    model = GPT(GPTConfig.gpt2(), generator=torch.Generator().manual_seed(0)).eval()
    found = decoding_case(model.to("cuda", torch.bfloat16), repeats=repeats)
    return {"device": torch.cuda.get_device_name(), **found}


def report(record: dict) -> str:
    lines = [
        f"{'tokens per second':18}{'arbook':>10}{'rules':>10}{'transformers':>14}{'ratio':>8}  same text"
    ]
    for case in record["speed"]:
        speed = case["tokens_per_second"]
        lines.append(
            f"batch {case['batch_size']:<12}{speed['arbook']:>10,.0f}{speed['rules']:>10,.0f}"
            f"{speed['transformers']:>14,.0f}{case['ratio']:>8.2f}  {case['same_tokens']}"
        )
    if record["gpu"]:
        for name, speed in record["gpu"]["tokens_per_second"].items():
            lines.append(f"{record['gpu']['device']}, {name}: {speed:,.0f} tokens per second")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="how often (default 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    record = {
        "provenance": provenance("sampling", ["torch", "transformers"], NOTE),
        "model": "6 layers, 384 wide, 65 tokens",
        "threads": THREADS,
        "repeats": arguments.repeats,
        "speed": [race(batch_size, arguments.repeats) for batch_size in BATCHES],
        "gpu": on_gpu(arguments.repeats),
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
