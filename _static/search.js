/* Search by section. Three parts: an engine of pure functions, the list under the search field, and the landing, which
   marks the words on the page that a result led to. The index (_static/section-index.js, made by
   _ext/section_search.py) is loaded by a <script> element when the field is first used: unlike fetch, that works on
   file:// too. */
(() => {
"use strict";

/* ---- The engine ----------------------------------------------------------------------------------------------- */

const GREEK = ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma " +
    "tau upsilon phi chi psi omega").split(" ");
const COMMON = new Set(("a an and are as at be by can do does for from how i in is it not of on one or that the this " +
    "to was what when where which why with").split(" "));

/** One spelling for what readers take to be one word: no case, no accents, Greek letters by name, one English. */
function fold(word) {
    return word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase()
        .replace(/[α-ω]/g, letter => GREEK[letter.charCodeAt(0) - 0x3b1])
        .replace(/['’]s$/, "").replace(/is(?=(e[drs]?|ers|ing|ations?)$)/, "iz").replace(/(.{3})our(?=s?$)/, "$1or");
}

/** The part of an English word that its plural, its tenses and its adverb share. It need not be a word itself. */
function stem(word) {
    if (word.length < 4 || /\d/.test(word)) return word;
    let root = word.replace(/ies$/, "y").replace(/sses$/, "ss").replace(/([^aious])s$/, "$1");
    for (let longer = ""; longer != root;) { // twice, so that `embedding` gets to where `embed` gets
        longer = root;
        root = root.replace(/(.*[aeiouy].*)(ing|ed|ly|ity)$/, (all, start) => start.length > 2 ? start : all);
        if (root != longer) root = root.replace(/([bdgmnprt])\1$/, "$1");
    }
    return root.length > 3 ? root.replace(/(e|y)$/, "") : root;
}

/** The same function, with a memory: a book has a hundred thousand words, and five thousand different ones. */
function remembering(compute) {
    const known = new Map();
    return word => known.get(word) ?? known.set(word, compute(word)).get(word);
}
const folded = remembering(fold), stemmed = remembering(stem);

/** The words of a text, with their places. A word with a hyphen, `top-p` or `lag_matrix`, is several words; `whole`
    is what its part makes with the next, and `joined` its stem, so that `backpropagation` finds `back-propagation`. */
function wordsOf(text) {
    const found = [];
    for (const match of text.matchAll(/[Α-Ωα-ω]|(?:(?![Α-Ωα-ω])[\p{L}\p{N}])+(?:['’]s(?!\p{L}))?/gu)) {
        const word = folded(match[0]), last = found.at(-1), start = match.index;
        if (last && start == last.end + 1 && /[-‐‑_]/.test(text[last.end])) {
            last.whole = last.word + word;
            last.joined = stemmed(last.whole);
        }
        found.push({word, stem: stemmed(word), start, end: start + match[0].length});
    }
    return found;
}

const stemsOf = text => wordsOf(text).map(word => word.stem).join(" ");

/** A query is a list of words; each is a map from the stems that it accepts to how well they fit. */
function accept(word) {
    return new Map([[word.stem, 1]]);
}

/** How many words of the text, 0 if none, the k-th word of the query covers at place i. */
function cover(words, i, accepted) {
    if (i >= words.length) return 0;
    return accepted.has(words[i].stem) ? 1 : accepted.has(words[i].joined) ? 2 : 0;
}

/** Where a text has the query: as a phrase, and each word alone. Places are [from, to] in words. */
function occurrences(words, query) {
    const phrases = [], single = query.map(() => []);
    for (let i = 0; i < words.length; i++) {
        query.forEach((accepted, k) => {
            const span = cover(words, i, accepted);
            if (span) single[k].push([i, i + span]);
        });
        let at = i, k = 0;
        for (let span; k < query.length && (span = cover(words, at, query[k])); k++) at += span;
        if (k == query.length) phrases.push([i, at]);
    }
    return {phrases, single};
}

/** Is there one edit (a letter more, less, changed, or two swapped) between two words? */
function isOneEditAway(a, b) {
    if (Math.abs(a.length - b.length) > 1) return false;
    let i = 0, same = 0;
    while (i < a.length && i < b.length && a[i] == b[i]) i++;
    while (same < Math.min(a.length, b.length) - i && a.at(-1 - same) == b.at(-1 - same)) same++;
    const [left, right] = [a.length - i - same, b.length - i - same];
    return left <= 1 && right <= 1 || left == 2 && right == 2 && a[i] == b[i + 1] && a[i + 1] == b[i];
}

const FIELDS = ["title", "synonyms", "terms", "captions", "names", "text"];
const WEIGHT = {title: 12, synonyms: 6, terms: 5, captions: 2.5, names: 2, text: 1};
const KIND = {chapter: 1, other: 0.8, reference: 0.12}, KIND_FOR_NAMES = {chapter: 0.3, other: 0.3, reference: 1};

/** Prepare the index: split all texts into words, and note which records have which stem. */
function prepare(pages) {
    const records = [], having = new Map(), vocabulary = new Map(), titles = new Map();
    for (const page of pages) {
        for (const [anchor, title, synonyms, terms, captions, names, text] of page.sections) {
            const record = {page, anchor, title, captions, text, isPage: anchor == page.sections[0][0], words: {}};
            const parts = {title, synonyms: synonyms.join(" ; "), terms, captions, names, text};
            for (const field of FIELDS) record.words[field] = wordsOf(parts[field]);
            record.synonyms = synonyms.map(stemsOf);
            record.definitions = terms.split("; ").map(stemsOf);
            record.context = wordsOf(page.title);
            for (const word of [...FIELDS.flatMap(field => record.words[field]), ...record.context]) {
                for (const [whole, one] of [[word.word, word.stem], [word.whole, word.joined]]) {
                    if (!one) continue;
                    if (!having.has(one)) having.set(one, new Set());
                    having.get(one).add(record);
                    vocabulary.set(whole, one);
                }
            }
            records.push(record);
            titles.set(title, (titles.get(title) ?? 0) + 1);
        }
    }
    const lengths = records.map(record => record.words.text.length);
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    return {records, having, vocabulary, titles, mean};
}

/** Understand what was typed: the last word may be unfinished, and a long word that is nowhere may have a typo. */
function understand(index, text) {
    const typed = wordsOf(text), vocabulary = [...index.vocabulary], corrected = [];
    const query = typed.map((word, k) => {
        const accepted = accept(word), known = index.having.has(word.stem);
        const add = (one, fit) => accepted.has(one) || accepted.set(one, fit);
        const isUnfinished = k == typed.length - 1 && /[\p{L}\p{N}]$/u.test(text);
        if (word.word.length > 2 && (isUnfinished || !known)) {
            vocabulary.forEach(([other, one]) => other.startsWith(word.word) && add(one, known ? 0.1 : 0.6));
        }
        if (!known && accepted.size == 1 && word.word.length >= 6) {
            for (const [other, one] of vocabulary.filter(([other]) => isOneEditAway(other, word.word))) {
                add(one, 0.5);
                corrected.push([word.word, other]);
            }
        }
        return accepted;
    });
    return {typed, query, corrected};
}

/** All readings of a query: as typed, and with two neighbours written as one word (`back propagation`). */
function readings(index, typed, query) {
    const all = [query];
    for (let k = 0; k + 1 < typed.length; k++) {
        const joined = stem(typed[k].word + typed[k + 1].word);
        if (index.having.has(joined)) {
            all.push([...query.slice(0, k), new Map([[joined, 1]]), ...query.slice(k + 2)]);
        }
    }
    return all;
}

/** A count that pays less and less, as in BM25: the tenth occurrence says little that the third did not. */
function saturate(count, length, mean) {
    return 2.5 * count / (count + 1.5 * (0.5 + 0.5 * length / mean));
}

/** How well a record answers a query. */
function score(index, record, query, rarity) {
    let total = 0;
    for (const field of FIELDS) {
        const words = record.words[field];
        if (!words.length) continue;
        const {phrases, single} = occurrences(words, query);
        const worth = places => field == "text" ? saturate(places, words.length, index.mean) : Math.min(places, 1);
        let sum = 0;
        single.forEach((places, k) => {
            const fit = places.map(([i]) => query[k].get(words[i].stem) ?? query[k].get(words[i].joined) ?? 0);
            sum += rarity[k] * worth(fit.reduce((a, b) => a + b, 0));
        });
        if (query.length > 1) sum += 2 * rarity.reduce((a, b) => a + b, 0) * worth(phrases.length);
        // A title that says nothing else is better than a long one.
        if (field == "title") {
            const covered = single.filter(places => places.length).length;
            sum *= 0.4 + 0.6 * covered / Math.max(words.filter(word => !COMMON.has(word.word)).length, covered);
        }
        total += WEIGHT[field] * sum;
    }
    const context = occurrences(record.context, query).single;
    context.forEach((places, k) => { total += places.length ? 0.5 * rarity[k] : 0; });
    return total;
}

/** The records that answer a query, best first, and the typos: {results: [{record, score, query}], corrected}. */
function search(index, text) {
    const {typed, query, corrected} = understand(index, text);
    if (!typed.length) return {results: [], corrected};
    const exact = stemsOf(text), isAllCommon = typed.every(word => COMMON.has(word.word));
    const isName = /[\p{L}\d][_.]\p{L}|\(\)/u.test(text); // written as in code, so meant for the reference
    const best = new Map();
    for (const reading of readings(index, typed, query)) {
        const found = reading.map(accepted => new Set([...accepted.keys()].flatMap(one => [...index.having.get(one) ?? []])));
        const rarity = reading.map((accepted, k) => {
            const word = reading.length == typed.length ? typed[k].word : "";
            return COMMON.has(word) && !isAllCommon ? 0 : Math.log(1 + index.records.length / (1 + found[k].size));
        });
        // All words, or, if no section has all of them, as many of the rare ones as any has.
        const held = index.records.map(record => rarity.reduce((sum, one, k) => sum + (found[k].has(record) ? one : 0), 0));
        const most = Math.max(...held);
        index.records.forEach((record, i) => {
            if (!most || held[i] < most - 1e-9) return;
            let value = score(index, record, reading, rarity);
            value *= (isName ? KIND_FOR_NAMES : KIND)[record.page.kind];
            if (index.titles.get(record.title) > 3) value *= 0.5; // "Exercises" or "Sources" of every chapter
            if (record.isPage) value *= 2; // a chapter about it, before a section about it
            // Where a word is set in bold, it is explained: that is worth as much as a title.
            if (record.definitions.includes(exact) && stemsOf(record.title) != exact) value *= 2;
            if (record.synonyms.includes(exact) && !isName) value += 1000;
            if (value > (best.get(record)?.score ?? 0)) best.set(record, {record, score: value, query: reading});
        });
    }
    return {results: [...best.values()].sort((a, b) => b.score - a.score), corrected};
}

/** Which pieces of a text to mark, as [start, end] in characters: the phrase, or, where there is none, its words. */
function ranges(text, query) {
    const words = wordsOf(text), {phrases, single} = occurrences(words, query);
    const isAlone = query.length == 1;
    const places = phrases.length ? phrases : single.flat().filter(([i]) => isAlone || !COMMON.has(words[i].word));
    places.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    let end = 0; // a place that overlaps the one before is left out
    return places.filter(([i, j]) => i >= end && (end = j)).map(([i, j]) => [words[i].start, words[j - 1].end]);
}

/** About `size` characters of a text around its first mark. */
function snippet(text, query, size = 170) {
    const first = ranges(text, query)[0]?.[0] ?? 0;
    let start = Math.max(0, first - size / 3);
    if (start) start = text.indexOf(" ", start) + 1;
    let end = Math.min(text.length, start + size);
    if (end < text.length) end = text.lastIndexOf(" ", end);
    return (start ? "… " : "") + text.slice(start, end) + (end < text.length ? " …" : "");
}

/* ---- The list under the field --------------------------------------------------------------------------------- */

const root = document.documentElement.dataset.content_root ?? "./";
let loading = null;

/** The prepared index, loaded at the first call. */
function load() {
    loading ??= new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `${root}_static/section-index.js`;
        script.onload = () => resolve(prepare(window.arbookIndex));
        script.onerror = reject;
        document.head.append(script);
    });
    return loading;
}

function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
}

/** A text as nodes, the words of the query in <mark>. */
function marked(text, query) {
    const nodes = [];
    let at = 0;
    for (const [start, end] of ranges(text, query)) {
        nodes.push(text.slice(at, start), element("mark", {}, text.slice(start, end)));
        at = end;
    }
    return [...nodes, text.slice(at)];
}

/** One result: a link that carries the words along, so that the page it leads to can mark them. */
function option({record, query}, words, id) {
    const shown = ranges(record.text, query).length || !ranges(record.captions, query).length;
    const href = `${root}${record.page.url}?${new URLSearchParams({find: words})}#${record.anchor}`;
    const title = record.isPage ? [] : [" › ", ...marked(record.title, query)];
    return element("a", {id, class: "search-hit", href, tabindex: -1, role: "option", "aria-selected": false},
        element("span", {class: "search-place"}, ...marked(record.page.title, query), ...title),
        element("span", {class: "search-snippet"},
            ...marked(snippet(shown ? record.text : record.captions, query), query)));
}

/** Let a search form answer as one types: arrow keys choose, Enter opens the chosen result or else the first. */
function answer(form, most) {
    const field = form.querySelector("input"), name = form.closest("dialog") ? "dialog" : "page";
    const list = element("div", {id: `search-${name}-list`, class: "search-list", role: "listbox", "aria-label": "Results"});
    const status = element("p", {class: "search-status", role: "status"});
    form.after(status, list);
    for (const [key, value] of Object.entries({role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false",
        "aria-controls": list.id})) field.setAttribute(key, value);
    const hint = "Type words, a phrase or a name. ↑ and ↓ choose a section, Enter opens it, Esc closes.";
    status.textContent = hint;
    let asked = 0, latest = null; // the last answer, perhaps still on its way
    let answered = null; // the text whose results are shown

    const show = () => { latest = shown(); };

    async function shown() {
        const turn = ++asked, text = field.value;
        let index;
        try {
            index = await load();
        } catch {
            status.textContent = "The index could not be loaded.";
            return;
        }
        if (turn != asked) return; // overtaken by the next letter
        const {results, corrected} = search(index, text);
        const wrong = new Map(corrected);
        const words = text.replace(/[\p{L}\p{N}]+/gu, word => wrong.get(fold(word)) ?? word);
        list.replaceChildren(...results.slice(0, most).map((result, i) => option(result, words, `${list.id}-${i}`)));
        list.scrollTop = 0;
        answered = text;
        choose(null);
        field.setAttribute("aria-expanded", String(results.length > 0));
        const count = results.length == 1 ? "1 result" : `${results.length} results`;
        status.textContent = !text.trim() ? hint : !results.length ? `Nothing in this book has “${text.trim()}”.`
            : count + (results.length > most ? `, the best ${most} of them here` : "")
            + (corrected.length ? `, for “${words.trim()}”` : "");
    }

    function choose(link) {
        for (const one of list.children) one.setAttribute("aria-selected", one == link);
        link?.scrollIntoView({block: "nearest"});
        if (link) field.setAttribute("aria-activedescendant", link.id);
        else field.removeAttribute("aria-activedescendant");
    }

    field.addEventListener("input", show);
    // A reader who comes back to the field finds the results, and what was chosen of them, as they were.
    field.addEventListener("focus", () => { if (field.value != answered) show(); });
    field.addEventListener("keydown", event => {
        const step = {ArrowDown: 1, ArrowUp: -1}[event.key], hits = [...list.children];
        if (!step || !hits.length) return;
        event.preventDefault();
        const now = hits.findIndex(one => one.getAttribute("aria-selected") == "true");
        choose(hits[now < 0 ? (step > 0 ? 0 : hits.length - 1) : (now + step + hits.length) % hits.length]);
    });
    form.addEventListener("submit", async event => {
        event.preventDefault();
        await latest;
        (list.querySelector("[aria-selected=true]") ?? list.firstElementChild)?.click();
    });
    list.addEventListener("click", event => {
        const link = event.target.closest("a");
        const isHere = link && link.pathname == location.pathname && carried(link) == carried(location);
        if (!isHere || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault(); // the browser would not load this page again
        form.closest("dialog")?.close();
        location.hash = link.hash;
        land();
    });
    return show;
}

/* ---- The landing ---------------------------------------------------------------------------------------------- */

const BLOCK = "p, li, td, th, dt, dd, h1, h2, h3, h4, h5, h6, figcaption, div, section";
const UNMARKED = "script, style, svg, pre, summary, button, .math, .headerlink, .section-number, .cell_output table";

/** The part of the page that a record of the index was made of. */
function partOf(anchor) {
    const target = document.getElementById(anchor);
    if (target?.matches("dt")) return target.parentElement;
    return target?.closest("section") ?? null;
}

/** The text nodes of a section, without those of sections and entries inside it. */
function textNodes(part) {
    const walker = document.createTreeWalker(part, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, node => {
        if (node.nodeType == Node.TEXT_NODE) return NodeFilter.FILTER_ACCEPT;
        const isOther = node.matches("section") && node.querySelector(":scope > :is(h1, h2, h3, h4, h5, h6)") ||
            node.matches("dl.py");
        return isOther || node.matches(UNMARKED) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_SKIP;
    });
    const nodes = [];
    while (walker.nextNode()) nodes.push(walker.currentNode);
    return nodes;
}

/** Put <mark> around the words of a section. A phrase may run through several elements, so all its text is looked at
    as one string, and each node gets the pieces that lie in it. */
function mark(part, query) {
    const nodes = textNodes(part), starts = [];
    let text = "", block = null;
    for (const node of nodes) {
        const own = node.parentElement.closest(BLOCK);
        if (own != block) text += "\n";
        block = own;
        starts.push(text.length);
        text += node.data;
    }
    const found = ranges(text, query), marks = [];
    nodes.forEach((node, n) => {
        const pieces = found.map(range => range.map(at => Math.min(Math.max(at - starts[n], 0), node.length)))
            .filter(([start, end]) => start < end);
        const made = [];
        for (const [start, end] of pieces.reverse()) { // from the end, so that earlier places stay right
            const range = document.createRange();
            range.setStart(node, start);
            range.setEnd(node, end);
            const wrapper = element("mark", {class: "search-mark"});
            range.surroundContents(wrapper);
            made.unshift(wrapper);
        }
        marks.push(...made);
    });
    return marks;
}

/** The words that an address carries. */
function carried({search}) {
    return new URLSearchParams(search).get("find");
}

/** Make a mark visible that stands in something folded. */
function unfold(node) {
    for (let at = node; at; at = at.parentElement) {
        if (at.matches("details")) at.open = true;
        if (at.matches(".toggle-hidden")) at.querySelector(".toggle-button")?.click();
    }
}

function unmark() {
    for (const one of document.querySelectorAll("mark.search-mark")) {
        const parent = one.parentNode;
        one.replaceWith(...one.childNodes);
        parent.normalize();
    }
}

/** If a search led here, mark its words in the section that the address names, and show the first. */
function land() {
    unmark();
    const words = carried(location);
    const part = words && partOf(decodeURIComponent(location.hash.slice(1)));
    if (!part) return;
    const typed = wordsOf(words), query = typed.map(accept);
    const joined = [new Map([[stem(typed.map(word => word.word).join("")), 1]])];
    const begun = wordsOf(part.textContent).filter(word => word.word.startsWith(typed.at(-1)?.word));
    const beginning = [...query.slice(0, -1), new Map(begun.map(word => [word.stem, 1]))];
    let marks = [];
    for (const reading of [query, joined, beginning]) {
        if (!marks.length) marks = mark(part, reading);
    }
    // Found by a synonym: the page says it in other words, so the title is what was meant.
    const heading = part.querySelector("h1, h2, h3, h4, h5, h6, dt");
    if (!marks.length && heading) {
        marks = mark(heading, wordsOf(textNodes(heading).map(node => node.data).join("")).map(accept));
    }
    if (!marks.length) return;
    unfold(marks[0]);
    // Formulas and pictures still change the height of what stands above, until the reader takes over.
    const scroll = () => marks[0].scrollIntoView({block: "start", behavior: "instant"});
    const keep = new ResizeObserver(scroll), reader = new AbortController();
    keep.observe(document.querySelector("article"));
    addEventListener("load", scroll, {signal: reader.signal});
    for (const event of ["wheel", "touchmove", "keydown", "pointerdown"]) {
        addEventListener(event, () => { keep.disconnect(); reader.abort(); }, {signal: reader.signal, passive: true});
    }
}

addEventListener("keydown", event => {
    if (event.key != "Escape" || event.target.closest("dialog") || !carried(location)) return;
    unmark();
    try {
        history.replaceState(null, "", location.pathname + location.hash);
    } catch { /* some browsers keep the address of a file as it is */ }
});

function start() {
    for (const form of document.querySelectorAll("form.bd-search")) {
        const isDialog = form.closest("dialog") != null, show = answer(form, isDialog ? 20 : 50);
        if (isDialog) continue;
        const field = form.querySelector("input");
        field.value ||= new URLSearchParams(location.search).get("q") ?? "";
        field.focus();
        show();
    }
    land();
}

window.arbookSearch = {fold, stem, wordsOf, isOneEditAway, prepare, search, snippet, ranges, load};
addEventListener("DOMContentLoaded", start); // after the theme's scripts have folded what they fold
})();
