"""Files: whole or not there at all, and weights that fit what stands beside them."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

# Any Unicode string: control characters, combining marks, emoji, private use; surrogates are no characters.
unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
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


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("content", ["new", b"new"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(fails, content, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def disk_is_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, content)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_an_error_in_the_middle_of_a_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), open_atomically(path) as file:
        file.write(b"half of the ")
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with open_atomically(path) as file:
        file.write(b"???")
        file.seek(0)
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


@given(content=unicode_text | st.binary(max_size=60))
def test_a_file_holds_exactly_what_was_written(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "file"
    path.write_bytes(b"something longer that was there before" * 9)
    write_atomically(path, content)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    ("content", "error"), [(None, TypeError), (["a"], TypeError), ("\ud800", ValueError)]
)
def test_what_cannot_be_written_touches_no_file(content, error, tmp_path):
    with pytest.raises(error):
        write_atomically(tmp_path / "file", content)
    assert os.listdir(tmp_path) == []


def test_a_file_cannot_be_written_where_there_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("where", ["none/file", "file/inside", "folder", "full"])
def test_an_error_names_the_file_that_was_asked_for(where, tmp_path, monkeypatch):
    """And not the temporary one, of which nobody knows; also where the system names none, as for a full disk."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    if where == "full":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(OSError) as found:
        write_atomically(tmp_path / where, "text")
    assert found.value.filename == str(tmp_path / where) and found.value.filename2 is None
    assert f"{where}'" in str(found.value) and ".file." not in str(found.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_writers_at_once_leave_the_whole_file_of_one_of_them(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    seen = []
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda content: write_atomically(path, content), contents * 4):
            seen.append(path.read_bytes())
    assert set(seen) <= set(contents) and os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="kills itself by a POSIX signal")
def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = """
import os, signal, sys
from arbook.files import write_atomically
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(sys.argv[1], "new" * 100_000)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and path.read_text() == "old"
