"""ARPA files: by hand, of other programs, of every word; and what is refused."""

import gzip
import math

import numpy as np
import pytest
from arbook.guards import NotFittedError
from arbook.ngram import NGramLM
from arbook.tokens import Vocab
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ngram import EOS, STREAM, WORDS, fitted

ARPA = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-0.5\ta\t-0.25
-1\tb\t0
-0.75\t</s>\t0
-99\t<s>\t-0.125

\\2-grams:
-0.375\t<s> a
-0.0625\ta b
-0.3125\tb </s>

\\end\\
"""


def test_arpa_by_hand(tmp_path):
    """Known pairs are read off, unknown ones are the weight of the context times the single word."""
    (tmp_path / "by-hand.arpa").write_text(ARPA)
    model, vocab = NGramLM.read_arpa(tmp_path / "by-hand.arpa")
    assert vocab.tokens == ("a", "b", "</s>") and model.order == 2 and model.eos_id == 2
    logs = model.sentence_log_prob([0, 1, 2, 1, 1, 0, 0]) / math.log(10)
    expected = [-0.375, -0.0625, -0.3125, -0.125 - 1, 0 - 1, 0 - 0.5, -0.25 - 0.5]
    np.testing.assert_allclose(logs, expected, atol=1e-12)
    other, _ = NGramLM.read_arpa(tmp_path / "by-hand.arpa", ["<eos>", "b", "a"], eos_id=0)
    np.testing.assert_allclose(other.sentence_log_prob([2, 1, 0]) / math.log(10), expected[:3])
    with pytest.raises(ValueError, match="build a new NGramLM"):
        model.fit([0, 1])


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("smoothing", ["modified-kneser-ney", "kneser-ney"])
def test_arpa_files_come_back(tmp_path, order, smoothing):
    """With the probabilities of the model, to the nine printed digits."""
    model = fitted(order, smoothing=smoothing)
    model.write_arpa(tmp_path / "m.arpa", Vocab(WORDS))
    again, vocab = NGramLM.read_arpa(tmp_path / "m.arpa")
    assert vocab.tokens == tuple(WORDS) and (again.order, again.eos_id) == (order, EOS)
    ids = np.random.default_rng(9).integers(7, size=300)
    np.testing.assert_allclose(
        again.sentence_log_prob(ids), model.sentence_log_prob(ids), atol=1e-7
    )
    again.write_arpa(tmp_path / "again.arpa", vocab)
    assert (tmp_path / "again.arpa").read_text() == (tmp_path / "m.arpa").read_text()
    text = (tmp_path / "m.arpa").read_text().replace("\n", "\r\n").replace("\t", " ")
    (tmp_path / "spaces.arpa").write_bytes(text.encode())
    other, _ = NGramLM.read_arpa(tmp_path / "spaces.arpa", WORDS)
    assert np.array_equal(other.sentence_log_prob(ids), again.sentence_log_prob(ids))


def cut(n):
    return lambda text: text[:n]


def swap(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(0), "not a complete ARPA file"),
        (cut(-8), "not a complete ARPA file"),
        (swap("ngram 2=3", "ngram 2=4"), "announces 4 2-grams and holds 3"),
        (swap("ngram 2=3", "ngram 2=x"), "damaged"),
        (swap("\\2-grams:", "\\3-grams:"), "damaged"),
        (swap("ngram 1=4\nngram 2=3", ""), "no n-grams"),
        (swap("-0.0625", "0.0625"), "above 0"),
        (swap("-0.0625", "nan"), "not a number"),
        (swap("-0.0625", "many"), "many"),
        (swap("ngram 2=3", "ngram 1=3"), "damaged"),
        (swap("ngram 2=3", "ngram 3=3"), "damaged"),
        (swap("ngram 2=3", "ngram 2"), "damaged"),
        (swap("a b\n", "a b c d\n"), "damaged line"),
        (swap("a b\n", "a zebra\n"), "zebra"),
        (swap("b </s>\n", "a b\n"), "twice"),
        (swap("a b\n", "a <s>\n"), "predicts <s>"),
        (swap("-99\t<s>", "-99\t<S>"), "must have"),
    ],
)
def test_damaged_arpa_files_are_refused(tmp_path, damage, message):
    (tmp_path / "m.arpa").write_text(damage(ARPA))
    with pytest.raises(ValueError, match=message):
        NGramLM.read_arpa(tmp_path / "m.arpa")


def test_arpa_files_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "m.arpa").write_text(ARPA)
    read = NGramLM.read_arpa
    for vocab, eos, message in [
        (["a", "b"], None, "must hold 3 tokens"),
        (["a", "c", "</s>"], None, "different words, such as 'b'"),
        (["a", "b", "end"], None, "say with eos_id"),
        (["a", "b", "end"], 3, "eos_id must be"),
        (["a", "a", "</s>"], None, "different words"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "m.arpa", vocab, eos_id=eos)
    (tmp_path / "latin.arpa").write_bytes(ARPA.replace("b", "é").encode("latin-1"))
    with pytest.raises(ValueError, match="not an ARPA file"):
        read(tmp_path / "latin.arpa")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.arpa")
    three = ARPA.replace("ngram 2=3", "ngram 2=3\nngram 3=1")
    three = three.replace("\\end\\", "\\3-grams:\n-1\ta a b\n\n\\end\\")
    (tmp_path / "orphan.arpa").write_text(three)
    with pytest.raises(ValueError, match="'a a b', but not what it begins with"):
        read(tmp_path / "orphan.arpa")


# As the CMU-Cambridge toolkit writes it: an explanation first, columns aligned by blanks and tabs, and n-grams that
# were counted across the ends of sentences.
CMU = """This file is in the ARPA-standard format introduced by Doug Paul.
p(wd2|wd1)= if(bigram exists) p_2(wd1,wd2)
            else              bo_wt_1(wd1)*p_1(wd2)

