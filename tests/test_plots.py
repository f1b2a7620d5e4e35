"""Figures and tables: the few helpers that draw and set them, and what must hold in them."""

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from arbook import plots  # noqa: E402


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plots.use_style()
        yield
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("n_tokens", [2, 3, 6, 20])
def test_next_token_figure_has_an_arrow_for_every_pair(n_tokens):
    """S6: T (T + 1) / 2 arrows for T predictions, and a title for screen readers."""
    figure = plots.next_token_figure([f"t{i}" for i in range(n_tokens)])
    root = ElementTree.fromstring(figure.data)
    name = "{http://www.w3.org/2000/svg}"
    steps = n_tokens - 1
    assert (
        sum(path.get("class") == "arrow" for path in root.iter(f"{name}path"))
        == steps * (steps + 1) // 2
    )
    assert [text.text for text in root.iter(f"{name}text")] == [f"t{i}" for i in range(n_tokens)]
    assert root.find(f"{name}title").text


def test_next_token_arrows_point_forward():
    figure = plots.next_token_figure(["a", "bb", "ccc", "d"])
    ends = re.findall(r'd="M(\d+) \d+ C\d+ -?\d+ \d+ -?\d+ (\d+) \d+"', figure.data)
    assert len(ends) == 6 and all(int(start) < int(end) for start, end in ends)


@pytest.mark.parametrize("n_tokens", [2, 6, 30])
def test_next_token_arrows_stay_inside_the_picture(n_tokens):
    figure = plots.next_token_figure(["token"] * n_tokens)
    curves = re.findall(r'd="M\d+ (\d+) C\d+ (-?\d+) ', figure.data)
    assert len(curves) == n_tokens * (n_tokens - 1) // 2
    # a cubic curve whose two control points are at one height reaches three quarters of the way to it
    assert all(int(base) + 0.75 * (int(control) - int(base)) > 0 for base, control in curves)


def test_next_token_figure_escapes_markup_and_needs_two_tokens():
    assert "<b>" not in plots.next_token_figure(["<b>", "&"]).data
    with pytest.raises(ValueError, match="two tokens, got 1"):
        plots.next_token_figure(["alone"])


def test_figures_are_transparent_svg_of_the_house_size():
    fig, ax = plots.axes("time (s)", "height (m)")
    assert tuple(fig.get_size_inches()) == (6.5, 3) and matplotlib.rcParams["savefig.transparent"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "height (m)")


def test_fan_draws_one_line_and_one_band_per_interval():
    _, ax = plots.axes("t", "z")
    mean = np.arange(4.0)
    plots.fan(ax, mean, mean, [np.column_stack([mean - k, mean + k]) for k in (1, 2)], label="f")
    assert (
        len(ax.lines) == 1
        and len(ax.collections) == 2
        and ax.lines[0].get_color() == plots.FORECAST
    )


def test_matrix_writes_every_number():
    _, ax = plots.axes("column", "row")
    plots.matrix(ax, np.arange(6).reshape(2, 3))
    assert sorted(text.get_text() for text in ax.texts) == list("012345")


def cells(html: str) -> list[list[tuple[str, str]]]:
    """The rows of a table: the side to which each cell is set, and what it says."""
    tree = ElementTree.fromstring(re.sub(r" scope=(row|col)", "", html))
    return [
        [(cell.get("style").removeprefix("text-align: "), cell.text or "") for cell in row]
        for row in tree.iter("tr")
    ]


def test_a_table_sets_numbers_to_the_right_and_words_to_the_left():
    rows = [
        ("one", 1_234_567, 0.12345, "1e-05", "a"),
        ("two", np.int64(8), np.float64(2), "<0.1 %", "1"),
    ]
    head, one, two = cells(plots.table(rows, ["name", "n", "loss", "p", "mixed"], fmt=".2f").data)
    sides = ["left", "right", "right", "right", "left"]
    assert (
        [side for side, _ in head]
        == [side for side, _ in one]
        == [side for side, _ in two]
        == sides
    )
    assert [text for _, text in one] == ["one", "1,234,567", "0.12", "1e-05", "a"]
    assert [text for _, text in two] == ["two", "8", "2.00", "<0.1 %", "1"]


def test_a_table_has_a_format_for_each_column_and_empty_places():
    rows = [("x", 0.5, 0.25), ("y", None), ("z", 10)]
    *_, x, y, z = cells(plots.table(rows, ["", "a", "b"], fmt=["", ".1f", ".0%"]).data)
    assert [text for _, text in x] == ["x", "0.5", "25%"]
    assert y[1:] == [("right", ""), ("right", "")] and z[1] == ("right", "10")


def test_a_table_escapes_markup_and_says_what_its_rows_and_columns_are():
    html = plots.table([("<s>", 1)], ["a & b", "n"], caption="One < two").data
    assert "&lt;s&gt;" in html and "a &amp; b" in html and "One &lt; two</caption>" in html
    assert html.count("<th scope=col") == 2 and html.count("<th scope=row") == 1


def test_a_table_without_rows_is_its_heads():
    (head,) = cells(plots.table([], ["a", "b"]).data)
    assert [text for _, text in head] == ["a", "b"]


def test_a_table_refuses_rows_and_formats_that_do_not_fit_its_heads():
    with pytest.raises(
        ValueError, match="rows must have at most 1 values, one for each head, got 2"
    ):
        plots.table([(1, 2)], ["a"])
    with pytest.raises(ValueError, match="fmt must have one format for each of 2 heads, got 1"):
        plots.table([], ["a", "b"], fmt=[".1f"])
