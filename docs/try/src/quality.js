// How far a mask can be trusted: its estimated Dice, a flag, and reasons. The same as the modules of quality/.

import { axisCodes, conformedGrid, voxelCount, voxelVolumeMl } from "./grid.js";
import { apply } from "./matrix.js";
import { boundingBox, clean, thinAxes } from "./morphology.js";
import { above, countTrue, dice, percentile } from "./numbers.js";
import { coarsened, conform } from "./resample.js";
import { describeUnusualVolume, viewDice } from "./stripper.js";

const LARGE_SLICE = 0.1; // of the largest slice
const LEAST = 0.005; // of the scale on which trees learn the Dice
const FACES = { L: "left", R: "right", P: "posterior", A: "anterior", I: "lower", S: "upper" };
const OPPOSITE = { L: "R", R: "L", P: "A", A: "P", I: "S", S: "I" };

/*
 * Estimated Dice with the true mask, flag and reasons. stripped: of Stripper.strip. mask: the mask to judge, which may be
 * another than that of the networks. Without a quality network that can estimate, the Dice is null and there are reasons
 * alone.
 */
export async function estimateQuality(model, stripped, mask, usualVolumes) {
  const { quality } = model;
  const unusual = describeUnusualVolume(mask, usualVolumes);
  if (!quality?.estimator || quality.configuration.kind !== "volume")
    return { dice: null, flag: null, reasons: [...(unusual ? [unusual] : []), ...stripped.doubts] };
  const field = { ...stripped.field, data: above(stripped.field.data) };
  const own = clean(field);
  const ofOwn = await reconstruct(model, own);
  const ofMask = await reconstruct(model, mask);
  const onField = above(conform(coarsened(mask, field.vox2world[0]), field).data, 0.5);
  const agreement = viewDice(stripped.field);
  const evidence = {
    shape_dice: ofMask.dice,
    views: agreement.reduce((sum, value) => sum + value, 0) / agreement.length,
    least_view: Math.min(...agreement),
    own_shape_dice: ofOwn.dice,
    own_shape_hd95: Math.min(ofOwn.hd95, ofOwn.given.shape[0]),
    own_lowest_slice: ofOwn.lowestSlice,
    model_dice: dice(onField, own.data),
    model_volume: Math.log((1 + countTrue(onField)) / (1 + countTrue(own.data))),
  };
  const ownDice = fromTarget(treeSum(quality.estimator.own, evidence));
  const isFull = countTrue(mask.data) > quality.flags.full * voxelCount(mask);
  const estimate = isFull ? 0 : Math.max(0, 1 - Math.hypot(1 - evidence.model_dice, 1 - ownDice));
  const isWrong = isFull || unusual !== "" || stripped.darkShare > quality.flags.dark;
  return {
    dice: estimate,
    ...(isFull ? { low: 0, high: 0 } : intervalAround(quality.estimator.by_networks, estimate)),
    flag: isWrong ? "fail" : flagOf(estimate, quality.flags),
    reasons: [
      ...(isFull ? ["fills the image"] : []),
      ...(unusual ? [unusual] : []),
      ...findReasons(evidence, mask, quality.reasons, stripped.darkShare),
    ],
  };
}

function flagOf(estimate, { pass_from, look_from }) {
  if (estimate >= pass_from) return "pass";
  return estimate >= look_from ? "look" : "fail";
}

/* A mask on the grid of the quality network around its centre of mass, and how the network would have it. */
async function reconstruct(model, mask) {
  const { size, voxel_size_mm: voxelSize } = model.quality.configuration;
  const coarse = coarsened(mask, voxelSize);
  const grid = conformedGrid(centreOfMass(coarse), [size, size, size], voxelSize);
  const seen = conform(coarse, grid, Number.NaN);
  const covered = seen.data.map((value) => (Number.isNaN(value) ? 0 : 1));
  const given = { ...grid, data: seen.data.map((value) => (Number.isNaN(value) ? 0 : value)) };
  const logit = await model.run("quality", given);
  const probability = logit.map((value, k) => (covered[k] ? 1 / (1 + Math.exp(-value)) : 0));
  let [common, total, sum] = [0, 0, 0];
  for (let k = 0; k < probability.length; k++) {
    common += Math.min(given.data[k], probability[k]);
    total += given.data[k] + probability[k];
    sum += given.data[k];
  }
  const voxelMl = voxelSize ** 3 / 1000;
  const outsideMl = Math.max(0, countTrue(mask.data) * voxelVolumeMl(mask) - sum * voxelMl);
  const whole = total * voxelMl + outsideMl;
  const [a, b] = [above(given.data, 0.5), above(probability, 0.5)];
  return {
    given,
    dice: whole ? (2 * common * voxelMl) / whole : 0,
    hd95: hausdorff95(a, b, grid.shape),
    lowestSlice: lowestSliceDice(a, b, grid.shape),
  };
}

function centreOfMass({ data, shape, vox2world }) {
  const [width, height] = shape;
  const sums = [0, 0, 0];
  let total = 0;
  for (let k = 0; k < data.length; k++) {
    if (!data[k]) continue;
    const x = k % width;
    const row = (k - x) / width;
    const y = row % height;
    sums[0] += data[k] * x;
    sums[1] += data[k] * y;
    sums[2] += (data[k] * (row - y)) / height;
    total += data[k];
  }
  return apply(
    vox2world,
    sums.map((sum) => sum / total),
  );
}

