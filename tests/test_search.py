"""The search: what the index holds, which section a word finds, and what the reader sees there."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from section_search import page_records, readable

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"

# What people type -> the section of the book that should come first.
TERMS = {
    "backpropagation": "a4_autodiff#by-hand",
    "confidence interval": "10_surprise#how-sure-is-a-perplexity",
    "prediction interval": "01_horizon#many-steps-and-how-sure",
    "λ": "01_least_squares#when-the-matrix-cannot-be-inverted",
    "ridge": "01_least_squares#when-the-matrix-cannot-be-inverted",
    "sunspot": "01_windows#least-squares",
    "stationarity": "01_roots#does-it-settle-or-explode",
    "AIC": "01_roots#how-many-lags",
    "residual": "01_windows#the-best-weights",
    "Durbin-Levinson": "01_least_squares#yules-equations",
    "backtest": "01_worth#would-it-have-worked",
    "condition number": "01b_least_squares_solved#almost-singular",
    "lag matrix": "01_windows#from-a-sequence-to-instances-and-targets",
    "tokenizer": "02_tokens#one-interface",
    "byte-pair encoding": "02_cuts#byte-pairs-by-hand",
    "unknown token": "02_cuts#the-list-of-words-never-ends",
    "one-hot": "03_order#a-matrix-that-forgets-nothing",
    "bag of words": "03_order#a-one-for-every-word",
    "embedding": "03_lookup#a-product-is-a-look-up",
    "positional encoding": "03_places#sines-and-cosines",
    "RoPE": "03_places#turn-dont-add",
    "truncation": "03_order#what-a-fixed-length-costs",
    "softmax": "04_scores#from-scores-to-probabilities",
    "cross-entropy": "04_scores#what-is-a-good-prediction",
    "entropy": "04_scores#what-is-a-good-prediction",
    "KL divergence": "04_scores#what-is-a-good-prediction",
    "maximum likelihood": "04_objective#maximum-likelihood",
    "teacher forcing": "01_same_function#is-this-cheating",
    "back-off": "05_counts#ask-a-shorter-memory",
    "unseen n-grams": "05_counts#zero",
    "relative frequency": "05_counts#count-what-comes-next",
    "Kneser-Ney": "05_unseen#kneser-and-ney-count-the-neighbours-not-the-occurrences",
    "add-one smoothing": "05_unseen#a-bad-remedy-and-what-it-teaches",
    "LSTM": "06_gates#gates",
    "vanishing gradient": "06_recurrent#the-gradient-through-time",
    "dropout": "06_recurrent#the-tricks-of-awd-lstm",
    "attention": "07_attention#a-soft-look-up",
    "multi-head attention": "07_heads#side-by-side",
    "grouped-query attention": "07_transformer#shared-keys",
    "KV cache": "07_cache#one-more-token",
    "causal mask": "07_attention#all-tokens-at-once",
    "layer norm": "07_block#the-norm-keeps-the-scale",
    "RMSNorm": "07_block#the-norm-keeps-the-scale",
    "GPT-2": "07_transformer#the-weights-of-gpt-2",
    "gradient clipping": "08_steps#one-step",
    "learning rate": "08_training#a-plan-for-the-learning-rate",
    "Muon": "08_steps#adamw-and-muon",
    "AdamW": "08_steps#adamw-and-muon",
    "weight decay": "08_steps#adamw-and-muon",
    "checkpoint": "08c_checkpoints#stopped-and-resumed",
    "reproducibility": "08c_checkpoints#stopped-and-resumed",
    "mixed precision": "08d_machines#how-fast-is-fast",
    "bf16": "08d_machines#how-fast-is-fast",
    "seed": "08b_runs#is-my-loss-normal",
    "temperature": "09_rules#temperature",
    "top-p": "09_rules#cutting-the-tail",
    "nucleus sampling": "09_rules#cutting-the-tail",
    "repetition penalty": "09_rules#against-repetition",
    "beam search": "09_sampling#search-for-the-best-text",
    "speculative decoding": "09_sampling#a-small-model-drafts-a-large-one-signs",
    "perplexity": "10_surprise#perplexity",
    "bits per byte": "10_units#the-unit",
    "sliding window": "10_units#the-policy",
    "arithmetic coding": "11_intervals#a-text-is-an-interval",
    "xz": "11_bits#on-real-text",
}


# The index, without a browser


def test_a_record_holds_its_own_section_and_nothing_of_those_inside_it():
    page = """<article><section id="top"><h1><span class="section-number">3. </span>Cats<a class="headerlink">#</a></h1>
      <!-- search: felines, tom --><p>All <strong>cats</strong> purr.</p><pre>purr()</pre>
      <section id="in"><h2>Lions</h2><p>They roar</p><p>loudly, <span class="math">\\(\\lambda\\)</span> times.</p>
        <section id="untitled"><p>So they do.</p></section><figure><figcaption>A lion</figcaption></figure></section>
      </section></article>"""
    assert page_records(page) == {
        "title": "3. Cats",
        "kind": "chapter",
        "sections": [
            ["top", "Cats", ["felines", "tom"], "cats", "", "", "All cats purr."],
            ["in", "Lions", [], "", "A lion", "", "They roar loudly, λ times. So they do."],
        ],
    }


def test_a_documented_name_has_a_record_of_its_own():
    page = """<article><section id="m"><h1>pack.mod</h1><p>About.</p>
      <dl class="py function"><dt id="pack.mod.f"><span class="sig-param"><span class="n">x</span></span></dt>
      <dd><p>Double a number.</p><dl class="field-list"><dt>Raises</dt><dd><p>ValueError</p></dd></dl></dd></dl>
      </section></article>"""
    records = page_records(page)
    assert records["kind"] == "reference"
    assert records["sections"][0][-1] == "About."
    assert records["sections"][1] == ["pack.mod.f", "f", [], "", "", "x", "Double a number."]


@pytest.mark.parametrize(
    ("tex", "said"),
    [
        (r"\(\lambda\)", "λ"),
        (r"\(\boldsymbol{x}_t\)", "x_t"),
        (r"\(p\)", "p"),
        (r"\(" + 30 * "x" + r"\)", "…"),
    ],
)
def test_a_short_formula_is_read_as_one_says_it(tex, said):
    assert readable(tex) == said


def test_every_line_of_synonyms_stands_under_a_heading():
    """Or after the summary under a chapter's title, which nbdev wants to be the first thing there."""
    for notebook in (ROOT / "nbs").glob("*.ipynb"):
        for cell in json.loads(notebook.read_text("utf8"))["cells"]:
            lines = "".join(cell["source"]).split("\n")
            for number, line in enumerate(lines):
                if line.startswith("<!-- search:"):
                    assert cell["cell_type"] == "markdown" and line.endswith("-->")
                    assert lines[number - 1].startswith("#") or lines[number - 2].startswith("> ")


