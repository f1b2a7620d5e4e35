"""What can be touched, compared in a browser with the numbers of the library; by mouse, keyboard and program."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from arbook import data
from arbook.ar import LinearAR, characteristic_roots, impulse_response
from arbook.bidirectional import attention_mask
from arbook.checkpoints import recorded_model
from arbook.compression import ArithmeticEncoder, as_weights
from arbook.conditioning import CausalTransformer, least_squares_in_context
from arbook.distributions import Gaussian, GaussianMixture, ValueModel
from arbook.encodings import rotary_angles, rotary_cos_sin, rotate, sinusoidal_positions
from arbook.exposure import rollout_error
from arbook.files import read_weights
from arbook.ngram import NGramLM, count_ngrams
from arbook.objective import autoregressive_loss, cross_entropy_gradient, squared_loss
from arbook.perplexity import Policy, context_sizes, token_losses
from arbook.recurrent import CellWeights, lstm_cell, unroll
from arbook.tokens import BPETokenizer, CharTokenizer
from conftest import ROOT
from stills import page_of, recorded

NAMES = sorted(path.stem.removeprefix("touch-") for path in (ROOT / "_static").glob("touch-*.js"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def page(browser) -> Iterator:
    context = browser.new_context(viewport={"width": 900, "height": 900})
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    yield page
    assert page.errors == []
    context.close()


def said(page, words: str) -> None:
    page.wait_for_function("w => document.querySelector('.say').textContent.includes(w)", arg=words)


@pytest.mark.parametrize("name", NAMES)
def test_the_still_picture_is_what_the_browser_draws_first(page, folder, name):
    still = (ROOT / "nbs" / "pictures" / f"{name}.svg").read_text("utf8")
    now = recorded(page, page_of(name, folder))
    assert pictures.OWN_STYLE.sub("", still) == now, f"python tests/stills.py {name}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [320, 390, 900])
def test_it_fits_its_place_and_its_letters_are_readable(page, folder, name, width):
    page.goto(page_of(name, folder))
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function("""() => [...document.querySelectorAll('.views svg')].every(
        s => Math.abs(s.viewBox.baseVal.width - s.getBoundingClientRect().width) < 1)""")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.locator(".views svg text").evaluate_all("""all => all.filter(t => {
        const place = t.ownerSVGElement.getBoundingClientRect(), box = t.getBoundingClientRect();
        return box.height < 9 || box.bottom > place.bottom + 4
            || box.left < place.left - 1 || box.right > place.right + 12;
    }).map(t => t.textContent)""")
    assert cut == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(page, folder, name, theme):
    page.goto(page_of(name, folder))
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    script = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")
    page.evaluate(script.read_text("utf8"))
    found = page.evaluate(
        "axe.run(document, {preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
    )
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


# Chapter 1: the window over the sunspots


@pytest.fixture
def windows(page, folder):
    page.goto(page_of("windows", folder))
    return page


def test_the_window_slides_over_the_sunspots_of_the_library(windows):
    assert windows.evaluate("arbookTouch.windows.series") == data.series("sunspots").values.tolist()


@pytest.mark.parametrize("order", [1, 2, 9, 12])
def test_the_weights_that_the_page_fits_are_those_of_the_library(windows, order):
    z = data.series("sunspots").values
    fitted = LinearAR(order, intercept=True, solver="qr").fit(z)
    expected = [*fitted.coef_, fitted.intercept_]
    assert np.allclose(windows.evaluate("p => arbookTouch.windows.fit(p)", order), expected, 1e-8)
    said_by_page = windows.evaluate(
        "p => [20, 147, 309].map(t => arbookTouch.windows.predict(p, t))", order
    )
    assert np.allclose(said_by_page, [fitted.step(z[t - order : t]) for t in (20, 147, 309)], 1e-8)


def test_the_window_says_what_the_model_says_of_the_chosen_year(windows):
    z = data.series("sunspots").values
    year = windows.get_by_role("slider", name="the year to predict")
    order = windows.get_by_role("slider", name="values in the window")
    said(windows, "From 1838 to 1846 the model says 81.1 for 1847. It was 98.5: an error of 17.4.")
    for key, when in [("ArrowRight", 1848), ("End", 2008), ("Home", 1720)]:
        year.press(key)
        model = LinearAR(9, intercept=True).fit(z).step(z[when - 1709 : when - 1700])
        said(windows, f"the model says {model:.1f} for {when}. It was {z[when - 1700]:.1f}")
    order.press("Home")
    assert order.get_attribute("aria-valuetext") == "1 year"
    model = LinearAR(1, intercept=True).fit(z).step(z[19:20])
    said(windows, f"From 1719 the model says {model:.1f} for 1720.")
    assert windows.locator(".views circle.past").count() == 1
    box = order.bounding_box()  # a click at the right end: the largest window
    windows.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert windows.locator(".views circle.past").count() == 12


# Chapter 1: the roots in the plane


@pytest.fixture
def roots(page, folder):
    page.goto(page_of("roots", folder))
    return page


@pytest.mark.parametrize(("r", "degrees"), [(0.93, 33), (1, 60), (1.1, 170), (0.5, 0)])
def test_the_weights_of_the_page_have_the_chosen_roots_and_their_impulse_response(
    roots, r, degrees
):
    theta = np.radians(degrees)
    weights = roots.evaluate("([r, t]) => arbookTouch.roots.weights(r, t)", [r, theta])
    # a double root is known to half of the digits
    pair = sorted(characteristic_roots(weights), key=lambda root: root.imag)
    assert np.allclose(pair, [r * np.exp(-1j * theta), r * np.exp(1j * theta)], atol=1e-7)
    answer = roots.evaluate("([r, t]) => arbookTouch.roots.impulse(r, t)", [r, theta])
    assert np.allclose(answer, impulse_response(weights, len(answer)), rtol=1e-9, atol=1e-9)


def test_the_series_is_the_sum_of_the_waves_that_all_pushes_start(roots):
    pushes = roots.evaluate("arbookTouch.roots.gaussian(5000, 3)")
    assert abs(np.mean(pushes)) < 0.05 and abs(np.std(pushes) - 1) < 0.05
    assert abs(np.corrcoef(pushes[1:], pushes[:-1])[0, 1]) < 0.05
    series = roots.evaluate("z => arbookTouch.roots.run([-0.81, 1.5], z)", pushes[:200])
    waves = np.convolve(pushes[:200], impulse_response([-0.81, 1.5], 200))[:200]
    assert np.allclose(series, waves, atol=1e-9)


def test_the_page_says_whether_a_pair_of_roots_settles_or_explodes(roots):
    size, angle = (roots.get_by_role("slider", name=name) for name in ("size r", "angle θ"))
    half = np.log(0.5) / np.log(0.93)
    said(roots, f"It settles: a wave of period 10.9; its height falls to half in {half:.1f} steps.")
    for _ in range(7):
        size.press("ArrowRight")
    said(roots, "On the border: a wave of period 10.9, which never ends.")
    angle.press("Home")
    said(roots, "with a double root (no wave): it runs away")
    size.press("End")
    said(roots, "It explodes: no wave.")
    angle.press("End")
    said(roots, "It explodes: the sign changes in every step.")
    size.press("Home")
    said(roots, "the series is its noise")


def test_other_noise_changes_the_series_and_not_the_wave(roots):
    curves = roots.locator(".panel path.now, .panel path.past")
    shapes = curves.evaluate_all("all => all.map(path => path.getAttribute('d'))")
    roots.get_by_role("button", name="other noise").click()
    other = curves.evaluate_all("all => all.map(path => path.getAttribute('d'))")
    assert [a == b for a, b in zip(shapes, other, strict=True)] == [True, True, True, False]


# Chapter 5: the writer


@pytest.fixture
def ngrams(page, folder):
    page.goto(page_of("ngrams", folder))
    return page


TEXTS = {
    "toy": "banana bandana",
    "one": "a",
    "signs": "Ägypten → 𝒳, “𝒳”\nÄgypten & <b> 𝒳 → 𝒳, again and again & again",
    "alice": None,  # the text of the page
}


def text_of(page, name: str) -> str:
    return TEXTS[name] or page.evaluate("arbookTouch.ngrams.TEXT")


@pytest.mark.parametrize("order", [1, 2, 4, 7])
@pytest.mark.parametrize("name", TEXTS)
def test_the_page_counts_as_the_library_does(ngrams, name, order):
    text = text_of(ngrams, name)
    chars = CharTokenizer.train(text)
    V = chars.vocab_size
    by_library, names = [], [""]  # names: the n-grams of one order, by rank
    for level in count_ngrams(chars.encode(text), order, vocab_size=V):
        names = [names[key // V] + chars.decode([key % V]) for key in level.keys.tolist()]
        counts = zip(names, level.continuations.tolist(), strict=True)
        by_library.append({gram: count for gram, count in counts if count})
    by_page = ngrams.evaluate(
        """([text, order]) => arbookTouch.ngrams.count(text, order).map(table => Object.fromEntries(
            [...table].flatMap(([h, row]) => [...row].map(([w, c]) => [h + w, c]))))""",
        [text, order],
    )
    assert by_page == by_library


@pytest.mark.parametrize("order", [1, 2, 4, 7])
@pytest.mark.parametrize("name", TEXTS)
def test_the_page_predicts_as_the_library_does(ngrams, name, order):
    text = text_of(ngrams, name)
    chars = CharTokenizer.train(text)
    model = NGramLM(order, vocab_size=chars.vocab_size, smoothing="kneser-ney")
    model.fit(chars.encode(text))
    new = (text[::3] + text[::-1])[:60]  # with contexts that the text does not have
    expected = np.exp(model.sentence_log_prob(chars.encode(new)))
    by_page = ngrams.evaluate(
        """([text, order, signs]) => {
            const { fit, probability } = arbookTouch.ngrams, model = fit(text, order);
            return signs.map((sign, i) => probability(model, signs.slice(0, i), sign));
        }""",
        [text, order, list(new)],
    )
    assert np.allclose(by_page, expected, rtol=1e-10)


def test_the_writer_draws_from_the_distribution_that_it_says(ngrams):
    """Of many first characters; and an order decides as often as it keeps of its counts."""
    drawn = ngrams.evaluate(
        """() => {
            const { fit, write } = arbookTouch.ngrams, model = fit("banana bandana", 2);
            return Array.from({ length: 20000 }, (_, seed) => write(model, 2, seed * 7919));
        }"""
    )
    p = ngrams.evaluate(
        """() => {
            const { fit, probability } = arbookTouch.ngrams, model = fit("banana bandana", 2);
            return [probability(model, [], "a"), probability(model, ["a"], "n"), model.discounts[1]];
        }"""
    )
    first = [two[0][0] for two in drawn]
    after_a = [two[1] for two in drawn if two[0][0] == "a"]
    assert abs(first.count("a") / len(first) - p[0]) < 4 * np.sqrt(0.25 / len(first))
    error = 4 * np.sqrt(0.25 / len(after_a))
    assert abs(np.mean([sign == "n" for sign, _ in after_a]) - p[1]) < error
    kept = 1 - 2 * p[2] / 5  # "a" is followed by "n" and by a blank, five times in all
    assert abs(np.mean([order == 2 for _, order in after_a]) - kept) < error


def test_the_writer_obeys_slider_text_and_button(ngrams):
    def written():
        return ngrams.get_by_role("img", name="What the model writes").get_attribute("aria-label")

    def orders():
        bars = ngrams.get_by_role("img", name="How many characters each order decided")
        said_of = bars.get_attribute("aria-label").split(": ", 1)[1].split(", ")
        return [int(part.split(": ")[1]) for part in said_of]

    order = ngrams.get_by_role("slider", name="order")
    assert len(orders()) == 5 and sum(orders()) == 200
    before = written()
    ngrams.get_by_role("button", name="write again").click()
    assert written() != before
    order.press("End")
    assert len(orders()) == 8 and sum(orders()) == 200
    box = order.bounding_box()  # a click at the left end: single characters
    ngrams.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert len(orders()) == 2 and sum(orders()) == 200
    ngrams.get_by_role("textbox", name="your text").fill("abcabcabc")
    order.press("ArrowRight")
    assert set(written().split(": ", 1)[1]) <= set("abc")
    ngrams.get_by_role("textbox", name="your text").fill("")  # then the page's own again
    assert "e" in written().split(": ", 1)[1]


def test_the_writer_tells_from_which_counts_a_character_came(ngrams):
    ngrams.get_by_role("textbox", name="your text").fill("banana bandana")
    ngrams.get_by_role("slider", name="order").fill("2")
    look = ngrams.get_by_role("slider", name="look at character")
    said(ngrams, "Character 20, ")
    look.press("Home")
    said(ngrams, "Character 1, ")
    text = ngrams.get_by_role("img", name="What the model writes").get_attribute("aria-label")
    text = text.split(": ", 1)[1]
    pairs = {h + w: "banana bandana".count(h + w) for h in "abdn " for w in "abdn "}
    pairs |= {"an": 4, "na": 3, "ba": 2}
    told = set()
    for i in range(2, 40):
        look.press("ArrowRight")
        said(ngrams, f"Character {i}, ")
        sentence = ngrams.locator(".say").inner_text()
        if "order 2 decided" in sentence:
            h, w = text[i - 2 : i]
            total = sum(pairs[h + v] for v in "abdn ")
            assert sentence.endswith(f"it has {pairs[h + w]} of {total} occurrences.")
            told.add(2)
        elif "order 1 decided" in sentence:
            left = {w: len({a for a in "abdn " if pairs[a + w]}) for w in "abdn "}
            left["b"] += 1  # the beginning is a neighbour too
            count = f"{left[text[i - 1]]} of {sum(left.values())}"
            assert sentence.endswith(f"it has {count} neighbours to the left.")
            told.add(1)
    assert told == {1, 2}


# Chapter 2: a text, cut with more and more merges


@pytest.fixture(scope="module")
def learned() -> BPETokenizer:
    return BPETokenizer.train(data.splits("shakespeare").train[:1_100_000], 256 + 1_000)


@pytest.fixture
def merges(page, folder):
    page.goto(page_of("merges", folder))
    return page


def test_the_merges_of_the_page_are_those_that_the_library_learns(merges, learned):
    found = merges.evaluate("arbookTouch.merges.merges")
    assert [tuple(pair) for pair in found] == list(learned.merges)


@pytest.mark.parametrize("n", [0, 1, 300, 1_000])
def test_the_page_cuts_any_text_as_the_library_does(merges, learned, n):
    tokenizer = BPETokenizer(learned.merges[:n])
    strange = [
        "naïve e\u0301 語🙂👩‍🚀",
        "  two\t\n blanks \u00a0 ",
        "don't I'LL '’s",
        "a\ufeffb\u0085c ",
        "x²³ 42 ½!?",
    ]
    plays = data.text("shakespeare")[2_000_000:2_020_000]
    texts = [*strange, "", " ", plays]
    found = merges.evaluate(
        "([all, n]) => all.map(t => arbookTouch.merges.encode(t, n))", [texts, n]
    )
    assert found == [tokenizer.encode(text) for text in texts]


def test_typing_and_dragging_cut_the_text_anew_and_count_its_tokens(merges, learned):
    def check(text: str, n: int) -> None:
        ids = BPETokenizer(learned.merges[:n]).encode(text)
        size = len(text.encode())
        said(merges, f"{size} bytes, {len(ids)} tokens: {size / len(ids):.2f} bytes per token.")
        shown = merges.get_by_role("option").all_text_contents()
        assert shown == [BPETokenizer(learned.merges).decode([i]) for i in ids]

    words, count = merges.get_by_label("a text"), merges.get_by_role("slider", name="merges")
    check("Nothing will come of nothing: speak again.", 700)
    count.press("Home")
    check("Nothing will come of nothing: speak again.", 0)
    box = count.bounding_box()
    merges.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    check("Nothing will come of nothing: speak again.", 1_000)
    count.press("ArrowLeft")
    words.fill("to be <b>or</b> not")
    check("to be <b>or</b> not", 999)
    words.fill("")
    said(merges, "No text, no tokens.")
    words.fill("语")
    said(merges, "3 bytes, 3 tokens: 1.00 bytes per token.")
    assert merges.get_by_role("option").all_text_contents() == ["⟨e8⟩", "⟨af⟩", "⟨ad⟩"]


def test_a_chosen_token_shows_of_what_it_was_merged(merges, learned):
    def drawn() -> list[str]:
        return merges.locator(".panel text").all_text_contents()

    def check(token: str) -> None:
        k = [left + right for left, right in learned.merges].index(token)
        left, right = (side.replace("Ġ", " ") for side in learned.merges[k])
        name = token.replace("Ġ", " ")
        said(
            merges,
            f"“{name}”, has the id {256 + k}, made by merge {k + 1} of “{left}” and “{right}”.",
        )
        made = {a + b: i + 1 for i, (a, b) in enumerate(learned.merges)}
        inner = [text for text in drawn() if text[-1].isdigit()]
        assert len(inner) == len(token) - 1  # every merge joins two
        for text in inner:
            word, number = re.fullmatch(r"(\D+)(\d+)", text).groups()
            assert made[word.replace("␣", "Ġ")] == int(number)

    check("Ġnothing")
    merges.locator('[aria-selected="true"]').press("ArrowLeft")
    check("Ġof")
    merges.get_by_role("option").nth(9).click()
    check("Ġagain")
    merges.locator('[aria-selected="true"]').press("Home")
    said(merges, "“N”, has the id 78, a single byte.")
    assert drawn() == ["N"]


# Chapter 3: a query and a key, and the clocks that turn them


@pytest.fixture
def clocks(page, folder):
    page.goto(page_of("clocks", folder))
    return page


def placed(vector: list[float], t: int, base: float) -> dict[str, torch.Tensor]:
    """A vector at position t, by the library: turned there; and with sines and cosines added, again of length 1."""
    v = torch.tensor([vector], dtype=torch.float64)
    tables = rotary_cos_sin([t], 8, base=base, dtype=torch.float64)
    sum_ = v + sinusoidal_positions([t], 8, base=base, dtype=torch.float64) / 2
    return {"turn": rotate(v, *tables)[0], "add": (sum_ / sum_.norm())[0]}


@pytest.mark.parametrize("t", [0, 1, 36, 160])
def test_the_page_puts_positions_into_vectors_as_the_library_does(clocks, t):
    base = clocks.evaluate("arbookTouch.clocks.base")
    for vector in [
        v for pair in clocks.evaluate("arbookTouch.clocks.pairs").values() for v in pair
    ]:
        assert np.isclose(np.linalg.norm(vector), 1)
        for way, expected in placed(vector, t, base).items():
            found = clocks.evaluate(f"([v, t]) => arbookTouch.clocks.{way}(v, t)", [vector, t])
            assert np.allclose(found, expected, atol=1e-12)


def test_the_query_that_looks_three_back_finds_the_key_three_places_before_it(clocks):
    pairs = clocks.evaluate("arbookTouch.clocks.pairs")
    base, (q, k) = (
        clocks.evaluate("arbookTouch.clocks.base"),
        pairs["a query that looks three back"],
    )
    query = placed(q, 40, base)["turn"]
    products = [(query @ placed(k, n, base)["turn"]).item() for n in range(10, 71)]
    assert np.argmax(products) + 10 == 37 and np.isclose(max(products), 1)


def test_clocks_and_products_follow_both_positions_and_a_common_shift_changes_no_product(clocks):
    base, pairs = (clocks.evaluate(f"arbookTouch.clocks.{name}") for name in ("base", "pairs"))
    names = ("query at m", "key at n", "both further by")
    query, key, both = (clocks.get_by_role("slider", name=name) for name in names)

    def check(m: int, n: int, which: str) -> dict[str, float]:
        q, k = ({t: placed(v, t, base) for t in (m, n)} for v in pairs[which])
        product = {way: (q[m][way] @ k[n][way]).item() for way in ("turn", "add")}
        by_page = {way: f"{value:.2f}".replace("-", "−") for way, value in product.items()}
        said(clocks, f"The query stands at {m}, the key at {n}, ")
        said(clocks, f"turned vectors is {by_page['turn']}, with positions added {by_page['add']}.")
        hands = clocks.locator(".hand").evaluate_all(
            "all => all.map(p => p.getAttribute('d').slice(1).split(/[ L]/).map(Number))"
        )
        drawn = np.array([np.arctan2(y0 - y1, x1 - x0) for x0, y0, x1, y1 in hands]).reshape(3, 4)
        starts = [np.arctan2(v[4:], v[:4]) for v in np.array(pairs[which])]
        turned = [
            a + rotary_angles([t], 8, base=base)[0].numpy()
            for a, t in zip(starts, (m, n), strict=True)
        ]
        expected = np.stack([*turned, turned[1] - turned[0]])
        assert np.abs(np.exp(1j * drawn) - np.exp(1j * expected)).max() < 0.01  # of a pixel
        dots = clocks.locator(".panel circle.fill").evaluate_all(
            "all => all.map(c => +c.getAttribute('cy'))"
        )
        ticks = clocks.locator(".panel text").evaluate_all(
            "all => all.map(t => [t.textContent, +t.getAttribute('y') - 4])"
        )
        height = dict(ticks)
        for way, dot in zip(("add", "turn"), dots, strict=True):
            middle, unit = height["0.5"], 2 * (height["0"] - height["0.5"])
            assert (middle - dot) / unit + 0.5 == pytest.approx(product[way], abs=0.01)
        return product

    def curves() -> list[str]:  # with positions added, and turned
        return clocks.locator(".curve").evaluate_all("all => all.map(p => p.getAttribute('d'))")

    first, which = check(36, 30, "query and key alike"), "query and key alike"
    added, turned = curves()
    for _ in range(3):
        both.press("ArrowRight")
    shifted = check(39, 33, which)
    box = both.bounding_box()  # a click at the right end
    clocks.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    far = check(136, 130, which)
    assert np.isclose(first["turn"], [shifted["turn"], far["turn"]], atol=1e-12).all()
    assert abs(first["add"] - far["add"]) > 0.01
    assert curves()[1] == turned and curves()[0] != added
    key.press("ArrowRight")
    assert not np.isclose(check(136, 131, which)["turn"], first["turn"], atol=0.01)
    query.press("Home")
    check(130, 131, which)
    said(clocks, "1 place after the query")
    both.press("Home")
    query.press("ArrowRight")
    clocks.get_by_label("vectors").select_option("two random vectors")
    check(31, 31, "two random vectors")
    said(clocks, "where the query is")


# Chapter 4: six logits and two gradients


@pytest.fixture
def logits(page, folder):
    page.goto(page_of("logits", folder))
    return page


def by_library(z: list[float], k: int) -> dict:
    """The probabilities, the two losses and their gradients, by automatic differentiation."""
    row, target = torch.tensor(z, dtype=torch.float64, requires_grad=True), torch.tensor([k])
    losses = {
        "log": autoregressive_loss(row[None], target),
        "squared": squared_loss(row[None], target),
    }
    slopes = {name: torch.autograd.grad(loss, row)[0] for name, loss in losses.items()}
    assert torch.allclose(slopes["log"], cross_entropy_gradient(row, target[0]))
    return {
        "p": row.softmax(-1).tolist(),
        "losses": {name: loss.item() for name, loss in losses.items()},
        "slopes": {name: slope.tolist() for name, slope in slopes.items()},
    }


@pytest.mark.parametrize(
    ("z", "k"), [([0.2, -0.6, 0.3, 1.2, 0, 0.6], 2), ([0] * 6, 5), ([8, -8, 3, 0, -1, 2], 1)]
)
def test_losses_and_gradients_of_the_page_are_those_of_the_library(logits, z, k):
    found = logits.evaluate(
        """([z, k]) => { const { softmax, losses, gradients } = arbookTouch.logits;
            return [softmax(z), losses(z, k), gradients(z, k)] }""",
        [z, k],
    )
    expected = by_library(z, k)
    assert np.allclose(found[0], expected["p"], rtol=1e-12)
    for name in ("log", "squared"):
        assert np.isclose(found[1][name], expected["losses"][name], rtol=1e-12)
        assert np.allclose(found[2][name], expected["slopes"][name], rtol=1e-9, atol=1e-12)


def test_logits_can_be_turned_and_stepped_by_key_and_mouse(logits):
    words = logits.evaluate("arbookTouch.logits.words")
    sliders = [logits.get_by_role("slider", name=f"logit of “{word}”") for word in words]

    def state() -> list[float]:
        return [float(slider.input_value()) for slider in sliders]

    def check(k: int) -> dict:
        now = by_library(state(), k)
        said(
            logits,
            f"“{words[k]}” had probability {now['p'][k]:.2f}. Log loss {now['losses']['log']:.2f} nats; "
            f"a step raises its logit by {-now['slopes']['log'][k]:.2f}.",
        )
        return now

    now = check(2)
    start = state()
    logits.get_by_role("button", name="a step for the log loss").click()
    assert np.allclose(np.subtract(start, state()), now["slopes"]["log"], atol=0.0051)  # of 0.01
    now, before = check(2), state()
    logits.get_by_role("button", name="a step for the squared loss").press("Enter")
    assert np.allclose(np.subtract(before, state()), now["slopes"]["squared"], atol=0.0051)
    sliders[2].press("Home")
    assert state()[2] == -8 and check(2)["losses"]["log"] > 8
    logits.get_by_label("what came").select_option("machine")
    check(3)
    box = sliders[0].bounding_box()
    logits.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert state()[0] > 7.5 and check(3)["p"][0] > 0.9
    assert logits.locator(".panel rect.now").count() == 1
    logits.get_by_role("button", name="from the beginning").click()
    assert state() == start


# Chapter 6: what is left in a memory behind gates


@pytest.fixture
def gates(page, folder):
    page.goto(page_of("gates", folder))
    return page


def kept(bias: float, open_at: list[float]) -> list[float]:
    """The memory of the library's cell, whose unit t is fed by word t alone, after all words."""
    n, wide = len(open_at), 50.0  # gates and candidates that far from 0 are fully open, or shut
    shut = torch.where(torch.tensor(open_at) > 0, wide, -wide)
    biases = torch.cat([shut, torch.full((n,), bias), torch.zeros(n), torch.full((n,), wide)])
    from_words = torch.cat([torch.zeros(2 * n, n), wide * torch.eye(n), torch.zeros(n, n)])
    weights = CellWeights(from_words, torch.zeros(4 * n, n), biases, torch.zeros(4 * n))
    _, (_, memory) = unroll(lstm_cell, torch.eye(n)[None], (torch.zeros(1, n),) * 2, weights)
    return memory[0].tolist()


