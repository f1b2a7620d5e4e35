// Chapter 4: six logits, the probabilities that they make, two losses, and what a step against each gradient moves.
(() => {
  "use strict";
  const WORDS = ["I", "am", "a", "machine", "learning", "researcher"];

  function softmax(z) {
    const most = Math.max(...z), raised = z.map((value) => Math.exp(value - most));
    const sum = raised.reduce((a, b) => a + b, 0);
    return raised.map((value) => value / sum);
  }

  // Predicted minus observed.
  const misses = (z, k) => softmax(z).map((p, j) => p - (j === k ? 1 : 0));
  const losses = (z, k) => ({
    log: Math.log(z.reduce((sum, value) => sum + Math.exp(value - z[k]), 0)),
    squared: misses(z, k).reduce((sum, miss) => sum + miss * miss, 0),
  });

  // The gradients with respect to the logits.
  function gradients(z, k) {
    const p = softmax(z), miss = misses(z, k);
    const mean = miss.reduce((sum, value, j) => sum + value * p[j], 0);
    return { log: miss, squared: miss.map((value, j) => 2 * p[j] * (value - mean)) };
  }

  const compute = { words: WORDS, softmax, losses, gradients };

  arbookTouch.place("logits", compute, (touch) => {
    const starts = [0.2, -0.6, 0.3, 1.2, 0, 0.6];
    const signed = (value) => value.toFixed(2).replace("-", "−");
    const sliders = WORDS.map((word, j) => touch.slider({ label: `logit of “${word}”`, min: -8, max: 8, step: 0.01, value: starts[j], format: signed }));
    const target = touch.choice({ label: "what came", options: WORDS, value: "a" });
    const logits = () => sliders.map((slider) => slider.value);
    const step = (loss) => gradients(logits(), WORDS.indexOf(target.value))[loss].map((slope, j) => sliders[j].value - slope).forEach((value, j) => (sliders[j].value = value));
    touch.button("a step for the log loss", () => step("log"));
    touch.button("a step for the squared loss", () => step("squared"));
    touch.button("from the beginning", () => starts.forEach((value, j) => (sliders[j].value = value)));
    const [bars, log, squared] = ["Probabilities", "A step for the log loss", "A step for the squared loss"].map(touch.panel);
    touch.draw(() => {
      const z = logits(), k = WORDS.indexOf(target.value), p = softmax(z), loss = losses(z, k), slopes = gradients(z, k);
      const kind = (j) => (j === k ? "now" : "past");
      const y = (j) => 34 + 26 * j;
      bars.show(190, (width) => touch.label(0, 12, "probability", "mute", "start") + p.map((value, j) =>
        touch.label(74, y(j) + 4, WORDS[j], "ink", "end")
        + touch.shape("rect", { class: `fill ${kind(j)}`, x: 82, y: y(j) - 8, width: Math.max(0, width - 122) * value, height: 16 })
        + touch.label(88 + (width - 122) * value, y(j) + 4, value.toFixed(2), "mute", "start")).join(""), `${WORDS[k]} has ${p[k].toFixed(2)}`);
      const arrows = (panel, title, slope) => panel.show(190, (width) => {
        const middle = 82 + (width - 90) * 0.42, unit = (width - 90) * 0.42;
        const arrow = (j) => {
          const end = middle - unit * slope[j], way = slope[j] > 0 ? 1 : -1;
          const head = [[end + 7 * way, y(j) - 5], [end, y(j)], [end + 7 * way, y(j) + 5]];
          return Math.abs(slope[j]) < 0.005 ? "" : touch.line([[middle, y(j)], [end, y(j)]], `line ${kind(j)}`) + touch.line(head, `line ${kind(j)}`);
        };
        return touch.label(0, 12, title, "mute", "start") + touch.line([[middle, 22], [middle, 178]], "line off")
          + WORDS.map((word, j) => touch.label(74, y(j) + 4, word, "ink", "end") + arrow(j)).join("");
      }, `the logit of ${WORDS[k]} by ${signed(-slope[k])}`);
      arrows(log, `log loss ${loss.log.toFixed(2)}: one step`, slopes.log);
      arrows(squared, `squared loss ${loss.squared.toFixed(2)}: one step`, slopes.squared);
      touch.say(`“${WORDS[k]}” had probability ${p[k].toFixed(2)}. Log loss ${loss.log.toFixed(2)} nats; a step raises its logit by ${(-slopes.log[k]).toFixed(2)}. Squared loss ${loss.squared.toFixed(2)}; a step raises it by ${(-slopes.squared[k]).toFixed(2)}.`);
    });
  });
})();
