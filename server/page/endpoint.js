/** The server: a request, and what comes of it, as it comes. */

const COMPLETIONS = "/v3/openai/completions";

/** A failure as the server words it. */
export class Refusal extends Error {
  constructor({ code, reason, message, metadata }) {
    super(message);
    Object.assign(this, { code, reason, field: metadata?.field });
  }
}

/** Where the server has no keys, it takes any. */
export const authorization = (key) => ({ Authorization: `Bearer ${key || "none"}` });

/**
 * Yields {requestId}, then {chunk} for each message, and {isResuming: true} while a stream waits for an engine. A whole
 * reply is one chunk. Raises Refusal.
 */
export async function* complete(body, key, signal) {
  const headers = { "Content-Type": "application/json", ...authorization(key) };
  const response = await fetch(COMPLETIONS, { method: "POST", headers, body, signal });
  yield { requestId: response.headers.get("x-request-id") };
  if (!response.ok) throw await refusalOf(response);
  if (response.headers.get("content-type").startsWith("text/event-stream")) yield* messages(response.body);
  else yield { chunk: await response.json() };
}

async function refusalOf(response) {
  const text = await response.text();
  try {
    return new Refusal(JSON.parse(text));
  } catch {
    return new Refusal({ code: response.status, reason: response.statusText, message: text });
  }
}

async function* messages(stream) {
  for await (const frame of frames(stream)) {
    if (frame.startsWith(":")) yield { isResuming: true };
    else if (frame === "data: [DONE]") return;
    else {
      const chunk = JSON.parse(frame.replace(/^data: /, ""));
      if (chunk.error || chunk.reason) throw new Refusal(chunk);
      yield { chunk };
    }
  }
  throw new Error("The connection ended in the middle of the stream.");
}

async function* frames(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    yield* parts;
  }
}

/** The models' ids, and how far they are. */
export async function loadModels() {
  const { models } = await (await fetch("/ready")).json();
  return Object.keys(models);
}