@pytest.mark.parametrize("bias", [-1.5, 0.0, 3.0])
@pytest.mark.parametrize("open_at", [[1.0] * 6, [0.0, 1.0, 0.0, 0.0, 0.0]])
def test_the_page_keeps_of_each_word_what_the_cell_of_the_library_keeps(gates, bias, open_at):
    found = gates.evaluate(
        "([o, b]) => arbookTouch.gates.shares(o, arbookTouch.gates.sigma(b))", [open_at, bias]
    )
    assert np.allclose(found, kept(bias, open_at), atol=1e-6)


def test_a_word_is_let_in_and_kept_by_key_and_mouse(gates):
    words = "the keys that he lost in the snow were".split()
    everything = kept(0.0, [1.0] * len(words))
    said(gates, f"holds {everything[1]:.3f} of “keys” and {sum(everything) - everything[1]:.3f} of")
    gates.get_by_label("let in the chosen word only").check()
    said(gates, f"holds {everything[1]:.3f} of “keys” and 0.000 of")
    bias = gates.get_by_role("slider", name="bias of the forget gate")
    bias.fill("3")
    assert bias.get_attribute("aria-valuetext") == "3.0, keeps 0.95"
    said(gates, f"holds {kept(3.0, [1.0] * len(words))[1]:.3f} of “keys”")
    gates.get_by_role("option", name="keys").press("End")
    said(gates, "holds 1.000 of “were”")
    gates.get_by_role("option", name="lost").click()
    said(gates, f"holds {kept(3.0, [1.0] * len(words))[4]:.3f} of “lost”")
    gates.get_by_role("textbox", name="sentence").fill("")
    said(gates, "Type some words.")


