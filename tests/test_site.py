"""The built book, page by page, in a real browser and straight from the disk."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import arbook
import pytest
from bs4 import BeautifulSoup
from nbdev_book.home import Home
from nbdev_book.project import Project

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
# 404.html is written for the address under which the book is published, so its links lead nowhere from the disk.
FILES = [
    file for file in SITE.rglob("*.html") if "_static" not in file.parts and file.name != "404.html"
]
PAGES = sorted(str(file.relative_to(SITE)) for file in FILES) or ["index.html"]
READING = [
    page
    for page in PAGES
    if page not in {"genindex.html", "search.html", "py-modindex.html", "prf-prf.html"}
]

pytestmark = pytest.mark.site


@dataclass
class Opened:
    """A page in the browser, with every complaint that it has made so far."""

    page: object
    complaints: list[str] = field(default_factory=list)

    def show(self, name: str) -> None:
        self.page.goto((SITE / name).as_uri(), wait_until="load")

    def use_theme(self, theme: str) -> None:
        self.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)


@pytest.fixture(scope="module")
def tab(browser, site) -> Iterator[Opened]:
    """One tab that remembers console errors, failed requests and requests to any other host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened = Opened(context.new_page())
    note = opened.complaints.append
    opened.page.on("console", lambda message: message.type == "error" and note(message.text))
    opened.page.on("pageerror", lambda error: note(str(error)))
    opened.page.on("requestfailed", lambda request: note(f"failed: {request.url}"))
    opened.page.on(
        "request",
        lambda request: request.url.startswith("http") and note(f"other host: {request.url}"),
    )
    yield opened
    context.close()


@pytest.fixture(scope="module")
def reading(tab, request) -> Opened:
    """The tab, showing the page that the test is about. Tests of one page share a single visit."""
    tab.complaints.clear()
    tab.show(request.param)
    return tab


@pytest.fixture(autouse=True)
def usual_look(request) -> Iterator[None]:
    """Put the window back to the light theme and its usual width after each test."""
    yield
    if "reading" in request.fixturenames:
        opened = request.getfixturevalue("reading")
        opened.use_theme("light")
        opened.page.set_viewport_size({"width": 1280, "height": 900})


every_page = pytest.mark.parametrize("reading", READING, indirect=True, scope="module")


@every_page
def test_a_page_makes_no_errors_and_asks_no_other_host(reading):
    assert reading.complaints == []


@every_page
def test_every_formula_is_typeset(reading):
    unset = """[...document.querySelectorAll('article .math')]
        .filter(e => !(e.querySelector('svg') && e.querySelector('math'))).map(e => e.textContent)"""
    assert reading.page.evaluate(unset) == []
    missing = """[...document.querySelectorAll('.math use')]
        .map(e => e.getAttribute('xlink:href')).filter(name => !document.querySelector(name))"""
    assert reading.page.evaluate(missing) == []
    assert reading.page.evaluate("!!window.MathJax") is False


@every_page
def test_every_displayed_formula_fits_beside_its_number(reading):
    """On a wide window; on a phone, formulas scroll."""
    cut = """[...document.querySelectorAll('article div.math mjx-container')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.parentElement.id)"""
    assert reading.page.evaluate(cut) == []


@every_page
def test_every_image_is_loaded_and_described(reading):
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert reading.page.evaluate(broken) == []
    undescribed = (
        "[...document.querySelectorAll('article img')].filter(i => !i.alt).map(i => i.src)"
    )
    assert reading.page.evaluate(undescribed) == []


@every_page
def test_no_directive_is_visible(reading):
    for code in reading.page.locator("article .cell_input pre").all_inner_texts():
        assert not code.lstrip().startswith(("#|", "# |"))


@every_page
def test_nothing_is_wider_than_a_phone(reading):
    reading.page.set_viewport_size({"width": 390, "height": 844})
    assert reading.page.evaluate("document.documentElement.scrollWidth") <= 390
    sticking_out = """[...document.querySelectorAll('article *')].filter(e => {
        const clipped = e.parentElement.closest('article *:not(a, span, code)');
        for (let box = clipped; box && box.tagName != 'ARTICLE'; box = box.parentElement)
            if (getComputedStyle(box).overflowX != 'visible') return false;
        return e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > 391
            && getComputedStyle(e).overflowX == 'visible';
    }).map(e => e.outerHTML.slice(0, 120))"""
    assert reading.page.evaluate(sticking_out) == []


# What thousands of small pieces have in common is measured on one page; on the others it is drawn as one piece.
AS_ONE_PIECE = """() => {
    for (const code of document.querySelectorAll('div.highlight pre')) {
        code.textContent = code.textContent;
        code.style.overflow = 'hidden'; // whether it scrolls was decided for the coloured pieces
    }
    for (const glyphs of document.querySelectorAll('mjx-container svg')) glyphs.replaceChildren();
}"""


