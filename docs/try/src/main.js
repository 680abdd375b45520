// The page: takes files, shows the scan and its mask, and asks the worker for all that takes time.

import { Niivue, NVImage } from "@niivue/niivue";
import { droppedFiles, nameFault, sortFiles } from "./files.js";
import { switchTheme } from "./theme.js";

const MODEL_FILES = ["locator.onnx", "segmenter.onnx", "quality.onnx"];
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
const state = { isBusy: true, shown: "head", result: null, display: null, hasScan: false, borderMm: 0 };
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

/* The worker could not be loaded, or stopped. */
function onWorkerError(event) {
  event.preventDefault();
  for (const { reject } of waiting.values())
    reject(new Error("a part of this page cannot be loaded, or stopped; reload the page"));
  waiting.clear();
}

function showProgress(share) {
  byId("meter").style.width = `${100 * share}%`;
}

function tell(text, kind = "") {
  byId("status").textContent = text;
  byId("status").dataset.kind = kind;
}

/* While the worker is busy nothing else can be asked, but by one control that stays usable. An error of the work is told. */
async function work(text, job, usable = null) {
  setBusy(true, usable);
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

function setBusy(isBusy, usable = null) {
  state.isBusy = isBusy;
  for (const control of document.querySelectorAll("#main button, #choose-model, #border"))
    control.disabled = isBusy && control !== usable;
}

async function bytesOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error("the file cannot be read: it is gone, locked, or larger than the memory of this browser");
  }
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
    const fault = nameFault(file.name);
    if (fault) throw new Error(fault);
    const { display, frames } = await ask("open", await bytesOf(file), file.name);
    state.display = display;
    state.hasScan = true;
    await strip(frames);
  });
}

async function strip(frames = 1) {
  tell(frames > 1 ? `Stripping the first of ${frames} frames …` : "Stripping …");
  showProgress(0.05);
  byId("result").hidden = true;
  await show([{ bytes: state.display, name: "head.nii" }]);
  const result = await ask("strip");
  showBorder(0);
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

/* Where the border of the mask is that is shown. */
function showBorder(mm) {
  state.borderMm = mm;
  byId("border").value = mm;
  labelBorder();
}

function labelBorder() {
  const mm = Number(byId("border").value);
  const text = `${mm > 0 ? "+" : ""}${mm} mm`;
  byId("border-value").textContent = text;
  byId("border").setAttribute("aria-valuetext", text);
}

/* Move the border to where the slider is; again if it moved on meanwhile. If that fails the slider goes back. */
async function moveBorder() {
  labelBorder();
  if (state.isBusy) return;
  const slider = byId("border");
  await work("Moving the border …", followSlider, slider);

  async function followSlider() {
    while (Number(slider.value) !== state.borderMm) {
      const asked = Number(slider.value);
      try {
        await showResult(await ask("moveBorder", asked));
        state.borderMm = asked;
      } catch (error) {
        if (Number(slider.value) !== asked) continue;
        showBorder(state.borderMm);
        throw error;
      }
    }
    tell("Done.");
  }
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

async function onDrop(event) {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (state.isBusy) return;
  let files = [];
  await work("Reading what was dropped …", async () => {
    files = await droppedFiles(event.dataTransfer);
    tell(files.length ? "" : "No file was dropped.");
  });
  const { networks, scan } = sortFiles(files);
  if (networks.length) takeModel(networks);
  else if (scan) takeScan(scan);
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
  try {
    if (crossOriginIsolated || !navigator.serviceWorker || sessionStorage.getItem("isolated")) return;
    sessionStorage.setItem("isolated", "tried");
    await navigator.serviceWorker.register("isolate.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // the page then has one thread; browsers that keep no data of sites refuse both
  }
  location.reload();
  await new Promise(() => {});
}

async function start() {
  byId("file-warning").hidden = true;
  await isolate();
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", onAnswer);
  worker.addEventListener("error", onWorkerError);
  connect();
  await viewer.attachToCanvas(byId("canvas"));
  await work("Loading the model …", async () => {
    await useModel(await ownModel());
    tell("Ready.");
  });
}

start();
