// The work list: every image of this tab with what became of it. Files stay in memory; names, sessions and states
// outlive a reload.

import * as kept from "./kept.js";
import { make, probabilityText } from "./panels.js";
import { at, indices } from "./view.js";

const LIST = "csr-list";
const MAX_IMAGES = 500;
const STORED = ["name", "size", "modified", "session", "sha256", "failed", "top", "doctor"];

export class WorkList {
  entries = [];
  current = null;

  // onPick(entry)
  constructor({ onPick }) {
    this.onPick = onPick;
    const stored = JSON.parse(sessionStorage.getItem(LIST) ?? "[]");
    this.entries = stored.map((one) => ({ ...one, file: null, why: null }));
    this.render();
  }

  // the first entry of these files; one that is in the list gets its file (again)
  add(files) {
    const found = files.map((file) => {
      const same = this.entries.find((one) => (
        one.name === file.name && one.size === file.size && one.modified === file.lastModified));
      if (same) return Object.assign(same, { file, failed: null });
      if (this.entries.length >= MAX_IMAGES) return null;
      const entry = {
        name: file.name, size: file.size, modified: file.lastModified, file, session: null, sha256: null,
        failed: null, top: null, doctor: false, why: null,
      };
      this.entries.push(entry);
      return entry;
    });
    this.render();
    return { first: found.find(Boolean) ?? null, refused: found.filter((one) => !one).length, limit: MAX_IMAGES };
  }

  of(session) {
    return this.entries.find((one) => one.session === session) ?? null;
  }

  select(entry) {
    this.current = entry;
    this.render();
    this.#reveal();
  }

  remove(entry) {
    const place = this.entries.indexOf(entry);
    this.entries.splice(place, 1);
    if (this.current === entry) this.current = null;
    this.render();
    return this.entries[Math.min(place, this.entries.length - 1)] ?? null;
  }

  // the entry so many places on, null at the ends
  beside(step) {
    return this.entries[this.entries.indexOf(this.current) + step] ?? null;
  }

  // what the list says of the image that is open
  update(state) {
    const entry = this.of(state.session);
    if (!entry) return;
    const first = indices(state.diagnoses, (d) => (d.present ? 1 : 0) + d.probability)[0];
    const d = state.diagnoses[first];
    Object.assign(entry, {
      sha256: state.image.sha256, top: `${d.name} ${probabilityText(d)}${d.present ? "" : ", not called"}`,
      doctor: state.needs_doctor,
    });
    this.render();
  }

  hasUnsaved() {
    return this.entries.some((one) => one.sha256 && kept.isUnsaved(kept.get(one.sha256)));
  }

  render() {
    const num = this.entries.length;
    at("list").hidden = num < 2 && !this.entries.some((one) => one.failed);
    at("list-count").textContent = this.current ? `${this.entries.indexOf(this.current) + 1} of ${num}` : `${num}`;
    at("previous").disabled = !this.beside(-1) || !this.current;
    at("next").disabled = !this.beside(1);
    const focused = [...at("list-rows").querySelectorAll("button")].indexOf(document.activeElement);
    const { scrollTop } = at("list-rows");
    at("list-rows").replaceChildren(...this.entries.map((one) => this.#row(one)));
    at("list-rows").scrollTop = scrollTop;
    if (focused >= 0) at("list-rows").querySelectorAll("button")[Math.min(focused, num - 1)]?.focus({ preventScroll: true });
    sessionStorage.setItem(LIST, JSON.stringify(
      this.entries.map((one) => Object.fromEntries(STORED.map((key) => [key, one[key]])))));
  }

  // scrolls the list to the current image, and not the page: the reader may write below
  #reveal() {
    const [rows, row] = [at("list-rows"), at("list-rows").querySelector("[aria-current]")];
    if (!row) return;
    const [frame, place] = [rows.getBoundingClientRect(), row.getBoundingClientRect()];
    if (place.top < frame.top) rows.scrollTop -= frame.top - place.top;
    else if (place.bottom > frame.bottom) rows.scrollTop += place.bottom - frame.bottom;
  }

  #row(entry) {
    const status = statusOf(entry);
    const doctor = entry.doctor ? [make("span", { cls: "badge doctor", text: "needs a doctor" })] : [];
    const button = make("button", { type: "button", cls: `row ${status.cls}` },
      make("span", { cls: "name", text: entry.name }), make("span", { cls: "status", text: status.text }),
      make("span", { cls: "top", text: entry.top ?? "" }), ...doctor);
    if (entry === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.onPick(entry));
    return make("li", {}, button);
  }
}

export function statusOf(entry) {
  const record = entry.sha256 ? kept.get(entry.sha256) : null;
  if (entry.failed) return { cls: "failed", text: `failed: ${entry.failed}` };
  if (entry.why && !entry.session) return { cls: "lost", text: entry.file ? "closed, edits kept" : "choose the file again" };
  if (!entry.session) return { cls: "new", text: entry.file ? "new" : "choose the file again" };
  if (kept.isUnsaved(record)) return { cls: "edited", text: "edited" };
  if (kept.isSaved(record)) return { cls: "saved", text: "record saved" };
  return { cls: "opened", text: "opened" };
}
