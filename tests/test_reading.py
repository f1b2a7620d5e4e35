"""What the pages do for their readers: print, preview, enlarge, cite. In a real browser, straight from the disk."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, unavailable

SITE = ROOT / "_build" / "html"

pytestmark = pytest.mark.site


@pytest.fixture
def page(browser, site) -> Iterator:
    """A tab on a dark desktop."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="dark", reduced_motion="reduce"
    )
    yield context.new_page()
    context.close()


def show(page, name: str, query: str = "") -> None:
    page.goto((SITE / name).as_uri() + query, wait_until="load")


# Print


def turn_to(page, media: str) -> None:
    """The browser tells the page of another medium with its next frame."""
    page.emulate_media(media=media)
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")


COLOURS = """selector => [...document.querySelectorAll(selector)].map(
    element => [getComputedStyle(element).color, element.textContent.slice(0, 40)])"""


def brightness(colour: str) -> float:
    """Between 0, black, and 255, of a colour as the browser writes it."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.mark.parametrize("name", ["nbs/02_tokens.html", "api/tokens.html", "index.html"])
def test_a_dark_page_prints_black_on_white_and_is_dark_again_on_the_screen(page, name):
    show(page, name)
    look = "getComputedStyle(document.body).color"
    dark = page.evaluate(look)
    assert brightness(dark) > 150
    turn_to(page, "print")
    pieces = page.evaluate(COLOURS, "article :is(p, li, td, h1, h2, h3, figcaption, dt, pre, pre span)")
    assert len(pieces) > 20
    assert [piece for piece in pieces if brightness(piece[0]) > 150] == []
    filters = page.eval_on_selector_all("article img", "all => all.map(i => getComputedStyle(i).filter)")
    assert set(filters) <= {"none"}
    turn_to(page, "screen")
    assert page.evaluate(look) == dark
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_everything_folded_is_open_on_paper_and_folded_again_on_the_screen(page):
    show(page, "nbs/02_tokens.html")
    closed = "document.querySelectorAll('article details:not([open]), .toggle-hidden').length"
    before = page.evaluate(closed)
    assert before >= 4
    for _ in range(2):
        turn_to(page, "print")
        hidden = """[...document.querySelectorAll('article details pre, .solution p, .solution pre')].filter(
            e => !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.clientHeight < 5)
            .map(e => e.textContent)"""
        assert page.evaluate(hidden) == []
        turn_to(page, "screen")
        assert page.evaluate(closed) == before


def test_paper_has_the_number_of_the_chapter_and_nothing_to_click(page):
    show(page, "nbs/02_tokens.html")
    turn_to(page, "print")
    assert page.locator("h1:visible").all_inner_texts() == ["2. Tokens"]
    assert page.locator(":is(button, nav, .bd-sidebar-primary, .headerlink):visible").count() == 0


@pytest.mark.parametrize("name", ["nbs/05_ngrams.html", "nbs/a3_cli.html"])
def test_no_line_of_code_is_cut_on_paper(page, name):
    """On the width of an A4 page without its margins: 18.5 cm, at 96 pixels an inch."""
    show(page, name)
    page.set_viewport_size({"width": 700, "height": 1000})
    turn_to(page, "print")
    cut = """[...document.querySelectorAll('article pre')].filter(
        e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth)
        .map(e => e.textContent.slice(0, 80))"""
    assert page.evaluate(cut) == []


def test_a_printed_chapter_holds_the_solutions_and_the_folded_code(page, tmp_path):
    if not shutil.which("pdftotext"):
        unavailable("pdftotext is missing; install it with: apt-get install poppler-utils")
    show(page, "nbs/02_tokens.html")
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    command = ["pdftotext", "-layout", tmp_path / "page.pdf", "-"]
    printed = re.sub(r"\s+", "", subprocess.run(command, capture_output=True, text=True).stdout)
    folded = page.eval_on_selector_all(
        ":is(.solution, details) pre", "all => all.map(e => e.textContent)"
    )
    assert len(folded) > 4
    for code in folded:
        first = next(line for line in code.splitlines() if len(line.strip()) > 10)
        assert re.sub(r"\s+", "", first)[:40] in printed


# Figures at full size


def test_a_figure_opens_large_by_mouse_and_by_keyboard_and_closes(page):
    show(page, "nbs/01_least_squares.html")
    figure = page.locator("article figure:has(img)").first
    dialog = page.locator("dialog.arb-large")
    small = figure.locator("img").bounding_box()["width"]
    caption = figure.locator(".caption-text").inner_text()
    openers = [
        lambda: figure.locator("img").click(),
        lambda: (figure.locator("button").focus(), page.keyboard.press("Enter")),
    ]
    for opener in openers:
        opener()
        assert dialog.is_visible()
        assert dialog.locator("img").bounding_box()["width"] > 1.2 * small
        assert caption in dialog.inner_text()
        assert dialog.locator("img").get_attribute("alt") == figure.locator("img").get_attribute("alt")
        assert "invert" in dialog.locator("img").evaluate("i => getComputedStyle(i).filter")
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
    assert figure.locator("button").evaluate("b => b == document.activeElement")


def test_a_large_figure_can_be_read_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    show(page, "nbs/07_transformer.html")
    figure = page.locator("article figure:has(img)").first
    small = figure.locator("img").bounding_box()["width"]
    figure.locator("img").click()
    large = page.locator("dialog.arb-large")
    assert large.locator("img").bounding_box()["width"] >= 2 * small
    assert large.bounding_box()["x"] >= 0 and large.bounding_box()["width"] <= 390
    large.get_by_role("button", name="Close").click()
    assert not large.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
