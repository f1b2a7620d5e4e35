"""The grader: it accepts what is right, refuses plausible slips, and gives nothing away."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from arbook import check
from arbook.check import grade
from conftest import ROOT

NAMES = sorted(check._EXERCISES)
log2 = math.log(2)


def logistic(a):
    y = (1 + np.tanh(a / 2)) / 2
    return y, lambda g: g * y * (1 - y)


def hessian(f, theta, h=1e-4, scale=1.0):
    """By central differences of values: of polynomials of degree four good to six digits."""
    n, E = len(theta), np.eye(len(theta)) * h

    def entry(i, j):
        signs = [(a, b) for a in (1, -1) for b in (1, -1)]
        return sum(a * b * f(theta + a * E[i] + b * E[j]) for a, b in signs) / (4 * h * h)

    return [[scale * entry(i, j) for j in range(n)] for i in range(n)]


def norms(A, inputs, back=np.transpose, forget=1.0):
    """The chain rule by hand: each step back multiplies by the slope of tanh, then by the matrix."""
    states, h = [], np.zeros(len(A))
    for x in inputs:
        h = np.tanh(h @ A + x)
        states.append(h)
    found, g = [], np.ones(len(A))
    for h in reversed(states):
        g = g * (1 - forget * h**2)
        found.append(np.linalg.norm(g))
        g = g @ back(A)
    return found[::-1]


def rotated(x, angles, sign=1, halves=False):
    y = x.clone()
    for t, i in np.ndindex(*angles.shape):
        a, b = (i, i + angles.shape[1]) if halves else (2 * i, 2 * i + 1)
        c, s = math.cos(angles[t, i]), sign * math.sin(angles[t, i])
        y[t, a], y[t, b] = c * x[t, a] - s * x[t, b], s * x[t, a] + c * x[t, b]
    return y


def within(ids, V, reach, both=True, exactly=False):
    pairs = Counter(
        (a, b)
        for i, a in enumerate(ids)
        for j, b in enumerate(ids)
        if (j - i == reach if exactly else 0 < j - i <= reach)
    )
    one = np.array([[pairs[a, b] for b in range(V)] for a in range(V)])
    return one + one.T if both else one


def order_alone(pairs, bag=frozenset, kept=lambda context: tuple(sorted(context))):
    """How many contexts have a twin in their bag, and none there that differs in its counts."""
    contexts = [tuple(context) for context, _ in pairs]

    def has_twin(c, form):
        return any(bag(c) == bag(d) and form(c) != form(d) for d in contexts)

    return sum(has_twin(c, tuple) and not has_twin(c, kept) for c in contexts)


def copied(text, source):
    best = 0
    for i in range(len(text)):
        while i + best < len(text) and text[i : i + best + 1] in source:
            best += 1
    return best


def greedy(word, tokens):
    n = 0
    while word:
        word = word[max(k for k in range(len(word) + 1) if word[:k] in tokens) :]
        n += 1
    return n


def fewest(word, tokens):
    """Breadth first: what is left of the word after 0, 1, 2 ... tokens."""
    left, n = {word}, 0
    while "" not in left:
        left, n = {w[len(t) :] for w in left for t in tokens if w.startswith(t)}, n + 1
    return n


def latest(ids, times=2, default=None):
    """The word of the last place by then whose word had occurred."""
    repeated = [
        [w for t, w in enumerate(ids[:n]) if ids[: t + 1].count(w) >= times]
        for n in range(1, len(ids) + 1)
    ]
    return [words[-1] if words else default for words in repeated]


def flow(x, mean, log_scale, sign=1, inside=1.0):
    law = torch.distributions.Normal(mean, log_scale.exp() ** inside)
    return law.log_prob(x).sum() + (1 - sign) * log_scale.sum()


def laplace(x, mean, b):
    return math.log(math.exp(-abs(x - mean) / b) / (2 * b))


def noise(r, n_less=0):
    variance = np.sum(r**2) / (len(r) - n_less)
    return [variance, math.log(2 * math.pi * math.e * variance) / 2]


def first_gradient(targets, V):
    return [1 / V - np.mean(targets == k) for k in range(V)]


def largest_step(X, factor=2.0):
    return factor * len(X) / (2 * np.linalg.norm(X, 2) ** 2)


def one_more_vjp(change):
    return lambda a: (logistic(a)[0], lambda g: change(a, g))


# Each exercise: an answer that is right, from elsewhere than the library, and three slips.
ANSWERS = {
    # chapter 1
    "count-windows": (
        [[[3, 1], [1, 4], [4, 1], [1, 5]], [4, 1, 5, 9], 5],
        [
            [[[1, 3], [4, 1], [1, 4], [5, 1]], [4, 1, 5, 9], 5],  # the newest first
            [[[3, 1], [1, 4], [4, 1], [1, 5], [5, 9]], [4, 1, 5, 9], 5],  # one without a target
            [[[3, 1], [1, 4], [4, 1], [1, 5]], [4, 1, 5, 9], 6],
        ],
    ),
    "one-weight": (
        [Fraction(-3, 2), -3, 0.5, 0.5],
        [[-0.5, -1, -0.5, 1.5], [1.5, 3, 0.5, 0.5], [-1.5, -3, -0.5, 0.5]],
    ),
    "cosine": (
        lambda w: (-1, 2 * math.cos(w)),
        [lambda w: [2 * math.cos(w), -1], lambda w: [1, 2 * math.cos(w)], lambda w: [-1, math.cos(w)]],
    ),
    "which-leak": ({"d", "c"}, [{"c"}, {"b", "c", "d"}, {"a", "c"}]),
    "variance": (
        lambda r: sum(x * x for x in r) / len(r),
        [lambda r: np.sum(r**2) / (len(r) - 1), np.var, lambda r: math.sqrt(np.mean(r**2))],
    ),
    "four-steps": (
        [[3, -2, -5, -3], [1, 0, -1]],
        [[[-3, 8, 11, 3], [1, 0, -1]], [[3, -2, -5, -3], [1, 1, 0]], [[3, -2, -5], [1, 0, -1]]],
    ),
    "ceiling": (
        lambda phi, h: sum(phi ** (2 * k) for k in range(h)),
        [
            lambda phi, h: (1 - phi ** (2 * h)) / (1 - phi**2),  # has no value at 1
            lambda phi, h: sum(phi ** (2 * k) for k in range(h + 1)),
            lambda phi, h: sum(phi**k for k in range(h)),
        ],
    ),
    "coverage": (0.856, [0.9, 85.6, 0.95]),
    "flatter": (
        [18.92411386, 9.82687611, 23.12266760],
        [
            [18.92411386**2, 9.82687611**2, 23.1226676**2],
            [18.92411386, 23.1226676, 9.82687611],
            [18.92411386, 9.82687611, 9.82687611],
        ],
    ),
    "period": (
        [4, [1, 0, -0.25, 0, 0.0625]],
        [[2, [1, 0, -0.25, 0, 0.0625]], [4, [1, 0, -0.25, 0, -0.0625]], [4, [0, 1, 0, -0.25, 0]]],
    ),
    "triangle": (
        lambda a, b: bool(np.all(abs(np.roots([1, -b, -a])) < 1)),
        [
            lambda a, b: a + b < 1 and a - b < 1,
            lambda a, b: abs(a) < 1 and abs(b) < 1,
            lambda a, b: a > -1 and a + b < 1,
        ],
    ),
    "cut-off": (2, [1, 3, 8]),
    "nothing": ([4.5, 1], [[18, 4], [0.5, 1], [1, 4.5]]),
    "walk": (
        lambda h, sigma: h * sigma**2,
        [lambda h, s: math.sqrt(h) * s, lambda h, s: h * s, lambda h, s: (h - 1) * s**2],
    ),
    "trend": ([-1, 2], [[2, -1], [1, 2], [0, 1]]),
    "displacement": (2, [1, 7, 0]),
    # chapter 2
    "head": (
        [["s", "low", "est"], ["s", "ew", "e", "r"]],
        [
            [["s", "lo", "w", "est"], ["s", "ew", "e", "r"]],
            [["s", "low", "est"], ["sew", "e", "r"]],
            ["slow", "est"],
        ],
    ),
    "paper": (
        [[("a", "n"), ("b", "an"), ("an", "a")], 3],
        [
            [[("a", "n"), ("an", "a"), ("b", "an")], 3],
            [[("a", "n"), ("b", "an"), ("an", "a")], 4],
            [[("n", "a"), ("b", "a"), ("na", "na")], 3],
        ],
    ),
    "order": (
        ["n", "ew", "es", "t"],
        [["new", "est"], ["n", "e", "w", "es", "t"], ["n", "ew", "est"]],
    ),
    "threes": (
        [[1, 234], [56, 789], [58, 23]],
        [[[123, 4], [567, 89], [580, 23]], [[1, 234], [56, 789], [580, 23]], [[234, 1], [789, 56], [23, 58]]],
    ),
    "slots": ("IndexError", ["KeyError", "IndexErrors", 1000]),
    "shortest": (fewest, [greedy, lambda word, tokens: len(word), lambda w, t: fewest(w, t) + 1]),
    # chapter 3
    "table-size": ([38_597_376, 8 * 2**10], [[50_257 * 768 + 1, 8192], [38_597_376, 8], [768, 8192]]),
    "ppmi-paper": ([log2, log2, 0], [[1, 1, 0], [log2, log2, -math.inf], [math.log(4), log2, 0]]),
    "reach": (
        within,
        [
            lambda i, V, r: within(i, V, r, both=False),
            lambda i, V, r: within(i, V, r, exactly=True),
            lambda i, V, r: within(i, V, r + 1),
        ],
    ),
    "equal-bags": ({1, 3, 4}, [{0, 2, 3}, {1, 2, 3, 4}, {4}]),
    "valid-encodings": (
        lambda V, T: (V ** (T + 1) - 1) // (V - 1) if V > 1 else T + 1,
        [lambda V, T: V**T, lambda V, T: sum(V**n for n in range(1, T + 1)), lambda V, T: 2 ** (V * T)],
    ),
    "counts": (
        order_alone,
        [
            lambda pairs: len(pairs) - order_alone(pairs),
            lambda pairs: order_alone(pairs, kept=lambda c: 0),  # all that have a twin
            lambda pairs: order_alone(pairs) // 2,
        ],
    ),
    "slow-hands": (
        [2 * math.pi * 10_000 ** (62 / 64), 14],
        [[2 * math.pi * 10_000, 14], [10_000 ** (62 / 64), 14], [2 * math.pi * 10_000 ** (62 / 64), 18]],
    ),
    "set-clock": ([[0, -1], [0, -1]], [[[0, 1], [0, -1]], [[0, -1], [0, 1]], [[1, 0], [0, -1]]]),
    "added-positions": ([False, True], [[True, True], [False, False], [0, 1]]),
    "complex-rotary": (
        rotated,
        [
            lambda x, a: rotated(x, a, sign=-1),
            lambda x, a: rotated(x, a, halves=True),
            lambda x, a: torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.exp(1j * a),
        ],
    ),
    # chapter 4
    "head-logits": (
        [[0.5, 0.5], log2, [-0.5, 0.5]],
        [[[0.5, 0.5], 1, [-0.5, 0.5]], [[0.5, 0.5], log2, [0.5, -0.5]], [[3, 3], log2, [-0.5, 0.5]]],
    ),
    "paper-squared": (1 / 3, [0.5, 2 / 3, 0]),
    "way": ([9, 5190], [[8, 5190], [10, 5190], [9, 2595]]),
    "twice-hand": (
        [[["learn", "a", "machine"], ["learn", -100, -100]], 4],
        [
            [[["you", "learn", "a"], ["I", -100, -100]], 4],
            [[["learn", "a", "machine"], ["learn", -100, -100]], 6],
            [[["learn", "a", "machine"], ["learn"]], 4],
        ],
    ),
    "twice-paper": ([6225, 149], [[6275, 149], [6225, 150], [5000, 149]]),
    "twice-maximum": (
        latest,
        [lambda ids: latest(ids, times=1), lambda ids: latest(ids, times=3), lambda ids: latest(ids, default=-1)],
    ),
    "text-bits": (
        [-86.86, 288.5],
        [[86.86, 288.5], [-200, 288.5], [-86.86, 200 * log2]],
    ),
    "text-floor": (
        [0.4, 0.97, 0.92],
        [[0.6, 0.97, 0.92], [0.4, 0.67, 0.64], [0.4, 0.97, 0.91]],
    ),
    "squares-read": (
        [[0, 1], [0.5, 0.5]],
        [[[0, 2], [1, 1]], [[0, 0.5], [1, 0.5]], [[0.5, 0.5], [0, 1]]],
    ),
    "mean-perplexity": (
        ("too large", "either"),
        [["too small", "either"], ["too large", "too large"], ["either", "either"]],
    ),
    "soft": (
        lambda z, pi: z.exp() / z.exp().sum() - pi,
        [
            lambda z, pi: pi - z.softmax(-1),
            lambda z, pi: (z.softmax(-1) - pi) / len(z),
            lambda z, pi: -pi / z.softmax(-1),
        ],
    ),
    # chapter 5
    "ngram-trigram": (
        {"na": {"n": 0.5, " ": 0.5}, "dn": {"a": 0.75, "d": 0.25}},
        [
            {"na": {"n": 1 / 3, " ": 1 / 3}, "dn": {"a": 0.75, "d": 0.25}},
            {"na": {"n": 0.5, " ": 0.5}, "dn": {}},
            {"na": {"n": 0.5, "␣": 0.5}, "dn": {"a": 0.75, "d": 0.25}},
        ],
    ),
    "ngram-bits": ([0.6, 0.37], [[0.6, 0.74], [0.6, 0.255], [0.4, 0.37]]),
    "ngram-copied": (
        copied,
        [
            lambda text, source: next(n for n in range(len(text), -1, -1) if text[:n] in source),
            lambda text, source: sum(c in source for c in text),
            lambda text, source: max(copied(text, source) - 1, 0),
        ],
    ),
    "ngram-choices": (
        [2.46, 7.8, 223],
        [[math.exp(1.3), 7.8, math.exp(7.8)], [2.46, 6.5, 2**6.5], [1.3, 7.8, 223]],
    ),
    "ngram-flip": (
        [0, log2, -0.9 * math.log(0.9) - 0.1 * math.log(0.1), log2 + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)],
        [[0, 1, 0.469, 0.531], [0, log2, 0.368, 0.325], [log2, 0, 0.325, 0.368]],
    ),
    "ngram-add-one": ([0.3, 0.2, 0.5], [[0.3, 0.2, 0.1], [2 / 3, 1 / 3, 0], [3 / 9, 2 / 9, 4 / 9]]),
    "ngram-ran-dog": (0.06, [0.1, 0, 0.6]),
    # chapters 6 and 8
    "companion": (
        lambda w: [[float(j == i + 1) for j in range(len(w))] for i in range(len(w) - 1)] + [w],
        [
            lambda w: np.vstack([w, np.eye(len(w))[:-1]]),  # the newest value first
            lambda w: np.vstack([np.eye(len(w), k=1)[:-1], w[::-1]]),
            lambda w: np.vstack([np.eye(len(w), k=1)[:-1], w]).T,
        ],
    ),
    "dropped-memory": (
        lambda p, k: math.exp(k * math.log1p(-p)),
        [lambda p, k: 1 - p**k, lambda p, k: 1 - k * p, lambda p, k: (1 - p) ** (k - 1)],
    ),
    "newton-schulz": ([11, 4], [[12, 4], [11, 5], [4, 11]]),
    "epoch": (0.37, [0.63, 0.5, 0]),
    # chapter 9
    "lab-order": (
        [[2 / 3, 1 / 3, 0], [0.775 / 1.323, 0.548 / 1.323, 0]],
        [
            [[0.6, 0.3, 0], [0.586, 0.414, 0]],
            [[2 / 3, 1 / 3, 0], [0.473, 0.334, 0.193]],
            [[2 / 3, 1 / 3, 0], [0.8, 0.2, 0]],  # squares instead of roots
        ],
    ),
    "lab-taste": (
        lambda n: sum(math.comb(20, k) for k in range(21) if abs(k - 10) >= n - 10) / 2**20,
        [
            lambda n: sum(math.comb(20, k) for k in range(n, 21)) / 2**20,
            lambda n: 2 * sum(math.comb(20, k) for k in range(n + 1, 21)) / 2**20,
            lambda n: 2 * math.comb(20, n) / 2**20,
        ],
    ),
    "shift": (
        lambda z: -math.log(sum(math.exp(x) for x in z.tolist())),
        [lambda z: z.logsumexp(-1), lambda z: -z.max(), lambda z: -z.mean()],
    ),
    "form": (
        [[0.30 / 0.66, 0.36 / 0.66], [0.6, 0.4]],
        [[[0.3, 0.36], [0.6, 0.4]], [[0.6, 0.4], [0.30 / 0.66, 0.36 / 0.66]], [[0.54, 0.46], [0.6, 0.4]]],
    ),
    # chapter 12
    "two-scales": (
        [3, 4 - math.log(3), 1 / 18 - 1 / 2 + math.log(3)],
        [[9, 2.9, 0.65], [3, 4 - math.log2(3), 0.65], [3, 4.5, 2.25]],
    ),
    "noise": (
        noise,
        [
            lambda r: noise(r, n_less=1),
            lambda r: [math.sqrt(noise(r)[0]), noise(r)[1]],
            lambda r: [noise(r)[0], noise(r)[1] - 0.5],
        ],
    ),
    "laplace": (
        laplace,
        [
            lambda x, m, b: -laplace(x, m, b),
            lambda x, m, b: -abs(x - m) / b - math.log(b),
            lambda x, m, b: laplace(x, m, b) / log2,
        ],
    ),
    "signals-reach": (
        [1 + 3 * 1023, 192, 3069],
        [[3069, 192, 3069], [3070, 192, 3070], [3070, 3070 / 16_000, 3069]],
    ),
    "telephone": (0.022, [0.043, 2.2, 1 / 255]),
    "series-flow": (
        flow,
        [
            lambda x, m, s: flow(x, m, s, sign=0),  # the determinant is missing
            lambda x, m, s: flow(x, m, -s),
            lambda x, m, s: flow(x, m, s, inside=2.0),  # the logarithm of the variance
        ],
    ),
    # tools
    "micro-operation": (
        logistic,
        [
            lambda a: (1 / (1 + np.exp(-a)), logistic(a)[1]),  # overflows
            one_more_vjp(lambda a, g: logistic(a)[0] * (1 - logistic(a)[0])),  # leaves out the incoming gradient
            one_more_vjp(lambda a, g: g * logistic(a)[0]),
        ],
    ),
    "micro-accumulate": ({"a*a", "tanh(a)+a"}, [{"a*a"}, {"a*b", "a*a", "tanh(a)+a"}, set()]),
    "micro-second": (
        hessian,
        [
            lambda f, t: hessian(f, t, scale=0.5),
            lambda f, t: np.diag(np.diag(hessian(f, t))),
            lambda f, t: np.negative(hessian(f, t)),
        ],
    ),
    "micro-rnn": (
        norms,
        [
            lambda A, x: norms(A, x, back=lambda M: M),  # the matrix is not transposed
            lambda A, x: norms(A, x)[::-1],
            lambda A, x: norms(A, x, forget=0.0),  # without the slope of tanh
        ],
    ),
    "micro-count": (25_937, [25_936, 25_937 - 193, 25_937 - 1040]),
    "micro-first": (
        first_gradient,
        [
            lambda t, V: np.negative(first_gradient(t, V)),
            lambda t, V: np.multiply(first_gradient(t, V), len(t) + 1),
            lambda t, V: np.bincount(t) / len(t),
        ],
    ),
    "pytorch-pencil": (
        [[0.5, -0.75], [-0.05, 0.075]],
        [
            [[0.5, -0.75], [0.05, -0.075]],
            [[4, -6], [-0.4, 0.6]],
            [[0.25, -0.375], [-0.025, 0.0375]],
        ],
    ),
    "pytorch-rate": (
        largest_step,
        [
            lambda X: largest_step(X, factor=1.0),
            lambda X: largest_step(X) / len(X),
            lambda X: 2 / np.linalg.eigvalsh(np.asarray(X.T @ X)).max(),
        ],
    ),
}  # fmt: skip
SLIPS = [(name, k) for name, (_, slips) in ANSWERS.items() for k in range(len(slips))]


def test_every_exercise_that_can_be_handed_in_has_a_right_answer_and_three_slips_here():
    assert sorted(ANSWERS) == NAMES and len(NAMES) >= 60
    assert {len(slips) for _, slips in ANSWERS.values()} == {3}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_found_in_another_way_is_right(name):
    graded = grade(name, ANSWERS[name][0])
    assert graded and graded.right, graded
    assert re.search(r"(Entries compared|Cases tried): [1-9]\d*\.$", str(graded))


def plain(value):
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def leaves(value, path=""):
    """The places of a value, each with what stands there."""
    if isinstance(value, list | dict):
        keys = value if isinstance(value, dict) else range(len(value))
        return {p: leaf for k in keys for p, leaf in leaves(value[k], f"{path}[{k!r}]").items()}
    return {path: value}


def written(leaf) -> str:
    return f"{float(leaf):.8g}" if isinstance(leaf, float | Fraction) else str(leaf)


def tokens(text: str) -> set[str]:
    return {word.rstrip(".") for word in re.findall(r"[-\w.*+()]+", text)}


@pytest.mark.parametrize(("name", "k"), SLIPS)
def test_a_slip_is_refused_and_the_message_names_what_differs_and_keeps_the_rest(name, k):
    right, slip = ANSWERS[name][0], ANSWERS[name][1][k]
    graded = grade(name, slip)
    assert not graded and str(graded).startswith(f"Not yet: {name}. "), graded
    finding, _, hint = graded.says.partition(" Hint: ")
    assert hint, graded
    if callable(right):
        assert re.match(r"For \(.*\) (the result|entry \[|it raises )", finding), graded
        return
    # Of a value: the place that differs, and never what should stand there.
    secret = plain(check._EXERCISES[name].reference())
    kept = secret if isinstance(secret, set) else leaves(secret).values()
    assert not tokens(hint) & {written(leaf) for leaf in kept}, graded
    assert finding.startswith(("Entry [", "The answer ")), graded
    if isinstance(right, set):
        assert not {str(one) for one in right - set(slip)} & tokens(finding)
        return
    ours, theirs = leaves(plain(right)), leaves(plain(slip))
    if ours.keys() == theirs.keys() and "should be" not in finding.replace("should not be", ""):
        place = re.match(r"Entry ((?:\[[^\]]+\])+)|The answer", finding)[1] or ""
        assert written(theirs[place]) in finding
        assert written(ours[place]) not in tokens(finding.replace(place, ""))
        before = list(ours)[: list(ours).index(place)]
        tolerance = check._EXERCISES[name].tolerance
        same = [check._is_close(theirs[p], ours[p], max(tolerance, 1e-6)) for p in before]
        assert all(same) or isinstance(right, dict), "there is an earlier difference"


# What a page promises


def sections() -> dict[str, tuple[str, str, str]]:
    """The exercises of all notebooks: by name, their page, their text, and the code of their solution."""
    found, name = {}, None
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "code":
                if name:
                    page, asked, code = found[name]
                    found[name] = page, asked, f"{code}{text}\n"
            elif head := re.match(r'### Exercise: .*<a id="ex-([\w-]+)"></a>', text):
                name = head[1]
                assert name not in found, f"{name} is on two pages"
                found[name] = path.stem, text, ""
            elif re.match(r"#{1,3} ", text):
                name = None
        name = None
    return found


SECTIONS = sections()


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_says_how_it_is_handed_in_and_its_solution_does_so(name):
    page, text, code = SECTIONS[name]
    assert text.splitlines()[-1].startswith(f'Hand in: `grade("{name}", '), page
    call = re.findall(rf'(?:assert |and )grade\("{name}", ', code)
    assert len(call) == 1, page
    cells = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text("utf8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum("from arbook.check import grade" in source.splitlines() for source in sources) == 1


def test_what_is_handed_in_anywhere_is_an_exercise_of_the_table():
    asked = {n for n, (_, text, code) in SECTIONS.items() if "Hand in" in text or "grade(" in code}
    assert asked == set(NAMES)


# Names, shapes, types


@pytest.mark.parametrize(
    ("name", "near"), [("four-step", "four-steps"), ("ex-cosine", "cosine"), ("ngram-copy", "ngram-copied")]
)  # fmt: skip
def test_an_unknown_name_is_an_error_that_names_the_nearest_exercises(name, near):
    with pytest.raises(ValueError, match=rf"got '{name}'; similar names are [^;]*\b{near}\b"):
        grade(name, 1)


@pytest.mark.parametrize("name", ["xyzzy", "", 7, None])
def test_a_name_like_no_other_is_an_error_that_says_where_they_are(name):
    with pytest.raises(ValueError, match="exercises.html lists all"):
        grade(name, 1)


@pytest.mark.parametrize(
    "answer",
    [
        [3.0, [1, 2]],
        (3, (1, 2)),
        np.array([3, [1, 2]], dtype=object),
        [torch.tensor(3.0), torch.tensor([1, 2])],
        [np.int64(3), range(1, 3)],
        [Fraction(3), np.array([1.0, 2.0])],
        [3.0000001, [1, 2]],
    ],
)
def test_lists_arrays_tensors_and_tuples_of_the_same_numbers_are_the_same_answer(
    monkeypatch, answer
):
    monkeypatch.setitem(check._EXERCISES, "tried", check._Value(lambda: [3.0, [1, 2]], "no hint"))
    assert grade("tried", answer)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (3, "The answer is a number, and should be a list."),
        ([3, 1], "Entry [1] is a number, and should be a list."),
        ([3, [1]], "Entry [1] has the length 1, and should have 2."),
        ([True, [1, 2]], "Entry [0] is True or False, and should be a number."),
        ([math.nan, [1, 2]], "Entry [0] is not a number (nan), and should be a number."),
        ([math.inf, [1, 2]], "Entry [0] is inf, and should not be."),
        ([3 + 0j, [1, 2]], "Entry [0] is of the type complex, and should be a number."),
        (["3", [1, 2]], "Entry [0] is a string, and should be a number."),
        ([3, [1, 2.1]], "Entry [1][1] is 2.1, and should not be."),
        ([3, {1, 2}], "Entry [1] is a set, and should be a list."),
        ({3: [1, 2]}, "The answer is a dictionary, and should be a list."),
        (None, "The answer is None, and should be a list."),
        ((x for x in [3, [1, 2]]), "The answer is of the type generator, and should be a list."),
        (len, "The answer is a function, and should be a list."),
        (np.ndarray, "The answer is a function, and should be a list."),
    ],
)
def test_an_answer_of_another_shape_or_type_is_told_so(monkeypatch, answer, says):
    monkeypatch.setitem(check._EXERCISES, "tried", check._Value(lambda: [3.0, [1, 2]], "no hint"))
    assert grade("tried", answer).says == f"{says} Hint: no hint"


@pytest.mark.parametrize(
    ("right", "tolerance", "near", "far"),
    [(100.0, 0.01, 100.9, 101.1), (0.5, 0.01, 0.509, 0.511), (-2.0, 0.1, -1.81, -1.79),
     (10**16, 0.1, 10**16, 10**16 + 1)],
)  # fmt: skip
def test_a_tolerance_is_relative_above_one_absolute_below_and_not_for_whole_numbers(
    monkeypatch, right, tolerance, near, far
):
    exercise = check._Value(lambda: right, "no hint", tolerance=tolerance)
    monkeypatch.setitem(check._EXERCISES, "tried", exercise)
    assert grade("tried", near) and not grade("tried", far)


def test_sets_and_dictionaries_name_what_is_too_much_and_count_what_is_missing(monkeypatch):
    for right in ({"a", "b"}, {"a": 1, "b": 2}):
        monkeypatch.setitem(check._EXERCISES, "tried", check._Value(lambda right=right: right, "-"))
        more, less = (set, dict.fromkeys)[isinstance(right, dict)]("abc"), type(right)()
        assert grade("tried", right)
        assert "has 'c', which does not belong there" in grade("tried", more).says
        assert "lacks 2 of what belongs there" in grade("tried", less).says


# Functions


def test_a_function_that_raises_is_told_for_what_and_how():
    def fails(phi, h):
        raise KeyError("phi")

    said = grade("ceiling", fails).says
    assert said.startswith("For (0.9, 1) it raises KeyError: 'phi'. Hint: ")
    assert grade("ceiling", lambda phi: phi).says.startswith("For (0.9, 1) it raises TypeError: ")
    with pytest.raises(KeyboardInterrupt):

        def stops(phi, h):
            raise KeyboardInterrupt

        grade("ceiling", stops)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda phi, h: None, "For (0.9, 1) the result is None, and should be a number."),
        (lambda phi, h: [1.0], "For (0.9, 1) the result is a list, and should be a number."),
        (1.0, "The answer is a number, and should be a function."),
        (np.ones(3), "The answer is a list, and should be a function."),
    ],
)
def test_a_function_of_another_type_is_told_so(answer, says):
    assert grade("ceiling", answer).says.startswith(f"{says} Hint: ")


def test_the_first_case_that_differs_is_shown_with_what_came_and_what_should_have_come():
    said = grade("ceiling", lambda phi, h: 1.0 if h == 1 else 2.0).says
    assert said.startswith(
        f"For (0.9, 5) the result is 2, and should be {sum(0.81**k for k in range(5)):.8g}."
    )
    said = grade("cosine", lambda omega: [-1, 0]).says
    assert said.startswith(
        f"For (0.7) entry [1] of the result is 0, and should be {2 * math.cos(0.7):.8g}."
    )


def test_a_function_that_changes_its_arguments_spoils_neither_the_reference_nor_the_next_case():
    def spoils(residuals):
        result = np.mean(residuals**2)
        residuals[:] = 0
        return result

    assert grade("variance", spoils) and grade("variance", spoils)


def test_a_long_value_is_cut_in_a_message_and_a_name_in_it_is_code():
    said = grade("micro-second", lambda f, theta: theta).says
    assert said.startswith("For (valley, [-1, 1.5]) entry [0] of the result is a number")
    assert check._show(list(range(20))) == "[0, 1, 2, 3, 4, 5, 6, 7, …]"
    assert len(check._show("x" * 100)) == 60


# How it looks


def test_a_grade_is_a_line_of_text_and_a_paragraph_that_no_answer_can_break():
    right, wrong = grade("cut-off", 2), grade("slots", "<b>&")
    assert repr(right) == str(right) == "Right: cut-off. Entries compared: 1."
    assert right._repr_html_() == (
        '<p class="arb-grade"><strong>Right: cut-off.</strong> Entries compared: 1.</p>'
    )
    assert "<strong>Not yet: slots.</strong>" in wrong._repr_html_()
    assert "<b>" not in wrong._repr_html_() and "&lt;b&gt;&amp;" in wrong._repr_html_()


def test_the_grader_loads_a_module_when_an_exercise_needs_it():
    program = """import sys
from arbook.check import grade
assert not {"torch", "arbook.ar", "arbook.tokens"} & set(sys.modules)
assert grade("trend", [-1, 2]) and "arbook.ar" in sys.modules and "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
