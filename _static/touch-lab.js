// Chapter 9: a GPT that writes in the page. Its law for every character, what each rule does to it, and the roll that decides.
// needs live.js
(() => {
  "use strict";
  const WRITTEN = 100, SHOWN = 12, TOLERANCE = 1e-12;

  const order = (scores) => scores.map((s, i) => [s, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).map(([, i]) => i);
  const only = (scores, kept) => scores.map((s, i) => (kept.has(i) ? s : -Infinity));

  // The most probable characters that together have the mass p; the first one always.
  function smallest(scores, p) {
    const probs = arbookLive.softmax(scores), kept = new Set();
    let sum = 0;
    for (const i of order(scores)) {
      if (kept.size && sum >= p - TOLERANCE) break;
      kept.add(i);
      sum += probs[i];
    }
    return kept;
  }

  // The law of the model, and what it is after each rule that does something: [{ name, probs, removed }].
  function chain(logits, ids, { penalty = 1, temperature = 1, k = logits.length, p = 1, minP = 0 }) {
    const seen = new Set(ids);
    const rules = [
      ["repetition", penalty !== 1, (z) => z.map((s, i) => (seen.has(i) ? (s > 0 ? s / penalty : s * penalty) : s))],
      ["temperature", temperature !== 1, (z) => z.map((s) => s / temperature)],
      ["top-k", k < logits.length, (z) => only(z, new Set(order(z).slice(0, k)))],
      ["top-p", p < 1, (z) => only(z, smallest(z, p))],
      ["min-p", minP > 0, (z) => z.map((s) => (s - Math.max(...z) >= Math.log(minP) - TOLERANCE ? s : -Infinity))],
    ];
    let scores = [...logits];
    const stages = [{ name: "model", probs: arbookLive.softmax(scores), removed: [] }];
    for (const [name, , rule] of rules.filter(([, acts]) => acts)) {
      const before = scores;
      scores = rule(scores);
      const removed = [...scores.keys()].filter((i) => before[i] > -Infinity && scores[i] === -Infinity);
      stages.push({ name, probs: arbookLive.softmax(scores), removed });
    }
    return stages;
  }

  // Where a number between 0 and 1 falls, if the characters lie one after the other, each as long as it is probable.
  function pick(probs, u) {
    const total = probs.reduce((a, b) => a + b, 0);
    let sum = 0;
    const found = probs.findIndex((q) => (sum += q) > u * total);
    return found < 0 ? probs.indexOf(Math.max(...probs)) : found;
  }

  const { dice, visible: shown } = arbookTouch;
  const percent = (q) => `${(100 * q).toFixed(1)} %`;

  arbookTouch.place("lab", { chain, pick, dice }, (touch) => {
    let model, rolls = [], ids = [], key, running = false, random = dice(1);
    const prompt = touch.text({ label: "prompt", value: "ROMEO:\nWhat ", rows: 2 });
    const temperature = touch.slider({ label: "temperature", min: 0.1, max: 2, step: 0.05, value: 1 });
    const k = touch.slider({ label: "top-k", min: 1, max: 65, value: 65, format: (v) => (v < 65 ? String(v) : "all") });
    const p = touch.slider({ label: "top-p", min: 0.05, max: 1, step: 0.05, value: 1 });
    const minP = touch.slider({ label: "min-p", min: 0, max: 0.5, step: 0.01, value: 0 });
    const penalty = touch.slider({ label: "repetition penalty", min: 1, max: 2, step: 0.05, value: 1 });
    const knobs = () => ({ temperature: temperature.value, k: k.value < 65 ? k.value : Infinity, p: p.value, minP: minP.value, penalty: penalty.value });
    const law = (n) => chain(model.logits(ids.slice(0, n)), ids.slice(0, n), knobs());

    function roll() {
      const u = random();
      ids.push(pick(law(ids.length).at(-1).probs, u));
      rolls.push(u);
    }
    function anew() {
      [rolls, ids, random] = [[], model.encode(prompt.value), dice(1)];
      if (!ids.length) ids = [0];
      text.chosen = ids.length;
    }
    function stream(left, start = performance.now(), n = left) {
      if (!running || !left) return void (running = false);
      const until = performance.now() + 20;
      while (left && performance.now() < until) roll(), (left -= 1);
      text.chosen = ids.length;
      touch.redraw();
      if (!left) touch.say(`${n} characters, ${Math.round((1000 * n) / (performance.now() - start))} a second.`);
      setTimeout(() => stream(left, start, n));
    }
    touch.button("next character", () => { if (model) roll(), (text.chosen = ids.length - 1); });
    touch.button(`write ${WRITTEN}`, () => { if (model && !(running = !running)) return; if (model) stream(WRITTEN); });
    touch.button("start again", () => { running = false; if (model) anew(); });
    touch.file({ label: "a model of yours", accept: ".js" }, (content) => { model = arbookLive.parse(content); key = null; });
    const text = touch.words("The text; what stood before the chosen character decides its law");
    const bars = touch.panel("The law of the chosen character"), line = touch.panel("The roll");

    touch.draw(() => {
      if (!model) return;
      if (key !== (key = prompt.value)) anew();
      const n = Math.min(text.chosen, ids.length), first = ids.length - rolls.length;
      text.show([...ids.map((id) => shown(model.words[id])), "…"], (i) => (i >= first && i < ids.length ? "depth2" : "depth0"));
      const stages = law(n), [before, after] = [stages[0].probs, stages.at(-1).probs];
      const cause = new Map(stages.flatMap(({ name, removed }) => removed.map((id) => [id, name])));
      const top = order([...before]).slice(0, SHOWN), most = Math.max(...before, ...after);
      bars.show(top.length * 20 + 18, (width) => touch.label(0, 11, "wide: the model; narrow: after the rules", "mute", "start") + top.map((id, row) => {
        const y = 18 + row * 20, long = (q) => ((width - 110) * q) / most;
        return touch.label(8, y + 14, shown(model.words[id])) + touch.shape("rect", { class: "fill past", "fill-opacity": 0.25, x: 22, y: y + 2, width: long(before[id]), height: 16 })
          + touch.shape("rect", { class: "fill past", x: 22, y: y + 6, width: long(after[id]), height: 8 })
          + touch.label(28 + long(Math.max(before[id], after[id])), y + 14, cause.get(id) || percent(after[id]), cause.has(id) ? "now" : "mute", "start");
      }).join(""), top.map((id) => `${shown(model.words[id])} ${cause.has(id) ? `removed by ${cause.get(id)}` : percent(after[id])}`).join(", "));
      const u = rolls[n - first], fell = u === undefined ? -1 : pick([...after], u);
      line.show(66, (width) => {
        let x = 0;
        const pieces = [...after].map((q, id) => {
          const [left, wide] = [x, q * width];
          x += wide;
          return !wide ? "" : touch.shape("rect", { class: `fill ${id === fell ? "now" : "past"}`, "fill-opacity": id === fell ? 0.6 : id % 2 ? 0.15 : 0.3, x: left, y: 24, width: wide, height: 24 })
            + (wide > 11 ? touch.label(left + wide / 2, 40, shown(model.words[id])) : "");
        });
        const mark = u === undefined ? "" : touch.line([[u * width, 20], [u * width, 52]], "line now") + touch.label(Math.min(Math.max(u * width, 24), width - 24), 14, u.toFixed(3), "now");
        return pieces.join("") + mark + touch.label(0, 63, "0", "mute", "start") + touch.label(width, 63, "1", "mute", "end");
      }, u === undefined ? "no roll yet" : `${u.toFixed(3)} falls on ${shown(model.words[fell])}`);
      const left = [...after].filter((q) => q > 0).length, best = order([...after])[0];
      const context = ids.slice(Math.max(0, n - 12), n).map((id) => shown(model.words[id])).join("");
      const decided = u === undefined ? "" : ` The roll ${u.toFixed(3)} falls on “${shown(model.words[fell])}”.`;
      if (!running) touch.say(`After “${context}”, ${left} of ${after.length} characters are possible; “${shown(model.words[best])}” has ${percent(after[best])}.${decided}`);
    });
    arbookLive.load("shakespeare").then((found) => { model = found; touch.redraw(); });
  });
})();
