// The page: takes files, shows the scan and its mask, and asks the worker for all that takes time.

import { Niivue, NVImage } from "@niivue/niivue";
import { switchTheme } from "./theme.js";

const MODEL_FILES = ["locator.onnx", "segmenter.onnx", "quality.onnx"];
const SCAN_ENDING = /\.(nii|nii\.gz|mgh|mgz)$/i;
const CLIP_PLANE = [0.1, 270, 0]; // of the head in three dimensions, so that the mask is seen

const byId = (id) => document.getElementById(id);
const viewer = new Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.47, 0.68, 0.99, 0.7],
  crosshairWidth: 0.5,
  dragAndDropEnabled: false,
  isOrientCube: false,
  logLevel: "error",
  multiplanarLayout: 2, // two planes above, one and the head in three dimensions below
  multiplanarShowRender: 1,
  show3Dcrosshair: false,
});
const state = { isBusy: true, shown: "head", result: null, display: null, hasScan: false };
let worker;
let calls = 0;
const waiting = new Map();

/* Ask the worker for a task; its answer by promise. */
function ask(task, ...values) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ number: calls, task, values });
  });
}

function onAnswer({ data }) {
  if ("progress" in data) return showProgress(data.progress);
  const { resolve, reject } = waiting.get(data.number);
  waiting.delete(data.number);
  if ("error" in data) reject(new Error(data.error));
  else resolve(data.value);
}

function showProgress(share) {
  byId("meter").style.width = `${100 * share}%`;
}

function tell(text, kind = "") {
  byId("status").textContent = text;
  byId("status").dataset.kind = kind;
}

