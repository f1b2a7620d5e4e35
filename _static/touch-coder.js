// Chapter 11: a text becomes an interval, the interval becomes bits, and the bits become the text again.
// needs live.js
// needs live-plays.js
// needs touch-ngrams.js
(() => {
  "use strict";
  const [WINDOW, NARROW] = [1n << 64n, 1n << 56n], [GRID, OCTAVES] = [1024, 30]; // as in the library
  const ROWS = 3, START = "\n";

  // Logits as integers of which none is 0: steps of 1/1024 of a factor of two below the largest.
  function weights(scores) {
    const top = Math.max(...scores);
    return scores.map((z) => {
      const steps = Math.min(Math.round((top - z) * (GRID / Math.LN2)), OCTAVES * GRID);
      return Math.round(2 ** (OCTAVES - steps / GRID));
    });
  }

  const sum = (values) => values.reduce((a, b) => a + b, 0);

  // The interval before the first symbol, after it, after the second, ...: from `low`, `width` wide, with 64 + 8 n bits behind
  // the point. Whole numbers of any length carry by themselves.
  function narrow(rows, symbols) {
    let [low, width, n] = [0n, WINDOW, 0];
    const found = [{ low, width, n }];
    symbols.forEach((symbol, t) => {
      const row = rows[t], unit = width / BigInt(sum(row));
      low += unit * BigInt(sum(row.slice(0, symbol)));
      width = unit * BigInt(row[symbol]);
      for (; width <= NARROW; n += 1) [low, width] = [low << 8n, width << 8n];
      found.push({ low, width, n });
    });
    return found;
  }

  // The fewest bytes that name a number in the interval.
  function bytes({ low, width, n }) {
    for (let more = 0; ; more += 1) {
      const step = WINDOW >> BigInt(8 * more), value = ((low + step - 1n) / step) * step;
      if (value >= low + width) continue;
      const text = (value >> BigInt(64 - 8 * more)).toString(2);
      return n + more ? text.padStart(8 * (n + more), "0").match(/.{8}/g).map((bits) => parseInt(bits, 2)) : [];
    }
  }

  // The bits behind the point that both ends of the interval share: nothing that follows can change them.
  function settled({ low, width, n }) {
    const [from, to] = [low, low + width - 1n].map((end) => end.toString(2).padStart(64 + 8 * n, "0"));
    let same = 0;
    while (same < from.length && from[same] === to[same]) same += 1;
    return from.slice(0, same);
  }

  // Symbols from bytes. `law(symbols)` gives the weights of what may follow those that were read.
  function decode(payload, count, law) {
    const byte = (at) => BigInt(payload[at] || 0), symbols = [];
    let [value, width, at] = [0n, WINDOW, 8];
    for (let i = 0; i < 8; i += 1) value = (value << 8n) | byte(i);
    while (symbols.length < count) {
      const row = law(symbols), unit = width / BigInt(sum(row));
      let [symbol, start, left] = [0, 0, Number(value / unit)];
      while (symbol < row.length - 1 && left >= start + row[symbol]) start += row[symbol++];
      value -= unit * BigInt(start);
      width = unit * BigInt(row[symbol]);
      for (; width <= NARROW; at += 1) [value, width] = [(value << 8n) | byte(at), width << 8n];
      symbols.push(symbol);
    }
    return symbols;
  }

  const { visible: shown } = arbookTouch;
  const MODELS = ["single letters", "4-grams", "GPT"];

  arbookTouch.place("coder", { weights, narrow, bytes, settled, decode }, (touch) => {
    let gpt, laws;
    const typed = touch.text({ label: "a text", value: "Good morrow, good sir." });
    const model = touch.slider({ label: "model", min: 0, max: MODELS.length - 1, value: 2, format: (v) => MODELS[v] });
    const flip = touch.check({ label: "flip one bit of the file" });
    const text = touch.words("The text; the intervals begin at the chosen character");
    const strips = touch.panel("Three intervals, each a piece of the one above", { wide: true }), file = touch.panel("The file");
    const paper = touch.panel("Read back from the file");

    function strip(t, x, y, width, ids, rows) {
      const total = sum(rows[t]);
      let [left, mark] = [0, ""];
      const pieces = rows[t].map((weight, id) => {
        const [from, wide, chosen] = [left, (width * weight) / total, id === ids[t]];
        left += wide;
        if (chosen) mark = [from, wide];
        if (wide < 0.5 && !chosen) return "";
        return touch.shape("rect", { class: `fill ${chosen ? "now" : "past"}`, "fill-opacity": chosen ? 0.6 : id % 2 ? 0.15 : 0.3, x: from, y, width: Math.max(wide, 1), height: 24 })
          + (wide > 11 ? touch.label(from + wide / 2, y + 16, shown(gpt.words[id])) : "");
      });
      return [pieces.join(""), ...mark];
    }

    touch.draw(() => {
      if (!gpt) return;
      const law = laws[model.value], words = gpt.words, first = gpt.encode(START);
      const weigh = (symbols) => law([...first, ...symbols]);
      const ids = gpt.encode(typed.value), rows = ids.map((_, t) => weigh(ids.slice(0, t)));
      const spaces = narrow(rows, ids), payload = bytes(spaces.at(-1));
      const bits = ids.map((id, t) => Math.log2(sum(rows[t]) / rows[t][id]));
      text.show(ids.map((id) => shown(words[id])), (i) => arbookTouch.depth(bits[i]), (i) => `${bits[i].toFixed(2)} bits`);
      const at = text.chosen, last = Math.min(at + ROWS, ids.length);
      strips.show(Math.max(last - at, 1) * 62, (width) => {
        let drawn = "";
        for (let t = at; t < last; t += 1) {
          const y = 18 + (t - at) * 62, [pieces, from, wide] = strip(t, 0, y, width, ids, rows);
          const before = [...START, ...ids.slice(0, t).map((id) => words[id])].slice(-14).map(shown).join("");
          drawn += touch.label(0, y - 5, `after “${before}”`, "mute", "start") + pieces;
          if (t + 1 < last) drawn += touch.line([[from, y + 24], [0, y + 44]], "line now") + touch.line([[from + wide, y + 24], [width, y + 44]], "line now");
        }
        return drawn;
      }, ids.slice(at, last).map((id, k) => `${shown(words[id])} ${(100 * 2 ** -bits[at + k]).toFixed(1)} %`).join(", "));
      const all = payload.map((byte) => byte.toString(2).padStart(8, "0")).join(""), certain = ids.length ? settled(spaces[at + 1]) : "";
      const place = flip.value && payload.length ? Math.floor(all.length / 2) : -1;
      let columns;
      file.show(0, (width) => ((columns = Math.max(1, Math.floor(width / 80))), ""));
      file.show(Math.max(1, Math.ceil(payload.length / columns)) * 20 + 16, () => touch.label(0, 11, `the file: ${payload.length} bytes`, "mute", "start")
        + touch.shape("g", { "font-family": "monospace", "font-size": 14 }, [...all].map((bit, i) => {
          const group = Math.floor(i / 8), [x, y] = [(group % columns) * 80 + (i % 8) * 9 + 4.5, 31 + Math.floor(group / columns) * 20];
          const turned = i === place, kind = turned ? "now strong" : i < certain.length ? "past" : "mute";
          return touch.label(x, y, turned ? 1 - bit : bit, kind);
        }).join("")), all);
      const damaged = [...payload];
      if (place >= 0) damaged[Math.floor(place / 8)] ^= 128 >> place % 8;
      const again = decode(damaged, ids.length, weigh), wrong = again.filter((id, i) => id !== ids[i]).length;
      paper.show(0, (width) => ((columns = Math.max(1, Math.floor(width / 9))), ""));
      paper.show(Math.max(1, Math.ceil(again.length / columns)) * 20 + 16, () => touch.label(0, 11, "read back from the file", "mute", "start")
        + touch.shape("g", { "font-family": "monospace", "font-size": 14 }, again.map((id, i) =>
          touch.label((i % columns) * 9 + 4.5, 31 + Math.floor(i / columns) * 20, shown(words[id]), id === ids[i] ? "ink" : "now strong")).join("")),
      again.map((id) => words[id]).join(""));
      if (!ids.length) return touch.say("Nothing to write: a file of 0 bytes.");
      const letter = `“${shown(words[ids[at]])}”`, back = wrong ? `${wrong} characters come back wrong` : "all characters come back";
      touch.say(`${letter} has ${(100 * 2 ** -bits[at]).toFixed(1)} % of its interval: ${bits[at].toFixed(2)} bits. After it, ${certain.length} bits of the file are certain. `
        + `The model is surprised by ${sum(bits).toFixed(1)} bits in all, and the file has ${8 * payload.length}; ${back}.`);
    });
    arbookLive.load("shakespeare").then((found) => {
      gpt = found;
      const { counted, remembered } = arbookPlays, scored = (probs) => weights(probs.map(Math.log));
      const late = (order) => { // counted when it is asked first
        let law;
        return remembered((ids) => scored((law ||= counted(order, gpt.words))(ids)));
      };
      laws = [late(1), late(4), remembered((ids) => weights([...gpt.logits(ids)]))];
      touch.redraw();
    });
  });
})();
