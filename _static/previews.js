// A card beside a link shows what it leads to, when the mouse rests on the link or the keyboard arrives at it. What the
// cards say was collected while the book was built (_ext/previews.py). It is loaded with the first card.
"use strict";

const arbookPreviews = {}; // what the scripts of the folder previews/ fill: {names: {cards, shapes}, pages: {...}}

(() => {
  const LINKS = "article a:is(.internal, .sphinx-codeautolink-a)[href*='#']";
  const GAP = 6; // pixels between link and card
  const PATIENCE = { show: 300, hide: 250 }; // milliseconds; enough to move the mouse from the link onto the card

  const root = new URL(document.documentElement.dataset.content_root || "./", location.href).href;
  const card = document.createElement("div");
  card.id = "arb-card";
  card.setAttribute("role", "tooltip");
  card.hidden = true;

  let current = null; // the link whose card is shown, or will be
  let timer = 0;

  function load(kind) {
    return new Promise((done, failed) => {
      if (arbookPreviews[kind]) return done();
      const script = document.createElement("script");
      script.src = `${root}_static/previews/${kind}.js`;
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
  }

  // The card of a link as HTML; the shapes that it is drawn with (letters of formulas) come first.
  async function find(link) {
    const address = link.href.replace(/\?[^#]*/, "");
    if (!address.startsWith(root)) return "";
    const key = decodeURIComponent(address.slice(root.length));
    const kind = key.startsWith("api/") ? "names" : "pages";
    await load(kind);
    const { cards, shapes } = arbookPreviews[kind];
    const html = cards[key] ?? "";
    const used = new Set([...html.matchAll(/#(card-\w+)/g)].map((match) => shapes[match[1]] ?? ""));
    return html && `<svg class="arb-shapes" aria-hidden="true"><defs>${[...used].join("")}</defs></svg>${html}`;
  }

  // Below the link or above it, wherever there is room for all of the card, or else more room. Never on the link.
  function place(link) {
    const box = link.getBoundingClientRect();
    const room = { above: box.top - 2 * GAP, below: innerHeight - box.bottom - 2 * GAP };
    card.style.maxHeight = "none";
    const below = card.offsetHeight <= room.below || room.below >= room.above;
    card.style.maxHeight = `${below ? room.below : room.above}px`;
    card.style.top = `${below ? box.bottom + GAP : box.top - GAP - card.offsetHeight}px`;
    card.style.left = `${Math.max(GAP, Math.min(box.left, innerWidth - card.offsetWidth - GAP))}px`;
  }

  async function show(link) {
    const html = await find(link).catch(() => "");
    if (link !== current || !html) return; // the reader has moved on
    const content = document.createElement("template"); // in which no picture is loaded yet
    content.innerHTML = html;
    content.content.querySelectorAll("img").forEach((image) => (image.src = root + image.getAttribute("src")));
    card.replaceChildren(content.content);
    card.hidden = false;
    link.setAttribute("aria-describedby", card.id);
    place(link);
    card.querySelectorAll("img").forEach((image) => image.decode().then(() => link === current && place(link), () => {}));
  }

  function hide() {
    clearTimeout(timer);
    current?.removeAttribute("aria-describedby");
    current = null;
    card.hidden = true;
  }

  function later(action, wait) {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  }

  function approach(link, wait) {
    if (link === current) return clearTimeout(timer);
    hide();
    current = link;
    link.removeAttribute("title"); // the browser's own card
    later(() => show(link), wait);
  }

  const linkOf = (event) => event.target.closest?.(LINKS);

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return; // a tap follows the link
    if (card.contains(event.target)) clearTimeout(timer);
    else if (linkOf(event)) approach(linkOf(event), PATIENCE.show);
    else if (current) later(hide, PATIENCE.hide);
  });
  document.addEventListener("pointerdown", (event) => card.contains(event.target) || hide());
  document.addEventListener("focusin", (event) => {
    if (linkOf(event) && event.target.matches(":focus-visible")) approach(linkOf(event), 0);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", (event) => event.target !== card && !card.hidden && hide(), { capture: true });
  addEventListener("DOMContentLoaded", () => document.body.append(card));
})();
