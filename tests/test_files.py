"""Files: whole or not there at all, and weights that fit what stands beside them."""

import shutil

import pytest
import torch

from arbook.files import (
    CHECKPOINT_FILES,
    CheckpointError,
    CheckpointNotFoundError,
    check_weights,
    open_atomically,
    read_checkpoint,
    read_weights,
    write_atomically,
    write_checkpoint,
)

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float64)}


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.txt"
    write_atomically(path, "old\r\n")
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old\r\n" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_the_caller_meant(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "missing" / "x.txt", "text")
    assert caught.value.filename == str(tmp_path / "missing" / "x.txt")


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path / "new", {"n": 2}, STATE)
    record, state = read_checkpoint(tmp_path / "new")
    assert record == {"n": 2} and state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert state["b"].dtype == torch.float64


def test_tensors_that_share_memory_can_be_written(tmp_path):
    write_checkpoint(
        tmp_path, {}, {"a": STATE["a"], "same": STATE["a"], "part": STATE["a"][:, ::2]}
    )
    _, state = read_checkpoint(tmp_path)
    assert torch.equal(state["same"], state["a"]) and torch.equal(state["part"], STATE["a"][:, ::2])


def test_weights_of_another_configuration_are_refused(tmp_path):
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, {"name": name}, STATE)
    shutil.copy(tmp_path / "one" / CHECKPOINT_FILES[1], tmp_path / "two")
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        read_checkpoint(tmp_path / "two")


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(tmp_path, text):
    write_checkpoint(tmp_path, {}, STATE)
    (tmp_path / CHECKPOINT_FILES[0]).write_text(text)
    with pytest.raises(CheckpointError, match=CHECKPOINT_FILES[0]):
        read_checkpoint(tmp_path)


def test_what_is_missing_or_cut_off_is_named(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=CHECKPOINT_FILES[0]):
        read_checkpoint(tmp_path)
    write_checkpoint(tmp_path, {}, STATE)
    weights = tmp_path / CHECKPOINT_FILES[1]
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointNotFoundError, match="a pickle can run code"):
        read_weights(weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": None}, "lacks 'a'"),
        ({"a": torch.zeros(3, 2)}, r"'a' of shape \(3, 2\); its configuration asks for \(2, 3\)"),
        ({"a": torch.full((2, 3), torch.nan)}, "'a' that are not finite floats"),
        ({"a": torch.zeros(2, 3, dtype=torch.int64)}, "'a' that are not finite floats"),
        ({"c": torch.zeros(1)}, "holds 'c', which such a model does not have"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, words):
    state = {name: w for name, w in {**STATE, **change}.items() if w is not None}
    check_weights(STATE, STATE, "file")
    with pytest.raises(CheckpointError, match=f"file.*{words}"):
        check_weights(STATE, state, "file")


def test_expected_weights_take_no_memory():
    expected = {name: w.to("meta") for name, w in STATE.items()}
    check_weights(expected, STATE, "file")


def test_a_record_that_json_cannot_hold_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "new", {"x": object()}, STATE)
    assert not any((tmp_path / "new").glob("*"))
