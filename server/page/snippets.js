/** A request as code for curl, Python and Node. The code reads the API key from the environment. */

// The arguments of the official Python SDK; every other field goes into its extra_body.
const OF_SDK = new Set(
  ("model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream " +
    "stream_options suffix temperature top_p user").split(" "),
);

export function snippet(language, pairs, origin) {
  return { curl, python, node }[language](pairs, origin);
}

function curl(pairs, origin) {
  const lines = pairs.map(([name, json]) => `  ${JSON.stringify(name)}: ${json}`).join(",\n");
  return `curl ${isStream(pairs) ? "-N " : ""}${origin}/v1/completions \\
  -H "Authorization: Bearer $VERBATIM_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '${`{\n${lines}\n}`.replaceAll("'", "'\\''")}'
`;
}

function python(pairs, origin) {
  const own = pairs.filter(([name]) => OF_SDK.has(name)).map(([name, json]) => `    ${name}=${pythonOf(json)},`);
  const others = pairs.filter(([name]) => !OF_SDK.has(name)).map(([name, json]) => `"${name}": ${pythonOf(json)}`);
  if (others.length) own.push(`    extra_body={${others.join(", ")}},`);
  const read = isStream(pairs)
    ? "for chunk in reply:\n    for choice in chunk.choices:\n        print(choice.text, end=\"\", flush=True)"
    : "for choice in reply.choices:\n    print(choice.text)";
  return `import os

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=os.environ["VERBATIM_API_KEY"])
reply = client.completions.create(
${own.join("\n")}
)
${read}
`;
}

function node(pairs, origin) {
  const fields = pairs.map(([name, json]) => `  ${name}: ${json},`).join("\n");
  const read = isStream(pairs)
    ? "for await (const chunk of reply) {\n  for (const choice of chunk.choices) process.stdout.write(choice.text);\n}"
    : "for (const choice of reply.choices) console.log(choice.text);";
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: process.env.VERBATIM_API_KEY });
const reply = await client.completions.create({
${fields}
});
${read}
`;
}

const isStream = (pairs) => pairs.some(([name, json]) => name === "stream" && json === "true");

/** JSON as Python code: only true, false and null differ, outside of strings. */
function pythonOf(json) {
  const words = { true: "True", false: "False", null: "None" };
  return json.replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (part) => words[part] ?? part);
}