Beginning of data mark: \\data\\
ngram 1=nr            # number of 1-grams

\\1-grams:
p_1     wd_1 bo_wt_1
\\3-grams:
p_3     wd_1 wd_2 wd_3

\\data\\
ngram 1=5
ngram 2=6
ngram 3=3

\\1-grams:
-1.3795 </s>    0.0000
-99.0000 <s>\t-0.2500
-0.6990 one  \t -0.1250
-0.8451 two\t\t-0.5000
-1.0000 12\u00a0000  0.0000

\\2-grams:
-99.0177 </s> <s>\t0.0000
-0.4771 <s> one  -0.0625
-0.9031 one two\t-0.2500
-0.3010 two </s>
-0.7782 one one -0.0312
-1.1139 two one  0.0000

\\3-grams:
-0.1000 </s> <s> one
-0.2000 <s> one two
-0.1500 one two </s>

\\end\\
"""


def as_dictionary(text: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Read ARPA text in the plainest way: the lines of n-grams behind the last data mark, cut at blanks and tabs."""
    found, n = {}, 0
    for line in (
        text.replace("\r\n", "\n").replace("\r", "\n").rpartition("\\data\\")[2].split("\n")
    ):
        fields = [field for field in line.replace("\t", " ").split(" ") if field]
        if fields and fields[0].startswith("\\"):
            n = int(fields[0][1:].partition("-")[0]) if "-grams" in fields[0] else 0
        elif n and fields:
            weight = float(fields[n + 1]) if len(fields) > n + 1 else 0.0
            found[tuple(fields[1 : n + 1])] = float(fields[0]), weight
    return found


def backed_off(grams: dict, words: tuple[str, ...]) -> float:
    """Return log10 p(last word | others) as the format defines it."""
    if words in grams:
        return grams[words][0]
    weight = grams[words[:-1]][1] if words[:-1] in grams else 0.0
    return weight + backed_off(grams, words[1:])


