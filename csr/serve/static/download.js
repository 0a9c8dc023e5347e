// The record of the session as a file.

import { getBlob } from "./api.js";
import { attempt } from "./messages.js";
import { make } from "./panels.js";
import { path, state } from "./view.js";

export async function download() {
  const blob = await attempt(() => getBlob(`${path()}/record`));
  if (!blob) return;
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: `csr-session-${state.image.sha256.slice(0, 12)}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
