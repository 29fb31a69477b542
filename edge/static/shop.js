// What a page that is the same for everybody cannot say: what is in the cart, and how stock moves.
// The page is whole without it. Only text and a class of ours are written, never markup.

// The last page of one's own has said how much is in the cart; while that is something, it is asked
// for anew, for an order empties the cart later. Who has no cart asks for nothing.
(() => {
  "use strict";
  const link = document.querySelector(".cart-link");
  if (!link) return;

  function show(units) {
    localStorage.setItem("units", units);
    link.textContent = units > 0 ? `Cart (${units})` : "Cart";
  }

  async function ask() {
    const answer = await fetch("/fragments/cart");
    if (answer.ok) show(Number(/data-units="(\d+)"/.exec(await answer.text())?.[1] ?? 0));
  }

  if (link.dataset.units !== undefined) show(Number(link.dataset.units));
  else if (Number(localStorage.getItem("units")) > 0) ask().catch(() => {});
})();

// Keeps the stock labels of a page live, and leaves them as they are when the socket cannot be had.
(() => {
  "use strict";
  const MOST = 100;
  const WAIT_MS = 1_000;
  const LONGEST_WAIT_MS = 60_000;

  const bySku = new Map();
  for (const offer of document.querySelectorAll("[data-sku]")) {
    const sku = offer.dataset.sku;
    if (bySku.has(sku)) bySku.get(sku).push(offer);
    else if (bySku.size < MOST) bySku.set(sku, [offer]);
  }
  if (!bySku.size || !("WebSocket" in window)) return;

  const versions = new Map();
  let failures = 0;
  let socket = null;

  function show(level) {
    versions.set(level.sku, level.version);
    for (const offer of bySku.get(level.sku) ?? []) {
      const label = offer.querySelector(".availability");
      if (!label || label.textContent === level.label) continue;
      label.textContent = level.label;
      label.classList.toggle("available", level.available > 0);
      label.classList.toggle("sold-out", level.available <= 0);
    }
  }

  function listen() {
    const address = new URL("/ws/stock", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    for (const sku of bySku.keys()) address.searchParams.append("sku", sku);
    for (const [sku, version] of versions) address.searchParams.append("since", `${sku}:${version}`);
    socket = new WebSocket(address);
    socket.addEventListener("message", (event) => {
      failures = 0;
      for (const level of JSON.parse(event.data).levels) show(level);
    });
    socket.addEventListener("close", () => {
      socket = null;
      if (document.hidden) return; // it is opened again when somebody looks
      // not all pages at once, when a server comes back
      const wait = Math.min(LONGEST_WAIT_MS, WAIT_MS * 2 ** failures++) * (0.5 + Math.random());
      setTimeout(wake, wait);
    });
  }

  function wake() {
    if (!document.hidden && !socket) listen();
  }

  document.addEventListener("visibilitychange", wake);
  addEventListener("pageshow", wake);
  wake();
})();
