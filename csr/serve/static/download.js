// The record of the session as a file: for programs, or as a page to print.

import { getBlob } from "./api.js";
import * as kept from "./kept.js";
import { attempt } from "./messages.js";
import { make } from "./panels.js";
import { path, state, target } from "./view.js";

// true where the file was handed to the browser
export async function download(kind = "json") {
  const shown = state;
  const asked = kind === "html" ? `record.html?target=${target}` : "record";
  const blob = await attempt(() => getBlob(`${path()}/${asked}`));
  if (!blob) return false;
  save(`csr-session-${shown.image.sha256.slice(0, 12)}.${kind}`, blob);
  if (kind === "json") kept.setSaved(shown.image.sha256); // a printed page cannot be replayed
  return true;
}

export function saveText(name, text) {
  save(name, new Blob([text], { type: "application/json" }));
}

function save(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
