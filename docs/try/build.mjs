// Builds the page into dist/: `npm ci && npm run build`. The model is exported by singlestrip: by the Python that the
// variable PYTHON names, or by the one in .venv. It needs the extra `export`.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const folder = dirname(fileURLToPath(import.meta.url));
const root = join(folder, "..", "..");
const out = join(folder, "dist");
const modules = join(folder, "node_modules");
const RUNTIME = ["ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

async function bundle() {
  const { metafile } = await build({
    entryPoints: ["main.js", "worker.js"].map((name) => join(folder, "src", name)),
    outdir: out,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    conditions: ["onnxruntime-web-use-extern-wasm"],
    legalComments: "none",
    metafile: true,
    absWorkingDir: folder,
    logLevel: "warning",
  });
  return Object.keys(metafile.inputs);
}

/* The names of the packages that files in node_modules belong to. */
function packagesOf(files) {
  const names = files.map((file) => file.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
  return [...new Set(names.filter(Boolean))].sort();
}

/* The licence of each package: its name and its text. Those whose package has no text have one in licences/. */
function licences(packages) {
  const parts = packages.map((name) => {
    const { version, license } = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf-8"));
    const file = readdirSync(join(modules, name)).find((each) => /^licen[cs]e/i.test(each));
    const path = file ? join(modules, name, file) : join(folder, "licences", `${name.replace("/", "-")}.txt`);
    return `${name} ${version}: ${license}\n\n${readText(path)}`;
  });
  const own = `singlestrip, this page and the weights of its model: Apache-2.0\n\n${readText(join(root, "LICENSE"))}`;
  return `${[own, ...parts].join(`\n\n${"-".repeat(40)}\n\n`)}\n`;
}

function readText(path) {
  return readFileSync(path, "utf-8").trim();
}

function exportModel() {
  const inTree = join(root, ".venv", "bin", "python");
  const python = process.env.PYTHON ?? (existsSync(inTree) ? inTree : "python3");
  const environment = { ...process.env, PYTHONPATH: [root, process.env.PYTHONPATH].filter(Boolean).join(":") };
  const command = ["-m", "singlestrip", "export", "singlestrip", "-o", join(out, "model")];
  execFileSync(python, command, { stdio: "inherit", env: environment });
}

function copy(from, name) {
  copyFileSync(join(from, name), join(out, name));
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out);
writeFileSync(join(out, "licences.txt"), licences(packagesOf(await bundle())));
for (const name of ["index.html", "style.css", "isolate.js", "theme.js"]) copy(join(folder, "src"), name);
for (const name of RUNTIME) copy(join(modules, "onnxruntime-web", "dist"), name);
exportModel();
