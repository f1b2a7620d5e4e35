"""A model in a page: what `export` writes, and what a browser computes with it."""

import copy
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from arbook.checkpoints import recorded_model
from arbook.live import export
from arbook.rules import Chain, History, MinP, RepetitionPenalty, Temperature, TopK, TopP, pick
from arbook.tokens import BPETokenizer, CharTokenizer
from arbook.transformer import GPT, GPTConfig, attention_maps
from stills import page_of
from torch.nn import functional as F

SIGNS = "abcdefghijklmnopqrstuvwxyz \n"
LAYOUTS = {
    "GPT-2": {},
    "modern": dict(
        positions="rotary", norm="rmsnorm", activation="swiglu", qk_norm=True, bias=False
    ),
    "untied": dict(positions="none", activation="relu2", tied=False, bias=False),
    "shared keys": dict(n_kv_head=2, positions="rotary", n_hidden=20, tied=False, rotary_base=50.0),
}


def small(context_length: int = 12, **layout) -> GPT:
    """A model with weights that are large enough to make all probabilities different."""
    config = GPTConfig(len(SIGNS), context_length, 16, 2, 4, **layout)
    model = GPT(config, generator=torch.Generator().manual_seed(0)).eval()
    numbers = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=numbers)
    return model


def tokenizer() -> CharTokenizer:
    return CharTokenizer.train(SIGNS)


def rounded(model: GPT) -> GPT:
    """The same model with weights of 16 bits."""
    return copy.deepcopy(model).half().float()


def record(path: Path) -> dict:
    text = path.read_text("utf8")
    return json.loads(text.removeprefix("arbookLive.add(").removesuffix(");\n"))


# What is written


def test_a_script_says_all_that_a_page_needs(tmp_path):
    model = small(tied=False)
    made = record(export(model, tokenizer(), tmp_path / "m.js", name="my-model"))
    assert made["name"] == "my-model" and made["words"] == sorted(SIGNS)
    assert dict((name, tuple(shape)) for name, shape in made["tensors"]) == {
        name: tuple(weight.shape) for name, weight in model.state_dict().items()
    }
    assert made["config"]["n_kv_head"] == 4 and made["config"]["context_length"] == 12


def test_weights_that_sixteen_bits_cannot_hold_are_named(tmp_path):
    model = small()
    model.blocks[0].mlp.up.weight.data[0, 0] = 70_000
    with pytest.raises(ValueError, match=r"below 65,504 .* blocks\.0\.mlp\.up\.weight"):
        export(model, tokenizer(), tmp_path / "m.js")
    assert not list(tmp_path.iterdir())


def test_what_a_page_cannot_run_is_refused(tmp_path):
    model, path = small(), tmp_path / "m.js"
    with pytest.raises(TypeError, match="GPT and a CharTokenizer, got GPT and BPETokenizer"):
        export(model, BPETokenizer(), path)
    with pytest.raises(TypeError, match="got Linear and CharTokenizer"):
        export(torch.nn.Linear(2, 2), tokenizer(), path)
    with pytest.raises(ValueError, match="as many tokens as the model, got 3 and 28"):
        export(model, CharTokenizer.train("abc"), path)
    for name in ("", "a b", "../a", "ä"):
        with pytest.raises(ValueError, match="letters, digits and hyphens"):
            export(model, tokenizer(), path, name=name)


# What a browser computes


@contextmanager
def opened(browser, name: str, folder: Path):
    """A page with one interaction, which has drawn; what fails in it, fails the test."""
    context = browser.new_context(viewport={"width": 900, "height": 900})
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(page_of(name, folder))
    page.wait_for_function("() => document.querySelector('.views svg')")
    yield page
    assert page.errors == []
    context.close()


@pytest.fixture
def page(browser, tmp_path):
    with opened(browser, "lab", tmp_path) as page:
        yield page