# Chapter 12: a mixture of bell curves


@pytest.fixture
def mixture(page, folder):
    page.goto(page_of("mixture", folder))
    return page


def as_numbers(parts: list[dict]) -> torch.Tensor:
    """The parameters of a mixture as the library takes them: logits of weights, means, log-scales."""
    columns = [[part[name] for part in parts] for name in ("weight", "mean", "scale")]
    weights, means, scales = (torch.tensor(column, dtype=torch.float64) for column in columns)
    return torch.cat([weights.log(), means, scales.log()])


MIXTURES = [
    [{"weight": 1, "mean": 0.3, "scale": 0.9}],
    [{"weight": 0.5, "mean": -0.5, "scale": 0.8}, {"weight": 0.5, "mean": 0.5, "scale": 0.8}],
    [
        {"weight": 0.2, "mean": -2, "scale": 0.05},
        {"weight": 1, "mean": 0, "scale": 2},
        {"weight": 0.01, "mean": 2.5, "scale": 0.3},
    ],
]


@pytest.mark.parametrize("parts", MIXTURES, ids=len)
def test_density_and_likelihood_of_the_page_are_those_of_the_library(mixture, parts):
    head, numbers = GaussianMixture(len(parts)), as_numbers(parts)
    grid = [-40.0, -3.0, -0.7, 0.0, 1.1, 40.0]
    found, fit, values = mixture.evaluate(
        """([parts, grid]) => { const { logDensity, fit, data } = arbookTouch.mixture;
            return [grid.map((x) => logDensity(x, parts)), fit(data, parts), data] }""",
        [parts, grid],
    )
    grid, values = (torch.tensor(row, dtype=torch.float64) for row in (grid, values))
    assert np.allclose(found, head.log_prob(numbers, grid), rtol=1e-12)
    assert np.isclose(fit, head.log_prob(numbers, values).mean(), rtol=1e-12)