@pytest.fixture(scope="module")
def index(site) -> list[dict]:
    script = (site / "_static" / "section-index.js").read_text("utf8")
    return json.loads(script.removeprefix("window.arbookIndex = ").rstrip(";\n"))


@pytest.mark.site
def test_the_index_knows_every_synonym_of_the_notebooks(index):
    for page in index:
        notebook = ROOT / page["url"].replace(".html", ".ipynb")
        if notebook.exists():
            cells = json.loads(notebook.read_text("utf8"))["cells"]
            text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
            written = re.findall(r"^<!-- search: (.*) -->$", text, re.MULTILINE)
            known = [", ".join(section[2]) for section in page["sections"] if section[2]]
            assert known == written


@pytest.mark.site
def test_the_index_is_small_and_leads_only_to_anchors_that_exist(site, index):
    assert (site / "_static" / "section-index.js").stat().st_size < 1_000_000
    for page in index:
        html = (site / page["url"]).read_text("utf8")
        assert [s[0] for s in page["sections"] if f'id="{s[0]}"' not in html] == []


@pytest.mark.site
def test_no_page_loads_an_index_by_itself(site):
    for file in site.rglob("*.html"):
        if "_static" not in file.parts:
            scripts = re.findall(r'<script[^>]*src="([^"]*)"', file.read_text("utf8"))
            assert [
                s for s in scripts if re.search("searchindex|searchtools|section-index", s)
            ] == []
            assert any("search.js" in script for script in scripts)
    assert not (site / "searchindex.js").exists()


