"""Tables of text: every one is read right, or refused with the line and the option that decides."""

import csv
import io
import itertools
import re
import tracemalloc

import numpy as np
import pytest
from arbook import tables
from hypothesis import assume, given, settings
from hypothesis import strategies as st


def test_csv_of_one_column_is_one_dimensional(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("\ufeffyear,x\n2000,1\n2001,2e3\n\n", encoding="utf-8")
    z = tables.load_csv(path, time_column="year", unit="m", name="mine")
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
        tables.load_csv(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_csv_may_end_its_lines_as_it_likes(ending, tmp_path):
    path = tmp_path / "z.csv"
    path.write_bytes(ending.join(["\ufefft,x", "a,1", '"b, c",2', ""]).encode())
    z = tables.load_csv(path, time_column="t")
    assert z.values.tolist() == [1, 2] and z.times == ("a", "b, c") and z.columns == ("x",)


def test_a_place_in_a_csv_file_is_a_line_of_the_file(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text('d,x\n"two\nlines",1\nc,oops\n')
    with pytest.raises(ValueError, match="line 4, column 'x': 'oops'"):
        tables.load_csv(path, time_column="d")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_csv_in_another_encoding_is_refused(encoding, tmp_path):
    path = tmp_path / "z.csv"
    path.write_bytes("größe\n1\n".encode(encoding))
    with pytest.raises(ValueError, match="z.csv is not a CSV file in UTF-8"):
        tables.load_csv(path)


def test_csv_columns_may_be_numbers_where_a_time_column_proves_the_header(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("day,0,1\nMon,1,2\n")
    assert tables.load_csv(path, time_column="day").columns == ("0", "1")


def test_csv_without_its_time_column_is_refused(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'date'; it has a, b"):
        tables.load_csv(path, time_column="date")
    with pytest.raises(FileNotFoundError):
        tables.load_csv(tmp_path / "none.csv")


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
                table = tables.read_table(text, one_column=True)
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
        tables.read_table(text, column=1 + (kind != "none"))


@pytest.mark.parametrize(
    "text", ["\n1\n2\n", "1\n\n2\n", "x\n\n1\n2\n", "a,b\n1,2\n  \n3,4\n", "1\r\r2"]
)
def test_a_blank_line_between_rows_is_a_missing_value_and_at_the_end_nothing(text):
    with pytest.raises(ValueError, match=r"line \d is blank, which may be a missing value"):
        tables.read_table(text)
    whole = re.sub(r"^\n|(?<=\n)[ \r]*\n|(?<=\r)\r", "", text)
    for end in ("\n", "\n\n", "\r\n\r\n", "\n  \n\n"):
        assert len(tables.read_table(whole.rstrip() + end, column=1, delimiter=",").values) == 2


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
        tables.read_table(text, one_column=True)
    named = set(re.findall(r"(\w+)=", str(refusal.value)))
    readings = [tables.read_table(text, one_column=True, **option).values for option in options]
    assert any(named & set(option) for option in options)
    assert (
        len({str(values.tolist()) for values in readings}) == len(readings)
        or "2024-01-02 1,7" in text
    )


@pytest.mark.parametrize(
    "text", ["a, b\n1, 2\n3, 5\n", "a , b\n1 , 2\n3 , 5\n", "a,b\n 1 ,2\n3, 5 \n"]
)
def test_blanks_beside_separators_say_nothing(text):
    table = tables.read_table(text)
    assert table.columns == ("a", "b") and table.values.tolist() == [[1, 2], [3, 5]]


def test_where_commas_separate_cells_a_point_before_three_digits_is_a_decimal_sign():
    table = tables.read_table("day,v\n2024-01-01,1.234\n2024-01-02,2.500\n")
    assert table.values.tolist() == [[1.234], [2.5]]
    with pytest.raises(ValueError, match=r"line 2, column 'v': '1.234' can be 1.234 or 1234"):
        tables.read_table("day;v\n2024-01-01;1.234\n2024-01-02;2.500\n")


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
    table = tables.read_table(text, one_column=True, time_column="date")
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
        tables.read_table(text, one_column=True)


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
    (*remarks,) = tables.read_table(text).remarks
    assert not remarks if gap is None else re.search(gap, *remarks)


def test_a_file_that_is_newest_first_is_turned_round_with_a_warning(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("date,v,w\n2024-01-02,1,2\n2024-01-01,3,4\n")
    with pytest.warns(UserWarning, match="turned round, since 'date' falls"):
        z = tables.load_csv(path)
    assert z.times == ("2024-01-01", "2024-01-02") and z["v"].tolist() == [3, 1]
    assert z.columns == ("v", "w") and not z.values.flags.writeable


def test_a_file_without_names_or_with_other_signs_is_loaded_where_that_is_said(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("1,5;2\n1,75;3\n")
    z = tables.load_csv(path, header=False, delimiter="semicolon", decimal=",")
    assert z.columns == ("1", "2") and z.values.tolist() == [[1.5, 2], [1.75, 3]]
    assert tables.load_csv(path, column=2, header=False).values.tolist() == [2, 3]
    for options, message in (
        ({"decimal": "x"}, "decimal must be"),
        ({"delimiter": ", "}, "delimiter must be one character, or one of comma"),
        ({"column": "3", "header": False}, "no column '3'; it has 1, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.load_csv(path, **options)


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
        table = tables.read_table(text, one_column=True)
    except ValueError:
        return
    assert table.values[:, 0].tolist() == written.tolist(), text


def test_memory_of_a_long_table_is_little_more_than_its_text_and_its_numbers(tmp_path):
    path = tmp_path / "z.csv"
    values = np.random.default_rng(0).normal(size=200_000)
    path.write_text("x\n" + "\n".join(map(repr, values.tolist())))
    tracemalloc.start()
    z = tables.load_csv(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (z.values == values).all()
    assert (
        peak < 2 * path.stat().st_size + 2 * values.nbytes
    )  # the bytes, the text, a growing array


def test_csv_with_text_in_a_number_is_refused(tmp_path):
    path = tmp_path / "z.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["t", "x"], [0, 1], [1, "n/a"]])
    with pytest.raises(ValueError, match="line 3, column 'x': 'n/a'"):
        tables.load_csv(path)
