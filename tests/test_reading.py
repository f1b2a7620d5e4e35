"""What the pages do for their readers: print, preview, enlarge, cite. In a real browser, straight from the disk."""

import json
import os
import posixpath
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import imprint
import lighter
import previews
import pytest
import site_repairs
import tinycss2
from bs4 import BeautifulSoup
from conftest import ROOT, unavailable
from docutils import nodes
from docutils.utils import new_document
from nbdev_book.home import Home
from nbdev_book.project import Project
from PIL import Image

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
    pieces = page.evaluate(
        COLOURS, "article :is(p, li, td, h1, h2, h3, figcaption, dt, pre, pre span)"
    )
    assert len(pieces) > 20
    assert [piece for piece in pieces if brightness(piece[0]) > 150] == []
    filters = page.eval_on_selector_all(
        "article img", "all => all.map(i => getComputedStyle(i).filter)"
    )
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
    show(page, "nbs/02_cuts.html")
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
        assert dialog.locator("img").get_attribute("alt") == figure.locator("img").get_attribute(
            "alt"
        )
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


# Cards that show what a link leads to

CARD = "#arb-card"


def links(page, selector: str):
    return page.locator(f"article a:not(.headerlink){selector}")


@pytest.mark.parametrize(
    ("selector", "what"),
    [
        ("[href*='#fig-']", "figure img"),
        ("[href*='#equation-']", ".math"),
        ("[href*='#ex-']", ".exercise p"),
        ("[href*='bibliography.html#']", "em"),
        ("[href*='api/transformer.html#arbook.transformer.']:not(.sphinx-codeautolink-a)", "code"),
        (".sphinx-codeautolink-a[href*='.html#arbook.']", "code"),
    ],
)
def test_a_link_shows_what_it_leads_to_by_mouse_and_by_keyboard(page, selector, what):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, "nbs/07_transformer.html")
    assert not [url for url in asked if "previews/" in url]
    link, card = links(page, selector).locator("visible=true").first, page.locator(CARD)
    link.scroll_into_view_if_needed()
    link.hover()
    page.wait_for_selector(f"{CARD}:visible")
    assert card.locator(what).first.is_visible()
    assert len(card.inner_text()) > 10 or card.locator("svg:visible").count()
    assert len([url for url in asked if "previews/" in url]) == 1
    assert link.get_attribute("aria-describedby") == card.get_attribute("id")
    card.hover()  # which the reader may want to scroll or select
    page.wait_for_timeout(600)
    assert card.is_visible()
    page.keyboard.press("Escape")
    assert not card.is_visible()
    page.mouse.move(0, 0)
    page.keyboard.press("Shift")  # from here on the reader uses the keyboard
    link.focus()
    page.wait_for_selector(f"{CARD}:visible")
    assert card.get_attribute("role") == "tooltip"
    link.blur()
    assert not card.is_visible() and not link.get_attribute("aria-describedby")