@pytest.mark.parametrize("parts", MIXTURES, ids=len)
def test_samples_of_the_page_follow_the_law_of_the_library(mixture, parts):
    drawn = mixture.evaluate("parts => arbookTouch.mixture.samples(5000, parts, 3)", parts)
    head, numbers = GaussianMixture(len(parts)), as_numbers(parts)
    drawn = torch.tensor(drawn, dtype=torch.float64).sort().values
    steps = torch.arange(1, 5001) / 5000
    assert (head.cdf(numbers, drawn) - steps).abs().max() < 1.95 / 5000**0.5  # one in a thousand


def test_bells_can_be_turned_and_chosen_by_key_and_mouse(mixture):
    values = torch.tensor(mixture.evaluate("arbookTouch.mixture.data"), dtype=torch.float64)

    def slider(name: str):
        return mixture.get_by_role("slider", name=name)

    def check(count: int) -> float:
        names = ("weight", "mean", "scale")
        parts = [
            {name: float(slider(f"{name} {k}").input_value()) for name in names}
            for k in range(1, count + 1)
        ]
        nats = GaussianMixture(count).log_prob(as_numbers(parts), values).mean().item()
        said(mixture, f"of the data: {nats:.2f} nats per value".replace("-", "−"))
        assert mixture.get_by_role("slider").count() == 3 * count
        return nats

    first = check(2)
    slider("mean 1").press("Home")
    assert slider("mean 1").get_attribute("aria-valuetext") == "−2.50"
    check(2)
    mixture.get_by_role("button", name="what made the data").click()
    best = check(2)
    assert best > first
    mixture.get_by_role("button", name="the best single bell").press("Enter")
    single = check(1)
    moments = torch.stack([values.mean(), values.std(correction=0).log()])
    assert single == pytest.approx(Gaussian().log_prob(moments, values).mean().item(), abs=0.01)
    assert single < best
    mixture.get_by_label("bells", exact=True).select_option("3")
    check(3)
    box = slider("scale 3").bounding_box()
    mixture.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert float(slider("scale 3").input_value()) < 0.1
    check(3)


