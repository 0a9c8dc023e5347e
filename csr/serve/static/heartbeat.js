// While the page is open, also in a hidden tab, the server keeps its images; what it forgot nevertheless is noticed.

import { ApiError, postJson } from "./api.js";
import { model, state } from "./view.js";

// list of images; isBusy() while a change is on its way; onGone(error), onChanged(): of the image that is shown
export function wireHeartbeat({ list, isBusy, onGone, onChanged }) {
  const beat = async () => {
    const shown = state;
    const sessions = list.entries.map((one) => one.session).filter(Boolean);
    if (!model || !sessions.length) return;
    let answer;
    try {
      answer = await postJson("alive", { sessions });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return; // the next change, or the next beat, says so
    }
    for (const [session, { detail }] of Object.entries(answer.gone)) {
      const entry = list.of(session);
      if (entry && session !== shown?.session) Object.assign(entry, { session: null, why: detail });
    }
    list.render();
    if (!shown || state !== shown || isBusy()) return;
    const gone = answer.gone[shown.session];
    if (gone) onGone(new ApiError(404, gone.detail, { reason: gone.reason }));
    else if (answer.open[shown.session] !== shown.revision) onChanged();
  };
  setInterval(beat, 1000 * model.heartbeat_s);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) beat(); });
  return beat;
}
