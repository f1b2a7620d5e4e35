// Chapter 14: a series as a prompt of examples; least squares, the posterior mean and a network forecast its next value.
(() => {
  "use strict";
  // Eight series of 18 values, their coefficients (of the older value first), and what the network forecasts of each value from the third on.
  const SERIES = [
    { w: [-0.52, 1.07], z: [-2.15, -4.27, -3.48, -0.55, 0.86, 2.6, 2.54, 1.32, 0.62, 0.46, 1.32, 0.37, -2.58, -2.84, -2.31, -1.02, 1.77, 1.32],
      network: [-3.449, -1.932, 1.378, 1.255, 2.65, 1.541, 0.231, 0.131, 0.413, 1.267, -0.076, -3.47, -2.152, -1.213, -0.165, 2.921] },
    { w: [0.23, 0.38], z: [-2.96, -0.85, -0.26, 0.33, 2.98, 2.15, 0.56, 3.37, 0.49, 1.75, 1.52, 0.1, 1.78, 1.06, 1.38, 0.09, 1.66, -0.21],
      network: [0.706, -0.019, 0.262, 2.939, 0.871, -0.249, 2.406, 0.818, 0.922, 1.135, 0.207, 0.751, 0.931, 0.75, 0.332, 0.595] },
    { w: [-0.05, -0.56], z: [-0.32, -0.52, -0.31, -1.35, -0.33, -1.28, 0.12, -0.56, -0.23, 0.53, -0.47, -0.49, -0.42, -0.87, 0.31, -0.35, 1.8, 0.54],
      network: [0.018, -0.01, -0.255, -0.044, -0.339, -0.153, -0.017, -0.123, 0.063, 0.003, -0.153, -0.131, -0.191, -0.082, 0.037, -0.087] },
    { w: [-0.24, 0.23], z: [0.06, -0.09, -0.53, -0.35, 1.01, -0.71, 0.73, 1.82, 0.28, -0.12, -1.51, 2.04, 1.81, 0.1, -0.35, 0.35, -0.49, 0.09],
      network: [-0.037, -0.006, -0.021, 0.055, -0.001, -0.133, -0.307, -0.263, -0.064, -0.045, -0.178, -0.686, -0.449, -0.127, 0.149, -0.097] },
    { w: [0.47, -0.24], z: [1.6, -0.65, -0.21, -1.51, -0.18, -0.0, -0.66, -0.5, -3.09, 0.11, -1.17, 0.78, -0.31, 0.11, -0.4, 0.98, -0.56, -1.71],
      network: [-0.257, 0.233, 0.213, -0.007, 0.089, 0.046, 0.049, -0.934, -0.396, -0.097, -0.323, 0.249, -0.063, 0.131, -0.094, 0.309] },
    { w: [-0.52, -0.65], z: [0.23, 0.89, -2.86, -0.25, 3.11, -1.29, 0.01, 0.38, -0.72, 0.47, -0.87, -1.21, 0.13, 0.66, 0.14, 1.22, -0.49, 0.16],
      network: [0.035, 1.704, 1.029, -1.151, -1.358, 0.67, -0.174, 0.213, 0.123, 0.311, 1.065, 0.518, -0.302, -0.253, -0.423, -0.274] },
    { w: [-0.33, -0.67], z: [-0.72, 0.86, -0.23, -0.31, -0.49, -0.55, 0.54, 1.04, -2.48, 0.66, 0.21, -0.52, -0.31, 2.31, -1.04, -1.05, -0.84, 0.73],
      network: [0.05, -0.068, 0.111, 0.096, 0.093, 0.031, -0.04, 0.831, 0.503, -0.26, 0.129, 0.269, -1.358, -0.447, 1.002, 0.634] },
    { w: [0.41, -0.02], z: [0.2, 0.84, -1.85, 0.99, 0.15, 0.72, 3.28, 0.76, 1.36, 0.9, -0.0, -0.73, 0.44, 0.84, -0.07, 1.27, -0.43, 2.16],
      network: [0.028, 0.609, -0.115, -0.389, -0.397, -0.815, 0.161, 0.304, 0.484, 0.203, -0.261, -0.045, 0.141, 0.103, 0.119, 0.212] },
  ];

  const SHRINK = [0.81, 0.9]; // the triangle of the coefficients, drawn in

  // The fit of least norm to the first k examples, by its normal equations and their eigenvalues.
  function leastSquares(z, k) {
    let [a, b, d, u, v] = [0, 0, 0, 0, 0];
    for (let t = 0; t < k; t += 1) {
      a += z[t] ** 2; b += z[t] * z[t + 1]; d += z[t + 1] ** 2;
      u += z[t] * z[t + 2]; v += z[t + 1] * z[t + 2];
    }
    if (k === 0) return [0, 0];
    if (k === 1) return [u / (a + d), v / (a + d)]; // one example: along it
    const det = a * d - b * b;
    return [(d * u - b * v) / det, (a * v - b * u) / det];
  }

  // The log-density of the first two values of a stationary series.
  function logStart([x, y], [older, newer]) {
    const r = newer / (1 - older), variance = (1 - older) / ((1 + older) * ((1 - older) ** 2 - newer ** 2));
    return -(x * x - 2 * r * x * y + y * y) / (2 * variance * (1 - r * r)) - Math.log(variance) - Math.log(1 - r * r) / 2;
  }

  // The mean of all coefficients of the triangle, each weighted by how probable it makes the first k + 2 values.
  function posteriorMean(z, k, n = 60) {
    const points = [];
    for (let i = 0; i < n; i += 1) for (let j = 0; j < 2 * n; j += 1) {
      const older = -1 + 2 * i / (n - 1), newer = -2 + 4 * j / (2 * n - 1);
      if (older >= 1 - Math.abs(newer)) continue;
      const w = [SHRINK[0] * older, SHRINK[1] * newer];
      let log = logStart(z, w);
      for (let t = 0; t < k; t += 1) log -= (z[t + 2] - w[0] * z[t] - w[1] * z[t + 1]) ** 2 / 2;
      points.push([log, w]);
    }
    const most = Math.max(...points.map(([log]) => log));
    const sums = points.reduce(([s, x, y], [log, w]) => {
      const weight = Math.exp(log - most);
      return [s + weight, x + weight * w[0], y + weight * w[1]];
    }, [0, 0, 0]);
    return [sums[1] / sums[0], sums[2] / sums[0]];
  }

  const forecast = (z, w, k) => w[0] * z[k] + w[1] * z[k + 1];
  const compute = { series: SERIES, leastSquares, posteriorMean, forecast };

  arbookTouch.place("examples", compute, (touch) => {
    const signed = (value) => value.toFixed(2).replace("-", "−");
    const which = touch.slider({ label: "series", min: 1, max: SERIES.length, value: 1 });
    const count = touch.slider({ label: "examples", min: 0, max: 15, value: 4 });
    const [values, plane] = ["The series", "The coefficients"].map(touch.panel);
    const ring = (x, y, kind) => touch.shape("circle", { class: `line ${kind}`, cx: x, cy: y, r: 6, "stroke-width": 2 });
    const dot = (x, y, kind, r = 4) => touch.shape("circle", { class: `fill ${kind}`, cx: x, cy: y, r });
    const cross = (x, y, kind) => touch.line([[x - 5, y - 5], [x + 5, y + 5]], `line ${kind}`) + touch.line([[x - 5, y + 5], [x + 5, y - 5]], `line ${kind}`);

    touch.draw(() => {
      const { z, w, network } = SERIES[which.value - 1], k = count.value;
      const fit = leastSquares(z, k), mean = posteriorMean(z, k);
      const said = { squares: forecast(z, fit, k), mean: forecast(z, mean, k), network: network[k], truth: forecast(z, w, k) };
      const top = Math.max(3, ...z.map(Math.abs), Math.abs(said.network), Math.abs(said.mean));
      const inside = (value) => Math.max(-top, Math.min(top, value));
      values.show(230, (width, height) => {
        const at = touch.axes({ width, height, x: [0, 18], y: [-top, top], xLabel: "time", yLabel: "value" });
        const place = (v, t) => [at.x(t), at.y(inside(v))];
        return at.svg + touch.line(z.map(place), "line off") + touch.line(z.slice(0, k + 2).map(place), "line ink")
          + z.slice(0, k + 2).map((v, t) => dot(...place(v, t), "ink", 3)).join("")
          + ring(...place(said.truth, k + 2), "ink") + cross(...place(said.squares, k + 2), "mute")
          + ring(...place(said.mean, k + 2), "now") + dot(...place(said.network, k + 2), "past", 5);
      }, `${k + 2} values are known`);
      plane.show(230, (width, height) => {
        const at = touch.axes({ width, height, x: [-2, 2], y: [-1.2, 1.2], xLabel: "weight of the newer value", yLabel: "of the older" });
        const corners = [[-2, -1], [2, -1], [0, 1], [-2, -1]].map(([x, y]) => [at.x(SHRINK[1] * x), at.y(SHRINK[0] * y)]);
        const place = ([older, newer]) => [at.x(Math.max(-2, Math.min(2, newer))), at.y(Math.max(-1.2, Math.min(1.2, older)))];
        return at.svg + touch.line(corners, "line mute") + ring(...place(w), "ink") + cross(...place(fit), "mute") + ring(...place(mean), "now");
      }, `least squares ${signed(fit[1])} and ${signed(fit[0])}, truth ${signed(w[1])} and ${signed(w[0])}`);
      touch.say(`From ${k} examples: least squares (cross) forecasts ${signed(said.squares)}, the posterior mean (orange ring) ${signed(said.mean)}, `
        + `the network (blue dot) ${signed(said.network)}. The true coefficients (plain ring) would say ${signed(said.truth)}; then came ${signed(z[k + 2])}.`);
    });
  });
})();
