"use strict";
// Tick boxes that write keep.csv, and pictures that grow. Decisions live in this browser's storage, and in the
// addresses of the links between the pages, for browsers that give every file a storage of its own.
(() => {
  const bar = document.getElementById("decisions");
  const storageKey = "csr-keep-" + bar.dataset.atlas;
  const ticks = [...document.querySelectorAll("input.keep")];
  const rejected = new Set();
  let turn = 0;

  function parsed(text) {
    const found = /^(\d{1,15}):((?:\d+\.\d+(?:,(?!$)|$))*)$/.exec(text || "");
    return found ? { turn: Number(found[1]), names: found[2] ? found[2].split(",") : [] } : { turn: -1, names: [] };
  }

  function stored() {
    try { return localStorage.getItem(storageKey); } catch (error) { return null; }
  }

  function read() {
    const known = [parsed(stored()), parsed(new URLSearchParams(location.search).get("keep"))];
    const newest = known[0].turn >= known[1].turn ? known[0] : known[1];
    if (newest.turn > turn) {
      turn = newest.turn;
      rejected.clear();
      newest.names.forEach((name) => rejected.add(name));
    }
    show();
  }

  function changed() {
    turn += 1;
    try { localStorage.setItem(storageKey, written()); } catch (error) { /* the addresses carry them */ }
    show();
  }

  function written() { return turn + ":" + [...rejected].join(","); }

  function show() {
    for (const tick of ticks) {
      tick.checked = !rejected.has(tick.value);
      tick.closest(".decided").classList.toggle("rejected", !tick.checked);
    }
    const number = rejected.size;
    document.getElementById("count").textContent = number === 0 ? "All prototypes are kept."
      : number + (number === 1 ? " prototype is rejected." : " prototypes are rejected.");
    for (const link of document.querySelectorAll("a[data-page]")) {
      link.setAttribute("href", link.dataset.page + (turn ? "?keep=" + written() : "") + (link.dataset.place || ""));
    }
  }

  for (const tick of ticks) {
    tick.addEventListener("change", () => {
      if (tick.checked) rejected.delete(tick.value); else rejected.add(tick.value);
      changed();
    });
  }
  document.getElementById("reset").addEventListener("click", () => { rejected.clear(); changed(); });

  const download = document.getElementById("download");
  if (download) {
    download.addEventListener("click", () => {
      const table = JSON.parse(document.getElementById("rows").textContent);
      const lines = table.rows.map(([name, before, after]) => before + (rejected.has(name) ? "0" : "1") + after);
      const address = URL.createObjectURL(new Blob([table.head + lines.join("")], { type: "text/csv" }));
      const link = document.createElement("a");
      link.href = address;
      link.download = "keep.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    });
  }

  const dialog = document.getElementById("large");
  if (dialog) {
    const place = dialog.querySelector("div");
    const enlarge = (picture) => {
      const [width, height] = [picture.dataset.width, picture.dataset.height].map(Number);
      const large = picture.cloneNode(true);
      large.removeAttribute("tabindex");
      large.removeAttribute("role");
      large.style.width = "min(90vw, " + (78 * width / height).toFixed(1) + "vh)";
      place.replaceChildren(large);
      dialog.querySelector("p").textContent = picture.closest("figure").querySelector("figcaption").innerText;
      dialog.showModal();
    };
    for (const picture of document.querySelectorAll("main .pic")) {
      picture.addEventListener("click", () => enlarge(picture));
      picture.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(picture); }
      });
    }
    dialog.addEventListener("click", () => dialog.close());
  }

  document.body.classList.add("live");
  window.addEventListener("pageshow", read);
  window.addEventListener("storage", read);
  read();
})();
