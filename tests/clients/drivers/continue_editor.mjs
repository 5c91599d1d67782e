// As much of an editor as Continue's autocomplete asks for: one file, with the cursor between prefix and suffix.
import { CompletionProvider } from "@continuedev/core/dist/autocomplete/CompletionProvider.js";
import OpenAI from "@continuedev/core/dist/llm/llms/OpenAI.js";

const FOLDER = "file:///project";

let input = "";
for await (const part of process.stdin) input += part;
const ask = JSON.parse(input);

const answers = {
  getWorkspaceDirs: [FOLDER],
  readFile: ask.prefix + ask.suffix,
  readRangeInFile: "",
  getClipboardContent: { text: "", copiedAt: new Date().toISOString() },
  getDiff: [],
  getUniqueId: "nobody",
  getIdeInfo: { ideType: "vscode" },
};
const editor = new Proxy({}, { get: (_, name) => async () => answers[name] });
const model = new OpenAI({
  model: ask.model,
  apiBase: ask.base_url,
  apiKey: ask.key,
  completionOptions: { maxTokens: ask.max_tokens, temperature: 0 },
});
const config = { tabAutocompleteOptions: { useCache: false, debounceDelay: 0, transform: ask.transform } };
const errors = [];
const provider = new CompletionProvider(
  { loadConfig: async () => ({ config }) },
  editor,
  async () => model,
  (error) => errors.push(String(error.message)),
  async () => [],
);
const lines = ask.prefix.split("\n");
const typing = new AbortController();
if (ask.types_on_after_s) setTimeout(() => typing.abort(), ask.types_on_after_s * 1000);
const outcome = await provider.provideInlineCompletionItems(
  {
    isUntitledFile: false,
    completionId: "1",
    filepath: `${FOLDER}/a.py`,
    pos: { line: lines.length - 1, character: lines.at(-1).length },
    recentlyVisitedRanges: [],
    recentlyEditedRanges: [],
  },
  typing.signal,
);
const told = { completion: outcome?.completion ?? null, prefix: outcome?.prefix, suffix: outcome?.suffix, errors };
console.log("\n" + JSON.stringify(told));
process.exit(0);