/* While the worker is busy nothing else can be asked. An error of the work is told. */
async function work(text, job) {
  setBusy(true);
  tell(text);
  try {
    await job();
  } catch (error) {
    tell(sentence(error.message), "error");
  } finally {
    setBusy(false);
    showProgress(0);
  }
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`.replace(/([.?!])\.$/, "$1");
}

function setBusy(isBusy) {
  state.isBusy = isBusy;
  for (const button of document.querySelectorAll("#choose-scan, #choose-model, #save-mask, #save-brain"))
    button.disabled = isBusy;
}

async function bytesOf(file) {
  return new Uint8Array(await file.arrayBuffer());
}

async function ownModel() {
  return Promise.all(
    MODEL_FILES.map(async (name) => {
      const response = await fetch(`model/${name}`);
      if (!response.ok) throw new Error(`the file model/${name} of this page is missing`);
      return bytesOf(response);
    }),
  );
}

async function useModel(files) {
  const { name, anatomy, licence } = await ask("loadModel", files);
  byId("model-name").textContent = [`Model: ${name}`, anatomy, licence].filter(Boolean).join(", ");
}

function takeModel(files) {
  work("Loading the model …", async () => {
    await useModel(await Promise.all(files.map(bytesOf)));
    if (state.hasScan) await strip();
    else tell("Ready.");
  });
}

function takeScan(file) {
  work("Reading the scan …", async () => {
    state.hasScan = false;
    byId("result").hidden = true;
    byId("scan-name").textContent = file.name;
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    if (!SCAN_ENDING.test(file.name)) throw new Error("not a name of an image: .nii, .nii.gz, .mgz or .mgh");
    const { display, frames } = await ask("open", await bytesOf(file), file.name);
    state.display = display;
    state.hasScan = true;
    await show([{ bytes: display, name: "head.nii" }]);
    await strip(frames);
  });
}

async function strip(frames = 1) {
  tell(frames > 1 ? `Stripping the first of ${frames} frames …` : "Stripping …");
  showProgress(0.05);
  const result = await ask("strip");
  byId("border").value = 0;
  byId("border-value").textContent = "0 mm";
  const threads = result.threads > 1 ? `${result.threads} threads` : "one thread";
  byId("seconds").textContent = `${result.seconds.toFixed(1)} s, ${threads}`;
  await showResult(result);
  tell(frames > 1 ? `The mask is of the first of ${frames} frames.` : "Done.");
}

async function showResult(result) {
  state.result = result;
  const { flag, dice, low, high, reasons } = result.quality;
  byId("flag").hidden = flag === null;
  byId("flag").textContent = flag ?? "";
  byId("flag").dataset.flag = flag ?? "";
  byId("dice").textContent = dice === null ? "not known" : dice.toFixed(3);
  byId("interval").textContent = dice === null ? "" : `${low.toFixed(2)} to ${high.toFixed(2)}`;
  byId("volume").textContent = `${result.volumeMl.toPrecision(4)} ml`;
  byId("reasons").replaceChildren(
    ...reasons.map((reason) => Object.assign(document.createElement("li"), { textContent: reason })),
  );
  byId("result").hidden = false;
  await showVolumes();
}

/* The head with its mask, or the brain alone. */
async function showVolumes() {
  const { mask, brain } = state.result;
  const isHead = state.shown === "head";
  for (const button of document.querySelectorAll("[data-show]"))
    button.setAttribute("aria-pressed", button.dataset.show === state.shown);
  const head = { bytes: state.display, name: "head.nii" };
  const overlay = { bytes: mask, name: "mask.nii", colormap: "red", opacity: 0.4, cal_min: 0.5, cal_max: 1 };
  await show(isHead ? [head, overlay] : [{ bytes: brain, name: "brain.nii" }]);
  viewer.setClipPlane(isHead ? CLIP_PLANE : [2, 0, 0]);
}

/* Show files that lie in memory, one over the other, in place of those before. */
async function show(files) {
  const place = viewer.volumes.length ? [...viewer.scene.crosshairPos] : null;
  const images = await Promise.all(
    files.map(({ bytes, ...options }) =>
      NVImage.loadFromUrl({ url: options.name, buffer: bytes.slice().buffer, ...options }),
    ),
  );
  while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
  for (const image of images) viewer.addVolume(image);
  if (place) viewer.scene.crosshairPos = place;
  viewer.updateGLVolume();
}

/* Move the border to where the slider is; again if it moved on meanwhile. */
async function moveBorder() {
  const mm = () => Number(byId("border").value);
  byId("border-value").textContent = `${mm() > 0 ? "+" : ""}${mm()} mm`;
  if (state.isBusy) return;
  await work("Moving the border …", async () => {
    let asked;
    do {
      asked = mm();
      await showResult(await ask("moveBorder", asked));
    } while (asked !== mm());
    tell("Done.");
  });
}

function save(kind) {
  work("Writing the file …", async () => {
    const { bytes, name } = await ask("save", kind);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    tell(`Saved ${name}.`);
  });
}

/* The files of a drop, those in a dropped folder among them. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...transfer.files];
  for (const folder of entries.filter((entry) => entry.isDirectory)) {
    const inside = await new Promise((resolve, reject) => {
      folder.createReader().readEntries(resolve, reject);
    });
    const found = inside.filter((entry) => entry.isFile);
    files.push(...(await Promise.all(found.map((entry) => new Promise((resolve) => entry.file(resolve))))));
  }
  return files;
}

async function onDrop(event) {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (state.isBusy) return;
  const files = await droppedFiles(event.dataTransfer);
  const networks = files.filter((file) => file.name.endsWith(".onnx"));
  if (networks.length) takeModel(networks);
  else if (files.length) takeScan(files[0]);
}

function connect() {
  byId("theme").addEventListener("click", switchTheme);
  for (const [button, input] of [
    ["choose-scan", "scan-file"],
    ["choose-model", "model-files"],
  ])
    byId(button).addEventListener("click", () => byId(input).click());
  byId("scan-file").addEventListener("change", ({ target }) => {
    if (target.files.length) takeScan(target.files[0]);
    target.value = "";
  });
  byId("model-files").addEventListener("change", ({ target }) => {
    if (target.files.length) takeModel([...target.files]);
    target.value = "";
  });
  byId("border").addEventListener("input", moveBorder);
  byId("save-mask").addEventListener("click", () => save("mask"));
  byId("save-brain").addEventListener("click", () => save("brain"));
  for (const button of document.querySelectorAll("[data-show]"))
    button.addEventListener("click", () => {
      state.shown = button.dataset.show;
      showVolumes();
    });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", onDrop);
}

/* Reload the page once through the service worker that lets it use several threads, where that is possible. */
async function isolate() {
  if (crossOriginIsolated || !navigator.serviceWorker || sessionStorage.getItem("isolated")) return;
  sessionStorage.setItem("isolated", "tried");
  try {
    await navigator.serviceWorker.register("isolate.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // the page then has one thread
  }
  location.reload();
  await new Promise(() => {});
}

async function start() {
  byId("file-warning").hidden = true;
  await isolate();
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", onAnswer);
  connect();
  await viewer.attachToCanvas(byId("canvas"));
  await work("Loading the model …", async () => {
    await useModel(await ownModel());
    tell("Ready.");
  });
}

start();
