// Chapter 15: choose a mask, walk the words, and see whom each of them sees, at once and over several layers.
(() => {
  "use strict";
  const words = "the cat sat on the mat . the dog ran".split(" ");
  const border = 7; // where the second document begins
  const rules = {
    causal: (i, j) => j <= i,
    full: () => true,
    prefix: (i, j, n) => j <= i || j < n,
    sliding: (i, j, n) => j <= i && j > i - n,
    segments: (i, j, n) => j <= i && Math.floor(j / n) >= Math.floor(i / n) - 1,
    documents: (i, j) => j <= i && (i < border) === (j < border),
  };
  const sized = ["prefix", "sliding", "segments"];
  const range = Array.from({ length: words.length }, (_, i) => i);

  const mask = (kind, n) => range.map((i) => range.map((j) => rules[kind](i, j, n)));
  // What is seen by what is seen: the mask, times itself, once for each further layer.
  function reached(seen, layers) {
    let found = seen;
    for (let layer = 1; layer < layers; layer += 1) {
      found = range.map((i) => range.map((j) => range.some((k) => seen[i][k] && found[k][j])));
    }
    return found;
  }
  const compute = { words, border, mask, reached };

  arbookTouch.place("masks", compute, (touch) => {
    const kind = touch.choice({ label: "mask", options: Object.keys(rules), value: "sliding" });
    const size = touch.slider({ label: "size", min: 1, max: 10, value: 3 });
    const layers = touch.slider({ label: "layers", min: 1, max: 4, value: 1 });
    const row = touch.row("Words");
    row.chosen = 5;
    const table = touch.panel("The mask");
    touch.draw(() => {
      size.input.parentElement.style.display = sized.includes(kind.value) ? "" : "none";
      const seen = mask(kind.value, size.value), far = reached(seen, layers.value);
      const colour = (i, j) => (seen[i][j] ? "past" : far[i][j] ? "mute" : "off");
      row.show(words, {
        above: (x, i) => [156, range.filter((j) => far[i][j] && j !== i)
          .map((j) => touch.arc(x(j), x(i), 0, `line ${colour(i, j)}`, seen[i][j] ? 2 : 1)).join("")],
        below: (j) => (far[row.chosen][j] ? "✓" : "·"),
      });
      const i = row.chosen, count = (cells) => cells.filter(Boolean).length;
      table.show(172, (width) => {
        const step = 16, left = width / 2 - (step * (words.length - 1)) / 2;
        const ring = touch.shape("rect", { class: "line now", x: left - 8, y: 6 + step * i, width: step * words.length, height: step, rx: 4 });
        return ring + range.map((a) => range.map((b) => touch.shape("circle", {
          class: `fill ${colour(a, b)}`, cx: left + step * b, cy: 14 + step * a, r: seen[a][b] ? 6 : far[a][b] ? 4 : 2.5,
        })).join("")).join("");
      }, `row ${i + 1} sees ${count(seen[i])} of ${words.length} words`);
      const later = range.some((j) => j > i && far[i][j]) ? " Some of them come later." : "";
      const over = layers.value === 1 ? "" : ` Over ${layers.value} layers it hears from ${count(far[i])}.`;
      touch.say(`“${words[i]}”, word ${i + 1}, sees ${count(seen[i])} of ${words.length} words.${over}${later}`);
    });
  });
})();
