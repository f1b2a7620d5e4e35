"""Things to touch, and pictures of ideas: one helper, tested with a small interaction that is made for it."""

import io
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import lighter
import pictures
import pytest
import tinycss2
from conftest import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

PAGE = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Tiny</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="{static}/arbook.css"><link rel="stylesheet" href="{static}/touch.css">
<script src="{static}/touch.js" defer></script><script src="touch-tiny.js" defer></script></head>
<body style="background: var(--pst-color-background, #fff); color: var(--pst-color-text-base)">
<main class="bd-article">{body}</main></body></html>"""

FIGURE = """<figure class="touch" data-touch="tiny">
<img src="pictures/still.svg" alt="A still &amp; its dot">
<figcaption>Move the slider.</figcaption>
</figure>"""

STILL = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 40"><circle class="fill now" cx="50" cy="20" r="6"/></svg>
"""

TINY = """(() => {
  "use strict";
  const powers = (r, n) => Array.from({ length: n }, (_, k) => r ** k);
  arbookTouch.place("tiny", powers, (touch) => {
    const r = touch.slider({ label: "radius", min: 0, max: 1, step: 0.01, value: 0.5 });
    const shown = touch.check({ label: "grid", value: true });
    const which = touch.choice({ label: "text", options: ["a b c", "d e"] });
    const typed = touch.text({ label: "word", value: "x" });
    const lines = touch.text({ label: "lines", value: "first\\nsecond", rows: 3 });
    const panel = touch.panel("Powers");
    const row = touch.row("Words"), words = touch.words("The same words");
    touch.button("back", () => (r.value = 0.5));
    touch.draw(() => {
      const y = powers(r.value, 5), list = [...which.value.split(" "), typed.value];
      panel.show(160, (width, height) => {
        const at = touch.axes({ width, height, x: [0, 4], y: [0, 1], xLabel: "steps", yLabel: "value" });
        return (shown.value ? at.svg : "") + touch.line(y.map((v, k) => [at.x(k), at.y(v)]), "line past curve");
      }, `ends at ${y[4]}`);
      row.show(list, { above: (x, now) => [60, touch.arc(x(0), x(now), 0, "line now")], below: (i) => `${i + 1}` });
      words.show(list, (i) => (i % 2 ? "past" : "now"));
      touch.say(`${r.value} to the fourth is ${y[4]}. ${list[row.chosen]} is chosen.`
        + ` ${lines.value.split("\\n").length} lines.`);
    });
  });
})();
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A page with an interaction, as the build makes it."""
    folder = tmp_path_factory.mktemp("touch")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "still.svg").write_text(STILL, "utf8")
    pictures.give_style(folder / "pictures")
    (folder / "touch-tiny.js").write_text(TINY, "utf8")
    body = pictures.with_drawings(FIGURE, folder)
    page = PAGE.format(static=(ROOT / "_static").as_uri(), body=body)
    (folder / "page.html").write_text(page, "utf8")
    return folder


@pytest.fixture
def page(browser, folder) -> Iterator:
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    page.goto((folder / "page.html").as_uri())
    yield page
    assert page.errors == []
    context.close()


def said(page, words: str) -> None:
    page.wait_for_function("w => document.querySelector('.say').textContent.includes(w)", arg=words)


def test_without_scripts_the_still_picture_stays(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "page.html").as_uri())
    still = page.get_by_role("img", name="A still & its dot")
    assert still.count() == 1 and still.bounding_box()["width"] > 100
    assert page.locator("input, .say").count() == 0
    context.close()


def test_the_page_computes_and_offers_its_function_to_a_test(page):
    assert page.evaluate("arbookTouch.tiny(0.5, 4)") == [1, 0.5, 0.25, 0.125]
    assert page.locator("[aria-label='A still & its dot']").count() == 0
    assert page.get_by_role("img", name="Powers: ends at 0.0625").count() == 1
    assert page.locator("figcaption").inner_text() == "Move the slider."


def test_a_slider_draws_writes_and_speaks_by_keyboard_and_by_program(page):
    slider = page.get_by_role("slider", name="radius")
    assert slider.get_attribute("aria-valuetext") == "0.50"
    before = page.locator(".curve").get_attribute("d")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == page.locator("output").inner_text() == "0.51"
    assert page.locator(".curve").get_attribute("d") != before
    said(page, f"0.51 to the fourth is {0.51**4:.4f}"[:24])
    page.get_by_role("button", name="back").click()
    assert slider.input_value() == "0.5" and page.locator(".curve").get_attribute("d") == before


