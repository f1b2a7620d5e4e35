// Chapter 1: a pair of roots in the plane, what becomes of one push, and a series made of many.
(() => {
  "use strict";
  const STEPS = 120;

  // Weights, oldest first, whose roots are r e^(±iθ).
  const weights = (r, theta) => [-r * r, 2 * r * Math.cos(theta)];

  // What becomes of pushes, if the model answers each value with the next.
  function run([w1, w2], pushes) {
    const z = [0, 0];
    for (const push of pushes) z.push(w1 * z.at(-2) + w2 * z.at(-1) + push);
    return z.slice(2);
  }

  // Gaussian numbers, the same for the same seed: uniform ones in pairs, and Box and Muller's transform.
  function gaussian(n, seed) {
    const uniform = arbookTouch.dice(seed);
    return Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
  }

  const push = Array.from({ length: STEPS }, (_, t) => (t ? 0 : 1));
  const compute = { weights, run, gaussian, impulse: (r, theta) => run(weights(r, theta), push) };

  function fate(r, degrees) {
    if (r === 0) return "The past has no weight at all: the series is its noise.";
    const isWave = degrees % 180 > 0;
    const shape = isWave ? `a wave of period ${(360 / degrees).toFixed(1)}` : degrees ? "the sign changes in every step" : "no wave";
    if (r === 1) return isWave ? `On the border: ${shape}, which never ends.` : `On the border, with a double root (${shape}): it runs away, step by step.`;
    const steps = Math.abs(Math.log(2) / Math.log(r)).toFixed(1);
    const change = r < 1 ? "falls to half" : "doubles";
    return `${r < 1 ? "It settles" : "It explodes"}: ${shape}${isWave ? `; its height ${change} in ${steps} steps` : ""}.`;
  }

  arbookTouch.place("roots", compute, (touch) => {
    const size = touch.slider({ label: "size r", min: 0, max: 1.1, step: 0.01, value: 0.93 });
    const angle = touch.slider({ label: "angle θ", min: 0, max: 180, value: 33, format: (degrees) => `${degrees}°` });
    let seed = 1;
    touch.button("other noise", () => (seed += 1));
    const [plane, response, series] = ["The roots in the plane", "One push", "Many pushes"].map(touch.panel);
    touch.draw(() => {
      const r = size.value, theta = (angle.value * Math.PI) / 180;
      const w = weights(r, theta);
      plane.show(210, (width, height) => {
        const [cx, cy, unit] = [width / 2, height / 2, height / 2 / 1.15];
        const root = (sign) => [cx + unit * r * Math.cos(theta), cy - sign * unit * r * Math.sin(theta)];
        const circle = ([x, y], radius, kind) => touch.shape("circle", { class: kind, cx: x, cy: y, r: radius });
        return touch.line([[cx - 1.15 * unit, cy], [cx + 1.15 * unit, cy]], "line off") + touch.line([[cx, 0], [cx, height]], "line off")
          + circle([cx, cy], unit, "line mute") + [1, -1].map((sign) => touch.line([[cx, cy], root(sign)], "line now") + circle(root(sign), 6, "fill now")).join("");
      }, `a pair of size ${r.toFixed(2)} at ${angle.value} degrees`);
      const plot = (panel, values, kind, yLabel) => panel.show(210, (width, height) => {
        const top = Math.max(1, ...values.map(Math.abs));
        const at = touch.axes({ width, height, x: [0, values.length - 1], y: [-top, top], xLabel: "step", yLabel });
        return at.svg + touch.line([[at.x(0), at.y(0)], [at.x(values.length - 1), at.y(0)]], "line off")
          + touch.line(values.map((value, t) => [at.x(t), at.y(value)]), kind);
      });
      plot(response, compute.impulse(r, theta).slice(0, 60), "line now", "what becomes of one push");
      plot(series, run(w, gaussian(STEPS, seed)), "line past", "the sum over all pushes");
      touch.say(`Weights ${w.map((value) => value.toFixed(2).replace("-", "−")).join(" and ")}. ${fate(r, angle.value)}`);
    });
  });
})();
