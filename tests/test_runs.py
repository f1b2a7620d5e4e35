"""Runs with a name: presets, their folders, their records, and the command that makes them."""

import dataclasses
import json
import math
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest
import torch
from arbook import checkpoints, cli, data, runs, training
from arbook.runs import (
    PRESETS,
    copy_record,
    loss_band,
    read_records,
    run_preset,
)
from arbook.checkpoints import CHECKPOINT, LOG, load_model, load_run
from arbook.steps import epoch_steps, evaluate
from arbook.tokens import Tokenizer, WordTokenizer
from arbook.training import TrainConfig, train
from arbook.files import CheckpointError, CheckpointNotFoundError
from arbook.transformer import GPT

from conftest import ROOT, unavailable
from test_training import raise_at
from tiny import TEXT, rng, tiny_config, tiny_gpt


# --- presets ---


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build(10_000 if preset.unit == "word" else 65)
    config = TrainConfig(**preset.training)
    assert training.check_block_size(model, config) > 0 and preset.about and preset.baseline > 1
    assert hasattr(model, "loss_and_state") or config.order == "random"


def test_presets_have_the_sizes_and_epochs_that_they_promise():
    """(S94c, S94d)"""
    with torch.device("meta"):
        models = {name: preset.build(65) for name, preset in PRESETS.items()}
        words = {name: PRESETS[name].build(10_000) for name in models if "ptb" in name}
    assert sum(p.numel() for p in models["gpu"].parameters()) <= 10_800_000
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in words.items()}
    assert round(sizes["ptb-lstm"] / 1e6, 1) == 19.8
    assert round(sizes["ptb-awd-lstm"] / 1e6, 1) == 24.2
    for name, epochs in (("ptb-lstm", 40), ("ptb-awd-lstm", 120)):
        c = TrainConfig(**PRESETS[name].training)
        K = epoch_steps(929_589, c.batch_size, c.block_size)
        assert c.max_steps == epochs * K and c.eval_every % K == 0 and c.checkpoint_every % K == 0


def test_a_preset_can_be_changed_by_name():
    preset = PRESETS["tiny-lstm"].changed({"n_hidden": 5, "lr": 1.0})
    assert preset.model["n_hidden"] == 5 and preset.training["lr"] == 1.0
    assert PRESETS["tiny-lstm"].model["n_hidden"] == 24
    for wrong in ("n_head", "seed", "checkpoint_dir", "vocab_size", "nonsense"):
        with pytest.raises(ValueError, match=f"settings must be among .*; got {wrong!r}"):
            preset.changed({wrong: 1})


# --- a run that is watched, and used before its end ---


@pytest.fixture
def cheap_records(monkeypatch):
    """Presets without what takes time in their records and does not matter here: a measured rate, and a sample."""
    monkeypatch.setattr(runs, "matmul_rate", lambda *where, **options: 1e12)
    monkeypatch.setattr(runs, "ancestral_sample", lambda model, prompt, n, generator: prompt)


def test_tokenizer_and_model_are_there_before_the_first_step(tmp_path):
    seen = []

    def look(line):
        if line["step"] == 0:
            model = load_model(tmp_path / "model")
            tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
            seen.append(model.vocab_size == tokenizer.vocab_size > 0)
            if line["event"] == "eval":  # written just after it
                return
            assert not (tmp_path / CHECKPOINT).exists()

    options = {"settings": {"max_steps": 2, "eval_tokens": 200}, "device": "cpu"}
    run_preset("tiny", tmp_path, **options, notify=look)
    assert seen == [True, True]


def test_a_run_of_something_else_leaves_the_folder_as_it_is(tmp_path, cheap_records):
    options = {"settings": {"max_steps": 2, "eval_tokens": 200}, "device": "cpu"}
    run_preset("tiny", tmp_path, **options)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != LOG]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(CheckpointError, match="of another run"):
        run_preset("tiny-lstm", tmp_path, **options)
    assert {path: path.read_bytes() for path in files} == before


def test_a_preset_of_ones_own_takes_a_text_and_keeps_what_was_typed(tmp_path, cheap_records):
    parts = data.split_text("to be or not to be, " * 60, name="mine")
    preset = dataclasses.replace(PRESETS["tiny"], baseline=2).changed({"max_steps": 2})
    record = run_preset(preset, tmp_path, parts=parts, device="cpu", command="what was typed")
    assert record["preset"] is None and record["corpus"] == "mine"
    assert record["command"] == "what was typed" and record["baseline"]["order"] == 2
    with pytest.raises(ValueError, match="record_to must be None"):
        run_preset(preset, tmp_path, parts=parts, record_to=tmp_path / "runs")
    none = run_preset(
        dataclasses.replace(preset, baseline=0), tmp_path / "b", parts=parts, device="cpu"
    )
    assert none["baseline"] == {"order": 0} and none["scores"]["valid"]["loss"] > 0


