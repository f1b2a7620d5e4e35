"""Series by name: the same bytes for everyone, or an error that helps."""

import hashlib
import json

import numpy as np
import pytest
from arbook import data


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
    corpus = data.Corpus(
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


def test_a_fallback_says_its_own_name(empty_disk):
    assert data.series("etth1", fallback="simulated-load").name == "simulated-load"


def test_the_folder_of_the_environment_is_searched_first(small_corpus):
    assert data.find("etth1") == small_corpus / "ETTh1.csv"
    assert data.series("etth1", fallback="simulated-load").values.tolist() == [30.5, 31.5]


def test_a_damaged_file_is_refused_even_with_a_fallback(small_corpus):
    (small_corpus / "ETTh1.csv").write_bytes(b"date,OT\n2016-07-01,30.6\n")
    with pytest.raises(data.DataCorruptError, match="expected"):
        data.series("etth1", fallback="simulated-load")


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
        return str(path / fname)

    monkeypatch.setattr(data.pooch, "retrieve", retrieve)
    corpus = data.CORPORA["etth1"]
    assert data.find("etth1") == data.cache_folder() / "ETTh1.csv"
    assert seen == {
        "url": corpus.url,
        "known_hash": f"sha256:{corpus.sha256}",
        "path": data.cache_folder(),
    }


def test_csv_of_one_column_is_one_dimensional(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("\ufeffyear,x\n2000,1\n\n2001,2e3\n", encoding="utf-8")
    z = data.load_csv(path, time_column="year", unit="m", name="mine")
    assert (
        z.values.tolist() == [1.0, 2000.0]
        and z.times == ("2000", "2001")
        and z.unit == "m"
        and z.name == "mine"
    )
    assert len(z) == 2 and z["x"].tolist() == [1.0, 2000.0]
    with pytest.raises(KeyError, match="it has x"):
        z["y"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("x\n1\ntwo\n", "line 3, column 'x': 'two'"),
        ("x\n1\n\nnan\n", "line 4, column 'x': 'nan'"),
        ("x\ninf\n", "'inf'"),
        ("x,y\n1,\n", "column 'y': ''"),
        ("x,y\n1\n", "line 2: 1 cells where the header has 2"),
        ("x\n", "at least one row"),
        ("", "at least one row"),
        ("x\n1,5\n", "2 cells"),
    ],
)
def test_bad_csv_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "z.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        data.load_csv(path)


def test_csv_without_its_time_column_is_refused(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'date'; it has a, b"):
        data.load_csv(path, time_column="date")
    with pytest.raises(FileNotFoundError):
        data.load_csv(tmp_path / "none.csv")


def test_records_come_from_the_checkout(empty_disk):
    record = data.record("runs/bench_ar.json")
    assert {"provenance", "speed", "accuracy"} <= set(record)
    with pytest.raises(data.DataNotFoundError, match="runs/none.json"):
        data.record("runs/none.json")


def test_records_are_downloaded_where_there_is_no_checkout(empty_disk, monkeypatch):
    path = empty_disk / "run.json"
    path.write_text(json.dumps({"answer": 1}))
    monkeypatch.setattr(data.pooch, "retrieve", lambda *args, **kwargs: str(path))
    assert data.record("runs/only-online.json") == {"answer": 1}
