// openai for Node, from the folder that CLIENT_FOLDER names; the form is that of common.py.
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";

const { OpenAI } = createRequire(`${process.env.CLIENT_FOLDER}/package.json`)("openai");
const STAYS_MS = 3000;

let input = "";
for await (const part of process.stdin) input += part;
const ask = JSON.parse(input);
const client = new OpenAI({ baseURL: ask.base_url, apiKey: ask.key, timeout: ask.timeout_s * 1000 });
const fields = { model: ask.model, prompt: ask.prompt, max_tokens: ask.max_tokens, temperature: 0 };
const texts = [];
const started = performance.now();
const since = () => (performance.now() - started) / 1000;
let error, first, cancelled;
try {
  if (ask.stream) {
    for await (const chunk of await client.completions.create({ ...fields, stream: true })) {
      const text = chunk.choices[0]?.text;
      if (!text) continue;
      first ??= since();
      if (texts.push(text) === ask.cancel_after) {
        cancelled = true;
        break;
      }
    }
  } else {
    texts.push((await client.completions.create(fields)).choices[0].text);
  }
} catch (caught) {
  error = caught;
}
const told = {
  text: texts.join(""),
  pieces: texts.length,
  first_s: first ?? null,
  error: error ? error.constructor.name : null,
  status: error?.status ?? null,
  message: error ? String(error.message).slice(0, 300) : null,
  seconds: since(),
};
if (cancelled) await setTimeout(STAYS_MS);
console.log("\n" + JSON.stringify(told));