# Chapter 13: the error of a roll-out


@pytest.fixture
def rollout(page, folder):
    page.goto(page_of("rollout", folder))
    return page


@pytest.mark.parametrize(("phi", "delta"), [(0.9, 0.05), (0.0, -0.2), (1.05, 0.2), (0.99, -0.01)])
def test_the_error_of_a_roll_out_is_that_of_the_library(rollout, phi, delta):
    found, worst = rollout.evaluate(
        """([phi, delta]) => { const { errors, worst } = arbookTouch.rollout;
            return [errors(phi, delta, 60), worst(errors(phi, delta, 60))] }""",
        [phi, delta],
    )
    expected = np.r_[0, rollout_error([1.0], [phi], [phi + delta], 60)]
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert worst == expected.argmax()


def test_a_weight_its_error_and_the_horizon_can_be_moved(rollout):
    def check(phi: float, delta: float, h: int) -> None:
        error = rollout_error([1.0], [phi], [phi + delta], h)
        said(rollout, f"after 1 step {error[0]:.3f}, after {h} step{'s'[: h > 1]} {error[-1]:.3f}.")
        where = error.argmax() + 1
        grows = where == h
        said(rollout, "up to the horizon" if grows else f"Largest after {where}: {error.max():.3f}")

    check(0.9, 0.05, 30)
    weight, off, horizon = (
        rollout.get_by_role("slider", name=name) for name in ("weight φ", "error δ", "horizon h")
    )
    off.press("ArrowLeft")
    assert off.get_attribute("aria-valuetext") == "0.04"
    check(0.9, 0.04, 30)
    horizon.press("Home")
    assert horizon.get_attribute("aria-valuetext") == "1 step"
    check(0.9, 0.04, 1)
    horizon.press("End")
    check(0.9, 0.04, 60)
    rollout.get_by_role("button", name="a weight near 1").press("Enter")
    assert (weight.input_value(), off.input_value()) == ("0.99", "0.01")
    check(0.99, 0.01, 60)
    box = off.bounding_box()
    rollout.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    off.fill("0")
    said(rollout, "No error, at no step.")


