"""What is kept on the disk: checkpoints, locks, token files, and models in folders."""

import json
import math
import os

import numpy as np
import pytest
import torch
from arbook import checkpoints, data
from arbook.checkpoints import (
    CHECKPOINT,
    load_model,
    load_run,
    open_token_file,
    recorded_model,
    save_model,
    save_run,
    write_token_file,
)
from arbook.files import CheckpointError, CheckpointNotFoundError
from arbook.steps import (
    cut_windows,
    evaluate,
    step_starts,
)
from hypothesis import given
from hypothesis import strategies as st
from tiny import (
    TEXT,
    Table,
    V,
    same_weights,
    tiny_gpt,
    tiny_lstm,
)


@pytest.mark.parametrize("vocab_size", [V, 2**16, 2**16 + 1])
def test_a_mapped_file_gives_the_same_windows_as_the_array(tmp_path, vocab_size):
    path = tmp_path / "text.bin"
    assert write_token_file(path, TEXT, vocab_size=vocab_size) == len(TEXT)
    mapped = open_token_file(path, vocab_size=vocab_size)
    assert mapped.dtype.itemsize == (2 if vocab_size <= 2**16 else 4)
    assert np.array_equal(mapped, TEXT) and list(tmp_path.iterdir()) == [path]
    starts = step_starts(len(TEXT), 8, 6, 0, 0)
    a, b = (cut_windows(ids, starts, 6) for ids in (mapped, torch.tensor(TEXT)))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_file_can_be_written_in_pieces(tmp_path):
    path = tmp_path / "text.bin"
    write_token_file(path, (part for part in np.split(TEXT, 4)), vocab_size=V)
    assert np.array_equal(open_token_file(path, vocab_size=V), TEXT)