@every_page
def test_a_page_is_accessible(reading):
    """The last test of a page, in both themes: a theme changes nothing but colours."""
    script = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")
    if not reading.page.url.endswith("nbs/03_order.html"):
        reading.page.evaluate(AS_ONE_PIECE)
    reading.page.evaluate(script.read_text("utf8"))
    rules = {"light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "dark": ["color-contrast"]}
    for theme, chosen in rules.items():
        reading.use_theme(theme)
        options = {"runOnly": chosen, "preload": False, "resultTypes": ["violations"]}
        result = reading.page.evaluate("options => axe.run(document, options)", options)
        serious = [
            violation
            for violation in result["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
        assert [(one["id"], node["html"][:200]) for one in serious for node in one["nodes"]] == []


def test_the_theme_button_turns_the_page_and_its_figures_dark(tab):
    tab.show("nbs/a2_plots.html")
    looks = set()
    for _ in range(3):  # light, dark, and what the system prefers
        tab.page.locator("button.theme-switch-button:visible").first.click()
        tab.page.mouse.move(0, 0)
        looks.add(
            tab.page.evaluate("""() => [
            document.documentElement.dataset.theme,
            getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector('.cell_output img')).filter.split('(')[0],
        ].join()""")
        )
    themes = {look.split(",")[0]: look for look in looks}
    light, dark = (re.findall(r"\d+", themes[theme])[:3] for theme in ("light", "dark"))
    assert min(map(int, light)) > 200 and max(map(int, dark)) < 60
    assert themes["light"].endswith("none") and themes["dark"].endswith("invert")


def test_formulas_need_no_script(browser, site):
    """They are there before any script runs, as large as they will be, and say what they are to a screen reader."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    drawn = reached = 0
    for name in ("07_attention", "07_heads", "07_block", "07_cache"):
        page.goto((SITE / "nbs" / f"{name}.html").as_uri())
        drawings = page.locator("article .math svg:not(svg svg)")
        box = drawings.first.bounding_box()
        assert box["width"] > 5 and box["height"] > 5
        assert page.locator("article .math mjx-assistive-mml math").count() == drawings.count()
        assert page.locator("article .math [tabindex]").count() == 0
        drawn += drawings.count()
        reached += page.locator("article .math[tabindex]").count()
    assert drawn > 100 and reached < drawn / 10
    context.close()


# What the files say, without a browser


def soup(name: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / name).read_text("utf8"), "html.parser")


@pytest.fixture(scope="module")
def anchors(site) -> dict[Path, set[str]]:
    """The fragments that each page offers."""
    return {
        (site / name).resolve(): {tag["id"] for tag in soup(name).find_all(id=True)}
        for name in PAGES
    }


@pytest.mark.parametrize("name", PAGES)
def test_every_link_inside_the_book_leads_somewhere(anchors, name):
    dead = []
    for link in soup(name).select("a[href]"):
        if re.match(r"[a-z]+:", link["href"]):
            continue
        path, _, fragment = link["href"].partition("#")
        target = (
            (SITE / name)
            .parent.joinpath(unquote(path.split("?")[0]) or (SITE / name).name)
            .resolve()
        )
        if not target.is_file() or (
            fragment and target in anchors and unquote(fragment) not in anchors[target]
        ):
            dead.append(link["href"])
    assert dead == []


@pytest.mark.parametrize("name", [page for page in PAGES if re.match("api/(?!index)", page)])
def test_a_type_in_the_reference_leads_to_what_it_means_there(site, name):
    """`Tensor` is PyTorch's on every page but the one whose module defines a class of that name."""
    module = importlib.import_module(f"arbook.{Path(name).stem}")
    links = soup(name).select("dt.sig a.reference.internal[title], dl.field-list a[title]")
    wrong = []
    for link in links:
        text, target = link.get_text(), link["title"]
        if "." not in text and hasattr(module, text):
            meant = getattr(module, text)
            owner, _, last = target.rpartition(".")
            if getattr(importlib.import_module(owner), last) is not meant:
                wrong.append((text, target))
    assert wrong == []


def test_the_reference_says_what_each_module_is_for_and_what_to_start_with(site):
    rows = [row.find_all("td") for row in soup("api/index.html").select("article table tbody tr")]
    modules = [cells[0].get_text().strip() for cells in rows]
    pages = {f"arbook.{Path(page).stem}" for page in PAGES if re.match("api/(?!index)", page)}
    assert len(modules) == len(pages) and set(modules) == pages
    assert all(cells[1].get_text().strip().endswith(".") for cells in rows)
    started = {link.get_text() for cells in rows for link in cells[2].find_all("a")}
    front = {name for name in dir(arbook) if not name.startswith("_")} - {
        module.removeprefix("arbook.") for module in modules
    }
    assert started == front


@pytest.mark.parametrize("name", PAGES)
def test_no_page_refers_to_a_resource_of_another_host(site, name):
    page = soup(name)
    sources = [
        tag["src"]
        for tag in page.select("script[src], img[src], iframe[src], source[src], video[src]")
    ]
    styles = [
        tag["href"] for tag in page.select("link[href]") if "canonical" not in tag.get("rel", [])
    ]
    assert [address for address in sources + styles if re.match(r"(https?:)?//", address)] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_page_names_a_home_that_the_book_does_not_have(site, name):
    """A link to an address of the book that is nobody's yet would lead readers to whoever takes it."""
    home = Home(Project.load(ROOT).repository)
    own = tuple(address for address in (home.url, home.site) if address)
    links = [tag["href"] for tag in soup(name).select("a[href], link[href]")]
    outside = [link for link in links if re.match(r"(https?:)?//", link)]
    own_code = [link for link in outside if "arbook" in link and not link.startswith(own or ("#",))]
    assert own_code == []
    assert home.url or not any("colab.research" in link for link in outside)


def test_every_notebook_can_be_downloaded_as_it_is(site):
    for source in (ROOT / "nbs").glob("*.ipynb"):
        if (site / "nbs" / f"{source.stem}.html").exists():
            assert (site / "_sources" / "nbs" / source.name).read_bytes() == source.read_bytes()