def sentences_log10(grams: dict, sentences: list[list[str]], order: int) -> list[float]:
    logs = []
    for sentence in sentences:
        words = ("<s>", *sentence, "</s>")
        logs += [
            backed_off(grams, words[max(0, i - order + 1) : i + 1]) for i in range(1, len(words))
        ]
    return logs


SPOKEN = [["one", "two"], ["two", "one", "one", "two"], [], ["12\u00a0000", "one"], ["one"]]


VARIANTS = {
    "as it is": lambda text: text.encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "a mark of the encoding": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip in two parts": lambda text: (
        gzip.compress(text[:300].encode()) + gzip.compress(text[300:].encode())
    ),
    "tabs in the header": lambda text: text.replace("ngram 1=5", "ngram\t1=5").encode(),
    "a wide header": lambda text: text.replace("ngram 2=6", "ngram  2=        6").encode(),
    "blanks around the sign": lambda text: text.replace("ngram 2=6", "ngram 2 = 6 ").encode(),
    "no line before the end": lambda text: text.replace("\n\n\\end", "\n\\end").encode(),
    "blank lines": lambda text: text.replace("\n-0.9", "\n \t\n-0.9").encode(),
    "indented": lambda text: text.replace("\n-0", "\n  -0").replace("\n\\", "\n \\").encode(),
    "something behind the end": lambda text: (text + "made by hand\n-1 one\n").encode(),
    "an empty order with a section": lambda text: (
        text.replace("ngram 3=3", "ngram 3=3\nngram 4=0")
        .replace("\n\\end", "\n\\4-grams:\n\n\\end")
        .encode()
    ),
    "an empty order without": lambda text: text.replace(
        "ngram 3=3", "ngram 3=3\nngram 4=0"
    ).encode(),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_arpa_files_of_other_programs_have_the_numbers_that_stand_in_them(tmp_path, variant):
    """Against a dictionary and the formula of the format; to rounding, since the numbers are the same."""
    path = tmp_path / "cmu.lm"
    path.write_bytes(variant(CMU))
    model, vocab = NGramLM.read_arpa(path)
    ids = [vocab.id(word) for sentence in SPOKEN for word in [*sentence, "</s>"]]
    expected = sentences_log10(as_dictionary(CMU), SPOKEN, 3)
    np.testing.assert_allclose(model.sentence_log_prob(ids) / math.log(10), expected, atol=1e-12)
    assert expected[:3] == [-0.4771, -0.2, -0.15]  # by eye
    model.write_arpa(tmp_path / "again.arpa", vocab)
    again, same = NGramLM.read_arpa(tmp_path / "again.arpa")
    assert same == vocab and np.allclose(again.sentence_log_prob(ids), model.sentence_log_prob(ids))


def test_an_order_without_ngrams_may_lack_its_section(tmp_path):
    text = CMU[CMU.rindex("\\data") :]
    text = text[: text.index("\\3-grams")].replace("ngram 3=3", "ngram 3=0") + "\\end\\\n"
    (tmp_path / "m.lm").write_text(text, encoding="utf-8")
    model, vocab = NGramLM.read_arpa(tmp_path / "m.lm")
    ids = [vocab.id(word) for sentence in SPOKEN for word in [*sentence, "</s>"]]
    expected = sentences_log10(as_dictionary(text), SPOKEN, 3)  # weights of pairs count still
    np.testing.assert_allclose(model.sentence_log_prob(ids) / math.log(10), expected, atol=1e-12)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-8-sig", "cp1252"])
