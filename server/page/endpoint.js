/** Sends a request to the server and yields the parts of its reply as they come. */

const COMPLETIONS = "/v3/openai/completions";

/** An error reply of the server. */
export class Refusal extends Error {
  constructor({ code, reason, message, metadata }) {
    super(message);
    Object.assign(this, { code, reason, field: metadata?.field });
  }
}

/** A server without API keys accepts any key. */
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

/** The ids of the models. */
export async function loadModels() {
  const { models } = await (await fetch("/ready")).json();
  return Object.keys(models);
}
