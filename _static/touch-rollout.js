// Chapter 13: one weight and its error, a forecast that reads its own values, and how far it comes to be off.
(() => {
  "use strict";
  const FAR = 60, START = 1;

  // A forecast 0, 1, ..., h steps ahead: each value is made of the last.
  function path(weight, h) {
    const z = [START];
    while (z.length <= h) z.push(weight * z.at(-1));
    return z;
  }

  // How far two forecasts are apart 0, 1, ..., h steps ahead.
  function errors(phi, delta, h) {
    const [truth, guess] = [path(phi, h), path(phi + delta, h)];
    return truth.map((value, k) => Math.abs(guess[k] - value));
  }

  // The step with the largest error, the first of equals.
  const worst = (values) => values.indexOf(Math.max(...values));

  const compute = { path, errors, worst };

  arbookTouch.place("rollout", compute, (touch) => {
    const signed = (value) => value.toFixed(2).replace("-", "−");
    const phi = touch.slider({ label: "weight φ", min: 0, max: 1.05, step: 0.01, value: 0.9 });
    const delta = touch.slider({ label: "its error δ", min: -0.2, max: 0.2, step: 0.01, value: 0.05, format: signed });
    const horizon = touch.slider({ label: "horizon h", min: 1, max: FAR, value: 30, format: (h) => `${h} step${h > 1 ? "s" : ""}` });
    touch.button("a weight near 1", () => [phi.value, delta.value] = [0.99, 0.01]);
    const [paths, off] = ["The two forecasts", "How far apart they are"].map(touch.panel);
    touch.draw(() => {
      const h = horizon.value, found = errors(phi.value, delta.value, h), k = worst(found);
      const both = [path(phi.value, h), path(phi.value + delta.value, h)];
      paths.show(226, (width, height) => {
        const top = Math.max(1.2, ...both.flat()), low = Math.min(0, ...both.flat());
        const at = touch.axes({ width, height, x: [0, h], y: [low, top], xLabel: "steps ahead", yLabel: "true weight (blue), wrong (orange)" });
        return at.svg + both.map((values, i) => touch.line(values.map((value, t) => [at.x(t), at.y(value)]), i ? "line now" : "line past")).join("");
      }, `end at ${signed(both[0][h])} and ${signed(both[1][h])}`);
      off.show(226, (width, height) => {
        const top = Math.max(0.05, ...found), at = touch.axes({ width, height, x: [0, h], y: [0, top], xLabel: "steps ahead", yLabel: "error" });
        return at.svg + touch.line(found.map((value, t) => [at.x(t), at.y(value)]), "line now")
          + (found[k] ? touch.shape("circle", { class: "fill now", cx: at.x(k), cy: at.y(found[k]), r: 5 }) : "");
      }, `largest after ${k} steps`);
      const where = !found[k] ? "No error, at no step."
        : k < h ? `Largest after ${k}: ${found[k].toFixed(3)}; then both forget where they came from.`
        : "It grows up to the horizon.";
      touch.say(`Error after 1 step ${found[1].toFixed(3)}, after ${h} ${h > 1 ? "steps" : "step"} ${found[h].toFixed(3)}. ${where}`);
    });
  });
})();
