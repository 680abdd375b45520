// Tests the built page in headless Chromium: `npm run test:browser -- FOLDER`, with a folder of scans that has those below.
// CHROMIUM names the browser, PYTHON the interpreter that has singlestrip. For each scan the mask that the page saves is
// compared with that of the command line: Dice, and every byte of the header. SCREENSHOT names a picture to write.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";
import puppeteer from "puppeteer-core";
import { readImage } from "../src/images.js";
import { dice } from "../src/numbers.js";

const folder = dirname(fileURLToPath(import.meta.url));
const root = join(folder, "..", "..", "..");
const page = join(folder, "..", "dist");
const scans = process.argv[2];
const python = process.env.PYTHON ?? join(root, ".venv", "bin", "python");
const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SCANS = [
  { name: "adults/sub-02_T1w.nii.gz", members: 3 }, // of the gzip file
  { name: "adults/sub-03_T2w.nii.gz" }, // slices of 5 mm
  { name: "contrasts/c_T1w.nii.gz" }, // oblique
  { name: "clinical/patient01_study1_FLAIR.nii.gz", as: "flair.mgz" },
  { name: "fetal/sub-01_run-1_T2w.nii.gz", model: "fetus" }, // a model that the user exports
];
const LEAST_DICE = 0.995;
const BORDER = 3; // mm
const PATIENCE = 600_000; // ms
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css" };

const temporary = mkdtempSync(join(tmpdir(), "singlestrip-try-"));
const downloads = join(temporary, "downloads");
mkdirSync(downloads);

