"""Training steps and generation of a `GPT` against the GPT-2 of the transformers library, in one run.

Run it with `make bench`, or `python -m bench.transformer`. It takes some minutes and 4 GB of memory. The figures are
printed and written to `runs/bench_transformer.json`, which the seventh chapter shows.
"""

import argparse
import json
import time

import torch
from arbook.transformer import GPT, GPTConfig, to_gpt2_config, to_gpt2_state_dict

from bench._record import ROOT, peak_mb, provenance, run_apart, write

RECORD = ROOT / "runs" / "bench_transformer.json"
SIZE = {"T": 512, "prompt": 64, "new": 64}
NOTE = (
    "GPT-2 small with random weights in float32, without dropout; a training step is loss and gradients of one row "
    "of T tokens, generation is greedy with a cache, one token at a time after a prompt; both in turn in one process "
    "with one thread, the least processor time of the repeats, as ratios to the peer; memory is the peak of a process "
    "of its own that trains one step"
)


def make_ours() -> GPT:
    return GPT(GPTConfig.gpt2(), generator=torch.Generator().manual_seed(0))


def make_theirs(ours: GPT):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(ours.config)))
    model.load_state_dict(to_gpt2_state_dict(ours))
    return model


def train_ours(model: GPT, ids: torch.Tensor) -> float:
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.item()


def train_theirs(model, ids: torch.Tensor) -> float:
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item()


@torch.no_grad()
def write_ours(model: GPT, ids: torch.Tensor, n: int) -> list[int]:
    state, written = model.init_state(1), []
    for _ in range(n):
        logits, state = model.step(ids, state)
        ids = logits[:, -1:].argmax(-1)
        written.append(ids.item())
    return written


@torch.no_grad()
def write_theirs(model, ids: torch.Tensor, n: int) -> list[int]:
    past, written = None, []
    for _ in range(n):
        answer = model(ids, past_key_values=past, use_cache=True)
        past, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
        written.append(ids.item())
    return written


METHODS = {"transformers": (train_theirs, write_theirs), "arbook": (train_ours, write_ours)}


def make_inputs(T: int) -> torch.Tensor:
    return torch.randint(50_257, (1, T + 1), generator=torch.Generator().manual_seed(0))


def peak_memory(method: str) -> dict:
    """Return the peak of this process after one training step."""
    model = make_ours()
    if method == "transformers":
        model = make_theirs(model)
    METHODS[method][0](model.train(), make_inputs(SIZE["T"]))
    return {"memory_mb": peak_mb()}


def race(repeats: int) -> tuple[dict, dict]:
    """Time both in turn in one process, each at its best, and compare what they compute."""
    ids = make_inputs(SIZE["T"])
    ours = make_ours()
    models = {"transformers": make_theirs(ours), "arbook": ours}
    seconds = {name: {"training_step": [], "generation": []} for name in METHODS}
    losses, tokens = {}, {}
    for _ in range(repeats):
        for name, (train, generate) in METHODS.items():
            model, start = models[name].train(), time.process_time()
            losses[name] = train(model, ids)
            seconds[name]["training_step"].append(time.process_time() - start)
            model.zero_grad(set_to_none=False)  # its memory is not what is measured
            model.eval()
            start = time.process_time()
            tokens[name] = generate(model, ids[:, : SIZE["prompt"]], SIZE["new"])
            seconds[name]["generation"].append(time.process_time() - start)
    best = {
        name: {task: min(times) for task, times in tasks.items()} for name, tasks in seconds.items()
    }
    agreement = {
        "loss": abs(losses["transformers"] - losses["arbook"]),
        "same_tokens": tokens["transformers"] == tokens["arbook"],
    }
    return best, agreement


def compare(repeats: int) -> tuple[dict, dict]:
    peaks = {
        name: run_apart("transformer", "--memory", name) for name in METHODS
    }  # before this one grows
    torch.set_num_threads(1)  # so that processor time is the time that a machine at rest would take
    best, agreement = race(repeats)
    peer = best["transformers"]
    speed = {
        name: {
            "training_step": peer["training_step"] / own["training_step"],
            "generation": peer["generation"] / own["generation"],
            "tokens_per_second": SIZE["new"] / own["generation"],
            **peaks[name],
        }
        for name, own in best.items()
    }
    return speed, agreement


def report(record: dict) -> str:
    lines = [f"{'times as fast as transformers':32}{'training':>10}{'generation':>12}{'peak':>12}"]
    lines += [
        f"{method:32}{case['training_step']:>10.2f}{case['generation']:>12.2f}{case['memory_mb']:>9,.0f} MB"
        for method, case in record["speed"].items()
    ]
    lines.append(f"difference of the losses: {record['agreement']['loss']:.0e}")
    lines.append(f"same tokens written: {record['agreement']['same_tokens']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=METHODS, help="only the memory of one, as JSON")
    parser.add_argument("--repeats", type=int, default=3, help="how often (default 3)")
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(peak_memory(arguments.memory)))
        return
    speed, agreement = compare(arguments.repeats)
    record = {
        "provenance": provenance("transformer", ["torch", "transformers"], NOTE),
        "size": {"model": "GPT-2 small", **SIZE},
        "threads": 1,
        "repeats": arguments.repeats,
        "speed": speed,
        "agreement": agreement,
    }
    print(report(record))
    write(RECORD, record)


if __name__ == "__main__":
    main()
