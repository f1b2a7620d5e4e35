// Chapter 1: a window slides over the sunspots, and least squares says what comes next.
(() => {
  "use strict";
  const FIRST = 1700; // the year of the first value
  const series = `
    5 11 16 23 36 58 29 20 10 8 3 0 0 2 11 27 47 63 60 39 28 26 22 11 21 40 78 122 103 73 47 35 11 5 16 34 70 81 111
    101 73 40 20 16 5 11 22 40 60 80.9 83.4 47.7 47.8 30.7 12.2 9.6 10.2 32.4 47.6 54 62.9 85.9 61.2 45.1 36.4 20.9
    11.4 37.8 69.8 106.1 100.8 81.6 66.5 34.8 30.6 7 19.8 92.5 154.4 125.9 84.8 68.1 38.5 22.8 10.2 24.1 82.9 132
    130.9 118.1 89.9 66.6 60 46.9 41 21.3 16 6.4 4.1 6.8 14.5 34 45 43.1 47.5 42.2 28.1 10.1 8.1 2.5 0 1.4 5 12.2
    13.9 35.4 45.8 41.1 30.1 23.9 15.6 6.6 4 1.8 8.5 16.6 36.3 49.6 64.2 67 70.9 47.8 27.5 8.5 13.2 56.9 121.5 138.3
    103.2 85.7 64.6 36.7 24.2 10.7 15 40.1 61.5 98.5 124.7 96.3 66.6 64.5 54.1 39 20.6 6.7 4.3 22.7 54.8 93.8 95.8
    77.2 59.1 44 47 30.5 16.3 7.3 37.6 74 139 111.2 101.6 66.2 44.7 17 11.3 12.4 3.4 6 32.3 54.3 59.7 63.7 63.5 52.2
    25.4 13.1 6.8 6.3 7.1 35.6 73 85.1 78 64 41.8 26.2 26.7 12.1 9.5 2.7 5 24.4 42 63.5 53.8 62 48.5 43.9 18.6 5.7
    3.6 1.4 9.6 47.4 57.1 103.9 80.6 63.6 37.6 26.1 14.2 5.8 16.7 44.3 63.9 69 77.8 64.9 35.7 21.2 11.1 5.7 8.7 36.1
    79.7 114.4 109.6 88.8 67.8 47.5 30.6 16.3 9.6 33.2 92.6 151.6 136.3 134.7 83.9 69.4 31.5 13.9 4.4 38 141.7 190.2
    184.8 159 112.3 53.9 37.6 27.9 10.2 15.1 47 93.8 105.9 105.5 104.5 66.6 68.9 38 34.5 15.5 12.6 27.5 92.5 155.4
    154.6 140.4 115.9 66.6 45.9 17.9 13.4 29.4 100.2 157.6 142.6 145.7 94.3 54.6 29.9 17.5 8.6 21.5 64.3 93.3 119.6
    111 104 63.7 40.4 29.8 15.2 7.5 2.9
  `.trim().split(/\s+/).map(Number);

  // The solution of a small linear system, by elimination with the largest pivot.
  function solve(matrix, right) {
    const rows = matrix.map((row, i) => [...row, right[i]]), n = rows.length;
    for (let k = 0; k < n; k += 1) {
      const pivot = rows.slice(k).reduce((best, row, i) => (Math.abs(row[k]) > Math.abs(rows[best][k]) ? k + i : best), k);
      [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
      for (let i = 0; i < n; i += 1) {
        if (i === k) continue;
        const factor = rows[i][k] / rows[k][k];
        rows[i] = rows[i].map((value, j) => value - factor * rows[k][j]);
      }
    }
    return rows.map((row, k) => row[n] / row[k]);
  }

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

  // The weights of the last `order` values, oldest first, and behind them the constant term.
  function fit(order) {
    const y = series.slice(order);
    const columns = Array.from({ length: order }, (_, j) => series.slice(j, j + y.length)); // of the lag matrix
    columns.push(y.map(() => 1));
    return solve(columns.map((a) => columns.map((b) => dot(a, b))), columns.map((a) => dot(a, y)));
  }

  const compute = { series, fit, predict: (order, t) => dot(fit(order), [...series.slice(t - order, t), 1]) };

  arbookTouch.place("windows", compute, (touch) => {
    const year = touch.slider({ label: "the year to predict", min: 1720, max: 2008, value: 1847 });
    const order = touch.slider({ label: "values in the window", min: 1, max: 12, value: 9, format: (p) => (p === 1 ? "1 year" : `${p} years`) });
    const picture = touch.panel("Sunspots around the window");
    touch.draw(() => {
      const p = order.value, t = year.value - FIRST;
      const said = compute.predict(p, t), came = series[t];
      const [from, to] = [Math.max(0, t - 26), Math.min(series.length - 1, t + 8)];
      picture.show(250, (width, height) => {
        const at = touch.axes({ width, height, x: [FIRST + from, FIRST + to], y: [-10, 200], xLabel: "year", yLabel: "sunspot number" });
        const point = (i, value = series[i]) => [at.x(FIRST + i), at.y(value)];
        const circle = (i, value, kind, r) => touch.shape("circle", { class: kind, cx: point(i, value)[0], cy: point(i, value)[1], r });
        const years = Array.from({ length: to - from + 1 }, (_, i) => from + i);
        const known = years.filter((i) => i >= t - p && i < t);
        const [left, right] = [at.x(FIRST + t - p - 0.5), at.x(FIRST + t - 0.5)];
        return touch.shape("rect", { class: "fill off", x: left, y: at.y(200), width: right - left, height: at.y(-10) - at.y(200) })
          + at.svg + touch.line(years.map((i) => point(i)), "line mute")
          + known.map((i) => circle(i, series[i], "fill past", 4)).join("")
          + touch.line([point(t), point(t, said)], "line now") + circle(t, came, "fill ink", 4) + circle(t, said, "fill now", 6);
      }, `${p} known values, the forecast for ${year.value}, and what came`);
      const span = p === 1 ? `${year.value - 1}` : `${year.value - p} to ${year.value - 1}`;
      touch.say(`From ${span} the model says ${said.toFixed(1)} for ${year.value}. It was ${came.toFixed(1)}: an error of ${Math.abs(said - came).toFixed(1)}.`);
    });
  });
})();
