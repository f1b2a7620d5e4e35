// What a page does beside showing its text: it prints black on white with nothing folded, and shows figures at full size.
"use strict";

// Paper is white, whatever the screen. The theme is one attribute of the page, so that printing sets it to light and
// then back. Browsers announce printing in two ways, some of them by one only; the first to come does the work.
(() => {
  const page = document.documentElement;
  let undo = null;

  function print() {
    if (undo) return;
    const theme = page.dataset.theme;
    const closed = [...document.querySelectorAll("article details:not([open])")];
    page.dataset.theme = "light";
    closed.forEach((fold) => (fold.open = true));
    undo = () => {
      page.dataset.theme = theme;
      closed.forEach((fold) => (fold.open = false));
    };
  }

  function show() {
    undo?.();
    undo = null;
  }

  addEventListener("beforeprint", print);
  addEventListener("afterprint", show);
  matchMedia("print").addEventListener("change", (media) => (media.matches ? print() : show()));
})();

// A figure opens in a dialog, by a click on it or by its button, which the keyboard reaches.
addEventListener("DOMContentLoaded", () => {
  const dialog = document.createElement("dialog");
  dialog.className = "arb-large";
  dialog.innerHTML = '<form method="dialog"><button class="arb-close">Close</button></form><figure></figure>';
  dialog.addEventListener("click", (click) => click.target === dialog && dialog.close()); // beside the figure

  function enlarge(small, figure) {
    const large = new Image();
    const caption = document.createElement("figcaption");
    [large.src, large.alt] = [small.src, small.alt];
    caption.innerHTML = figure?.querySelector("figcaption")?.innerHTML ?? "";
    caption.querySelectorAll(".headerlink").forEach((link) => link.remove());
    dialog.querySelector("figure").replaceChildren(large, caption);
    dialog.setAttribute("aria-label", caption.querySelector(".caption-number")?.textContent.trim() || "Figure");
    dialog.showModal();
  }

  for (const small of document.querySelectorAll("article .cell_output img")) {
    const figure = small.closest("figure");
    const number = figure?.querySelector(".caption-number")?.textContent.trim() ?? "the figure";
    const button = document.createElement("button");
    button.className = "arb-enlarge";
    button.type = "button";
    button.textContent = "Enlarge";
    button.setAttribute("aria-label", `Enlarge ${number}`);
    small.after(button);
    small.parentElement.classList.add("arb-figure");
    for (const target of [small, button]) target.addEventListener("click", () => enlarge(small, figure));
  }
  if (document.querySelector(".arb-figure")) document.body.append(dialog);
});