# In the browser


@pytest.fixture(scope="module")
def page(browser, site) -> Iterator:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    yield context.new_page()
    context.close()


def show(page, address: str) -> None:
    page.goto(f"{SITE.as_uri()}/{address}", wait_until="domcontentloaded")
    page.wait_for_function("window.arbookSearch")


def open_dialog(page, address: str = "bibliography.html") -> None:
    show(page, address)
    page.wait_for_load_state("load")
    page.keyboard.press("Control+k")
    page.wait_for_selector("dialog[open]")


def ask(page, query: str) -> list[str]:
    """Type into the open dialog; the addresses of the results."""
    page.fill("dialog input", query)
    page.wait_for_selector("dialog .search-list a")
    links = "links => links.map(link => link.href)"
    return page.eval_on_selector_all("dialog .search-list a", links)


def place(address: str) -> str:
    """The page and the section of an address: `04_objective#the-gradient`."""
    path, _, anchor = address.partition("#")
    return re.sub(r"\.html.*", "", path).rpartition("/")[2] + "#" + anchor


def marks(page) -> list[str]:
    return page.eval_on_selector_all("mark.search-mark", "all => all.map(mark => mark.textContent)")


IN_VIEW = """() => {
    const box = document.querySelector('mark.search-mark')?.getBoundingClientRect();
    return box && box.height > 0 && box.top >= 0 && box.bottom <= innerHeight;
}"""
STRAY = """anchor => [...document.querySelectorAll('mark.search-mark')]
    .filter(mark => mark.closest('section').id != anchor).length"""
# Does the text say the word, or is it, found by a synonym, the title of the section?
SAID = """([texts, query]) => {
    const stems = text => arbookSearch.wordsOf(text).map(word => word.stem).join('');
    const title = document.querySelector('mark.search-mark').closest('section').querySelector('h1, h2, h3');
    return [query, title.textContent].some(said => texts.every(text => stems(said).includes(stems(text))));
}"""


