// Requests to the server; the token stays in this tab and goes in a header.

const TOKEN = "csr-token";

export class ApiError extends Error {
  // reason: for programs, see `Problem` of the API; path: that was asked for
  constructor(status, detail, { reason = null, path = "" } = {}) {
    super(detail);
    Object.assign(this, { status, reason, path });
  }
}

export function takeTokenFromAddress() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  let token = found[1];
  try { token = decodeURIComponent(token); } catch { /* as it is */ }
  setToken(token);
  history.replaceState(null, "", location.pathname); // neither bookmarks nor a neighbour's eyes keep it
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function send(method, path, { body, headers = {} } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  let answer;
  try {
    answer = await fetch(`api/${path}`, {
      method, body, headers: { ...headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      credentials: "omit", cache: "no-store",
    });
  } catch {
    throw new ApiError(0, "The server does not respond. Is it still running?", { path });
  }
  if (answer.ok) return answer;
  let detail = `The server answered with status ${answer.status}.`;
  let reason = null;
  try {
    const problem = await answer.json();
    if (typeof problem.detail === "string") ({ detail, reason = null } = problem);
  } catch { /* no JSON: an unforeseen error */ }
  throw new ApiError(answer.status, detail, { reason, path });
}

export async function getJson(path) {
  return (await send("GET", path)).json();
}

export async function getBlob(path) {
  return (await send("GET", path)).blob();
}

export async function getBytes(path) {
  return (await send("GET", path)).arrayBuffer();
}

// of the state that a change starts from: the server refuses it where another tab was faster
const revisionOf = (revision) => (revision === undefined ? {} : { "X-Revision": String(revision) });

export async function post(path, { revision } = {}) {
  return (await send("POST", path, { headers: revisionOf(revision) })).json();
}

async function sendJson(method, path, value, { revision } = {}) {
  const headers = { "Content-Type": "application/json", ...revisionOf(revision) };
  return (await send(method, path, { body: JSON.stringify(value), headers })).json();
}

export const putJson = (path, value, options) => sendJson("PUT", path, value, options);
export const postJson = (path, value, options) => sendJson("POST", path, value, options);

export async function remove(path) {
  await send("DELETE", path);
}

export async function upload(file) {
  const headers = {
    "Content-Type": "application/octet-stream", "X-Image-Name": encodeURIComponent(file.name.slice(0, 200)),
  };
  return (await send("POST", "images", { body: file, headers })).json();
}
