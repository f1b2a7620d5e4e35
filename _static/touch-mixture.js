// Chapter 12: a mixture of one to three bell curves, turned by hand, against data, their log-likelihood, and its samples.
(() => {
  "use strict";
  const TRUTH = [{ weight: 0.3, mean: -1, scale: 0.4 }, { weight: 0.7, mean: 1, scale: 0.4 }];

  // Numbers between 0 and 1, the same in every browser.
  function uniforms(n, seed) {
    let state = seed;
    return Array.from({ length: n }, () => (state = (1664525 * state + 1013904223) % 4294967296) / 4294967296);
  }

  const weights = (parts) => {
    const sum = parts.reduce((total, part) => total + part.weight, 0);
    return parts.map((part) => part.weight / sum);
  };

  // The logarithm of a sum, the largest term taken out first.
  function logDensity(x, parts) {
    const w = weights(parts);
    const terms = parts.map(({ mean, scale }, k) => Math.log(w[k]) - Math.log(2 * Math.PI) / 2 - Math.log(scale) - ((x - mean) / scale) ** 2 / 2);
    const most = Math.max(...terms);
    return most + Math.log(terms.reduce((sum, term) => sum + Math.exp(term - most), 0));
  }

  // Nats per value.
  const fit = (values, parts) => values.reduce((sum, x) => sum + logDensity(x, parts), 0) / values.length;

  // Three uniform numbers make a sample: one chooses the bell, two make a normal number.
  function samples(n, parts, seed) {
    const w = weights(parts), u = uniforms(3 * n, seed);
    return Array.from({ length: n }, (_, i) => {
      let k = 0, left = u[3 * i];
      while (k < parts.length - 1 && left >= w[k]) left -= w[k++];
      const z = Math.sqrt(-2 * Math.log(1 - u[3 * i + 1])) * Math.cos(2 * Math.PI * u[3 * i + 2]);
      return parts[k].mean + parts[k].scale * z;
    });
  }

  const data = samples(100, TRUTH, 7);
  const compute = { data, truth: TRUTH, logDensity, fit, samples, uniforms };

  arbookTouch.place("mixture", compute, (touch) => {
    const signed = (value) => value.toFixed(2).replace("-", "−");
    const count = touch.choice({ label: "bells", options: ["1", "2", "3"], value: "2" });
    const starts = [{ weight: 0.5, mean: -0.5, scale: 0.8 }, { weight: 0.5, mean: 0.5, scale: 0.8 }, { weight: 0.5, mean: 0, scale: 0.8 }];
    const mean = data.reduce((sum, x) => sum + x, 0) / data.length;
    const spread = Math.sqrt(data.reduce((sum, x) => sum + (x - mean) ** 2, 0) / data.length);
    touch.button("the best single bell", () => set([{ weight: 1, mean, scale: spread }]));
    const ranges = { weight: [0.01, 1], mean: [-2.5, 2.5], scale: [0.05, 2] };
    const bells = starts.map(() => ({}));
    for (const [name, [min, max]] of Object.entries(ranges)) {
      starts.forEach((start, k) => (bells[k][name] = touch.slider({ label: `${name} ${k + 1}`, min, max, step: 0.01, value: start[name], format: signed })));
    }
    const set = (parts) => {
      count.value = String(parts.length);
      parts.forEach((part, k) => Object.keys(part).forEach((key) => (bells[k][key].value = part[key])));
    };
    touch.button("what made the data", () => set(TRUTH));
    const [law, drawn] = ["The data and the density", "A hundred samples of the mixture"].map(touch.panel);

    touch.draw(() => {
      bells.forEach((bell, k) => Object.values(bell).forEach(({ input }) => (input.parentElement.style.display = k >= +count.value ? "none" : "")));
      const parts = bells.slice(0, +count.value).map(({ weight, mean, scale }) => ({ weight: weight.value, mean: mean.value, scale: scale.value }));
      const likelihood = fit(data, parts), grid = Array.from({ length: 181 }, (_, i) => -3 + i / 30);
      const top = Math.max(0.8, ...grid.map((x) => Math.exp(logDensity(x, parts))));
      const draw = (panel, title, values, description, kind) => panel.show(226, (width, height) => {
        const at = touch.axes({ width, height, x: [-3, 3], y: [0, top], xLabel: "value", yLabel: title });
        const bars = Array.from({ length: 24 }, (_, i) => {
          const low = -3 + i / 4, share = values.filter((x) => x >= low && x < low + 0.25).length / values.length / 0.25;
          return touch.shape("rect", { class: `fill ${kind}`, "fill-opacity": 0.35, x: at.x(low) + 1, y: at.y(Math.min(share, top)), width: at.x(0.25) - at.x(0) - 2, height: at.y(0) - at.y(Math.min(share, top)) });
        });
        return at.svg + bars.join("") + touch.line(grid.map((x) => [at.x(x), at.y(Math.exp(logDensity(x, parts)))]), "line now");
      }, description);
      draw(law, "data (bars), density (line)", data, `${signed(likelihood)} nats per value`, "ink");
      draw(drawn, "samples (bars), density (line)", samples(100, parts, 99), `from ${parts.length} bells`, "past");
      touch.say(`Log-likelihood of the data: ${signed(likelihood)} nats per value. What made the data gets ${signed(fit(data, TRUTH))}.`);
    });
  });
})();
