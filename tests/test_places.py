"""Where a page says that it stands in its chapter."""

import doctest
import re
import sys

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT

sys.path.insert(0, str(ROOT / "_ext"))
import places  # noqa: E402


def test_the_examples_hold():
    result = doctest.testmod(places)
    assert result.attempted and not result.failed


def test_ideas_and_engines_are_counted_apart():
    pages = ["a", "b", "c", "d"]
    said = [places.place_of(page, pages, {"a", "b"}) for page in pages]
    assert said == [
        "idea 1 of 2",
        "idea 2 of 2",
        "how it is built, 1 of 2",
        "how it is built, 2 of 2",
    ]
    assert places.place_of("a", pages[:2], {"a"}) == "the idea"
    assert places.place_of("b", pages[:2], set()) == "page 2 of 2"


@pytest.mark.site
def test_every_page_of_a_chapter_says_where_it_stands(site):
    said = {}
    for file in sorted((site / "nbs").glob("[0-9]*.html")):
        page = BeautifulSoup(file.read_text("utf8"), "html.parser").select_one("article")
        line = page.select_one("p.arb-place")
        assert line and line.find_next(["p", "h1"]).name == "h1"
        said[file.stem] = line.text
        assert line.text.startswith(f"Chapter {int(file.stem[:2])}"), file.name
    ideas = {name for name, text in said.items() if re.search(r"\bidea\b", text)}
    assert ideas == {name for name in said if places.is_idea(f"nbs/{name}", ROOT)}
    assert len(set(said.values())) == len(said)


@pytest.mark.site
def test_only_chapters_have_numbers(site):
    for file in site.glob("**/*.html"):
        text = file.read_text("utf8")
        page = BeautifulSoup(text, "html.parser")
        numbers = [tag.text.strip() for tag in page.select(".section-number")]
        assert not [number for number in numbers if number.count(".") > 1], file
        links = [link.text.strip() for link in page.select("nav a")]
        assert not [text for text in links if re.match(r"\d+\.\d", text)], file
