// Something to touch: the small part that all interactions of the book share.
//
// A page places one with a Markdown cell of plain HTML, without an empty line in it:
//
//   <figure class="touch" data-touch="roots">
//   <img src="pictures/roots.svg" alt="What the still picture shows, in a sentence">
//   <figcaption>What to try, and what to see.</figcaption>
//   </figure>
//
// Every notebook program shows the picture, and so does the page as long as no script runs. The build draws the picture
// into the page, where it follows the theme (_ext/pictures.py), and loads this file and `touch-roots.js`:
//
//   (() => {
//     "use strict";
//     const impulse = (r, n) => Array.from({ length: n }, (_, k) => r ** k); // the mathematics, without the page
//     arbookTouch.place("roots", impulse, (touch) => {
//       const r = touch.slider({ label: "radius", min: 0, max: 1.2, step: 0.01, value: 0.9 });
//       const panel = touch.panel("Impulse response");
//       touch.draw(() => {
//         const y = impulse(r.value, 20);
//         panel.show(180, (width, height) => {
//           const at = touch.axes({ width, height, x: [0, 19], y: [0, 2], xLabel: "steps" });
//           return at.svg + touch.line(y.map((v, k) => [at.x(k), at.y(v)]), "line past");
//         });
//         touch.say(`After ${20} steps the response is ${y[19].toFixed(2)}.`);
//       });
//     });
//   })();
//
// `arbookTouch.roots` is then the function `impulse`: a test in a browser compares it with the library's numbers.
//
// place(name, compute, build)   calls build(touch, figure) for every figure of that name
// Controls; each has a `value` that can be set too, and every change draws anew:
//   touch.slider({ label, min, max, step, value, format })  format(value) -> what is written and spoken, "0.90" or "9 years"
//   touch.choice({ label, options, value })                 one of several texts
//   touch.check({ label, value })                           on or off
//   touch.text({ label, value, rows })                      a line to type in, or several of them
//   touch.button(label, action)
//   touch.file({ label, accept }, read)                     a file of the reader's: read(text), which may throw what is wrong with it
// Views, side by side where there is room; all take a name for screen readers:
//   touch.panel(name).show(height, (width, height) => svg, description)   a drawing, as wide as its place; with the option
//                                  { wide: true } behind the name it stands alone on its line
//   touch.row(name).show(words, { above: (x, chosen) => [height, svg], below: (i) => text, reach })
//                                  words on a line of dots; x(i) is where the i-th stands, and y = 0 is the line
//   touch.words(name).show(words, (i) => class, (i) => hint)              words as running text, each with a class; the pointer
//                                  that rests on one sees its hint, if there is any
//   The last two are lists: click a word, or walk with the arrow keys, Home and End; `.chosen` is its index, and may be set.
// touch.draw(update)              what to do at first, after each change, and whenever the width has changed
// touch.redraw()                  for what changes by itself, without a control
// arbookTouch.dice(seed)          a function whose calls give numbers between 0 and 1; .visible(sign) shows blanks and line ends;
//                                  .depth(n) is a class for touch.words: the larger n, from 0 to 6, the darker
// touch.say(sentence)             the state in words, below the views; a screen reader hears it when the hand rests
// Drawing, as text: touch.shape(tag, attributes, content), touch.escape(text), touch.label(x, y, words, class, anchor),
//   touch.line(points, class), touch.arc(x1, x2, y, class, width), touch.axes({ width, height, x, y, xLabel, yLabel })
// Classes (touch.css): `line` or `fill`, and a colour: `ink`, `mute`, `past` (blue), `now` (orange), `off` (pale).
"use strict";

