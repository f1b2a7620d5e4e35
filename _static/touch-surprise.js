// Chapter 10: what each character of a text costs under three models, and what windows do to the perplexity.
// needs live.js
// needs live-plays.js
// needs touch-ngrams.js
(() => {
  "use strict";
  const START = "\n", ORDER = 4, WINDOW = 16, MODELS = ["4-grams", "GPT", "both, half and half"];
  const STRIDES = [16, 8, 4, 2, 1, 0]; // 0: no windows, all the text before
  const TEXT = "PETRUCHIO:\nAnd you, good sir! Pray, have you not a daughter\nCall'd Katharina, fair and virtuous?";
  const TURN = 40; // milliseconds of work before the page may react

  // How many tokens prediction j sees, the start token included: windows of T, each s later than the one before.
  const seen = (j, T, s) => (!s || j < T ? j + 1 : T - s + 1 + ((j - T) % s));

  // What each token of a text is predicted from.
  const contexts = (start, ids, T, s) => {
    const whole = [start, ...ids];
    return ids.map((_, j) => whole.slice(j + 1 - seen(j, T, s), j + 1));
  };

  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const { visible: shown, depth } = arbookTouch;

  arbookTouch.place("surprise", { TEXT, seen, contexts }, (touch) => {
    let gpt, laws, timer = 0;
    const typed = touch.text({ label: "a text", value: TEXT, rows: 3 });
    const model = touch.slider({ label: "colours of", min: 0, max: 2, value: 1, format: (v) => MODELS[v] });
    const stride = touch.slider({ label: "each character sees", min: 0, max: STRIDES.length - 1, value: STRIDES.length - 1,
      format: (v) => (STRIDES[v] ? `windows of ${WINDOW}, stride ${STRIDES[v]}` : "all the text before") });
    const text = touch.words("The text; the darker, the more surprising");
    const chosen = touch.panel("The chosen character"), all = touch.panel("Perplexity of the text");

    const bars = (panel, names, values, head, digits, kind) => panel.show(18 + names.length * 22, (width) => {
      const most = Math.max(...values.filter(Number.isFinite), 1e-9);
      return touch.label(0, 11, head, "mute", "start") + names.map((name, i) => {
        const y = 18 + i * 22, long = Number.isFinite(values[i]) ? ((width - 170) * values[i]) / most : 0;
        return touch.label(0, y + 15, name, i === kind ? "ink strong" : "ink", "start") + touch.shape("rect", { class: `fill ${i === kind ? "now" : "past"}`, "fill-opacity": 0.55, x: 124, y: y + 3, width: long, height: 16 })
          + touch.label(129 + long, y + 15, Number.isFinite(values[i]) ? values[i].toFixed(digits) : "…", "mute", "start");
      }).join("");
    }, names.map((name, i) => `${name} ${Number.isFinite(values[i]) ? values[i].toFixed(digits) : "not known yet"}`).join(", "));

    touch.draw(() => {
      if (!gpt) return;
      clearTimeout(timer);
      const words = gpt.words, ids = gpt.encode(typed.value), sees = contexts(gpt.encode(START)[0], ids, WINDOW, STRIDES[stride.value]);
      const until = performance.now() + TURN;
      let waiting = 0;
      const known = ids.map((id, j) => { // the probability of each character under each model
        if (!laws[1].knows(sees[j]) && performance.now() > until) return (waiting += 1), [NaN, NaN, NaN];
        const two = [laws[0](sees[j])[id], laws[1](sees[j])[id]];
        return [...two, (two[0] + two[1]) / 2];
      });
      const nats = known.map((row) => row.map((p) => -Math.log(p)));
      const perplexity = MODELS.map((_, m) => Math.exp(mean(nats.map((row) => row[m]))));
      text.show(ids.map((id) => shown(words[id])), (i) => depth(nats[i][model.value] || 0), (i) => `${nats[i][model.value].toFixed(2)} nats`);
      const at = text.chosen, name = ids.length ? `“${shown(words[ids[at]])}”` : "";
      bars(chosen, MODELS, ids.length ? nats[at] : [NaN, NaN, NaN], `nats for ${name}`, 2, model.value);
      bars(all, MODELS, perplexity, `perplexity of ${ids.length} characters`, 2, model.value);
      if (!ids.length) return touch.say("Nothing to score.");
      if (waiting) return (timer = setTimeout(touch.redraw)), touch.say(`${waiting} characters are still to be read.`);
      const best = laws[1](sees[at]).map((p, id) => [p, id]).sort((a, b) => b[0] - a[0]).slice(0, 3);
      touch.say(`${name} costs ${nats[at][model.value].toFixed(2)} nats under ${MODELS[model.value]}, and is predicted from ${sees[at].length} characters. `
        + `The GPT expects ${best.map(([p, id]) => `“${shown(words[id])}” (${(100 * p).toFixed(0)} %)`).join(", ")}. `
        + `Perplexity of the text: ${perplexity[model.value].toFixed(2)} per character.`);
    });
    arbookLive.load("shakespeare").then((found) => {
      const { counted, remembered } = arbookPlays, softmax = (scores) => [...arbookLive.softmax(scores)];
      laws = [remembered(counted(ORDER, found.words)), remembered((ids) => softmax(found.logits(ids)))];
      const first = contexts(found.encode(START)[0], found.encode(TEXT), WINDOW, 0);
      (function read() { // the page stays awake meanwhile, and shows all at once
        const until = performance.now() + TURN;
        while (first.length && performance.now() < until) laws[1](first.shift());
        if (first.length) return void setTimeout(read);
        gpt = found;
        touch.redraw();
      })();
    });
  });
})();
