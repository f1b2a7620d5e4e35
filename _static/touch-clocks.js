// Chapter 3: a query and a key, turned to their positions like the hands of clocks, and their product.
(() => {
  "use strict";
  const BASE = 100; // smaller than in a model, so that all four hands are seen to move
  const SPEEDS = [0, 1, 2, 3].map((i) => BASE ** (-i / 4)); // of D = 8 channels; channel i is paired with i + 4
  const REACH = 30;

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const unit = (v) => v.map((value) => value / Math.sqrt(dot(v, v)));

  // A vector turned to position t: every pair of channels by its angle.
  function turn(v, t) {
    const by = (i, f) => f(SPEEDS[i % 4] * t);
    return v.map((value, i) => value * by(i, Math.cos) + (i < 4 ? -v[i + 4] : v[i - 4]) * by(i, Math.sin));
  }

  // A vector with the sines and cosines of position t added, and again of length 1.
  const add = (v, t) => unit(v.map((value, i) => value + (i % 2 ? Math.cos : Math.sin)(SPEEDS[i >> 1] * t) / 2));
  const product = (place, q, k, m, n) => dot(place(q, m), place(k, n));

  const even = [0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0];
  const PAIRS = {
    "query and key alike": [even, even],
    "a query that looks three back": [turn(even, -3), even],
    "two random vectors": [unit([3, -1, 4, 1, -5, 9, 2, -6]), unit([2, 7, 1, -8, 2, 8, -1, -8])],
  };
  const compute = { base: BASE, pairs: PAIRS, turn, add, product };

  arbookTouch.place("clocks", compute, (touch) => {
    const query = touch.slider({ label: "query at m", min: 30, max: 50, value: 36 });
    const key = touch.slider({ label: "key at n", min: 20, max: 60, value: 30 });
    const both = touch.slider({ label: "both further by", min: 0, max: 100, value: 0 });
    const which = touch.choice({ label: "vectors", options: Object.keys(PAIRS) });
    const [clocks, curve] = ["Clocks", "Product"].map(touch.panel);
    touch.draw(() => {
      const m = query.value + both.value, n = key.value + both.value, away = n - m, [q, k] = PAIRS[which.value];
      const there = away ? `${Math.abs(away)} ${Math.abs(away) === 1 ? "place" : "places"} ${away < 0 ? "before" : "after"} the query` : "where the query is";
      const hands = (v) => SPEEDS.map((_, i) => [Math.hypot(v[i], v[i + 4]), Math.atan2(v[i + 4], v[i])]);
      const [ofQuery, ofKey] = [hands(turn(q, m)), hands(turn(k, n))];
      const rows = [
        [`query at ${m}`, "now", ofQuery], [`key at ${n}`, "past", ofKey],
        ["from query to key", "ink", ofQuery.map(([, angle], i) => [0.5, ofKey[i][1] - angle])],
      ];
      clocks.show(230, (width) => {
        const x = (i) => (width * (i + 0.5)) / 4;
        const clock = (i, y, [size, angle], kind) => {
          const end = [x(i) + 38 * size * Math.cos(angle), y - 38 * size * Math.sin(angle)];
          return touch.shape("circle", { class: "line mute", cx: x(i), cy: y, r: 22 })
            + touch.shape("path", { class: `line ${kind} hand`, "stroke-width": 2.5, d: `M${x(i)} ${y}L${end[0]} ${end[1]}` });
        };
        return rows.map(([name, kind, all], row) => touch.label(0, 12 + 70 * row, name, kind, "start")
          + all.map((hand, i) => clock(i, 42 + 70 * row, hand, kind)).join("")).join("")
          + SPEEDS.map((speed, i) => touch.label(x(i), 222, `ω ${+speed.toFixed(3)}`, "mute")).join("");
      }, `query at ${m}, key at ${n}`);
      const ways = [["added", add, "mute"], ["turned", turn, "past"]];
      const now = ways.map(([, place]) => product(place, q, k, m, n));
      curve.show(230, (width, height) => {
        const at = touch.axes({ width, height, x: [-REACH, REACH], y: [-1, 1], xLabel: "places from query to key, n − m", yLabel: "product" });
        return at.svg + touch.line([[at.x(0), at.y(-1)], [at.x(0), at.y(1)]], "line off") + touch.line([[at.x(-REACH), at.y(0)], [at.x(REACH), at.y(0)]], "line off")
          + ways.map(([name, place, kind], w) => {
            const points = Array.from({ length: 2 * REACH + 1 }, (_, i) => [at.x(i - REACH), at.y(product(place, q, k, m, m + i - REACH))]);
            return touch.shape("g", { "stroke-width": 1 + w }, touch.line(points, `line ${kind} curve`)) + touch.shape("circle", { class: `fill ${kind}`, cx: at.x(away), cy: at.y(now[w]), r: 5 })
              + touch.label(width - 8 - 60 * (1 - w), 12, name, kind, "end");
          }).join("");
      }, `${now[1].toFixed(2)} turned, ${now[0].toFixed(2)} added`);
      const signed = (value) => value.toFixed(2).replace("-", "−");
      touch.say(`The query stands at ${m}, the key at ${n}, ${there}. The product of the turned vectors is ${signed(now[1])}, with positions added ${signed(now[0])}.`);
    });
  });
})();
