// Chapter 6: a memory behind gates, and what is left in it of each word.
(() => {
  "use strict";
  const sigma = (bias) => 1 / (1 + Math.exp(-bias));

  // c becomes keep * c + open[t] * word[t] at each word t. How much of each word is in c after the last one?
  function shares(open, keep) {
    let kept = 1;
    return open.map((_, k) => open.length - 1 - k).map((t) => {
      const share = open[t] * kept;
      kept *= keep;
      return share;
    }).reverse();
  }

  arbookTouch.place("gates", { sigma, shares }, (touch) => {
    const kept = (bias) => `${bias.toFixed(1).replace("-", "−")}, keeps ${sigma(bias).toFixed(2)}`;
    const bias = touch.slider({ label: "bias of the forget gate", min: -2, max: 6, step: 0.1, value: 0, format: kept });
    const only = touch.check({ label: "let in the chosen word only", value: false });
    const sentence = touch.text({ label: "sentence", value: "the keys that he lost in the snow were" });
    const row = touch.row("Words");
    row.chosen = 1;

    touch.draw(() => {
      const words = sentence.value.trim().split(/\s+/).filter(Boolean).slice(0, 12);
      const chosen = Math.min(row.chosen, words.length - 1);
      const left = shares(words.map((_, t) => (only.value && t !== chosen ? 0 : 1)), sigma(bias.value));
      row.show(words, {
        above: (x, now) => [110, left.map((share, t) => touch.shape("rect", { class: `fill ${t === now ? "now" : "past"}`, x: x(t) - 11, y: -6 - 90 * share, width: 22, height: 90 * share })).join("")],
        below: (t) => left[t].toFixed(2),
      });
      const others = left.reduce((sum, share) => sum + share, 0) - (left[chosen] || 0);
      touch.say(words.length ? `After “${words.at(-1)}”, the memory holds ${left[chosen].toFixed(3)} of “${words[chosen]}” and ${others.toFixed(3)} of the other words together.` : "Type some words.");
    });
  });
})();