# Chapter 14: a series as a prompt of examples


@pytest.fixture
def examples(page, folder):
    page.goto(page_of("examples", folder))
    return page


def test_least_squares_of_the_page_is_that_of_the_library(examples):
    found = examples.evaluate("""() => { const { series, leastSquares, forecast } = arbookTouch.examples;
        return series.map(({ z }) => z.slice(2).map((_, k) => forecast(z, leastSquares(z, k), k))) }""")
    z = np.array(examples.evaluate("arbookTouch.examples.series.map(({ z }) => z)"))
    assert z.shape == (8, 18)
    assert np.allclose(found, least_squares_in_context(z, 2), atol=1e-7)


def test_the_posterior_mean_of_the_page_weights_coefficients_by_their_likelihood(examples):
    z, found = examples.evaluate("""() => { const { series, posteriorMean } = arbookTouch.examples;
        return [series[2].z, [0, 3, 15].map((k) => posteriorMean(series[2].z, k))] }""")
    older, newer = np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-2, 2, 120), indexing="ij")
    grid = np.stack([older, newer], -1)[older < 1 - abs(newer)] * [0.81, 0.9]
    for k, mean in zip((0, 3, 15), found, strict=True):
        # The covariance of the first values is the fixed point of the recursion on pairs of neighbours.
        logs = []
        for a, b in grid:
            step = np.array([[0, 1], [a, b]])
            noise = np.array([0, 0, 0, 1.0])
            covariance = np.linalg.solve(np.eye(4) - np.kron(step, step), noise).reshape(2, 2)
            start = z[:2] @ np.linalg.solve(covariance, z[:2]) + np.log(np.linalg.det(covariance))
            missed = [z[t + 2] - a * z[t] - b * z[t + 1] for t in range(k)]
            logs.append(-0.5 * (start + np.square(missed).sum()))
        weights = np.exp(np.array(logs) - max(logs))
        assert np.allclose(mean, weights @ grid / weights.sum(), atol=1e-8)