def test_a_card_goes_when_the_mouse_has_left(page):
    show(page, "nbs/07_transformer.html")
    link = links(page, "[href*='#fig-']").first
    link.hover()
    page.wait_for_selector(f"{CARD}:visible")
    page.mouse.move(1, 1)
    page.wait_for_selector(CARD, state="hidden")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "name", ["nbs/01_least_squares.html", "nbs/07_transformer.html", "api/ar.html"]
)
def test_a_card_stays_in_the_window_and_off_its_link(page, name, width):
    page.set_viewport_size({"width": width, "height": 700})
    show(page, name)
    page.keyboard.press("Shift")
    seen = 0
    found = links(page, ".internal[href*='#']").all()
    for number, link in enumerate(found[:: max(1, len(found) // 24)]):
        link.evaluate(
            "(a, i) => a.scrollIntoView({block: ['start', 'center', 'end'][i % 3]})", number
        )
        turn_to(page, "screen")  # the scrolling is over
        link.focus()
        page.wait_for_timeout(150)
        if not page.locator(CARD).is_visible():
            continue
        seen += 1
        card, own = page.locator(CARD).bounding_box(), link.bounding_box()
        assert card["x"] >= 0 and card["x"] + card["width"] <= width
        assert card["y"] >= 0 and card["y"] + card["height"] <= 700
        assert card["y"] >= own["y"] + own["height"] or card["y"] + card["height"] <= own["y"]
    assert seen >= 6


def test_a_tap_follows_the_link_and_shows_no_card(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    show(page, "nbs/07_transformer.html")
    link = links(page, "[href*='#fig-']").first
    target = link.get_attribute("href").partition("#")[2]
    link.tap()
    page.wait_for_url(f"**#{target}")
    page.wait_for_timeout(600)
    assert not page.locator(CARD).is_visible()
    context.close()


def scripts(site: Path) -> dict[str, dict]:
    return {
        path.stem: json.loads(path.read_text("utf8").partition(" = ")[2].rstrip(";\n"))
        for path in (site / "_static" / "previews").glob("*.js")
    }


def test_every_link_to_a_formula_figure_exercise_work_or_entry_has_a_card(site):
    cards = {key for script in scripts(site).values() for key in script["cards"]}
    for name in ("nbs/01_least_squares.html", "nbs/09_sampling.html", "nbs/11_compression.html"):
        text = (site / name).read_text("utf8")
        article = text[text.index("<article") : text.index("</article>")]
        places = re.findall(
            r'<a class="[^"]*(?:internal|codeautolink)[^"]*" href="([^"]*#[^"]+)"', article
        )
        wanted = {
            posixpath.normpath(posixpath.join("nbs", place)) if place[0] != "#" else name + place
            for place in places
            if re.search(r"#(equation-|fig-|ex-|id\d|arbook\.)", place)
        }
        assert len(wanted) > 20
        assert wanted - cards == set()


def test_what_the_cards_refer_to_travels_with_them(site):
    for script in scripts(site).values():
        for key, card in script["cards"].items():
            for source in re.findall(r'<img[^>]* src="([^"]+)"', card):
                assert (site / source).is_file(), key
            named = set(re.findall(r'(?:href="#|url\(#)([^")]+)', card))
            assert named <= {*script["shapes"], *re.findall(r' id="([^"]+)"', card)}, key


def test_a_formula_brings_the_letters_that_its_page_shares_between_formulas():
    """Two pages that use one name for two letters do not get each other's."""
    glyphs = '<svg><defs><path id="MJX-1" d="{}"></path><path id="MJX-2" d="M9 9"/></defs></svg>'
    formula = """<div class="math" id="equation-{}"><span class="eqno">(1)<a class="headerlink" href="#e">#</a></span>
        <svg><g><use xlink:href="#MJX-1"></use><use href="#MJX-1"/></g></svg></div>"""
    link = '<a class="reference internal" href="{}"><span>(1)</span></a>'
    article = '<article class="bd-article">{}</article>'
    pages = {
        "nbs/a.html": glyphs.format("M1 1") + article.format(formula.format("one")),
        "nbs/b.html": glyphs.format("M2 2")
        + article.format(formula.format("two") + link.format("#equation-two")),
        "index.html": article.format(link.format("nbs/a.html#equation-one")),
    }
    script = previews.collect(pages)["pages"]
    assert sorted(script["cards"]) == ["nbs/a.html#equation-one", "nbs/b.html#equation-two"]
    for card, shape in zip(script["cards"].values(), ("M1 1", "M2 2"), strict=True):
        first, second = re.findall(r'href="#([^"]+)"', card)
        assert first == second and shape in script["shapes"][first]
        assert f'id="{first}"' in script["shapes"][first]
        assert "headerlink" not in card and 'id="equation' not in card
    assert len(script["shapes"]) == 2


def test_a_piece_that_refers_to_itself_and_one_inside_its_like_stay_whole():
    drawing = '<svg><clipPath id="c"></clipPath><g clip-path="url(#c)"/></svg>'
    piece = f'<figure id="fig-a"><figure><p>x</p></figure>{drawing}</figure>'
    page = previews.Page("nbs/a.html", f"<div>{piece}</div><figure></figure>")
    assert page.element("fig-a") == piece
    shapes = {}
    card = previews.portable(page, page.snippet("fig-a"), shapes)
    assert shapes == {}
    assert re.findall(r"url\(#(.*?)\)", card) == re.findall(r' id="(.*?)"', card)


# What a page weighs


def test_the_front_page_weighs_less_than_600_kilobytes(page):
    """All that the browser asks for, the page itself included."""
    asked = []
    page.on("request", lambda request: asked.append(request.url.partition("?")[0]))
    show(page, "index.html")
    sizes = {url: Path(unquote(urlsplit(url).path)).stat().st_size for url in asked}
    assert len(sizes) > 10
    assert sum(sizes.values()) < 600_000, sorted(sizes.items(), key=lambda size: -size[1])[:5]


def test_every_icon_is_in_its_page(site):
    pages = [file for file in site.rglob("*.html") if "_static" not in file.parts]
    assert len(pages) > 30
    for file in pages:
        text = file.read_text("utf8")
        assert not re.search(r"<(i|span) class=[^>]*\bfa-|scripts/fontawesome", text), file
        assert 'class="svg-inline--fa fa-bars' in text, file
    assert (site / "_static/scripts/fontawesome.js.LICENSE.txt").exists()


SETS = """var p={github:[496,512,[],"f09b","M1 1"]};x();var p={sun:[512,512,[9728],"f185","M2 2"]};y();
    var p={0:[320,512,[],"30","M3 3"],sun:[512,512,[9728,"day"],"f185","M4 4"],
    "arrow-up":[384,512,[8593],"f062","M5 5"]};""".replace("\n    ", "")


@pytest.mark.parametrize(
    ("icon", "path"),
    [
        ('<i class="fa-solid fa-arrow-up"></i>', "M5 5"),
        ('<i class="fab fa-github"></i>', "M1 1"),
        ('<i class="far fa-sun"></i>', "M2 2"),
        ('<i class="fas   fa-day  fa-lg" data-mode="x"   title="Day"></i>', "M4 4"),
        ('<i class="fas fa-unknown"></i>', None),
        ('<i class="other fa-sun"></i>', None),
    ],
)
def test_an_icon_is_drawn_by_its_name_in_its_set(icon, path):
    drawn = lighter.Icons(SETS).draw(f"<b>{icon}</b>")
    assert (f'd="{path}"' in drawn) if path else (drawn == f"<b>{icon}</b>")
    assert ('data-mode="x"' in drawn) == ("data-mode" in icon)


@pytest.mark.parametrize(
    ("sheet", "kept"),
    [
        (".used{a:b}", ".used{a:b}"),
        (".unused{a:b}", ""),
        (".used .unused, p.used , #x{a:b}", "p.used,#x{a:b}"),
        ("p:not(.unused){a:b}", "p:not(.unused){a:b}"),
        ("@media print{.unused{a:b} .used{a:b}}", "@media print{.used{a:b}}"),
        ("@media print{.unused{a:b}}", ""),
        ('.used::after{content:"} .unused {"}', '.used::after{content:"} .unused {"}'),
        (r".us\65 d{a:b}", r".used{a:b}"),
        ("/*! by somebody *//* note */@import 'x.css';", "/*! by somebody */\n@import 'x.css';"),
        ("@keyframes k{from{a:b}}", "@keyframes k{from{a:b}}"),
    ],
)
def test_a_style_rule_stays_if_something_can_match_it(sheet, kept):
    rules = tinycss2.parse_stylesheet(sheet, skip_whitespace=True)
    assert lighter.used_rules(rules, {"used"}) == kept.replace("'x.css'", '"x.css"')


# What the book says about itself


def meta(text: str) -> dict[str, str]:
    found = BeautifulSoup(text, "html.parser").select("meta[property]")
    return {tag["property"]: tag["content"] for tag in found}


def test_a_preview_of_a_link_names_the_book_and_says_what_the_page_says_first(site):
    text = (site / "nbs/02_cuts.html").read_text("utf8")
    said = meta(text)
    assert said["og:site_name"] == "arbook" and "Tokens" in said["og:title"]
    summary = BeautifulSoup(text, "html.parser").select_one("article h1 + blockquote").text.strip()
    assert len(said["og:description"]) > 20 and summary.startswith(said["og:description"])


def test_every_page_has_one_viewport_and_no_address_that_the_book_does_not_have(site):
    home = Home.of(Project.load(ROOT)).site
    for file in site.rglob("*.html"):
        if "_static" in file.parts:
            continue
        text = file.read_text("utf8")
        assert text.count('name="viewport"') == 1, file
        said = meta(text)
        assert said["og:site_name"] == "arbook" and said["og:title"], file
        assert ("og:image" in said) == ("og:url" in said) == bool(home), file


def test_with_an_address_a_preview_has_a_picture_and_without_one_it_says_less():
    page = ("Tokens & text", "It's short.", "arbook", "nbs/02_tokens.html")
    said = meta(imprint.head(*page, "https://somebody.github.io/book/"))
    assert said["og:url"] == "https://somebody.github.io/book/nbs/02_tokens.html"
    assert said["og:image"] == "https://somebody.github.io/book/_static/preview.png"
    assert said["og:title"] == "Tokens & text"
    assert meta(imprint.head(*page, "")) == {
        key: value for key, value in said.items() if key[3:6] not in {"url", "ima"}
    }
    with Image.open(ROOT / "_static" / "preview.png") as picture:
        assert picture.size == (1200, 630)
        assert (said["og:image:width"], said["og:image:height"]) == ("1200", "630")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("Is it? Yes.", "Is it?"),
        ("About 1.5 of them. More", "About 1.5 of them."),
        ("No end", "No end"),
        ("", ""),
    ],
)
def test_a_description_is_the_first_sentence(text, sentence):
    document = new_document("")
    document += nodes.paragraph(text=text)
    assert imprint.first_sentence(document) == sentence
    assert imprint.first_sentence(None) == ""


def test_each_work_leads_to_every_section_that_cites_it_and_to_no_other(site):
    bibliography = BeautifulSoup((site / "bibliography.html").read_text("utf8"), "html.parser")
    back = {
        (work["id"], link["href"])
        for work in bibliography.select("div.citation")
        for link in work.select(".cited-in a")
    }
    forth = set()
    for file in (site / "nbs").glob("*.html"):
        page = BeautifulSoup(file.read_text("utf8"), "html.parser").select_one("article")
        for link in page.select("a[href*='bibliography.html#']"):
            work = link["href"].partition("#")[2]
            section = next(
                s
                for s in link.find_parents("section")
                if s.find(re.compile("^h[1-6]$"), recursive=False)
            )
            forth.add((work, f"nbs/{file.name}", section["id"]))
    assert len(forth) > 100
    found = {(work, *href.split("#")) for work, href in back}
    assert found == forth


def test_the_foot_of_a_page_says_version_date_and_licence(page):
    show(page, "nbs/01_least_squares.html")
    foot = page.locator("footer.bd-footer-content")
    version = Project.load(ROOT).version
    assert re.search(rf"Version {re.escape(version)}( of \d+ \w+ \d{{4}})?\.", foot.inner_text())
    page.keyboard.press("End")
    foot.get_by_role("link", name="Cite this book").click()
    page.wait_for_url("**/bibliography.html#cite")
    cited = page.locator("section:has(> #cite) pre").inner_text()
    assert cited.startswith("@book{") and version in cited and "ground up" in cited
    foot.get_by_role("link", name="Apache License 2.0").click()
    page.wait_for_url("**/LICENSE.txt")
    assert "Apache License" in page.inner_text("body")


def test_the_date_of_the_book_is_the_same_for_everyone_who_builds_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert f"{imprint.built_on(ROOT):%d %m %Y}" == "02 01 1970"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert imprint.built_on(tmp_path) is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", tmp_path]
    dated = os.environ | {"GIT_COMMITTER_DATE": "2001-02-03T12:00:00Z"}
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True, env=dated)
    assert f"{imprint.built_on(tmp_path):%d %m %Y}" == "03 02 2001"


def test_an_address_is_cited_only_if_there_is_one():
    entry = imprint.entry("From the ground up", "The authors", "2026", "1.2", "https://a.b/c")
    assert "  url    = {https://a.b/c}," in entry and "{{The authors}}" in entry
    assert "url" not in imprint.entry("From the ground up", "The authors", "2026", "1.2", "")


def test_a_wrong_address_leads_to_the_search_and_to_the_front_page(site):
    page = BeautifulSoup((site / "404.html").read_text("utf8"), "html.parser").select_one("article")
    assert page.select_one("form")["action"].endswith("/search.html")
    assert page.select_one("form input")["name"] == "q"
    assert page.select_one("a[href$='/index.html']")


# The keyboard


def test_the_tab_key_stops_once_at_each_name_in_code(site):
    for name in ("nbs/01_least_squares.html", "nbs/09_sampling.html"):
        page = BeautifulSoup((site / name).read_text("utf8"), "html.parser")
        links = page.select("a.sphinx-codeautolink-a")
        stops = [link["href"] for link in links if link.get("tabindex") != "-1"]
        assert len(links) > 2 * len(stops) > 40
        assert sorted(stops) == sorted({link["href"] for link in links})


def test_pages_that_have_been_mended_are_not_mended_again():
    """A build that writes only what has changed leaves the other pages as they are."""
    code = '<a class="sphinx-codeautolink-a" href="x.html#{}">x</a>'
    viewport = '<meta content="width=device-width" name="viewport"/>'
    page = 2 * viewport + code.format("a") + code.format("b") + code.format("a")
    mended = site_repairs.mend(page)
    assert mended.count("viewport") == 1 and mended.count("tabindex") == 1
    assert site_repairs.mend(mended) == mended
    works = '<div class="citation" id="id1"><span>[1]</span><p>A.</p>\n</div>'
    places = {"id1": {"Cats": {"nbs/a.html#b": "Two cats"}}}
    linked = imprint.link_back(works, places)
    assert linked.count("cited-in") == 1 and "cited-in" not in imprint.link_back(linked, {})
    assert imprint.link_back(linked, places) == linked
