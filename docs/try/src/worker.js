// All work but the display, beside the page: reads files, strips, moves the border, writes files.
// A message has a number, the name of a task below and its arguments. The answer has the number, and a value or an error.

import * as ort from "onnxruntime-web/wasm";
import { withBorder } from "./border.js";
import { InputError } from "./errors.js";
import { voxelVolumeMl } from "./grid.js";
import { displayed, gzip, readImage, writeLike } from "./images.js";
import { loadModel } from "./model.js";
import { countTrue } from "./numbers.js";
import { estimateQuality } from "./quality.js";
import { Stripper } from "./stripper.js";

const USUAL_LOOKS = 4; // passes of the networks; wide fields of view and second looks take more
const MOST_THREADS = 8;

ort.env.wasm.wasmPaths = new URL("./", location.href).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;

let model = null;
let scan = null; // of the file that is open: name, image, and once it is there what was stripped
let mask = null; // with the border where it is

const tasks = {
  async loadModel(files) {
    const next = await loadModel(files, (bytes) => ort.InferenceSession.create(bytes), ort.Tensor);
    model = next;
    return { name: model.name, anatomy: model.card?.anatomy ?? "", licence: model.licence };
  },

  async open(bytes, name) {
    [scan, mask] = [null, null];
    const image = await readImage(bytes, name);
    scan = { name, image };
    return { display: displayed(image, image.data), frames: image.frames };
  },

  async strip() {
    const started = performance.now();
    const report = (looks) => postMessage({ progress: Math.min(0.95, looks / (USUAL_LOOKS + 1)) });
    const stripper = new Stripper(model, report);
    scan.stripped = await stripper.strip(scan.image);
    scan.usualVolumes = stripper.usualVolumes();
    mask = scan.stripped.mask;
    return {
      ...(await described(mask)),
      seconds: (performance.now() - started) / 1000,
      threads: ort.env.wasm.numThreads,
    };
  },

  async moveBorder(mm) {
    const next = withBorder(scan.stripped, mm, scan.image.data);
    const told = await described(next);
    mask = next;
    return told;
  },

  async save(kind) {
    const { name, image } = scan;
    const bytes = writeLike(image, mask.data, kind);
    const [, stem, ending] = name.match(/^(.*?)(\.nii(?:\.gz)?|\.mg[hz])?$/i);
    const isPacked = /\.(gz|mgz)$/i.test(ending ?? "");
    return { bytes: isPacked ? await gzip(bytes) : bytes, name: `${stem}_${kind}${ending ?? ".nii"}` };
  },
};

/* What the page shows of a mask: its voxels, the brain's, volume and quality. */
async function described(mask) {
  const { image, stripped } = scan;
  const { flag, dice, low, high, reasons } = await estimateQuality(model, stripped, mask, scan.usualVolumes);
  const brain = image.data.map((value, k) => (mask.data[k] ? value : 0));
  return {
    mask: displayed(mask, mask.data),
    brain: displayed(image, brain),
    volumeMl: countTrue(mask.data) * voxelVolumeMl(mask),
    quality: { flag, dice, low, high, reasons },
  };
}

addEventListener("message", async ({ data: { number, task, values } }) => {
  try {
    postMessage({ number, value: await tasks[task](...values) });
  } catch (error) {
    const isKnown = error instanceof InputError;
    if (!isKnown) console.error(error);
    const isMemory = error instanceof RangeError || /memory|alloc/i.test(String(error));
    const sentence = isMemory ? "the scan is larger than the memory of this browser" : `this failed: ${error}`;
    postMessage({ number, error: isKnown ? error.message : sentence });
  }
});
