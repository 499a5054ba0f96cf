// Talking to the server: the list of offices, one streamed answer, a rating. Nothing here touches the page.

/** Longest silence of the server before the widget gives up, in milliseconds; a queued question is silent for a while. */
const SILENCE = 90_000;

/** What went wrong, in a word that LABELS.*.error knows; `wait` is in seconds, 0 if the server did not say. */
class ChatError extends Error {
  constructor(kind, wait = 0) {
    super(kind);
    this.kind = kind;
    this.wait = wait;
  }
}

/** The address of `path` at the server whose address ends in a slash. */
const at = (server, path) => new URL(path, server).href;

/** City, offices, model name and whether conversations are kept, as GET /api/offices gives them. */
async function fetchOffices(server) {
  const response = await fetch(at(server, "api/offices"), { credentials: "omit", referrerPolicy: "no-referrer" });
  if (!response.ok) throw new ChatError("closed");
  return response.json();
}

/** Counts one rating; whether it arrives is of no concern to the citizen. */
function sendRating(server, rating) {
  return fetch(at(server, "api/feedback"), {
    method: "POST",
    credentials: "omit",
    referrerPolicy: "no-referrer",
    keepalive: true,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(rating),
  }).catch(() => undefined);
}

async function errorOf(response) {
  const code = await response
    .json()
    .then((body) => body?.error?.code)
    .catch(() => undefined);
  switch (response.status) {
    case 429: {
      const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
      return new ChatError("busy", Number.isFinite(wait) && wait > 0 ? wait : 0);
    }
    case 401:
    case 403:
      return new ChatError("forbidden");
    case 413:
      return new ChatError("long");
    case 400:
      return new ChatError(code === "context_length_exceeded" ? "long" : "unknown");
    case 502:
    case 503:
      return new ChatError(code === "timeout" ? "slow" : "closed");
    case 408:
    case 504:
      return new ChatError("slow");
    default:
      return new ChatError("unknown");
  }
}

/** The data of each server-sent event; a line may end in LF or CRLF, and may be cut anywhere by the network. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffered += value;
    let end;
    while ((end = buffered.indexOf("\n")) >= 0) {
      const line = buffered.slice(0, end).replace(/\r$/, "");
      buffered = buffered.slice(end + 1);
      if (line === "") {
        if (data.length > 0) yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  }
}

/**
 * Asks and reports as the answer comes: `onText(piece)` for text, `onAbout(muni)` for what the server says about it.
 * Ends with the last `muni` object (or null); throws a ChatError, or an AbortError when `signal` stopped it.
 */
async function ask({ server, model, messages, signal, onText, onAbout }) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE);
  };
  const stop = () => silence.abort();
  signal.addEventListener("abort", stop);
  heard();
  let about = null;
  let complete = false;
  let began = false;
  try {
    const response = await fetch(at(server, "v1/chat/completions"), {
      method: "POST",
      credentials: "omit",
      referrerPolicy: "no-referrer",
      headers: { "Content-Type": "application/json", "X-Muni-Widget": "1" },
      // The server takes a request without a model for its own; an unknown name it refuses.
      body: JSON.stringify({ model, messages, stream: true }),
      signal: silence.signal,
    });
    if (!response.ok) throw await errorOf(response);
    began = true;
    for await (const data of eventsOf(response.body)) {
      heard();
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      const event = JSON.parse(data);
      if (event.error) throw new ChatError(event.error.code === "timeout" ? "slow" : "broken");
      const piece = event.choices?.[0]?.delta?.content;
      if (piece) onText(piece);
      if (event.muni) onAbout((about = event.muni));
    }
    if (!complete) throw new ChatError("broken");
    return about;
  } catch (error) {
    if (error instanceof ChatError) throw error;
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    if (silence.signal.aborted) throw new ChatError("slow");
    if (began) throw new ChatError("broken");
    throw new ChatError(navigator.onLine ? "closed" : "offline");
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
    // A stream that ended early (an error in it) is let go, so that the server can stop working on it.
    if (!complete) silence.abort();
  }
}