def test_damaged_token_files_are_refused(tmp_path):
    path = tmp_path / "text.bin"
    write_token_file(path, TEXT, vocab_size=V)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=f"of a vocabulary of {V} tokens, not of 12"):
        open_token_file(path, vocab_size=12)
    for content, message in [
        (whole[:-1], "damaged"),
        (whole + b"x", "damaged"),
        (whole[:100], "damaged"),
        (whole[:50], "not a file of tokens"),
        (b"", "not a file of tokens"),
        (b"{}".ljust(256), "not a file of tokens"),
        (b"[]".ljust(256), "not a file of tokens"),
        (whole.replace(b'"version": 1', b'"version": 2'), "not a file of tokens"),
        (whole.replace(b"<u2", b"<i2"), "not a file of tokens"),
        (whole.replace(b'"length": 400', b'"length": -40'), "not a file of tokens"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_token_file(path, vocab_size=V)


def test_ids_outside_the_vocabulary_leave_no_file_or_the_old_one(tmp_path):
    path = tmp_path / "text.bin"
    with pytest.raises(ValueError, match="must be between 0 and 4"):
        write_token_file(path, TEXT, vocab_size=5)
    assert not list(tmp_path.iterdir())
    write_token_file(path, TEXT, vocab_size=V)
    with pytest.raises(ValueError, match="must be between 0 and 10"):
        write_token_file(path, iter([TEXT, [V]]), vocab_size=V)  # when much is already written
    assert np.array_equal(open_token_file(path, vocab_size=V), TEXT)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_can_hold_no_tokens(tmp_path):
    assert write_token_file(tmp_path / "text.bin", [], vocab_size=np.int64(V)) == 0
    assert len(open_token_file(tmp_path / "text.bin", vocab_size=V)) == 0


def test_numbers_of_another_model_change_nothing():
    model, other = tiny_gpt(), tiny_gpt(n_hidden=8)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for tensors in (checkpoints.tensors_of(other, []), {"model.x": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="of another model"):
            checkpoints.put_back(tensors, model, [])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / CHECKPOINT
    save_run(path, {"w": torch.arange(20.0), "n": torch.tensor(3)}, {"step": 1})
    whole = path.read_bytes()
    assert load_run(path)[1]["step"] == 1
    for at in np.random.default_rng(0).integers(0, len(whole), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="damaged|no checkpoint"):
            load_run(path)
    for content in (whole[:-3], whole[:50], b"", b"\x80\x04K\x01.", whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load_run(path)
    path.write_bytes(checkpoints.safetensors_bytes({"w": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        load_run(path)
    save_run(path, {}, {"version": 2})
    with pytest.raises(CheckpointError, match="version 2"):
        load_run(path)
    with pytest.raises(CheckpointNotFoundError, match="does not exist"):
        load_run(tmp_path / "nothing")


def test_a_lock_that_its_owner_removes_while_another_waits_for_it_is_not_taken_for_one(
    tmp_path, monkeypatch
):
    fcntl = pytest.importorskip("fcntl")
    flock, path = fcntl.flock, tmp_path / checkpoints._LOCK

    gone = []

    def late(file, how):
        if not gone:
            gone.append(path.unlink())  # by a run that ends between the two calls
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with checkpoints.lock_folder(tmp_path) as held:
        assert os.path.samestat(os.fstat(held.fileno()), path.stat())
        assert checkpoints.lock_folder(tmp_path) is None


@given(st.integers(1, 60), st.sampled_from(["<u2", "<u4", "<i4", "<i8"]), st.integers(0, 9))
def test_a_text_is_recognised_in_every_form_and_another_one_in_none(n, dtype, seed):
    ids = np.random.default_rng(seed).integers(0, 70_000 if dtype != "<u2" else 65_536, n)
    array, mapped = torch.from_numpy(ids).int(), ids.astype(dtype)
    for a, b in ((array, mapped), (mapped, array), (array, array), (mapped, mapped)):
        assert checkpoints.is_fingerprint(checkpoints.fingerprint(a), b)
    other = ids.copy()
    other[-1] = (other[-1] + 65_536) % 131_072
    for form in (torch.from_numpy(other).int(), other.astype("<u4")):
        assert not checkpoints.is_fingerprint(checkpoints.fingerprint(array), form)
        assert not checkpoints.is_fingerprint(checkpoints.fingerprint(mapped), form)
    assert not checkpoints.is_fingerprint(None, array)


@pytest.mark.parametrize("make", [tiny_gpt, tiny_lstm])
def test_a_model_comes_back_from_its_folder(tmp_path, make):
    for dtype in (torch.float32, torch.bfloat16):
        model = make().to(dtype)
        save_model(model, tmp_path)
        found = load_model(tmp_path)
        assert type(found) is type(model) and found.config == model.config and not found.training
        assert same_weights(found, model)


def test_damaged_recurrent_models_are_refused(tmp_path):
    with pytest.raises(TypeError, match="a Table cannot be saved: it needs an attribute config"):
        save_model(Table(), tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        load_model(tmp_path)
    save_model(tiny_lstm(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"n_hidden": 9}, {"version": 2}, {"more": 1}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match="belongs to another configuration"):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        load_model(tmp_path)
    broken = tiny_lstm()
    broken.head.bias.data[0] = math.nan
    save_model(broken, tmp_path)
    with pytest.raises(CheckpointError, match="not finite floats"):
        load_model(tmp_path)


def test_a_recorded_model_has_the_loss_of_its_record():
    """The weights are kept in bfloat16: three decimals less, and still the same model to 1e-3."""
    model, tokenizer = recorded_model("train_cpu_seed0")
    parts = data.splits("tinyshakespeare", fallback="pydoc")
    if parts.name != "tinyshakespeare":
        pytest.skip("Tiny Shakespeare is not here")
    valid = tokenizer.encode_array(parts.valid)
    loss = evaluate(model, valid, block_size=model.context_length)
    assert abs(loss - data.record("runs/train_cpu_seed0.json")["val_loss"]) < 1e-3
    assert not model.training and next(model.parameters()).dtype == torch.float32