def test_the_forecasts_of_the_network_are_those_of_the_recorded_one(examples):
    series = examples.evaluate("arbookTouch.examples.series")
    record = data.record("runs/conditioning.json")["examples"]
    encoder = CausalTransformer(**record["config"])
    model = ValueModel(encoder, torch.nn.Linear(encoder.width, 1), Gaussian(scale=1.0))
    file = data.recorded_file("runs/conditioning_examples.safetensors")
    model.load_state_dict(read_weights(file)[0])
    z = torch.tensor([one["z"] for one in series], dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(z)[:, 1:-1, 0].numpy()
    assert np.allclose([one["network"] for one in series], expected, atol=0.0011)


def test_examples_are_given_by_key_and_mouse(examples):
    series = examples.evaluate("arbookTouch.examples.series")
    count = examples.get_by_role("slider", name="examples")
    which = examples.get_by_role("slider", name="series")

    def check() -> None:
        k, one = int(count.input_value()), series[int(which.input_value()) - 1]
        exact = least_squares_in_context([one["z"]], 2)[0, k]
        words = f"From {k} examples: least squares (cross) forecasts {exact:.2f},".replace("-", "−")
        said(examples, words)
        came = f"{one['network'][k]:.2f}. The true".replace("-", "−")
        assert came in examples.locator(".say").text_content()

    check()
    count.press("End")
    check()
    which.press("ArrowRight")
    check()
    box = count.bounding_box()
    examples.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert int(count.input_value()) < 3
    check()


# Chapter 15: masks


@pytest.fixture
def masks(page, folder):
    page.goto(page_of("masks", folder))
    return page


def mask_of(kind: str, size: int, border: int) -> torch.Tensor:
    if kind == "documents":
        return attention_mask("causal", 10, documents=(torch.arange(10) >= border).long())
    return attention_mask(kind, 10, None if kind in ("causal", "full") else size)


def test_masks_of_the_page_are_those_of_the_library(masks):
    kinds = masks.get_by_label("mask", exact=True).locator("option").all_text_contents()
    assert len(kinds) == 6
    border = masks.evaluate("arbookTouch.masks.border")
    for kind in kinds:
        for size in (1, 2, 3, 7, 10):
            found = masks.evaluate(
                """([kind, size]) => { const { mask, reached } = arbookTouch.masks, seen = mask(kind, size);
                    return [1, 2, 4].map((layers) => reached(seen, layers)) }""",
                [kind, size],
            )
            seen = mask_of(kind, size, border)
            for layers, far in zip((1, 2, 4), found, strict=True):
                wanted = torch.matrix_power(seen.double(), layers) > 0
                assert torch.equal(torch.tensor(far), wanted), (kind, size, layers)


def test_words_are_walked_and_masks_chosen_by_key_and_mouse(masks):
    border = masks.evaluate("arbookTouch.masks.border")

    def check(kind: str, size: int, word: int, layers: int) -> None:
        seen = mask_of(kind, size, border)
        far = torch.matrix_power(seen.double(), layers) > 0
        said(masks, f", word {word + 1}, sees {int(seen[word].sum())} of 10 words.")
        if layers > 1:
            said(masks, f"Over {layers} layers it hears from {int(far[word].sum())}.")
        assert masks.locator(".row path.past").count() == int(seen[word].sum()) - 1
        assert masks.locator(".panel circle.past").count() == int(seen.sum())

    check("sliding", 3, 5, 1)
    masks.get_by_role("option", name="mat").focus()
    masks.keyboard.press("End")
    check("sliding", 3, 9, 1)
    masks.get_by_role("slider", name="layers").press("ArrowRight")
    check("sliding", 3, 9, 2)
    masks.get_by_role("slider", name="size", exact=True).press("ArrowLeft")
    check("sliding", 2, 9, 2)
    masks.get_by_label("mask", exact=True).select_option("documents")
    check("documents", 2, 9, 2)
    assert not masks.get_by_role("slider", name="size", exact=True).is_visible()
    masks.get_by_label("mask", exact=True).select_option("full")
    masks.get_by_role("option", name="cat").click()
    check("full", 2, 1, 2)
    said(masks, "Some of them come later.")


# Chapter 11: a text as an interval


@pytest.fixture
def coder(page, folder):
    page.goto(page_of("coder", folder))
    page.wait_for_function("() => document.querySelector('.views svg')")
    return page


WEIGHTS = "rows => rows.map(row => arbookTouch.coder.weights(row))"


def test_the_page_makes_the_integers_of_the_library(coder):
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(0, s, (20, 65)) for s in (0.1, 3, 40)])
    logits[0, 3], logits[1] = -1e9, 0
    assert coder.evaluate(WEIGHTS, logits.tolist()) == as_weights(torch.tensor(logits)).tolist()


FILE = """([rows, symbols]) => {
    const { narrow, bytes } = arbookTouch.coder;
    return bytes(narrow(rows, symbols).at(-1));
}"""
AGAIN = "([rows, payload]) => arbookTouch.coder.decode(payload, rows.length, (read) => rows[read.length])"


@pytest.mark.parametrize("n", [0, 1, 2, 7, 60, 400])
def test_the_page_writes_the_bytes_of_the_library_and_reads_them_back(coder, n):
    """Weights of any size, and symbols that are likely, or the likeliest, or the last ones: the carries too."""
    rng = np.random.default_rng(n)
    weights = as_weights(torch.tensor(rng.normal(0, 4, (n, 11))))
    for symbols in (
        rng.integers(11, size=n),
        weights.argmax(-1) if n else np.zeros(0, np.int64),
        np.full(n, 10),
    ):
        ends, at = weights.cumsum(-1), np.arange(n)
        sizes = weights[at, symbols]
        encoder = ArithmeticEncoder()
        encoder.encode((ends[at, symbols] - sizes).tolist(), sizes.tolist(), ends[:, -1].tolist())
        payload = list(encoder.finish())
        assert coder.evaluate(FILE, [weights.tolist(), symbols.tolist()]) == payload
        assert coder.evaluate(AGAIN, [weights.tolist(), payload]) == symbols.tolist()


def test_bits_that_are_certain_stay_as_the_text_goes_on(coder):
    """The numbers of an interval share their first digits; each interval lies in the one before."""
    found = coder.evaluate("""async () => {
        const { narrow, settled, bytes } = arbookTouch.coder;
        const rows = Array.from({ length: 60 }, (_, t) => [5 + t % 3, 1, 2, 90]);
        const spaces = narrow(rows, rows.map((_, t) => [3, 0, 3, 2][t % 4]));
        const all = bytes(spaces.at(-1)).map((byte) => byte.toString(2).padStart(8, "0")).join("");
        return [all, ...spaces.map(settled)];
    }""")
    assert found[1] == "" and len(found[-1]) > 80
    for before, after in zip(found[1:], found[2:], strict=False):
        assert after.startswith(before)
    assert found[0].ljust(len(found[-1]), "0").startswith(found[-1])