LOGITS = """([script, texts]) => {
    const model = arbookLive.parse(script);
    return texts.map(ids => [...model.logits(ids)]);
}"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_page_computes_the_logits_of_the_library(page, tmp_path, layout):
    """As a text grows, is cut back, changes in its middle, and outgrows the context of 12."""
    model = small(**LAYOUTS[layout])
    ids = np.random.default_rng(0).integers(len(SIGNS), size=40).tolist()
    texts = [ids[:n] for n in (1, 2, 3, 12, 5, 5)] + [ids[:2] + ids[7:11], ids[:13], ids[:19], ids]
    script = export(model, tokenizer(), tmp_path / "m.js").read_text("utf8")
    found = page.evaluate(LOGITS, [script, texts])
    starts = [0] * 7 + [6, 12, 30]  # multiples of half the context
    with torch.no_grad():
        for text, start, logits in zip(texts, starts, found, strict=True):
            expected = rounded(model)(torch.tensor(text[start:])[None])[0, -1]
            assert np.abs(np.array(logits) - expected.numpy()).max() < 1e-4


def test_a_file_of_another_kind_is_refused_in_words(page, tmp_path):
    wrong = tmp_path / "wrong.js"
    wrong.write_text("alert(1)", "utf8")
    page.get_by_label("a model of yours").set_input_files(wrong)
    page.get_by_text("this is no file of arbook.live.export.").wait_for()


def test_a_reader_can_put_a_model_of_their_own_into_the_page(page, tmp_path):
    script = export(small(context_length=50), tokenizer(), tmp_path / "mine.js")
    page.get_by_label("a model of yours").set_input_files(script)
    page.get_by_text("of 28 characters are possible").wait_for()
    page.get_by_role("button", name="next character").click()
    page.get_by_text("The roll 0.").wait_for()


# Rules and rolls


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"k": 5, "p": 0.7},
    {"temperature": 1.7, "p": 0.35, "minP": 0.2},
    {"penalty": 1.5, "temperature": 0.8, "k": 12, "p": 0.9, "minP": 0.05},
]


@pytest.mark.parametrize("knobs", SETTINGS, ids=str)
def test_the_chain_of_the_laboratory_is_that_of_the_library(page, knobs):
    logits = torch.tensor(np.random.default_rng(0).normal(0, 2, 40)).double()
    ids = [3, 8, 8, 20]
    rules = [
        RepetitionPenalty(knobs["penalty"]) if "penalty" in knobs else None,
        Temperature(knobs["temperature"]) if "temperature" in knobs else None,
        TopK(knobs["k"]) if "k" in knobs else None,
        TopP(knobs["p"]) if "p" in knobs else None,
        MinP(knobs["minP"]) if "minP" in knobs else None,
    ]
    history = History(torch.tensor([ids]), torch.tensor([1]))
    stages = Chain([rule for rule in rules if rule]).explain(logits, history)
    call = "([z, ids, knobs]) => arbookTouch.lab.chain(z, ids, knobs)"
    found = page.evaluate(call, [logits.tolist(), ids, knobs])
    assert len(found) == len(stages) == 1 + len(knobs)
    for mine, theirs in zip(found, stages, strict=True):
        assert np.allclose(mine["probs"], theirs.probs, atol=1e-12)
        assert mine["removed"] == list(theirs.removed)


def test_a_roll_falls_where_the_library_says(page):
    law = torch.tensor([0.1, 0.0, 0.25, 0.0, 0.4, 0.25]).double()
    rolls = [0.0, 0.0999, 0.1001, 0.3, 0.3501, 0.5, 0.7499, 0.7501, 0.999999]
    call = "([q, rolls]) => rolls.map(u => arbookTouch.lab.pick(q, u))"
    found = page.evaluate(call, [law.tolist(), rolls])
    assert found == pick(law.expand(len(rolls), 6), torch.tensor(rolls).double()[:, None]).tolist()


def test_the_laboratory_writes_what_its_rolls_say(page):
    """By mouse and by keyboard: two characters, then the law that the first was chosen from."""
    for _ in range(2):
        page.get_by_role("button", name="next character").click()
    found = page.evaluate("""async () => {
        const { chain, pick, dice } = arbookTouch.lab, model = await arbookLive.load("shakespeare");
        const ids = model.encode("ROMEO:\\nWhat "), random = dice(1);
        for (let i = 0; i < 2; i += 1) ids.push(pick(chain(model.logits(ids), ids, {}).at(-1).probs, random()));
        return model.decode(ids);
    }""")
    shown = found.replace(" ", "␣").replace("\n", "↵")
    options = page.get_by_role("option")
    assert "".join(options.all_inner_texts()) == shown + "…"
    first = len("ROMEO:\nWhat ")
    options.nth(first).click()
    page.get_by_text(f"falls on “{shown[first]}”").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_text(f"falls on “{shown[first + 1]}”").wait_for()
    slider = page.get_by_role("slider", name="top-k")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_text("1 of 65 characters are possible").wait_for()


def test_the_laboratory_streams_and_begins_again(page):
    page.get_by_role("button", name="write 100").click()
    page.get_by_text("100 characters,").wait_for()
    prompt = len("ROMEO:\nWhat ")
    assert page.get_by_role("option").count() == prompt + 100 + 1
    written = page.get_by_role("option").all_inner_texts()
    page.get_by_role("button", name="start again").click()
    page.wait_for_function(
        "n => document.querySelectorAll('[role=option]').length == n", arg=prompt + 1
    )
    page.get_by_role("button", name="write 100").click()
    page.wait_for_function(  # what was said of the first hundred may still stand there
        "n => document.querySelectorAll('[role=option]').length == n", arg=prompt + 101
    )
    assert page.get_by_role("option").all_inner_texts() == written  # the dice begin again too
    page.get_by_label("prompt").fill("JULIET:")
    assert "".join(page.get_by_role("option").all_inner_texts()) == "JULIET:…"


# What happens inside


@pytest.fixture
def watched(browser, tmp_path):
    with opened(browser, "attention", tmp_path) as page:
        yield page


READ = """([script, ids]) => {
    const model = arbookLive.parse(script);
    return arbookTouch.attention.read(model, ids);
}"""


def lens(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """The law of the stream before the first block and after each, through the last norm and layer: (L + 1, T, V)."""
    streams = []

    def see(block, inputs, output):
        streams.append(inputs[0])
        streams.append(output)

    hooks = [block.register_forward_hook(see) for block in model.blocks]
    with torch.no_grad():
        model(ids[None])
        seen = torch.cat([streams[0], *streams[1::2]])
        laws = F.linear(model.norm(seen), model.output_weight).softmax(-1)
    for hook in hooks:
        hook.remove()
    return laws


def test_every_head_and_every_block_of_the_page_are_those_of_the_library(watched, tmp_path):
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    for layout in LAYOUTS.values():
        model = small(**layout)
        script = export(model, tokenizer(), tmp_path / "m.js").read_text("utf8")
        found = watched.evaluate(READ, [script, ids.tolist()])
        maps = attention_maps(rounded(model), ids[None])[:, 0]  # (L, H, T, T)
        laws = lens(rounded(model), ids)
        assert len(found) == len(ids)
        for t, (before, *blocks) in enumerate(found):
            assert len(blocks) == model.config.n_layer and before["attention"] == []
            for layer, stage in enumerate([before, *blocks]):
                assert np.abs(np.array(stage["probs"]) - laws[layer, t].numpy()).max() < 1e-4
            for layer, stage in enumerate(blocks):
                expected = maps[layer, :, t, : t + 1].numpy()
                assert np.abs(np.array(stage["attention"]) - expected).max() < 1e-4


def test_the_page_reads_a_text_by_mouse_and_keyboard_as_the_library_does(watched):
    """The recorded model: what a head looks at most, and what is expected next, at two places and under two heads."""
    model, characters = recorded_model("train_cpu_seed0")
    text = "The king is dead. Long live the king."
    ids = torch.tensor(characters.encode_array(text))
    maps = attention_maps(model, ids[None])[:, 0].flatten(0, 1)  # (L H, T, T)
    laws = lens(model, ids)

    def wait(place: int, head: int) -> None:
        most, law = int(maps[head, place].argmax()), laws[-1, place]
        back = f"{place - most} back" if most < place else "itself"
        looked = (
            f"“{text[most]}”".replace(" ", "␣") + f" ({back}) {100 * maps[head, place, most]:.0f} %"
        )
        expected = f"“{characters.decode([int(law.argmax())])}”".replace(" ", "␣")
        expected += f" {100 * law.max():.0f} %"
        words = f"“{text[place]}” asks. Head {head // 3 + 1}.{head % 3 + 1} looks at {looked}"
        watched.wait_for_function(
            "([a, b]) => document.querySelector('.say').textContent.startsWith(a)"
            " && document.querySelector('.say').textContent.endsWith(b)",
            arg=[words, f"expects {expected}."],
        )

    wait(len(text) - 5, 11)
    watched.get_by_role("option").nth(1).click()
    wait(1, 11)
    watched.keyboard.press("ArrowRight")
    wait(2, 11)
    watched.get_by_role("slider").focus()
    watched.keyboard.press("Home")
    wait(2, 0)
    watched.get_by_label("text", exact=True).fill("To be, or not to be")
    assert watched.get_by_role("option").count() == len("To be, or not to be")
    watched.get_by_label("text", exact=True).fill("")
    assert watched.get_by_role("option").count() == 1


def test_the_page_reads_with_a_model_of_the_readers_own(watched, tmp_path):
    script = export(small(), tokenizer(), tmp_path / "mine.js")
    watched.get_by_label("a model of yours").set_input_files(script)
    watched.wait_for_function(
        "document.querySelector('[type=range]').max == 7"
    )  # 2 layers, 4 heads
    watched.get_by_text("Head 2.4 looks at").wait_for()
    assert watched.get_by_role("option").count() == 12  # its context
