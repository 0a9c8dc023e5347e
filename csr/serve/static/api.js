// Requests to the server; the token stays in this tab and goes in a header.

const TOKEN = "csr-token";

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
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
    throw new ApiError(0, "The server does not respond. Is it still running?");
  }
  if (answer.ok) return answer;
  let detail = `The server answered with status ${answer.status}.`;
  try {
    const reason = (await answer.json()).detail;
    if (typeof reason === "string") detail = reason;
  } catch { /* no JSON: an unforeseen error */ }
  throw new ApiError(answer.status, detail);
}

export async function getJson(path) {
  return (await send("GET", path)).json();
}

export async function getBlob(path) {
  return (await send("GET", path)).blob();
}

export async function post(path) {
  return (await send("POST", path)).json();
}

export async function putJson(path, value) {
  const headers = { "Content-Type": "application/json" };
  return (await send("PUT", path, { body: JSON.stringify(value), headers })).json();
}

export async function remove(path) {
  await send("DELETE", path);
}

export async function upload(file) {
  const headers = {
    "Content-Type": "application/octet-stream", "X-Image-Name": encodeURIComponent(file.name.slice(0, 200)),
  };
  return (await send("POST", "images", { body: file, headers })).json();
}
