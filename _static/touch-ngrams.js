// Chapter 5: a model of n-grams that is counted in the page, and writes. Each character has the colour of its order.
(() => {
  "use strict";
  const START = "\u0002"; // stands before the text, and is never written
  const WRITTEN = 200;
  const TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, \"and what is the use of a book,\" thought Alice, \"without pictures or conversations?\" So she was considering in her own mind, as well as she could, for the hot day made her feel very sleepy and stupid, whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her. There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to hear the Rabbit say to itself, \"Oh dear! Oh dear! I shall be late!\" When she thought it over afterwards, it occurred to her that she ought to have wondered at this, but at the time it all seemed quite natural; but when the Rabbit actually took a watch out of its waistcoat-pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and burning with curiosity, she ran across the field after it, and fortunately was just in time to see it pop down a large rabbit-hole under the hedge.";

  // For each order from 1 on: context -> next character -> count. Of the highest order these are occurrences; below, the
  // number of different characters to the left, as Kneser and Ney have it.
  function count(text, order) {
    const signs = [START, ...text];
    return Array.from({ length: order }, (_, k) => {
      const table = new Map(), seen = new Set();
      for (let t = k + 1; t < signs.length; t += 1) {
        const longer = signs.slice(t - k - 1, t + 1).join("");
        if (k + 1 < order && seen.has(longer)) continue;
        seen.add(longer);
        const context = signs.slice(t - k, t).join("");
        if (!table.has(context)) table.set(context, new Map());
        table.get(context).set(signs[t], (table.get(context).get(signs[t]) || 0) + 1);
      }
      return table;
    });
  }

  const sum = (values) => [...values].reduce((a, b) => a + b, 0);

  // What is taken from every count of one order: n1 / (n1 + 2 n2).
  function discount(table) {
    const all = [...table.values()].flatMap((row) => [...row.values()]);
    const [n1, n2] = [1, 2].map((r) => all.filter((c) => c === r).length);
    return n1 && n2 ? n1 / (n1 + 2 * n2) : 0.5;
  }

  function fit(text, order) {
    const levels = count(text, order);
    return { levels, discounts: levels.map(discount), signs: [...new Set(text)] };
  }

  // The rows of counts that a history leads to, the longest context first: [order, context, counts, discount].
  const rows = ({ levels, discounts }, history) => levels.map((table, k) => {
    const context = history.slice(history.length - k).join("");
    return [k + 1, context, history.length < k ? undefined : table.get(context), discounts[k]];
  }).filter(([, , row]) => row).reverse();

  // The probability of a character: what is left of its count, and its part of what was taken, from the order below.
  function probability(model, history, sign) {
    return rows(model, [...history]).reduceRight((below, [, , row, taken]) =>
      (Math.max((row.get(sign) || 0) - taken, 0) + taken * row.size * below) / sum(row.values()), 1 / model.signs.length);
  }

  // Draw one character, and say which order decided: 0 if none did.
  function draw(model, history, random) {
    for (const [order, , row, taken] of rows(model, history)) {
      let left = random() * sum(row.values());
      for (const [sign, c] of row) if ((left -= c - taken) < 0) return [sign, order];
    }
    return [model.signs[Math.floor(random() * model.signs.length)], 0];
  }

  function write(model, length, seed) {
    const random = arbookTouch.dice(seed), written = [];
    while (written.length < length) written.push(draw(model, written.map(([sign]) => sign), random));
    return written;
  }

  const shown = arbookTouch.visible;
  const ground = (order) => ({ class: `fill ${order > 1 ? "past" : "now"}`, "fill-opacity": order > 1 ? `${0.07 * (order - 1)}` : "0.3" });

  // How the i-th character came about.
  function story(model, written, i) {
    const [sign, from] = written[i], quote = (text) => `“${[...text].map(shown).join("")}”`;
    const asked = rows(model, written.slice(0, i).map(([before]) => before));
    const which = `Character ${i + 1}, ${quote(sign)}: `;
    if (!from) return `${which}no order decided, all characters were equally likely.`;
    const [, context, row] = asked.find(([order]) => order === from);
    const fell = asked[0][0] > from ? `order ${asked[0][0]} gave way, ` : "";
    const counted = from === model.levels.length ? "occurrences" : "neighbours to the left";
    return `${which}${fell}order ${from} decided. After ${from > 1 ? quote(context) : "anything"} it has ${row.get(sign)} of ${sum(row.values())} ${counted}.`;
  }

  arbookTouch.place("ngrams", { TEXT, count, fit, probability, write }, (touch) => {
    const source = touch.text({ label: "your text", value: TEXT, rows: 4 });
    const order = touch.slider({ label: "order", min: 1, max: 7, value: 4 });
    const chosen = touch.slider({ label: "look at character", min: 1, max: WRITTEN, value: 20 });
    let seed = 1, key, model, written;
    touch.button("write again", () => (seed += 1));
    const paper = touch.panel("What the model writes"), bars = touch.panel("How many characters each order decided");
    touch.draw(() => {
      const text = source.value || TEXT, i = chosen.value - 1, [wide, high] = [9, 22];
      if (key !== (key = `${order.value} ${seed} ${text}`)) written = write((model = fit(text, order.value)), WRITTEN, seed);
      let columns;
      paper.show(0, (width) => ((columns = Math.floor(width / wide)), "")); // only to know how many fit
      paper.show(Math.ceil(WRITTEN / columns) * high, () => touch.shape("g", { "font-family": "monospace", "font-size": 14 }, written.map(([sign, from], at) => {
        const [x, y] = [(at % columns) * wide, Math.floor(at / columns) * high], box = { x, y: y + 2, width: wide, height: high - 4 };
        return touch.shape("rect", { ...ground(from), ...box }) + (at === i ? touch.shape("rect", { class: "line ink", ...box }) : "")
          + (sign === " " ? "" : touch.label(x + wide / 2, y + 15, shown(sign)));
      }).join("")), written.map(([sign]) => sign).join(""));
      const sizes = Array.from({ length: order.value + 1 }, (_, n) => written.filter(([, from]) => from === n).length);
      bars.show(sizes.length * 20, (width) => sizes.map((size, n) => {
        const long = ((width - 100) * size) / Math.max(...sizes), y = n * 20;
        return touch.label(0, y + 14, `order ${n}`, "mute", "start") + touch.label(66 + long, y + 14, size, "ink", "start")
          + touch.shape("rect", { ...ground(n), x: 60, y: y + 2, width: long, height: 16 });
      }).join(""), sizes.map((size, n) => `order ${n}: ${size}`).join(", "));
      touch.say(story(model, written, i));
    });
  });
})();