def test_the_curve_goes_through_the_numbers(page):
    """The axes put a value where its tick is: powers of 1/2 lie between 0 and 1 in these proportions."""
    points = page.locator(".curve").evaluate("""path => [0, 1].map(end => {
        const p = path.getPointAtLength(end * path.getTotalLength()); return [p.x, p.y] })""")
    texts = page.locator(".panel text").evaluate_all(
        "all => all.map(t => [t.textContent, +t.getAttribute('x'), +t.getAttribute('y') - 4])"
    )
    heights = {text: y for text, x, y in texts if x < 40}
    one, nought = heights["1"], heights["0"]
    assert points[0][1] == pytest.approx(one, abs=0.1)
    assert points[1][1] == pytest.approx(nought + (one - nought) / 16, abs=0.1)
    assert {"0", "1", "2", "3", "4", "0.5", "steps", "value"} <= {text for text, *_ in texts}


@pytest.mark.parametrize("name", ["Words", "The same words"])
def test_a_list_is_one_stop_and_arrow_keys_walk_it(page, name):
    box = page.get_by_role("listbox", name=name, exact=True)
    options = box.get_by_role("option")
    assert options.count() == 4
    assert box.locator('[tabindex="0"]').count() == 1
    options.nth(0).focus()
    chosen = "document.activeElement.dataset.i + document.activeElement.ariaSelected"
    for key, place in [
        ("ArrowRight", 1),
        ("ArrowDown", 2),
        ("End", 3),
        ("ArrowRight", 3),
        ("ArrowLeft", 2),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        assert page.evaluate(chosen) == f"{place}true"
    options.nth(2).click()
    assert page.evaluate(chosen) == "2true"


def test_a_text_of_several_lines_keeps_their_ends(page):
    box = page.get_by_role("textbox", name="lines")
    assert box.input_value() == "first\nsecond" and box.get_attribute("rows") == "3"
    said(page, "2 lines.")
    box.fill("a\nb\nc\n")
    said(page, "4 lines.")


def test_a_shorter_text_keeps_the_choice_inside_it(page):
    page.get_by_role("listbox", name="Words", exact=True).get_by_role("option").nth(3).click()
    page.get_by_role("combobox", name="text").select_option("d e")
    said(page, "x is chosen")
    page.get_by_role("textbox", name="word").fill("<b>&")
    said(page, "<b>& is chosen")
    assert page.locator(".words b").count() == 0
    page.get_by_role("checkbox", name="grid").uncheck()
    assert page.locator(".panel text").count() == 0


def test_a_screen_reader_hears_the_last_state_only(page):
    """Twenty quick changes are one announcement."""
    page.evaluate("""() => { window.heard = [];
        new MutationObserver(() => heard.push(document.querySelector('.say').textContent))
            .observe(document.querySelector('.say'), { childList: true, characterData: true, subtree: true }) }""")
    slider = page.get_by_role("slider")
    slider.focus()
    page.evaluate("""() => { const slider = document.querySelector('input[type=range]');
        for (let i = 1; i <= 20; i++) {
            slider.value = i / 100;
            slider.dispatchEvent(new Event('input', { bubbles: true }));
        } }""")
    said(page, "0.2 to the fourth")
    assert len(page.evaluate("heard")) == 1
    assert page.locator(".say").get_attribute("aria-live") == "polite"
    assert page.locator("output").get_attribute("aria-live") == "off"  # the slider says it already


def test_all_shades_of_a_word_are_in_the_style_that_the_build_keeps():
    """The build drops rules for classes that occur in no page and no script."""
    style, script = (
        (ROOT / "_static" / f"touch.{kind}").read_text("utf8") for kind in ("css", "js")
    )
    rules = tinycss2.parse_stylesheet(style, skip_comments=True, skip_whitespace=True)
    kept = lighter.used_rules(rules, set(re.findall(r"[\w-]+", script)))
    assert [n for n in range(1, 7) if f"--depth: {n};" not in kept] == []


@pytest.mark.parametrize("width", [320, 390, 1000])
def test_drawings_have_the_width_of_their_place_and_letters_their_size(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_function("""() => [...document.querySelectorAll('.views svg')].every(
        s => Math.abs(s.viewBox.baseVal.width - s.getBoundingClientRect().width) < 1)""")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.locator(".views svg text").evaluate_all(
        "all => all.map(t => t.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_in_both_themes(page, theme):
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    script = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")
    page.evaluate(script.read_text("utf8"))
    found = page.evaluate(
        "axe.run(document, {preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
    )
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_colours_follow_the_theme(page):
    colours = """['past', 'now', 'mute'].map(name => getComputedStyle(
        document.querySelector(`figure .${name}`)).color)"""
    light = page.evaluate(colours)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    dark = page.evaluate(colours)
    assert len({*light, *dark}) == 6


# Pictures


def test_a_picture_stands_in_the_page_under_its_description_and_without_its_own_style(folder):
    still = (folder / "pictures" / "still.svg").read_text("utf8")
    assert pictures.STYLE in still
    body = pictures.with_drawings(f"<p>one</p>{FIGURE}", folder)
    assert "<img" not in body and "<style" not in body and "<?xml" not in body
    assert '<svg role="img" aria-label="A still &amp; its dot"' in body
    assert pictures.touched(body) == ["tiny"]


def test_links_in_a_picture_can_be_reached():
    """An image has no parts for screen readers and keyboards; a group has."""
    linked = '<svg viewBox="0 0 9 9"><a href="#there"><text>there</text></a></svg>'
    assert pictures.drawing(linked, "x").startswith('<svg role="group" aria-label="x"')
    plain = '<svg viewBox="0 0 9 9"><text>there</text></svg>'
    assert pictures.drawing(plain, "x").startswith('<svg role="img" aria-label="x"')


def test_other_images_stay_as_they_are(folder):
    image = '<img src="pictures/still.svg" alt="x">'
    other = f'<p>{image}</p><figure class="align-left">{image}</figure>'
    assert pictures.with_drawings(other, folder) == other
    assert pictures.touched(other) == []


def test_a_style_is_written_once(folder):
    file = folder / "pictures" / "still.svg"
    once = file.read_text("utf8")
    pictures.give_style(folder / "pictures")
    assert file.read_text("utf8") == once and once.count("<style>") == 1


@pytest.fixture
def build(folder, tmp_path):
    """Build a site of two pages, of which one has an interaction; the pages, and what the build warned of."""

    def build(scripts=("touch.js", "touch-tiny.js"), figure=FIGURE) -> tuple[str, str, str]:
        source = tmp_path / "source"
        shutil.copytree(folder / "pictures", source / "pictures")
        (source / "_static").mkdir()
        for script in scripts:
            (source / "_static" / script).write_text("", "utf8")
        (source / "index.md").write_text("# One\n\n```{toctree}\ntwo\n```\n", "utf8")
        (source / "two.md").write_text(f"# Two\n\n{figure}\n\nText\n", "utf8")
        warnings = io.StringIO()
        settings = {
            "extensions": ["myst_parser", "pictures"],
            "html_static_path": ["_static"],
            "html_js_files": ["other.js", *scripts],  # as Jupyter Book finds them
        }
        html = tmp_path / "html"
        app = Sphinx(source, None, html, tmp_path, "html", settings, None, warnings)
        app.build()
        pages = [(html / f"{name}.html").read_text("utf8") for name in ("index", "two")]
        return *pages, warnings.getvalue()

    with docutils_namespace():
        yield build


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_a_page_loads_the_scripts_of_what_it_shows_and_no_others(build):
    one, two, warned = build()
    assert "touch" not in one and "other.js" in one and "other.js" in two
    scripts = re.findall(r'<script\b([^>]*)src="_static/(touch[\w-]*\.js)', two)
    assert [name for _, name in scripts] == ["touch.js", "touch-tiny.js"]
    assert all("defer" in how for how, _ in scripts)
    assert 'aria-label="A still &amp; its dot"' in two and "pictures/still.svg" not in two
    assert not warned


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_a_missing_script_or_picture_is_a_warning(build):
    figure = FIGURE.replace("still.svg", "held.svg")
    _, _, warned = build(scripts=("touch.js",), figure=figure)
    assert "touch-tiny.js is missing" in warned
    assert "a picture is missing" in warned and "held.svg" in warned


PICTURES = sorted((ROOT / "nbs" / "pictures").glob("*.svg"))


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.stem)
def test_a_picture_looks_right_by_itself(file):
    svg = file.read_text("utf8")
    assert pictures.STYLE in svg, "python _ext/pictures.py writes it"
    assert 'xmlns="http://www.w3.org/2000/svg"' in svg and "viewBox=" in svg
