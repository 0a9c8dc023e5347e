// Images and records from the file dialog, dropped on the page, or pasted.

import { at } from "./view.js";

export function wireFiles(open) {
  at("open").addEventListener("click", () => at("file").click());
  at("replay").addEventListener("click", () => at("file").click());
  at("drop").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const files = [...at("file").files];
    at("file").value = ""; // the same file may be opened again
    if (files.length) open(files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) open([...event.clipboardData.files]);
  });
  wireDrop(open);
}

function wireDrop(open) {
  let depth = 0; // of the elements that the pointer entered with a file
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    if (event.dataTransfer.files.length) open([...event.dataTransfer.files]);
  });
}