window.arbookTouch = (() => {
  const PATIENCE = 400; // milliseconds without a change before a screen reader is told
  let made = 0; // for ids

  const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const short = (number) => (typeof number === "number" ? String(+number.toFixed(2)) : number); // pixels need no more

  // Numbers between 0 and 1, the same for the same seed in every browser: mulberry32.
  const dice = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  // The class of a word that is the darker, the larger a number is, from 0 to 6. Written out, since the build drops the style of classes that no file mentions.
  const DEPTHS = ["depth0", "depth1", "depth2", "depth3", "depth4", "depth5", "depth6"];
  const depth = (n) => DEPTHS[Math.max(0, Math.min(Math.round(n), 6))];
  // A character as one can see it.
  const visible = (sign) => ({ " ": "␣", "\n": "↵" })[sign] || sign;

  // Drawing: every function returns a piece of SVG as text.

  function shape(tag, attributes, content = "") {
    const given = Object.entries(attributes).filter(([, value]) => value !== undefined);
    return `<${tag} ${given.map(([key, value]) => `${key}="${escape(short(value))}"`).join(" ")}>${content}</${tag}>`;
  }

  const label = (x, y, words, kind = "ink", anchor = "middle") =>
    shape("text", { x, y, class: kind, "text-anchor": anchor }, escape(words));

  const line = (points, kind = "line ink") =>
    shape("path", { class: kind, d: points.map(([x, y], i) => `${i ? "L" : "M"}${short(x)} ${short(y)}`).join("") });

  // Half an ellipse above y, no higher than 150, from x1 to x2.
  const arc = (x1, x2, y, kind = "line past", width = 1.5) => {
    const r = Math.abs(x2 - x1) / 2;
    const d = `M${short(x1)} ${short(y)}A${short(r)} ${short(Math.min(r, 150))} 0 0 ${x1 < x2 ? 1 : 0} ${short(x2)} ${short(y)}`;
    return shape("path", { class: kind, d, "stroke-width": width });
  };

  // Round numbers in a range: steps of 1, 2 or 5 times a power of ten, about `n` of them.
  function ticks([low, high], n) {
    const raw = (high - low) / n;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, i) => +((first + i) * step).toPrecision(12));
  }

  // Two axes with round numbers. `at.x(value)` and `at.y(value)` are the places of values, in pixels.
  function axes({ width, height, x, y, xLabel = "", yLabel = "" }) {
    const [left, right, top, bottom] = [40, 8, yLabel ? 22 : 8, xLabel ? 38 : 22];
    const at = {
      x: (value) => left + ((width - left - right) * (value - x[0])) / (x[1] - x[0]),
      y: (value) => height - bottom - ((height - top - bottom) * (value - y[0])) / (y[1] - y[0]),
    };
    const ground = height - bottom;
    at.svg = line([[left, top], [left, ground], [width - right, ground]], "line mute")
      + ticks(x, width / 80).map((v) => line([[at.x(v), ground], [at.x(v), ground + 4]], "line mute") + label(at.x(v), ground + 16, v, "mute")).join("")
      + ticks(y, height / 45).map((v) => line([[left - 4, at.y(v)], [left, at.y(v)]], "line mute") + label(left - 7, at.y(v) + 4, v, "mute", "end")).join("")
      + label((left + width - right) / 2, height - 4, xLabel, "mute") + label(left - 4, 12, yLabel, "mute", "start");
    return at;
  }

  // One interaction: a figure whose still picture gives way to controls, views and a sentence.

  function begin(figure) {
    const element = (tag, attributes = {}, parent = null, content = "") => {
      const made = document.createElement(tag);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.append(content);
      parent?.append(made);
      return made;
    };
    const controls = element("div", { class: "controls" });
    const views = element("div", { class: "views" });
    const spoken = element("p", { class: "say", "aria-live": "polite" });
    let update = () => {}, timer = 0, width = 0, drawn = false;
    const change = () => drawn && update();

    // A label, perhaps an output, and an input. What is written in the output is also what a slider says of itself.
    function control(kind, text, input, read, write, format) {
      const box = element("div", { class: `control ${kind}` }, controls);
      input.id = `touch-${(made += 1)}`;
      element("label", { for: input.id }, box, text);
      const output = format && element("output", { for: input.id, "aria-live": "off" }, box);
      box.append(input);
      const show = () => {
        if (!output) return;
        output.textContent = format(read());
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.addEventListener("input", () => (show(), change()));
      show();
      return { input, get value() { return read(); }, set value(value) { write(value); show(); change(); } };
    }

    const slider = ({ label: text, min, max, step = 1, value, format }) => {
      const input = element("input", { type: "range", min, max, step, value });
      const digits = (String(step).split(".")[1] || "").length;
      return control("slider", text, input, () => +input.value, (next) => (input.value = next), format || ((v) => v.toFixed(digits)));
    };
    const choice = ({ label: text, options, value = options[0] }) => {
      const input = element("select");
      for (const option of options) element("option", {}, input, option);
      input.value = value;
      return control("choice", text, input, () => input.value, (next) => (input.value = next));
    };
    const check = ({ label: text, value = false }) => {
      const input = element("input", { type: "checkbox" });
      input.checked = value;
      return control("check", text, input, () => input.checked, (next) => (input.checked = next));
    };
    const typed = ({ label: text, value = "", rows }) => {
      const kind = rows ? ["textarea", { rows }] : ["input", { type: "text" }];
      const input = element(kind[0], { ...kind[1], spellcheck: false, autocomplete: "off" });
      input.value = value;
      return control("typed", text, input, () => input.value, (next) => (input.value = next));
    };
    const button = (text, action) => {
      const pressed = element("button", { type: "button" }, element("div", { class: "control" }, controls), text);
      pressed.addEventListener("click", () => (action(), change()));
      return pressed;
    };

    const file = ({ label: text, accept }, read) => {
      const input = element("input", { type: "file", accept });
      control("file", text, input, () => input.value, () => {});
      input.addEventListener("change", async () => {
        try {
          read(await input.files[0].text());
          change();
        } catch (error) { say(`${error.message}.`); }
      });
    };

    const draw = (place, height, content, attributes) => {
      place.innerHTML = shape("svg", { viewBox: `0 0 ${place.clientWidth} ${height}`, width: "100%", height, ...attributes }, content);
    };
    const panel = (name, { wide = false } = {}) => {
      const place = element("div", { class: wide ? "panel wide" : "panel" }, views);
      return {
        show(height, content, description = "") {
          const described = { role: "img", "aria-label": description ? `${name}: ${description}` : name };
          draw(place, height, content(place.clientWidth, height), described);
        },
      };
    };

    // A list whose options carry `data-i`. Its content may be drawn anew at any time: the focus stays.
    function list(kind) {
      const place = element("div", { class: kind }, views);
      const self = { place, chosen: 0, count: 0 };
      const choose = (i) => {
        if (i < 0 || i >= self.count || i === self.chosen) return;
        self.chosen = i;
        change();
      };
      self.option = (i) => ({ role: "option", "data-i": i, "aria-selected": i === self.chosen, tabindex: i === self.chosen ? 0 : -1 });
      self.fill = (words, write) => {
        const focused = place.contains(document.activeElement);
        self.count = words.length;
        self.chosen = Math.max(0, Math.min(self.chosen, words.length - 1));
        write();
        if (focused) place.querySelector('[tabindex="0"]')?.focus();
      };
      place.addEventListener("click", (event) => {
        const option = event.target.closest("[data-i]");
        if (!option) return;
        choose(+option.dataset.i);
        place.querySelector('[tabindex="0"]').focus();
      });
      place.addEventListener("keydown", (event) => {
        const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
        if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault(); // or the page scrolls
        choose(Math.max(0, Math.min(self.chosen + steps[event.key], self.count - 1)));
      });
      return self;
    }
    const row = (name) => {
      const self = list("row");
      self.show = (words, { above = () => [0, ""], below = () => "", reach = 26 } = {}) => self.fill(words, () => {
        const wide = self.place.clientWidth, gap = (wide - 2 * reach) / Math.max(words.length - 1, 1);
        const x = (i) => (words.length === 1 ? wide / 2 : reach + gap * i);
        const [height, svg] = above(x, self.chosen), ground = height + 10;
        const long = Math.max(...words.map((word) => word.length)) * 7.5 > gap; // then the words are written upwards
        const dots = words.map((word, i) => {
          const kind = i === self.chosen ? "now" : "past", y = ground + 24;
          const turned = long ? { transform: `translate(${short(x(i) + 4)} ${y - 4}) rotate(-55)`, "text-anchor": "end" } : { x: x(i), y, "text-anchor": "middle" };
          return shape("g", { ...self.option(i), "aria-label": `${word} ${below(i)}` },
            shape("rect", { class: "ring", x: x(i) - Math.max(gap, 24) / 2, y: ground - 12, width: Math.max(gap, 24), height: long ? 84 : 56, rx: 4 })
            + shape("circle", { class: `fill ${kind}`, cx: x(i), cy: ground, r: i === self.chosen ? 7 : 5.5 })
            + shape("text", { class: "ink", ...turned }, escape(word)) + label(x(i), ground + (long ? 70 : 41), below(i), "mute"));
        });
        draw(self.place, ground + (long ? 76 : 48), shape("g", { transform: `translate(0 ${ground})` }, svg) + dots.join(""), { role: "listbox", "aria-label": name });
      });
      return self;
    };
    const words = (name) => {
      const self = list("words");
      self.place.setAttribute("role", "listbox");
      self.place.setAttribute("aria-label", name);
      self.show = (texts, kind = () => "", hint = () => undefined) => self.fill(texts, () => {
        self.place.innerHTML = texts.map((text, i) => shape("span", { class: kind(i) || undefined, title: hint(i), ...self.option(i) }, escape(text))).join("");
      });
      return self;
    };

    const say = (sentence) => {
      clearTimeout(timer);
      timer = setTimeout(() => (spoken.textContent = sentence), spoken.textContent ? PATIENCE : 0);
    };

    const touch = {
      slider, choice, check, text: typed, button, file, panel, row, words, say, shape, escape, label, line, arc, axes,
      draw: (what) => (update = what), redraw: change,
    };
    touch.start = () => {
      const caption = figure.querySelector("figcaption");
      for (const still of [...figure.children]) if (still !== caption) still.remove();
      figure.prepend(...[controls, views, spoken].filter((part) => part === spoken || part.childElementCount));
      drawn = true;
      new ResizeObserver(() => {
        if (views.clientWidth === width) return;
        width = views.clientWidth;
        update();
      }).observe(figure);
      width = views.clientWidth;
      update();
    };
    return touch;
  }

  const api = {
    dice, visible, depth,
    place(name, compute, build) {
      api[name] = compute;
      for (const figure of document.querySelectorAll(`figure.touch[data-touch="${name}"]`)) {
        const touch = begin(figure);
        build(touch, figure);
        touch.start();
      }
    },
  };
  return api;
})();
