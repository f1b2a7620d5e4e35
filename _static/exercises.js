// The list of exercises: a box to tick before each of them, and how many are done, in each chapter and in all. What is ticked
// stays in this browser, under one key, as the names of the exercises. Without this script the page is a plain list.
"use strict";

(() => {
  const KEY = "arbook-exercises";
  const items = [...document.querySelectorAll("li[data-exercise]")];
  let kept = []; // where a browser keeps nothing, at least until the page is left

  function read() {
    try {
      kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    } catch {} // no store, or something else in it
    return new Set(Array.isArray(kept) ? kept : []);
  }

  function write(done) {
    kept = [...done];
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
    } catch {}
  }

  const boxes = items.map((item) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.setAttribute("aria-label", `Done: ${item.querySelector("a").textContent}`);
    box.addEventListener("change", () => {
      const done = read(); // another tab may have changed it
      box.checked ? done.add(item.dataset.exercise) : done.delete(item.dataset.exercise);
      write(done);
      show(done);
    });
    item.prepend(box, " ");
    item.parentElement.classList.add("arb-ticks");
    return box;
  });

  // A line counts the boxes of its section; the first one, outside of all sections with boxes, counts those of the page.
  const lines = [...document.querySelectorAll(".arb-done")].map((line) => {
    const inside = boxes.filter((box) => line.parentElement.contains(box));
    return [line, inside.length ? inside : boxes];
  });

  function show(done = read()) {
    boxes.forEach((box, i) => (box.checked = done.has(items[i].dataset.exercise)));
    for (const [line, counted] of lines) {
      line.textContent = `${counted.filter((box) => box.checked).length} of ${counted.length} done.`;
      line.hidden = false;
    }
  }

  window.addEventListener("storage", () => show());
  window.addEventListener("pageshow", () => show()); // also when the reader comes back from an exercise
  show();
})();