/* A server of the page's files, without any headers of its own, as `python -m http.server` is. */
async function serve() {
  const server = createServer((request, response) => {
    const path = join(page, new URL(request.url, "http://localhost").pathname.replace(/\/$/, "/index.html"));
    if (!existsSync(path)) return response.writeHead(404).end();
    const type =
      TYPES[extname(path)] ?? (path.endsWith(".wasm") ? "application/wasm" : "application/octet-stream");
    response.writeHead(200, { "Content-Type": type });
    return createReadStream(path).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

function run(...words) {
  execFileSync(python, words, {
    env: { ...process.env, PYTHONPATH: root },
    stdio: ["ignore", "ignore", "inherit"],
  });
}

/* The file to give to the page, and the masks and the brain that the command line makes of it. */
function reference({ name, as, model, members }) {
  const given = as || members ? join(temporary, as ?? basename(name)) : join(scans, name);
  const ending = as ? ".mgz" : ".nii.gz";
  const [mask, brain, larger] = ["mask", "brain", "larger"].map((each) => join(temporary, `${each}${ending}`));
  if (as) {
    const code =
      "import sys, nibabel as nib; scan = nib.load(sys.argv[1]); " +
      "nib.save(nib.MGHImage(scan.get_fdata().astype('float32'), scan.affine), sys.argv[2])";
    run("-c", code, join(scans, name), given);
  }
  if (members) {
    const content = gunzipSync(readFileSync(join(scans, name)));
    const size = Math.ceil(content.length / members);
    const parts = Array.from({ length: members }, (_, k) => gzipSync(content.subarray(k * size, (k + 1) * size)));
    writeFileSync(given, Buffer.concat(parts));
  }
  const strip = ["-m", "singlestrip", "strip", "-q", "-i", given, ...(model ? ["--model", model] : [])];
  run(...strip, "-m", mask, "-o", brain);
  run(...strip, "-m", larger, "--border", String(BORDER));
  return { given, mask, brain, larger };
}

async function saved(tab, kind) {
  const before = await tab.$eval("#status", (element) => element.textContent);
  const isStill = await tab.$eval(`#save-${kind}`, (button) => {
    button.click();
    return document.getElementById("border").disabled;
  });
  assert.ok(isStill, "the border can be moved while the page saves");
  await tab.waitForFunction(
    (text) => {
      const now = document.getElementById("status").textContent;
      return now !== text && now.startsWith("Saved");
    },
    { timeout: PATIENCE },
    before,
  );
  const name = (await tab.$eval("#status", (element) => element.textContent)).slice(6, -1);
  const path = join(downloads, name);
  for (let tries = 0; !existsSync(path) && tries < 100; tries++)
    await new Promise((resolve) => setTimeout(resolve, 100));
  const bytes = readFileSync(path);
  rmSync(path);
  return { name, bytes: new Uint8Array(name.endsWith("z") ? gunzipSync(bytes) : bytes) };
}

function unpacked(path) {
  return new Uint8Array(gunzipSync(readFileSync(path)));
}

async function compared(file, path) {
  const [ours, theirs] = [await readImage(file.bytes, file.name), await readImage(unpacked(path), path)];
  assert.deepEqual(ours.file.head, theirs.file.head, "the header differs from that of the command line");
  return { ours, theirs, dice: dice(ours.data, theirs.data) };
}

async function done(tab) {
  await tab.waitForFunction(
    () =>
      !document.getElementById("choose-scan").disabled &&
      document.getElementById("status").textContent !== "Ready.",
    { timeout: PATIENCE },
  );
  return tab.$eval("#status", (element) => ({ text: element.textContent, kind: element.dataset.kind }));
}

async function give(tab, ...paths) {
  const input = await tab.$(paths[0].endsWith(".onnx") ? "#model-files" : "#scan-file");
  await input.uploadFile(...paths);
  return done(tab);
}

/* The files that `singlestrip export` writes of a model. */
function exported(model) {
  const target = join(temporary, model);
  run("-m", "singlestrip", "export", model, "-o", target);
  return readdirSync(target).map((name) => join(target, name));
}

const server = await serve();
const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
  protocolTimeout: PATIENCE,
});
const origin = `http://127.0.0.1:${server.address().port}`;
const fetched = [];
try {
  const tab = await browser.newPage();
  await tab.setViewport({ width: 1400, height: 860 });
  tab.on("request", (request) => fetched.push(request.url()));
  tab.on("pageerror", (error) => console.error(`page: ${error}`));
  tab.on(
    "console",
    (message) => ["error", "warn"].includes(message.type()) && console.error(`page: ${message.text()}`),
  );
  const client = await browser.target().createCDPSession();
  await client.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: downloads });
  await tab.goto(origin);
  await tab.waitForFunction(() => document.getElementById("status")?.textContent === "Ready.", {
    timeout: PATIENCE,
  });

  const broken = join(temporary, "broken.nii.gz");
  writeFileSync(broken, "no image at all");
  const wrong = await give(tab, broken);
  assert.equal(wrong.kind, "error");
  console.log(`broken file: "${wrong.text}"`);
  const brokenModel = join(temporary, "broken.onnx");
  writeFileSync(brokenModel, "no network at all");
  const wrongModel = await give(tab, brokenModel);
  assert.equal(wrongModel.kind, "error");
  console.log(`broken model: "${wrongModel.text}"`);

  for (const scan of SCANS) {
    const { given, mask, brain, larger } = reference(scan);
    if (scan.model) await give(tab, ...exported(scan.model));
    const { text, kind } = await give(tab, given);
    assert.equal(kind, "", text);
    if (process.env.SCREENSHOT && scan === SCANS[0]) {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      await tab.screenshot({ path: process.env.SCREENSHOT });
    }
    const [flag, estimate, seconds] = await Promise.all(
      ["flag", "dice", "seconds"].map((id) => tab.$eval(`#${id}`, (element) => element.textContent)),
    );
    const found = await compared(await saved(tab, "mask"), mask);
    assert.ok(found.dice >= LEAST_DICE, `Dice ${found.dice}`);
    const stripped = await compared(await saved(tab, "brain"), brain);
    const same = stripped.ours.data.every(
      (value, k) => value === stripped.theirs.data[k] || found.ours.data[k] !== found.theirs.data[k],
    );
    assert.ok(same, "the brain has other voxels");
    await tab.$eval(
      "#border",
      (slider, mm) => {
        slider.value = mm;
        slider.dispatchEvent(new Event("input"));
      },
      BORDER,
    );
    await done(tab);
    const moved = await compared(await saved(tab, "mask"), larger);
    assert.ok(moved.dice >= LEAST_DICE, `Dice of the moved border ${moved.dice}`);
    const name = scan.as ?? scan.name;
    console.log(
      `${name}: Dice ${found.dice.toFixed(5)}, border ${BORDER} mm ${moved.dice.toFixed(5)}, header equal, ${flag}, ` +
        `estimated Dice ${estimate}, ${seconds}`,
    );
  }
  const foreign = fetched.filter((url) => !url.startsWith(origin) && !/^(blob|data):/.test(url));
  assert.deepEqual(foreign, [], "the page fetched files of other servers");
} finally {
  await browser.close();
  server.close();
  rmSync(temporary, { recursive: true, force: true });
}