/* 95th percentile of the distances between two surfaces, in voxels, pooled over both ways. */
function hausdorff95(a, b, shape) {
  const surfaces = [surfaceVoxels(a, shape), surfaceVoxels(b, shape)];
  if (!surfaces[0].length || !surfaces[1].length) return surfaces[0].length === surfaces[1].length ? 0 : Infinity;
  const distances = [];
  for (const [own, other] of [surfaces, [surfaces[1], surfaces[0]]])
    for (const [x, y, z] of own) {
      let least = Number.POSITIVE_INFINITY;
      for (const place of other) {
        const squared = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2;
        if (squared < least) least = squared;
      }
      distances.push(Math.sqrt(least));
    }
  return percentile(distances, 95);
}

/* Voxels of a mask with a neighbour outside, of those that share a face. */
function surfaceVoxels(mask, [width, height, depth]) {
  const plane = width * height;
  const voxels = [];
  for (let k = 0, z = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, k++) {
        if (!mask[k]) continue;
        const isInner =
          x > 0 &&
          x < width - 1 &&
          y > 0 &&
          y < height - 1 &&
          z > 0 &&
          z < depth - 1 &&
          mask[k - 1] &&
          mask[k + 1] &&
          mask[k - width] &&
          mask[k + width] &&
          mask[k - plane] &&
          mask[k + plane];
        if (!isInner) voxels.push([x, y, z]);
      }
  return voxels;
}

/* The least Dice of axial slices that hold over a tenth of the largest. */
function lowestSliceDice(a, b, [width, height, depth]) {
  const plane = width * height;
  const slices = Array.from({ length: depth }, (_, z) => {
    const [first, second] = [a, b].map((mask) => mask.subarray(z * plane, (z + 1) * plane));
    let either = 0;
    for (let k = 0; k < plane; k++) if (first[k] || second[k]) either++;
    return { either, dice: dice(first, second) };
  });
  const largest = Math.max(...slices.map((slice) => slice.either));
  const large = slices.filter((slice) => slice.either > LARGE_SLICE * largest);
  return large.length ? Math.min(...large.map((slice) => slice.dice)) : 0;
}

/* A number plus the values of the leaves that measurements lead to. */
export function treeSum({ measurements, start, trees }, evidence) {
  const values = measurements.map((name) => evidence[name]);
  let sum = start;
  for (const tree of trees) {
    let node = 0;
    while (tree.below[node]) {
      const isBelow = values[tree.measurement[node]] <= tree.threshold[node];
      node = isBelow ? tree.below[node] : tree.above[node];
    }
    sum += tree.value[node];
  }
  return sum;
}

function fromTarget(target) {
  return Math.min(1, Math.max(0, 1 + LEAST - Math.exp(-target)));
}

/* The interval around an estimate, interpolated between knots. */
export function intervalAround(interval, estimate) {
  return {
    low: Math.min(interpolate(estimate, interval.estimate, interval.low), estimate),
    high: Math.max(interpolate(estimate, interval.estimate, interval.high), estimate),
  };
}

function interpolate(x, xs, ys) {
  if (x <= xs[0]) return ys[0];
  const k = xs.findIndex((value) => value >= x);
  if (k < 0) return ys[ys.length - 1];
  return ys[k - 1] + ((ys[k] - ys[k - 1]) * (x - xs[k - 1])) / (xs[k] - xs[k - 1]);
}

/* What speaks against a mask beside its size, the gravest first. */
function findReasons(evidence, mask, config, darkShare) {
  const reasons = [];
  if (darkShare > config.dark)
    reasons.push(`${Math.round(100 * darkShare)} % of it is as dark as the darkest of the image`);
  if (evidence.model_dice < config.model_dice) {
    const ratio = Math.exp(evidence.model_volume);
    const share = `${Math.round(100 * Math.abs(ratio - 1))} % ${ratio > 1 ? "larger" : "smaller"} than`;
    const isElsewhere = Math.abs(ratio - 1) < config.volume;
    reasons.push(`${isElsewhere ? "elsewhere than" : share} the mask of the networks`);
  }
  if (evidence.views < config.view_dice)
    reasons.push(`the views of the networks agree by ${evidence.views.toFixed(2)} only`);
  if (evidence.shape_dice < config.shape_dice) reasons.push("not the shape of a brain");
  const faces = touchedFaces(mask);
  if (faces.length)
    reasons.push(`touches the ${faces.join(", ")} ${faces.length > 1 ? "faces" : "face"} of the image`);
  return reasons;
}

/* The faces of its image that a mask reaches, by the side of the head that they lie on. */
function touchedFaces(mask) {
  const box = boundingBox(mask);
  const codes = axisCodes(mask);
  const thin = thinAxes(mask.shape);
  const faces = [];
  for (let axis = 0; axis < 3; axis++) {
    if (thin[axis]) continue;
    if (box.start[axis] === 0) faces.push(FACES[OPPOSITE[codes[axis]]]);
    if (box.stop[axis] === mask.shape[axis]) faces.push(FACES[codes[axis]]);
  }
  return faces;
}
