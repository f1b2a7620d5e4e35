// Chapter 7: a GPT reads a text in the page. To whom each head of each layer listens, and what the stream would say after each block.
// needs live.js
(() => {
  "use strict";
  const TEXT = "The king is dead. Long live the king.", ASKS = TEXT.length - 5, HEAD = 11; // the k of the last word, and a head that looks far back
  const GAP = 11, ROW = 16, LEFT = 26, PEAK = 84;

  const order = (probs) => [...probs.keys()].sort((a, b) => probs[b] - probs[a] || a - b);

  // What happens at each position of a text: before the first block and after each one the attention of its heads, and the
  // law that the last norm and the output layer make of the stream.
  function read(model, ids) {
    return ids.map((_, i) => {
      const stages = [];
      model.logits(ids.slice(0, i + 1), ({ attention, x }) =>
        stages.push({ attention: attention.map((weights) => [...weights]), probs: [...arbookLive.softmax(model.scores(x))] }));
      return stages;
    });
  }

  const shown = arbookTouch.visible, percent = (q) => `${Math.round(100 * q)} %`;

  arbookTouch.place("attention", { read }, (touch) => {
    let model, ids = [], found = [], key;
    const name = (head) => `${Math.floor(head / model.n_head) + 1}.${(head % model.n_head) + 1}`;
    const typed = touch.text({ label: "text", value: TEXT });
    const head = touch.slider({ label: "head (layer.number)", min: 0, max: HEAD, value: HEAD, format: (h) => (model ? name(h) : "") });
    touch.file({ label: "a model of yours", accept: ".js" }, (content) => meet(arbookLive.parse(content)));
    const text = touch.words("The text; the chosen character asks");
    const heads = touch.panel("Where the heads look", { wide: true }), lens = touch.panel("The prediction after each block", { wide: true });
    text.chosen = ASKS;

    function meet(found) {
      [model, key] = [found, null];
      head.input.max = model.n_layer * model.n_head - 1;
      head.value = Math.min(HEAD, head.input.max);
    }

    // One row of cells for each head, below the characters; above them the arcs of the chosen head.
    function drawHeads(width, asks, weights) {
      const room = Math.floor((width - LEFT) / GAP), start = Math.max(0, asks + 1 - room), seen = ids.slice(start, start + room);
      const gap = Math.min(20, (width - LEFT) / seen.length), x = (i) => LEFT + gap * (i - start + 0.5), ground = PEAK + 16, top = ground + 26;
      const arcs = weights[head.value].map((w, i) => {
        const look = { class: "line now", "stroke-width": 10 * w, "stroke-opacity": 0.75 };
        if (w < 0.01 || i < start) return "";
        const wide = (x(asks) - x(i)) / 2, high = Math.min(wide + 6, PEAK);
        return i === asks ? touch.shape("circle", { ...look, cx: x(i), cy: ground - 11, r: 8 })
          : touch.shape("path", { ...look, d: `M${x(i)} ${ground}A${wide} ${high} 0 0 1 ${x(asks)} ${ground}` });
      });
      const signs = seen.map((id, i) => touch.label(x(start + i), ground + 15, shown(model.words[id]), start + i > asks ? "mute" : start + i === asks ? "now strong" : "ink"));
      const rows = weights.map((row, h) => {
        const y = top + ROW * h, chosen = h === head.value;
        return touch.label(LEFT - 6, y + 12, name(h), chosen ? "now strong" : "mute", "end")
          + row.map((w, i) => (w < 0.001 || i < start ? "" : touch.shape("rect", { class: `fill ${chosen ? "now" : "past"}`, "fill-opacity": Math.sqrt(w), x: x(i) - gap / 2, y: y + 1, width: gap - 1, height: ROW - 2 }))).join("")
          + touch.line([[LEFT, y + ROW], [LEFT + gap * seen.length, y + ROW]], "line off");
      });
      const cut = start ? touch.label(LEFT - 6, ground + 15, "…", "mute", "end") : "";
      return [cut, ...arcs, ...signs, ...rows].join("");
    }

    // One line for each stage: all characters side by side, each as long as it is probable, the likeliest first.
    function drawLens(width, stages, next) {
      return stages.map(({ probs }, layer) => {
        const y = 40 * layer;
        let x = 0;
        return touch.label(0, y + 12, layer ? `after block ${layer}` : "before the first block", "mute", "start") + order(probs).map((id, rank) => {
          const [left, wide] = [x, probs[id] * width];
          x += wide;
          return wide < 0.5 ? "" : touch.shape("rect", { class: `fill ${id === next ? "now" : "past"}`, "fill-opacity": id === next ? 0.5 : rank % 2 ? 0.15 : 0.3, x: left, y: y + 16, width: wide, height: 18 })
            + (wide > 11 ? touch.label(left + wide / 2, y + 29, shown(model.words[id])) : "");
        }).join("");
      }).join("");
    }

    touch.draw(() => {
      if (!model) return;
      if (key !== (key = typed.value)) {
        ids = model.encode(key).slice(-model.context_length);
        if (!ids.length) ids = [0];
        found = read(model, ids);
      }
      text.show(ids.map((id) => shown(model.words[id])), () => "depth0");
      const asks = text.chosen, stages = found[asks], weights = stages.slice(1).flatMap(({ attention }) => attention), law = stages.at(-1).probs;
      const most = order(weights[head.value]).slice(0, 3).filter((i) => weights[head.value][i] >= 0.005);
      const said = most.map((i) => `“${shown(model.words[ids[i]])}” (${i === asks ? "itself" : `${asks - i} back`}) ${percent(weights[head.value][i])}`).join(", ");
      const best = (probs) => `“${shown(model.words[order(probs)[0]])}” ${percent(Math.max(...probs))}`;
      heads.show(PEAK + 44 + ROW * weights.length, (width) => drawHeads(width, asks, weights), `head ${name(head.value)}: ${said}`);
      lens.show(40 * stages.length, (width) => drawLens(width, stages, ids[asks + 1]), stages.map(({ probs }, i) => `${i ? `after block ${i}` : "before"} ${best(probs)}`).join(", "));
      touch.say(`“${shown(model.words[ids[asks]])}” asks. Head ${name(head.value)} looks at ${said}. After the last block the model expects ${best(law)}.`);
    });
    arbookLive.load("shakespeare").then((loaded) => (meet(loaded), touch.redraw()));
  });
})();