def test_the_counted_models_of_the_page_are_those_of_the_library(coder):
    words = coder.evaluate("async () => (await arbookLive.load('shakespeare')).words")
    chars, text = CharTokenizer.train("".join(words)), coder.evaluate("arbookPlays.TEXT")
    assert list(chars.vocab.tokens) == words
    for order in (1, 4):
        model = NGramLM(order, vocab_size=len(words), smoothing="kneser-ney")
        model.fit(chars.encode(text))
        ids = chars.encode("\nQuartz & $3 of zeal, my lord?")
        expected = model(torch.tensor([ids]))[0].exp()
        laws = coder.evaluate(
            """([order, ids, words]) => {
                const law = arbookPlays.counted(order, words);
                return ids.map((_, t) => law(ids.slice(0, t + 1)));
            }""",
            [order, ids, words],
        )
        assert np.allclose(laws, expected.numpy(), rtol=1e-9)
        assert np.allclose(np.sum(laws, axis=1), 1)


def test_the_text_of_the_page_is_the_start_of_the_corpus(coder):
    try:
        corpus = data.splits("tinyshakespeare").train
    except data.DataNotFoundError as error:
        pytest.skip(str(error))
    assert coder.evaluate("arbookPlays.TEXT") == corpus[:64_000]


def test_a_text_is_written_and_read_back_under_each_model_by_key_and_mouse(coder):
    said(coder, "all characters come back")
    model = coder.get_by_role("slider", name="model")
    sizes = []
    for key in ("Home", "ArrowRight", "ArrowRight"):
        model.press(key)
        spoken = model.get_attribute("aria-valuetext")
        coder.wait_for_function(
            "() => document.querySelector('.say').textContent.includes('bits in all')"
        )
        file = coder.get_by_role("img", name=re.compile("^The file")).get_attribute("aria-label")
        sizes.append((spoken, len(file.removeprefix("The file: "))))
    assert [name for name, _ in sizes] == ["single letters", "4-grams", "GPT"]
    assert [size for _, size in sizes] == [14 * 8, 7 * 8, 5 * 8]
    back = coder.get_by_role("img", name="Read back from the file")
    coder.get_by_role("checkbox", name="flip one bit").check()
    said(coder, "come back wrong")
    assert back.get_attribute("aria-label") != "Read back from the file: Good morrow, good sir."
    coder.get_by_role("checkbox", name="flip one bit").uncheck()
    said(coder, "all characters come back")
    coder.get_by_role("option").nth(3).click()
    coder.keyboard.press("ArrowLeft")
    said(coder, "“o” has")
    coder.get_by_role("textbox", name="a text").fill("To be, ß or not")
    said(coder, "all characters come back")
    assert back.get_attribute("aria-label") == "Read back from the file: To be,  or not"
    coder.get_by_role("textbox", name="a text").fill("")
    said(coder, "a file of 0 bytes")


# Chapter 10: a text coloured by surprise


@pytest.fixture
def surprise(page, folder):
    page.goto(page_of("surprise", folder))
    said(page, "Perplexity of the text")
    return page


@pytest.mark.parametrize(("T", "s"), [(16, 16), (16, 8), (16, 1), (5, 3), (4, 2), (8, 0)])
def test_the_windows_of_the_page_show_what_the_policy_says(surprise, T, s):
    """As `context_sizes` counts, and each context ends before the token that it predicts."""
    ids = list(range(1, 41))
    found = surprise.evaluate(
        "([ids, T, s]) => arbookTouch.surprise.contexts(0, ids, T, s)", [ids, T, s]
    )
    sizes = context_sizes(len(ids), Policy(T, s) if s else Policy())
    whole = [0, *ids]
    assert found == [whole[t + 1 - c : t + 1] for t, c in enumerate(sizes.tolist())]


def test_losses_and_perplexities_of_the_page_are_those_of_score(surprise):
    """With all the text before and in windows, under the GPT, the n-grams, and both: to what 16-bit weights leave."""
    gpt, chars = recorded_model("train_cpu_seed0")
    text = surprise.evaluate("arbookTouch.surprise.TEXT")
    ids, start = chars.encode(text), chars.encode("\n")[0]
    ngram = NGramLM(4, vocab_size=chars.vocab_size, smoothing="kneser-ney")
    ngram.fit(chars.encode(surprise.evaluate("arbookPlays.TEXT")))
    slider = surprise.get_by_role("slider", name="each character sees")
    shown = surprise.get_by_role("img", name=re.compile("^Perplexity"))
    for key, policy in (("End", Policy(start_id=start)), ("Home", Policy(16, 16, start_id=start))):
        slider.press(key)
        kind = "windows" if policy.context_length else "all the text"
        assert slider.get_attribute("aria-valuetext").startswith(kind)
        surprise.wait_for_function(
            "() => !document.querySelector('.views').innerHTML.includes('not known')"
        )
        whole = policy if policy.context_length else Policy(128, start_id=start)
        nats = [
            np.concatenate(list(token_losses(model, ids, which)))
            for model, which in ((ngram, policy), (gpt, whole))
        ]
        nats.append(-np.log((np.exp(-nats[0]) + np.exp(-nats[1])) / 2))
        found = [float(x) for x in re.findall(r"\d+\.\d+", shown.get_attribute("aria-label"))]
        assert np.allclose(found, [np.exp(x.mean()) for x in nats], atol=0.02)
        hints = surprise.get_by_role("option").evaluate_all(
            "all => all.map(e => parseFloat(e.title))"
        )
        assert np.allclose(hints, nats[1], atol=0.02)


def test_surprise_follows_text_model_and_character_by_key_and_mouse(surprise):
    said(surprise, "“P” costs")
    model = surprise.get_by_role("slider", name="colours of")
    model.press("Home")
    said(surprise, "nats under 4-grams")
    model.press("End")
    said(surprise, "nats under both, half and half")
    surprise.get_by_role("option").nth(4).click()
    said(surprise, "“U” costs")
    surprise.keyboard.press("ArrowRight")
    said(surprise, "“C” costs")
    box = surprise.get_by_role("textbox", name="a text")
    box.fill("My lord, my lord!")
    said(surprise, "Perplexity of the text")
    assert surprise.get_by_role("option").count() == 17
    shades = surprise.get_by_role("option").evaluate_all("all => all.map(e => e.className)")
    assert len(set(shades)) > 2
    box.fill("")
    said(surprise, "Nothing to score.")