# --- the command ---


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_stops_when_time_is_up_and_goes_on_when_called_again(
    tmp_path, capsys, monkeypatch
):
    line = ["train", "--preset", "tiny", "--device", "cpu", "--out", str(tmp_path), "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["arbook", *line, "--time-limit", "1e-6"])
    with pytest.raises(SystemExit) as ended:  # which is what `python -m` does
        runpy.run_module("arbook", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("stopped after 1 step") and "the same command goes on" in told
    assert cli.main(line) == 0
    assert capsys.readouterr().out.startswith("done: 60 steps")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["finished"] and record["config"]["seed"] == 3 and len(record["sample"]) == 300
    assert record["command"] == f"arbook {' '.join(line)}"
    assert record["val_loss"] < 4 and 0 < record["utilisation"] < 1
    assert GPT.load(tmp_path / "model").config.n_embd == 32
    assert (
        run_preset("tiny", tmp_path, device="cpu", seed=3) == record
    )  # there is nothing left to do
    (tmp_path / "record.json").unlink()  # as if killed just before
    assert run_preset("tiny", tmp_path, device="cpu", seed=3)["tokens_per_second"] is None


def test_the_command_explains_itself_and_its_errors(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and "--time-limit" in told and "--record" in told
    line = ["train", "--preset", "tiny", "--out", str(tmp_path), "--device", "nonsense"]
    assert cli.main(line) == 1
    assert "--device must be the name of one" in capsys.readouterr().err
    for wrong in (["notes.txt"], ["--preset", "tiny", "--set", "lr=0.1"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *wrong, "--record", str(tmp_path)])
        assert (
            ended.value.code == 2
            and "--record is for a --preset as it is" in capsys.readouterr().err
        )
    with pytest.raises(ValueError, match="name must be one of tiny, tiny-lstm, cpu, gpu"):
        run_preset("huge", tmp_path)


def test_settings_are_read_from_the_command_line():
    assert [runs.as_setting(x) for x in ("lr=0.5", "schedule=wsd", "compile=false", "tied=true")] == [
        ("lr", 0.5), ("schedule", "wsd"), ("compile", False), ("tied", True),
    ]  # fmt: skip
    python = [("tied", True), ("compile", False), ("grad_clip", None)]
    assert [runs.as_setting(f"{name}={value}") for name, value in python] == python
    preset = PRESETS["tiny-lstm"].changed(dict(map(runs.as_setting, ["tied=True"])))
    assert preset.build(30).config.tied
    with pytest.raises(ValueError, match="NAME=VALUE, got 'lr'"):
        runs.as_setting("lr")


def test_the_command_trains_a_recurrent_model_on_words_and_records_it(tmp_path, capsys):
    out, records = tmp_path / "out", tmp_path / "runs"
    line = ["train", "--preset", "tiny-lstm", "--device", "cpu", "--out", str(out)]
    line += ["--record", str(records)]
    assert cli.main([*line, "--time-limit", "1e-6"]) == 0
    assert capsys.readouterr().out.startswith("stopped") and not records.exists()
    assert cli.main(line) == 0
    assert "per word (n-grams of order 3:" in capsys.readouterr().out
    record = json.loads((records / "train_tiny-lstm_seed0.json").read_text())
    assert record == json.loads((out / "record.json").read_text())
    assert record["unit"] == "word" and record["context"] == "all tokens before"
    assert record["config"]["order"] == "stream" and set(record["scores"]) == {"valid"}
    assert len(record["text_sha256"]["train"]) == 64 and record["revision"] and record["device"]
    # What was recorded is the model that was measured, up to the rounding of its weights.
    folder = records / "train_tiny-lstm_seed0"
    tokenizer, model = WordTokenizer.load(folder / "tokenizer.json"), load_model(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < runs.MAX_RECORD_BYTES
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    parts = data.splits("pydoc")
    valid = tokenizer.encode_array(runs.mark_ends(parts.valid), allowed_special=["<eos>"])
    loss = evaluate(model.float(), valid, block_size=500, carry=True)
    assert abs(loss - record["scores"]["valid"]["loss"]) < 0.01
    best = evaluate(load_model(out / "model"), valid, block_size=500, carry=True)
    assert abs(best - record["scores"]["valid"]["loss"]) < 1e-4
    assert record["best_val_loss"] == min(
        x["val_loss"] for x in record["history"] if "val_loss" in x
    )
    # Nothing is left to do: the record can still be copied.
    assert run_preset("tiny-lstm", out, device="cpu", record_to=tmp_path / "other") == record
    assert (tmp_path / "other" / "train_tiny-lstm_seed0.json").exists()


@pytest.mark.slow
def test_without_a_compiler_the_command_says_so_in_one_line(tmp_path):
    small = ["--set", "max_steps=1", "--set", "eval_tokens=100", "--set", "compile=true"]
    program = [sys.executable, "-m", "arbook", "train", "--preset", "tiny", "--device", "cpu"]
    nothing = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    nothing |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "CC": nothing["CXX"]}
    done = subprocess.run(
        [*program, *small, "--out", str(tmp_path / "run")],
        env=os.environ | nothing,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "compile is True, and torch.compile fails here: " in last and "compile=False" in last
    assert "Traceback" not in done.stderr


# --- signals ---


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_command_finishes_the_step_and_saves_when_a_signal_comes(
    tmp_path, capsys, monkeypatch, kind, cheap_records
):
    before = {
        k: signal.signal(k, signal.default_int_handler) for k in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        line = ["train", "--preset", "tiny", "--device", "cpu", "--set", "eval_tokens=200"]
        line += ["--out", str(tmp_path / "run")]
        with monkeypatch.context() as patch:
            raise_at(7, kind, patch)
            assert cli.main(line) == {signal.SIGINT: 130, signal.SIGTERM: 143}[kind]
        out = capsys.readouterr().out
        assert out.startswith(f"stopped by {kind.name} after 7 steps, ")
        assert "; the same command goes on; " in out
        assert out.count("\n") == 1
        assert signal.getsignal(kind) is signal.default_int_handler  # as it was
        assert json.loads((tmp_path / "run" / "record.json").read_text())["stopped_by"] == kind.name
        assert cli.main(line) == 0
        assert capsys.readouterr().out.startswith("done: 60 steps")
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        assert record["stopped_by"] is None and record["finished"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    through = run_preset("tiny", tmp_path / "through", device="cpu", settings={"eval_tokens": 200})
    assert through["val_loss"] == record["val_loss"]


def test_a_second_signal_ends_at_once_and_a_library_call_is_left_to_its_caller(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with runs._noted_signals() as noted:
            os.kill(os.getpid(), signal.SIGINT)
            assert noted == ["SIGINT"]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(10**6):
                    pass
        raise_at(3, signal.SIGINT, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt(), TEXT, None, tiny_config())
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # as for a command that a script has put into the background
        with runs._noted_signals() as noted:
            os.kill(os.getpid(), signal.SIGINT)
        assert noted == []
    finally:
        signal.signal(signal.SIGINT, before)


# --- several processes ---


def torchrun(*arguments: str, **options) -> subprocess.Popen:
    """Start two processes of the command, as `torchrun --nproc-per-node 2 -m arbook` does."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*program, "-m", "arbook", "train", *arguments],
        env=os.environ | here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_two_processes_of_the_command_deliver_one_model_and_one_line(tmp_path):
    """Started again, a finished run says the same; a third process in the folder would be refused."""
    small = ("--set", "max_steps=3", "--set", "eval_tokens=500")
    line = ("--preset", "tiny", "--out", str(tmp_path / "run"), "--device", "cpu", *small)
    for _ in range(2):
        process = torchrun(*line)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert output.startswith("done: 3 steps") and output.count("\n") == 1
    names = {"model", "tokenizer.json", "record.json", "best.safetensors", CHECKPOINT, LOG}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["processes"] == 2 and record["finished"] and record["unit"] == "character"
    assert load_model(tmp_path / "run" / "model").vocab_size > 50


@pytest.mark.slow
def test_two_processes_of_the_command_save_together_when_they_are_asked_to_end(tmp_path):
    out, endless = tmp_path / "run", ("--set", "max_steps=1000000", "--set", "eval_tokens=200")
    process = torchrun("--preset", "tiny", "--out", str(out), "--device", "cpu", "-q", *endless)
    limit = time.monotonic() + 600
    while not (out / LOG).exists() or len((out / LOG).read_text().splitlines()) < 4:
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # which torchrun passes on
    output, errors = process.communicate(timeout=600)
    assert output.startswith("stopped by SIGTERM after ") and output.count("\n") == 1, errors
    saved = load_run(out / CHECKPOINT)[1]["step"]
    assert saved > 0 and f"after {saved} step" in output
    assert not (out / checkpoints._LOCK).exists()


# --- texts ---


def test_the_baseline_is_the_n_gram_model_of_chapter_five():
    tokenizer, ids = runs.encode_parts(data.splits("pydoc"), "word")
    assert tokenizer.vocab.id("<eos>") == ids["valid"][-1]
    preset = PRESETS["tiny-lstm"]
    model = preset.build(tokenizer.vocab_size, rng())
    short = {name: part[:3_000] for name, part in ids.items()}
    config = TrainConfig(**preset.training, device="cpu")
    found = runs.compare_with_ngrams(model, preset, config, tokenizer, short)
    reference = runs.NGramLM(3, vocab_size=tokenizer.vocab_size, eos_id=int(ids["valid"][-1]))
    expected = -reference.fit(short["train"]).sentence_log_prob(short["valid"]).mean()
    assert abs(found["baseline"]["valid"]["loss"] - expected) < 1e-12
    assert math.isclose(found["scores"]["valid"]["perplexity"], tokenizer.vocab_size, rel_tol=0.05)


def test_a_text_is_cut_into_the_unit_that_is_asked_for_or_into_none():
    parts = data.Splits("small", "to be or not to be\n" * 30, "to be\n")
    sizes = {}
    for unit in ("character", "byte", "token", "word"):
        tokenizer, ids = runs.encode_parts(parts, unit)
        sizes[unit] = len(ids["valid"])
        assert set(ids) == {"train", "valid"} and max(ids["train"]) < tokenizer.vocab_size
    assert sizes["character"] == sizes["byte"] == 6 and sizes["word"] == 3  # to, be, <eos>
    assert sizes["token"] < 6
    with pytest.raises(
        ValueError, match="unit must be one of character, byte, token, word, got 'x'"
    ):
        runs.encode_parts(parts, "x")


@pytest.mark.parametrize("unit", ["word", "character"])
def test_penn_treebank_is_read_as_its_perplexities_are_reported(unit):
    """(S94) 10,000 words and 82,430 tokens to test on, ends of sentences included."""
    try:
        parts = data.splits("ptb")
    except data.DataNotFoundError:
        unavailable("Penn Treebank is not on this machine; set ARBOOK_DATA to its folder")
    tokenizer, ids = runs.encode_parts(parts, unit)
    if unit == "word":
        assert (tokenizer.vocab_size, len(ids["train"]), len(ids["test"])) == (
            10_000,
            929_589,
            82_430,
        )
    else:
        assert tokenizer.decode(ids["test"]) == parts.test


# --- records ---


def test_only_finished_runs_with_the_settings_of_the_preset_are_recorded(tmp_path, cheap_records):
    with pytest.raises(ValueError, match="record_to must be None if settings differ"):
        run_preset("tiny", tmp_path, settings={"lr": 0.1}, record_to=tmp_path)
    options = {"device": "cpu", "settings": {"max_steps": 3, "eval_tokens": 200}}
    record = run_preset("tiny", tmp_path / "changed", **options)
    assert record["finished"] and record["settings"] == options["settings"]
    assert record["config"]["max_steps"] == 3
    with pytest.raises(ValueError, match="not finished, or not with the settings of its preset"):
        copy_record(tmp_path / "changed", tmp_path / "runs")
    run_preset("tiny", tmp_path / "stopped", device="cpu", max_seconds=1e-9)
    with pytest.raises(ValueError, match="not finished"):
        copy_record(tmp_path / "stopped", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_record_that_was_written_before_the_end_is_not_taken_for_the_last_word(
    tmp_path, cheap_records
):
    """A run killed between its last checkpoint and its record leaves the record of an earlier stop."""
    settings = {"max_steps": 3, "eval_tokens": 200}
    old = run_preset("tiny", tmp_path, device="cpu", settings=settings, max_seconds=1e-9)
    run_preset("tiny", tmp_path, device="cpu", settings=settings)
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert run_preset("tiny", tmp_path, device="cpu", settings=settings)["finished"]
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(CheckpointError, match="record.json is not valid JSON"):
        run_preset("tiny", tmp_path, device="cpu", settings=settings)
    with pytest.raises(CheckpointNotFoundError, match="record.json does not exist"):
        copy_record(tmp_path / "nothing", tmp_path / "runs")


def test_large_models_are_recorded_without_their_weights(tmp_path, monkeypatch, cheap_records):
    settings = {"max_steps": 2, "eval_tokens": 100}
    monkeypatch.setattr(runs, "MAX_RECORD_BYTES", 50_000)
    record = run_preset("tiny", tmp_path / "out", device="cpu", settings=settings)
    path = tmp_path / "out" / "record.json"
    path.write_text(json.dumps(record | {"settings": {}}))
    assert copy_record(tmp_path / "out", tmp_path / "runs").name == "train_tiny_seed0.json"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["train_tiny_seed0.json"]


def test_runs_and_measurements_name_the_machine_alike(tmp_path, cheap_records):
    """The processor, and the instructions that PyTorch uses of it, which can be fewer than it has."""
    from bench._record import provenance

    found = provenance("training", ["torch"], "")
    options = {"device": "cpu", "settings": {"max_steps": 1, "eval_tokens": 100}}
    record = run_preset("tiny", tmp_path, **options)
    assert found["processor"] == record["device"] and record["device"]
    used = torch.backends.cpu.get_cpu_capability()
    assert found["instruction_set"] == record["instruction_set"] == used


def test_a_band_holds_what_all_runs_measured(tmp_path):
    history = [{"step": s, "val_loss": 3.0 - s / 10} for s in (0, 5, 10)] + [{"step": 5, "loss": 9}]
    both = [{"preset": "cpu", "device": "a chip", "history": history}]
    both.append(both[0] | {"history": [{"step": s, "val_loss": 2.8} for s in (0, 10, 20)]})
    assert loss_band(both) == ([0, 10], [2.8, 2.0], [3.0, 2.8])
    for seed, run in enumerate(both):
        (tmp_path / f"train_cpu_seed{seed}.json").write_text(json.dumps(run))
    assert read_records(tmp_path) == {("cpu", "a chip"): both}
    assert read_records(tmp_path / "nothing") == {}
    (tmp_path / "train_cpu_seed2.json").write_text("[]")
    with pytest.raises(
        ValueError, match="train_cpu_seed2.json is not the record of a training run"
    ):
        read_records(tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        loss_band([])


def test_recorded_runs_of_this_repository_are_complete():
    """What the page shows: at least as good as the n-grams, or it would say so; made by this library."""
    for (preset, device), records in read_records(ROOT / "runs").items():
        assert preset in PRESETS and device
        for record in records:
            assert record["finished"] and not record["settings"] and record["revision"]
            assert record["scores"]["valid"]["loss"] > 0 and record["baseline"]["valid"]["loss"] > 0


def test_the_revision_is_that_of_the_checkout_or_the_version(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.resources, "files", lambda name: tmp_path / "arbook")
    assert runs.code_revision() == f"version {runs.__version__}"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert runs.code_revision() == f"version {runs.__version__}"  # no commit yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    found = runs.code_revision()
    assert len(found) >= 7 and int(found, 16) >= 0
    (tmp_path / "new").touch()
    assert runs.code_revision() == f"{found} with changes"


# --- the script for graphics processors ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers, and of weights that are dropped on purpose
def test_the_script_for_graphics_processors_runs_in_small_on_the_cpu(
    tmp_path, capsys, cheap_records, monkeypatch
):
    """Correctness, throughput, training runs that are recorded; nothing that it does not know by name."""
    from bench import cuda

    monkeypatch.setitem(runs.PRESETS, "tiny", PRESETS["tiny"])  # its search changes it
    cuda.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("== ") == len(cuda.PARTS)
    found = json.loads((tmp_path / "cuda.json").read_text())
    assert set(found) == set(cuda.PARTS)
    assert found["correctness"]["passed"] and found["ptb"]["all_done"]
    assert len(found["correctness"]["gaps"]) == 14 and found["correctness"]["largest_gap"] < 1e-9
    losses = {case["name"]: case["loss"] for case in found["throughput"]["cases"]}
    ours = [loss for name, loss in losses.items() if "arbook" in name]
    assert len(ours) == 2 and max(ours) - min(ours) < 1e-3  # in chunks, and all logits at once
    assert "transformers" in losses and set(found["search"]["candidates"]) == {"one", "two"}
    assert set(read_records(tmp_path)) == {
        ("tiny", found["ptb"]["machine"]["device"]),
        ("tiny-lstm", found["ptb"]["machine"]["device"]),
    }
    assert all(case["utilisation"] > 0 for case in found["throughput"]["cases"])


def test_without_a_graphics_processor_the_script_has_nothing_to_do(monkeypatch, capsys, tmp_path):
    from bench import cuda

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.main(["--out", str(tmp_path / "out")])
    assert "nothing to do: device is 'cuda'" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
