// Runs modules of the page for tests/test_try_page.py: a job as JSON on standard input, its result on standard output.
// Volumes lie in NIfTI or MGH files. The networks take what is brighter than half for brain, and for a brain's shape.

import { readFileSync, writeFileSync } from "node:fs";
import { readImage, writeLike } from "../src/images.js";
import { clean } from "../src/morphology.js";
import { above } from "../src/numbers.js";
import { estimateQuality, intervalAround, treeSum } from "../src/quality.js";
import { Stripper } from "../src/stripper.js";
import { signedDistance } from "../src/surface.js";

async function read(path) {
  return readImage(new Uint8Array(readFileSync(path)), path);
}

const jobs = {
  async strip({ path, model, mask, brain, distance, reach }) {
    const image = await read(path);
    const run = async (_network, { data }) => data.map((value) => 10 * (value - 0.5));
    const stripper = new Stripper({ ...model, run });
    const stripped = await stripper.strip(image);
    writeFileSync(mask, writeLike(image, stripped.mask.data, "mask"));
    writeFileSync(brain, writeLike(image, stripped.mask.data, "brain"));
    const measured = signedDistance(stripped.mask, stripped.logit, stripped.box, reach);
    writeFileSync(distance, new Uint8Array(measured.data.buffer));
    const quality = await estimateQuality(stripper.model, stripped, stripped.mask, stripper.usualVolumes());
    return { doubts: stripped.doubts, box: measured.box, quality };
  },

  async clean({ path, out }) {
    const image = await read(path);
    const mask = { ...image, data: above(image.data) };
    writeFileSync(out, writeLike(image, clean(mask).data, "mask"));
    return {};
  },

  async geometry({ path }) {
    const { shape, vox2world, slope, intercept, data } = await read(path);
    return { shape, vox2world, slope, intercept, first: Number(data[0]), last: Number(data.at(-1)) };
  },

  async estimate({ estimator, evidence }) {
    const own = treeSum(estimator.own, evidence);
    return { own, ...intervalAround(estimator.by_networks, evidence.estimate) };
  },
};

const { job, ...values } = JSON.parse(readFileSync(0, "utf-8"));
let result;
try {
  result = await jobs[job](values);
} catch (error) {
  result = { error: error.message, kind: error.constructor.name };
}
process.stdout.write(JSON.stringify(result));
