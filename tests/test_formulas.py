"""Formulas that are typeset while the book is built."""

import html
import re

import formulas
import pytest
from bs4 import BeautifulSoup


def test_a_formula_becomes_a_drawing_and_mathml():
    page = BeautifulSoup(formulas.typeset(r"\hat y_t = \boldsymbol{w}^\top x"), "html.parser")
    assert page.find("svg")["aria-hidden"] == "true"
    symbols = [tag.get_text() for tag in page.find("math").find_all(["mi", "mo"])]
    assert symbols == ["y", "^", "t", "=", "w", "⊤", "x"]
    assert page.find("mi", mathvariant="bold-italic").get_text() == "w"


def test_a_formula_takes_the_colour_of_the_text():
    drawing = formulas.typeset("x")
    assert 'fill="currentColor"' in drawing and 'stroke="currentColor"' in drawing


def test_the_same_formula_is_the_same_everywhere():
    """Letters are named by what they are and not counted, so a page may hold formulas of another."""
    formulas.typeset.cache_clear()
    first = formulas.typeset("a+b")
    formulas.typeset(r"\sum_{t=1}^T \log p(x_t)", True)
    formulas.typeset.cache_clear()
    assert formulas.typeset("a+b") == first


@pytest.mark.parametrize("source, reason", [
    (r"\unknowncommand x", r"Undefined control sequence \unknowncommand"),
    ("{x", "close brace"),
    (r"\frac{1}", "Missing argument"),
    (r"\begin{matrix} 1", "matrix"),
    ("x^2^3", "Double exponent"),
    (r"\left( x", "left"),
    ("<script>", None),
    ("a & b", "Misplaced"),
])  # fmt: skip
def test_what_tex_refuses_is_an_error_of_one_line(source, reason):
    if reason is None:
        assert "<script" not in formulas.typeset(source)
        return
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        formulas.typeset(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def rows(source: str) -> list[str]:
    """What the rows of a table in a displayed formula say to a screen reader."""
    page = BeautifulSoup(formulas.typeset(formulas.displayed(source), True), "html.parser")
    return [row.get_text() for row in page.find("math").find_all("mtr")]


def test_a_displayed_formula_of_several_lines_is_aligned():
    assert rows(r"a &= b \\ &= c") == ["a=b", "=c"]


def test_an_empty_line_starts_another_formula():
    assert rows("a = b\n\nc = d") == ["a=b", "c=d"]
    assert rows("a = b\n \n") == []  # one formula is no table


def test_a_formula_takes_its_place_whatever_it_holds():
    source = r'a < b \;\&\; \text{"x"}'
    place = (
        f"<p><x-inline>{html.escape(source, quote=False)}</x-inline>.</p><x-display>x</x-display>"
    )
    assert formulas.with_drawings(place) == (
        f"<p>{formulas.typeset(source)}.</p>{formulas.typeset('x', True)}"
    )


def test_a_page_gets_each_outline_that_it_uses_once():
    outlines = {name: f'<path id="{name}"></path>' for name in ("MJX-A", "MJX-B", "MJX-C")}
    letters = "".join(f'<use xlink:href="#{name}"></use>' for name in ("MJX-C", "MJX-A", "MJX-C"))
    page = formulas.with_outlines(f'<html><body class="x"><p>{letters}</p></body></html>', outlines)
    assert re.findall(r'<path id="([^"]+)"', page) == ["MJX-A", "MJX-C"]
    assert page.startswith('<html><body class="x"><svg aria-hidden="true"')


def test_a_page_without_formulas_stays_as_it_is():
    assert formulas.with_outlines("<body><p>no</p></body>", {}) == "<body><p>no</p></body>"