@pytest.fixture(scope="module")
def asked(browser, site) -> Iterator:
    """A second tab, whose dialog stays open."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    tab = context.new_page()
    open_dialog(tab)
    yield tab
    context.close()


@pytest.mark.site
@pytest.mark.parametrize("query", TERMS)
def test_a_word_leads_to_the_section_about_it_and_is_marked_there(page, asked, query):
    first = ask(asked, query)[0]
    assert place(first) == TERMS[query]
    page.goto(first, wait_until="domcontentloaded")
    page.wait_for_function(IN_VIEW)
    found = marks(page)
    assert page.evaluate(SAID, [found, query])
    assert page.evaluate(STRAY, first.partition("#")[2]) == 0


@pytest.mark.site
def test_the_index_is_asked_for_when_the_dialog_opens_and_not_before(browser, site):
    context = browser.new_context()
    page, requests = context.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    show(page, "nbs/a2_plots.html")
    page.wait_for_load_state("networkidle")
    assert not any("index.js" in url for url in requests)
    with page.expect_request("**/section-index.js"):
        page.keyboard.press("Control+k")
    context.close()


@pytest.mark.site
def test_without_scripts_every_page_has_the_form_and_the_search_page_says_what_else_there_is(
    browser, site
):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "nbs" / "a2_plots.html").as_uri())
    form = page.locator("form.bd-search").first
    assert form.get_attribute("method") == "get" and form.locator("input[name=q]").count() == 1
    assert form.get_attribute("action") == "../search.html"
    page.goto((site / "search.html").as_uri())
    page.get_by_role("link", name="the index").click()
    assert page.url.endswith("genindex.html")
    context.close()


@pytest.mark.site
def test_arrow_keys_choose_a_result_and_enter_opens_it(page):
    open_dialog(page)
    links = ask(page, "entropy rate")
    field = page.locator("dialog input")
    chosen = "dialog .search-list [aria-selected=true]"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(chosen).evaluate("link => link.href") == links[1]
    assert field.get_attribute("aria-activedescendant") == page.get_attribute(chosen, "id")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # from the first to the last
    assert page.locator(chosen).evaluate("link => link.href") == links[-1]
    page.keyboard.press("Enter")
    page.wait_for_function("url => location.href === url", arg=links[-1])


@pytest.mark.site
def test_enter_without_a_choice_opens_the_first_result_even_before_the_index_is_there(page):
    show(page, "bibliography.html")
    page.wait_for_load_state("load")
    page.keyboard.press("Control+k")
    page.keyboard.type("beam search")
    page.keyboard.press("Enter")
    page.wait_for_function(IN_VIEW)
    assert place(page.url) == TERMS["beam search"]


@pytest.mark.site
def test_escape_closes_the_dialog_and_then_clears_the_marks(page):
    show(page, "nbs/09_rules.html?find=temperature#temperature")
    page.wait_for_function(IN_VIEW)
    text = page.inner_text("#temperature")
    page.wait_for_load_state("load")
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    assert not page.query_selector("dialog[open]") and marks(page)
    page.keyboard.press("Escape")
    assert marks(page) == []
    assert page.inner_text("#temperature") == text
    assert "find" not in page.url


@pytest.mark.site
def test_a_result_on_the_page_that_is_open_is_marked_without_loading_it_again(page):
    open_dialog(page, "nbs/09_rules.html?find=nucleus%20sampling#temperature")
    page.evaluate("window.stillHere = true")
    ask(page, "nucleus sampling")
    page.keyboard.press("Enter")
    page.wait_for_function(IN_VIEW)
    assert page.evaluate("window.stillHere") and not page.query_selector("dialog[open]")
    assert place(page.url) == TERMS["nucleus sampling"]


@pytest.mark.site
def test_the_number_of_results_is_announced_and_an_empty_field_explains_itself(page):
    open_dialog(page)
    status = page.locator("dialog [role=status]")
    assert "Enter" in status.inner_text()
    count = len(ask(page, "Durbin"))
    assert re.match(rf"{count} results?\b", status.inner_text())
    page.fill("dialog input", "qqqqqqqq")
    page.wait_for_function("!document.querySelector('dialog .search-list a')")
    assert "qqqqqqqq" in status.inner_text()
    page.fill("dialog input", "  ")
    page.wait_for_function(
        "document.querySelector('dialog [role=status]').textContent.includes('Enter')"
    )


@pytest.mark.site
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_open_dialog_is_accessible_and_fits(page, theme, width):
    page.set_viewport_size({"width": width, "height": 844})
    open_dialog(page)
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    ask(page, "learning rate")
    page.keyboard.press("ArrowDown")
    script = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")
    page.evaluate(script.read_text("utf8"))
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    result = page.evaluate("options => axe.run('dialog', options)", options)
    assert [(v["id"], v["nodes"][0]["html"]) for v in result["violations"]] == []
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.site
def test_the_search_page_gives_the_same_results_as_the_dialog(page):
    open_dialog(page)
    wanted = [place(link) for link in ask(page, "lag matrix")]
    show(page, "search.html?q=lag+matrix")
    page.wait_for_selector(".bd-search-container .search-list a")
    links = page.eval_on_selector_all(
        ".bd-search-container a.search-hit", "all => all.map(a => a.href)"
    )
    assert [place(link) for link in links] == wanted
    page.fill(".bd-search-container input", "RoPE")
    page.keyboard.press("Enter")
    page.wait_for_function(IN_VIEW)
    assert place(page.url) == TERMS["RoPE"]


@pytest.mark.site
def test_a_snippet_shows_the_words_marked(page):
    open_dialog(page)
    ask(page, "kernel")
    snippets = page.locator("dialog .search-snippet").all_inner_texts()
    marked = page.locator("dialog .search-list mark").all_inner_texts()
    assert marked and all(text.lower().startswith("kernel") for text in marked)
    assert all(len(text) < 200 for text in snippets)


@pytest.mark.site
def test_a_word_with_a_typo_is_found_and_the_list_says_for_what(page):
    open_dialog(page)
    for wrong in ("perplexty", "prplexity", "perpelxity", "perplexitty"):
        assert place(ask(page, wrong)[0]) == TERMS["perplexity"]
        assert "“perplexity”" in page.inner_text("dialog [role=status]")
    page.keyboard.press("Enter")
    page.wait_for_function(IN_VIEW)
    assert set(map(str.lower, marks(page))) == {"perplexity"}


FOLDED_WORD = """() => {  // a word that this section has in a closed box, and nowhere else
    const section = document.querySelector('#exercises'), words = arbookSearch.wordsOf;
    const box = section.querySelector('.toggle-hidden section, .toggle-hidden p, details p');
    const copy = section.cloneNode(true);
    copy.querySelectorAll('.toggle-hidden, details, pre').forEach(one => one.remove());
    const outside = new Set(words(copy.textContent).map(word => word.stem));
    const isFit = ({word, stem}) => word.length > 5 && /^[a-z]+$/.test(word) && !outside.has(stem);
    return words(box.textContent).find(isFit).word;
}"""


@pytest.mark.site
@pytest.mark.parametrize("name", ["02_tokens", "05_unseen", "a4_autodiff"])
def test_a_word_inside_a_folded_solution_is_unfolded(page, name):
    show(page, f"nbs/{name}.html")
    word = page.evaluate(FOLDED_WORD)
    show(page, f"nbs/{name}.html?find={word}#exercises")
    page.wait_for_function(IN_VIEW)
    assert marks(page)[0].lower().startswith(word[:5])


@pytest.mark.site
def test_the_page_follows_its_first_mark_until_the_reader_scrolls(page):
    show(page, "nbs/05_floor.html?find=entropy%20rate#the-floor")
    page.wait_for_function(IN_VIEW)
    grow = """() => new Promise(done => {
        const box = document.createElement('div');
        box.style.height = '3000px';
        document.querySelector('article').prepend(box);
        setTimeout(done, 200);
    })"""
    page.evaluate(grow)
    page.wait_for_function(IN_VIEW)
    page.mouse.move(640, 450)
    page.mouse.wheel(0, 2500)
    page.wait_for_function(f"!({IN_VIEW})()")
    page.evaluate(grow)
    assert not page.evaluate(IN_VIEW)


ENGINE = """pages => {
    const index = arbookSearch.prepare(pages);
    window.find = query => arbookSearch.search(index, query).results.map(one => one.record.anchor);
}"""


@pytest.fixture(scope="module")
def find(page):
    """The engine on a book of three pages, made for these tests."""
    show(page, "genindex.html")
    section = lambda anchor, title, synonyms="", terms="", captions="", names="", text="": [  # noqa: E731
        anchor, title, [s for s in synonyms.split("; ") if s], terms, captions, names, text
    ]  # fmt: skip
    pages = [
        {"url": "a.html", "title": "1. Birds", "kind": "chapter", "sections": [
            section("birds", "Birds", text="Animals with wings. Sampling of back-propagation with λ."),
            section("song", "Song", synonyms="melody; top-p", text="They sing at the break of day."),
            section("flight", "Flight", captions="A melody of colours", text="Wing beats, day after day. Day!"),
            section("nests", "Nest building", terms="clutch", text="Eggs lie in a clutch; a top is far."),
        ]},
        {"url": "b.html", "title": "Feeding", "kind": "other", "sections": [
            section("feeding", "Feeding", text="A clutch of eggs needs Kneser and Ney's normalisation.")]},
        {"url": "c.html", "title": "pack.birds", "kind": "reference", "sections": [
            section("pack.birds", "pack.birds", text="All about birds."),
            section("pack.birds.lay_eggs", "lay_eggs", names="count", text="Lay eggs in a clutch.")]},
    ]  # fmt: skip
    page.evaluate(ENGINE, pages)
    return lambda query: page.evaluate("query => find(query)", query)


@pytest.mark.site
def test_a_synonym_comes_first_and_then_the_caption(find):
    assert find("melody") == ["song", "flight"]


@pytest.mark.site
def test_chapters_come_before_appendices_and_those_before_the_reference(find):
    assert find("clutch") == ["nests", "feeding", "pack.birds.lay_eggs"]


@pytest.mark.site
def test_a_name_written_as_in_code_asks_for_the_reference(find):
    assert find("lay_eggs")[0] == "pack.birds.lay_eggs"


@pytest.mark.site
@pytest.mark.parametrize(
    ("query", "anchor"),
    [
        ("backpropagation", "birds"),
        ("back propagation", "birds"),
        ("back-propagations", "birds"),
        ("sampled", "birds"),
        ("samples", "birds"),
        ("lambda", "birds"),
        ("Λ", "birds"),
        ("normalization", "feeding"),
        ("Topp", "song"),
        ("top p", "song"),
        ("TOP-P", "song"),
        ("colour", "flight"),
        ("color", "flight"),
        ("anim", "birds"),
        ("anmials", "birds"),
        ("break of day", "song"),
        ("the break of day", "song"),
    ],
)
def test_one_word_has_many_spellings(find, query, anchor):
    assert find(query)[0] == anchor


@pytest.mark.site
@pytest.mark.parametrize("query", ["", " ", "-", "zzzzzzz", "§", "()", "<b>", "\\", "'s", "。"])
def test_what_is_nowhere_finds_nothing(find, query):
    assert find(query) == []


@pytest.mark.site
def test_short_words_are_not_corrected(find):
    assert find("eegs") == []


@pytest.mark.site
def test_words_of_one_spelling_have_one_stem_and_others_do_not(page, find):
    stem = lambda word: page.evaluate("w => arbookSearch.stem(arbookSearch.fold(w))", word)  # noqa: E731
    for family in (
        ["sample", "samples", "sampled", "sampling"],
        ["embed", "embeds", "embedded", "embedding", "embeddings"],
        ["probability", "probabilities"],
        ["entropy", "entropies"],
        ["bias", "biases"],
        ["loss", "losses"],
        ["cache", "caches", "cached", "caching"],
        ["optimise", "optimizes", "optimising", "optimized"],
        ["Yule", "Yule's", "Yule’s"],
    ):
        assert len(set(map(stem, family))) == 1, family
    different = ["model", "mode", "token", "tone", "loss", "lose", "bit", "byte", "state"]
    assert len(set(map(stem, different))) == len(different)


@pytest.mark.site
def test_marks_never_overlap(page, find):
    ranges = (
        """([text, words]) => arbookSearch.ranges(text, words.map(word => new Map([[word, 1]])))"""
    )
    assert page.evaluate(ranges, ["da da da, top-p", ["da", "da"]]) == [[0, 5]]
    assert page.evaluate(ranges, ["p top-p", ["p", "topp", "x"]]) == [[0, 1], [2, 7]]


@pytest.mark.site
def test_one_edit_is_a_letter_more_less_other_or_two_swapped(page, find):
    near = lambda a, b: page.evaluate("([a, b]) => arbookSearch.isOneEditAway(a, b)", [a, b])  # noqa: E731
    assert all(
        near("softmax", other) for other in ("softma", "softmaxx", "softmix", "sotfmax", "softmax")
    )
    assert not any(
        near("softmax", other) for other in ("softm", "sfotamx", "softmaxxx", "hardmax", "")
    )
