// Continue's autocomplete, from the folder that CLIENT_FOLDER names. Its package is written for a bundler: this
// makes the bundle and runs it. The cache of completions is left out, which needs SQLite's binary.
import { copyFile, cp, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const folder = process.env.CLIENT_FOLDER;
const packages = `${folder}/node_modules`;
const bundle = `${folder}/continue_editor.mjs`;
const NOTHING = `
export const open = async () => ({ exec() {}, run() {}, get() {} });
export default { Database: null };
`;
const AS_COMMONJS = `
import { createRequire } from "node:module";
const require = createRequire(import.meta.url), __filename = import.meta.filename, __dirname = import.meta.dirname;
`;

await writeFile(`${folder}/no_sqlite.mjs`, NOTHING);
await copyFile(`${packages}/web-tree-sitter/tree-sitter.wasm`, `${folder}/tree-sitter.wasm`);
await cp(`${packages}/tree-sitter-wasms/out`, `${folder}/tree-sitter-wasms`, { recursive: true });
await copyFile(fileURLToPath(new URL("continue_editor.mjs", import.meta.url)), `${folder}/editor.mjs`);
await createRequire(`${folder}/package.json`)("esbuild").build({
  entryPoints: [`${folder}/editor.mjs`],
  outfile: bundle,
  bundle: true,
  platform: "node",
  format: "esm",
  alias: { sqlite: `${folder}/no_sqlite.mjs`, sqlite3: `${folder}/no_sqlite.mjs` },
  loader: { ".node": "empty" },
  logLevel: "error",
  banner: { js: AS_COMMONJS },
});
await import(pathToFileURL(bundle));
