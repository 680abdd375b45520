// All work but the display, beside the page: reads files, strips, moves the border, writes files.
// A message has a number, the name of a task below and its arguments. The answer has the number, and a value or an error.

import * as ort from "onnxruntime-web/wasm";
import { InputError } from "./errors.js";
import { voxelVolumeMl } from "./grid.js";
import { displayed, gzip, readImage, writeLike } from "./images.js";
import { loadModel } from "./model.js";
import { clean } from "./morphology.js";
import { countTrue } from "./numbers.js";
import { estimateQuality } from "./quality.js";
import { Stripper } from "./stripper.js";
import { signedDistance } from "./surface.js";

const USUAL_LOOKS = 4; // passes of the networks; wide fields of view and second looks take more
const MOST_THREADS = 8;
const REACH_MM = 10; // of the slider

ort.env.wasm.wasmPaths = new URL("./", location.href).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;

let model = null;
let scan = null; // of the file that is open: name, image, and once they are there what was stripped, and distance
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
      ...(await described()),
      seconds: (performance.now() - started) / 1000,
      threads: ort.env.wasm.numThreads,
    };
  },

  async moveBorder(mm) {
    const { image, stripped } = scan;
    if (mm === 0) mask = stripped.mask;
    else {
      scan.distance ??= signedDistance(stripped.mask, stripped.logit, stripped.box, REACH_MM);
      mask = clean(moved(stripped.mask, scan.distance, mm, image.data));
      if (!countTrue(mask.data)) throw new InputError(`a border of ${mm} mm leaves no brain`);
    }
    return described();
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
async function described() {
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

/* The voxels whose signed distance is below `mm`; beyond the band that was measured the mask stays. */
function moved(mask, distance, mm, stored) {
  const data = mask.data.slice();
  const [width, height, depth] = distance.shape;
  const { start } = distance.box;
  let from = 0;
  for (let z = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, from++) {
        const k = x + start[0] + mask.shape[0] * (y + start[1] + mask.shape[1] * (z + start[2]));
        data[k] = distance.data[from] < mm && Number.isFinite(stored[k]) ? 1 : 0;
      }
  return { ...mask, data };
}

addEventListener("message", async ({ data: { number, task, values } }) => {
  try {
    postMessage({ number, value: await tasks[task](...values) });
  } catch (error) {
    const isKnown = error instanceof InputError;
    if (!isKnown) console.error(error);
    const isMemory = error instanceof RangeError || /memory|allocation/i.test(String(error));
    const sentence = isMemory ? "the scan is larger than the memory of this browser" : `this failed: ${error}`;
    postMessage({ number, error: isKnown ? error.message : sentence });
  }
});