def test_arpa_files_may_be_in_another_encoding(tmp_path, encoding):
    (tmp_path / "m.arpa").write_bytes(ARPA.replace("b", "é").encode(encoding))
    _, vocab = NGramLM.read_arpa(tmp_path / "m.arpa", encoding=encoding)
    assert vocab.tokens == ("a", "é", "</s>")
    with pytest.raises(ValueError, match="encoding 'no-such'.*encoding="):
        NGramLM.read_arpa(tmp_path / "m.arpa", encoding="no-such")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(ARPA.encode())[:-20], "not an ARPA file"),
        (b"\x1f\x8b" + b"damaged", "not an ARPA file"),
        (gzip.compress(b"nothing"), r"lacks \\data\\ and \\end"),
        (
            b"mmap lm http://kheafield.com/code format version 5\n\0" + b"\xff\0" * 9,
            "binary file of KenLM",
        ),
        (ARPA.replace("b", "é").encode("latin-1"), "encoding 'utf-8'.*name another"),
        (ARPA.replace("\\end\\\n", "").encode(), r"lacks \\end\\$"),
        (
            ARPA.replace("\\2-grams:\n", "").encode(),
            "announces 3 2-grams, and .*2-grams: is missing",
        ),
        (
            ARPA.replace("\\2-grams:", "\\two-grams:").encode(),
            "3 2-grams, and .*2-grams: is missing",
        ),
        (ARPA.replace("ngram 2=3", "ngram 2=0").encode(), "announces 0 2-grams and holds 3"),
        (ARPA.replace("ngram 2=3", "ngram 2").encode(), "damaged"),
        (ARPA.replace("<s> a", "a <s>").encode(), "predicts <s>"),
    ],
    ids=range(11),
)
def test_files_that_are_no_arpa_say_what_they_are(tmp_path, content, message):
    (tmp_path / "m.arpa").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        NGramLM.read_arpa(tmp_path / "m.arpa")


ANY_WORD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=" \t\r\n\0"), min_size=1, max_size=6
).filter(lambda word: word not in ("<s>", "</s>"))


ODD_WORD = st.sampled_from(
    ["12\u00a0000", "\x0b", "\u2028", "\x85", "\x0c", "\\end\\", "-0.5", "\u3000", "\x1c"]
)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(ANY_WORD | ODD_WORD, min_size=2, max_size=8, unique=True))
def test_every_word_that_no_reader_splits_is_written_and_read(words, tmp_path_factory):
    """SRILM and KenLM split at blank, tab and line ends; C strings end at NUL. All else is part of a word."""
    path, eos = tmp_path_factory.mktemp("arpa") / "m.arpa", len(words)
    ids = np.append(np.random.default_rng(0).integers(len(words) + 1, size=40), eos)
    model = NGramLM(3, vocab_size=len(words) + 1, eos_id=eos).fit(ids)
    model.write_arpa(path, [*words, "</s>"])
    again, vocab = NGramLM.read_arpa(path)
    assert vocab.tokens == (*words, "</s>")
    assert np.allclose(again.sentence_log_prob(ids), model.sentence_log_prob(ids), atol=1e-7)


@pytest.mark.parametrize("separator", [" ", "\t", "\r", "\n", "\0"])
def test_words_that_a_reader_would_split_are_not_written(tmp_path, separator):
    for word in (f"two{separator}words", separator, f"{separator}a"):
        with pytest.raises(ValueError, match="white space"):
            fitted().write_arpa(tmp_path / "m.arpa", [*WORDS[:6], word])
    assert not list(tmp_path.iterdir())


def test_models_that_arpa_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "m.arpa"
    for model, vocab, message in [
        (fitted(smoothing="add-k"), WORDS, "not 'add-k'"),
        (fitted(smoothing="mle"), WORDS, "not 'mle'"),
        (NGramLM(2, vocab_size=7).fit(STREAM), WORDS, "eos_id"),
        (fitted(), WORDS[:6], "must hold 7 tokens"),
        (fitted(), [*WORDS[:6], "two words"], "white space"),
        (fitted(), [*WORDS[:6], ""], "white space"),
        (fitted(), [*WORDS[:6], "the"], "occurs twice"),
        (fitted(), [*WORDS[:6], "<s>"], "<s> and </s>"),
        (fitted(), [*WORDS[:3], "end", *WORDS[4:6], "</s>"], "<s> and </s>"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.write_arpa(path, vocab)
    with pytest.raises(NotFittedError):
        NGramLM(2, vocab_size=7, eos_id=EOS).write_arpa(path, WORDS)
    assert not list(tmp_path.iterdir())
