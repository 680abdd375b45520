// An image to its brain mask. The same as stripping/stripper.py, with the same names.

import { findBright } from "./brightness.js";
import { InputError } from "./errors.js";
import {
  bounds,
  boxAround,
  clamp,
  conformedGrid,
  crop,
  geometryFault,
  indexMap,
  part,
  voxelCount,
  voxelSizes,
  voxelVolumeMl,
} from "./grid.js";
import { intensitiesOf } from "./intensities.js";
import { invert, multiply, scaling } from "./matrix.js";
import { boundingBox, clean, largestComponent, largestComponents, middleOf, paste } from "./morphology.js";
import { brightPercentile, mirror, normalise, peaked } from "./normalise.js";
import { above, countTrue, dice, median, percentile, pick } from "./numbers.js";
import { coarsened, conform } from "./resample.js";

const FAR_LOGIT = -20; // beyond the segmenter's window there is no brain
const SURFACE_VOXELS = 2; // beside the brain
const MAX_LOCATOR_VOXELS = 160 ** 3;
const MEDIAN_VOXELS = 30_000; // a median is taken of about as many
const NO_BRAIN = "no brain found: is this a head, and is the orientation in its header right?";

/*
 * Strips with the networks of a model. model: `configuration`, `stripping` and `anatomy` of its files, and
 * `run(network, image)`, which returns the logits of a volume, one after the other, by promise. onLook(done): called
 * after each pass of a network with the share of the work that is done.
 */
export class Stripper {
  constructor(model, onLook = () => {}) {
    Object.assign(this, { model, onLook, looks: 0 });
    this.config = model.configuration;
    this.stripping = model.stripping;
    this.locatorVoxelSize = this.config.voxel_size_mm * this.config.locator_factor;
    this.window = this.config.voxel_size_mm * this.config.segmenter_size;
  }

  /*
   * The brain mask of a volume, and what its surface and its quality are computed from: `mask`; `logit` in a `box`
   * around it; `field`, the output of the networks; `doubts`, clauses that say why the mask may be wrong beside its
   * volume; `darkShare`, how much of it is as dark as the darkest of the image.
   */
  async strip(volume) {
    const fault = geometryFault(volume);
    if (fault) throw new InputError(fault);
    const intensities = intensitiesOf(volume, this.stripping.intensities);
    const field = await this.field(volume, intensities);
    const { box, logit } = aroundBrain(field, volume);
    const inside = above(logit);
    const stored = crop(volume, box).data;
    for (let k = 0; k < inside.length; k++) if (!Number.isFinite(Number(stored[k]))) inside[k] = 0;
    const mask = clean(paste(volume, box, inside));
    return { mask, logit, box, field, ...this.judge(volume, mask, intensities, field) };
  }

  /* Why a mask may be wrong. Throws if it is no brain: empty, or mostly as dark as the darkest of the image. */
  judge(volume, mask, intensities, field) {
    const values = pick(volume.data, mask.data);
    const step = 1 + Math.floor(values.length / MEDIAN_VOXELS);
    const brightness = values.filter((_, k) => k % step === 0).map((value) => intensities.relative(value));
    if (!values.length || median(brightness) < this.stripping.brightness.black) throw new InputError(NO_BRAIN);
    const doubts = [];
    const agreement = mean(viewDice(field));
    if (agreement < this.stripping.view_dice)
      doubts.push(`the views of the networks agree by ${agreement.toFixed(2)} only`);
    const darkShare = mean(brightness.map((value) => (value < this.stripping.dark ? 1 : 0)));
    if (darkShare > this.stripping.dark_share)
      doubts.push(`${Math.round(100 * darkShare)} % of the mask is as dark as the darkest of the image`);
    return { doubts, darkShare };
  }

  /* The least and the greatest volume in ml of the brains that the model is for. */
  usualVolumes() {
    const { least, greatest, adult_ml, least_in_proportion } = this.stripping.volume;
    const brains = this.model.anatomy?.brain_ml;
    if (brains) return [least * Math.min(...brains), greatest * Math.max(...brains)];
    const volume = adult_ml * this.config.scale ** 3;
    return [least_in_proportion * volume, greatest * volume];
  }

  /* The brain's logit in the segmenter's window, with the logits of all views. */
  async field(volume, intensities) {
    const config = this.stripping.brightness;
    let { fine, coarse } = this.coarsened(volume, intensities.of);
    const bright = findBright(coarse, config);
    const knowsWideFields = this.config.locator_doublings > 0;
    const isSmall = !knowsWideFields && this.isSmall(bright, volume);
    if (!isSmall) {
      const field = await this.segment(fine, await this.locate(fine, coarse), bright);
      const isInBright = knowsWideFields || field.shareInBright > config.most;
      if (field.brightness >= config.dim_brain && isInBright) return field;
    }
    const closer = crop(volume, boxAround(volume, bright.low, bright.high, config.margin));
    const zoom = isSmall ? (config.magnified * this.window) / bright.length : 1;
    const magnify = scaling([zoom, zoom, zoom]);
    const magnified = { ...closer, vox2world: multiply(magnify, closer.vox2world) };
    ({ fine, coarse } = this.coarsened(magnified, intensities.of));
    const field = await this.segment(fine, await this.locate(fine, coarse), bright);
    return { ...field, vox2world: multiply(invert(magnify), field.vox2world) };
  }

  /* Whether what is bright is one thing, too small for the networks, in a wider field of view. */
  isSmall(bright, volume) {
    const config = this.stripping.brightness;
    const { low, high } = bounds(volume);
    const extent = Math.max(...high.map((value, axis) => value - low[axis]));
    const isShort = bright.length < config.small * this.window;
    return isShort && bright.share > config.most && bright.length * config.wide < extent;
  }

  /* A volume near the voxel sizes of segmenter and locator. */
  coarsened(volume, intensityOf) {
    const fine = coarsened(volume, this.config.voxel_size_mm, intensityOf);
    return { fine, coarse: coarsened(fine, this.locatorVoxelSize) };
  }

  /* The brain seen in a window around a point; a second look follows if the first found it aside or dim. */
  async segment(volume, centre, bright) {
    let window = this.windowAround(volume, centre);
    let shown = normalise(window.data);
    let logits = await this.logits("segmenter", { ...window, data: shown });
    const first = this.brainLogit(logits);
    let brain = largestComponent({ ...window, data: coveredBrain(first, window.data) });
    const middle = middleOf(brain);
    if (!middle) return { ...window, data: first, views: null, brightness: 0, shareInBright: 1 };
    const reach = Math.max(...middle.map((value, axis) => Math.abs(value - centre[axis])));
    const isAside = reach > this.stripping.recentre_mm * this.config.scale;
    if (isAside || brightPercentile(pick(shown, brain.data)) <= this.stripping.dim) {
      if (isAside) {
        window = this.windowAround(volume, middle);
        brain = { ...window, data: above(conform(brain, window).data, 0.5) };
      }
      shown = normalise(window.data, brain.data);
      logits = await this.logits("segmenter", { ...window, data: shown });
    }
    const views = [this.brainLogit(logits), ...(await this.otherViews(window, shown))];
    const data = views[0].map((value, k) => (value + views[1][k] + views[2][k]) / views.length);
    const inside = coveredBrain(data, window.data);
    if (!countTrue(inside)) return { ...window, data, views: null, brightness: 0, shareInBright: 1 };
    return {
      ...window,
      data,
      views,
      brightness: bright.relative(median(pick(window.data, inside))),
      shareInBright: bright.shareOf({ ...window, data: inside }, this.stripping.brightness.margin),
    };
  }

  /* The brain's logit of a window mirrored with brighter darks, and of one whose brightest tissue is dark. */
  async otherViews(window, shown) {
    const width = window.shape[0];
    const mirrored = { ...window, data: mirror(shown.map(Math.sqrt), width) };
    const logits = mirror(await this.logits("segmenter", mirrored), width);
    const turned = { ...window, data: peaked(shown, this.stripping.peak) };
    return [this.brainLogit(logits), this.brainLogit(await this.logits("segmenter", turned))];
  }

  async logits(network, volume) {
    const logits = await this.model.run(network, volume);
    this.looks++;
    this.onLook(this.looks);
    return logits;
  }

  /* The brain's logit of the logits of all classes, one after the other; of classes that are brain the sum. */
  brainLogit(logits) {
    const brain = this.config.brain_channels;
    if (!brain.length) return logits;
    const channels = 1 + this.config.classes.length;
    const count = logits.length / channels;
    const others = [...Array(channels).keys()].filter((channel) => !brain.includes(channel));
    return Float32Array.from({ length: count }, (_, k) => {
      const sum = (chosen) => {
        const highest = Math.max(...chosen.map((channel) => logits[channel * count + k]));
        const total = chosen.reduce(
          (total, channel) => total + Math.exp(logits[channel * count + k] - highest),
          0,
        );
        return Math.log(total) + highest;
      };
      return sum(brain) - sum(others);
    });
  }

  windowAround(volume, centre) {
    const side = this.config.segmenter_size;
    return conform(volume, conformedGrid(centre, [side, side, side], this.config.voxel_size_mm), Number.NaN);
  }

  /* RAS mm of the middle of the brain, as the locator sees it. */
  async locate(fine, coarse) {
    const { low, high } = bounds(coarse);
    const extent = high.map((value, axis) => value - low[axis]);
    const middle = high.map((value, axis) => (value + low[axis]) / 2);
    const usual = this.locatorGrid(middle, extent);
    const isWide = Math.max(...extent) > this.stripping.widest * this.locatorVoxelSize * this.config.locator_size;
    if (!isWide || !this.config.locator_doublings) return this.middleOf(await this.see(coarse, usual));
    const grids = [];
    for (let doublings = 0; doublings <= this.config.locator_doublings; doublings++)
      grids.push(this.locatorGrid(middle, extent, doublings));
    const fitting = grids.filter((grid) => voxelCount(grid) <= MAX_LOCATOR_VOXELS);
    const looks = [];
    for (const grid of fitting.length ? fitting : [usual])
      looks.push(await this.see(coarsened(coarse, voxelSizes(grid)[0]), grid));
    let best = null;
    for (const look of looks) {
      const parts = largestComponents({ ...look, data: above(look.data) }, this.stripping.parts);
      for (const found of parts) {
        const closer = await this.lookCloser(fine, coarse, middleOf(asBytes(found)));
        if (closer && (!best || closer.agreement > best.agreement)) best = closer;
      }
    }
    return best ? best.middle : this.middleOf(looks[0]);
  }

  /* The locator's grid around a point that covers an extent, its voxel size doubled so often. */
  locatorGrid(centre, extent, doublings = 0) {
    const voxelSize = this.locatorVoxelSize * 2 ** doublings;
    const multiple = this.config.locator_multiple;
    const shape = extent.map((length) =>
      Math.max(Math.ceil(length / voxelSize / multiple) * multiple, this.config.locator_size),
    );
    return conformedGrid(centre, shape, voxelSize);
  }

  /* The locator's logit on a grid, FAR_LOGIT beyond the volume. */
  async see(volume, grid) {
    if (voxelCount(grid) > MAX_LOCATOR_VOXELS)
      throw new InputError(
        `the field of view is too large for a model with ${this.config.voxel_size_mm} mm voxels; crop the image or ` +
          "use a model for this anatomy",
      );
    const window = conform(volume, grid, Number.NaN);
    if (window.data.every(Number.isNaN))
      throw new InputError("no brain found: the field of view is smaller than the model's voxels");
    const logit = await this.logits("locator", { ...window, data: normalise(window.data) });
    return { ...grid, data: logit.map((value, k) => (Number.isNaN(window.data[k]) ? FAR_LOGIT : value)) };
  }

  /* RAS mm of the middle of the largest part that the locator takes for brain, or else of the highest logits. */
  middleOf(look) {
    let data = above(look.data);
    if (!countTrue(data)) {
      const threshold = percentile(
        look.data.filter((value) => value !== FAR_LOGIT),
        100 * (1 - this.stripping.least_share),
      );
      data = Uint8Array.from(look.data, (value) => (value >= threshold ? 1 : 0));
    }
    const middle = middleOf(largestComponent({ ...look, data }));
    if (!middle) throw new InputError(NO_BRAIN);
    return middle;
  }

  /* How far both networks agree on a brain near a point, and its middle; null if the locator sees none there. */
  async lookCloser(fine, coarse, start) {
    let middle = start;
    let brain;
    for (let time = 0; time < 2; time++) {
      const look = await this.see(coarse, this.locatorGrid(middle, [0, 0, 0]));
      brain = largestComponent({ ...look, data: above(look.data) });
      middle = middleOf(brain);
      if (!middle) return null;
    }
    const window = this.windowAround(fine, middle);
    const logits = await this.logits("segmenter", { ...window, data: normalise(window.data) });
    const logit = this.brainLogit(logits).map((value, k) => (Number.isNaN(window.data[k]) ? FAR_LOGIT : value));
    const segmented = largestComponent({ ...window, data: above(logit) });
    const located = above(conform(brain, window).data, 0.5);
    return { agreement: dice(located, segmented.data) * promisedDice(logit, segmented.data), middle };
  }
}

function asBytes(mask) {
  return { ...mask, data: Uint8Array.from(mask.data) };
}

/* Where a logit is positive and the scan has data. */
function coveredBrain(logit, window) {
  const brain = above(logit);
  for (let k = 0; k < brain.length; k++) if (Number.isNaN(window[k])) brain[k] = 0;
  return brain;
}

/* The Dice of a mask with the truth that the logit promises: expected overlap over expected mean size. */
function promisedDice(logit, mask) {
  let [both, total] = [0, 0];
  for (let k = 0; k < logit.length; k++) {
    const probability = 1 / (1 + Math.exp(-clamp(logit[k], FAR_LOGIT, -FAR_LOGIT)));
    total += probability + mask[k];
    if (mask[k]) both += probability;
  }
  return (2 * both) / total;
}

/* Dice of the brain in each view with that in their mean. */
export function viewDice(field) {
  const brain = above(field.data);
  return field.views ? field.views.map((view) => dice(above(view), brain)) : [1];
}

function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

/*
 * The logit of a field, linearly interpolated to the part of a volume's grid where there is brain: all that is positive,
 * and the voxels around that.
 */
function aroundBrain(field, volume) {
  const brain = boundingBox({ ...field, data: above(field.data) });
  if (!brain) throw new InputError(NO_BRAIN);
  const around = part(field, {
    start: brain.start.map((value) => value - 1),
    stop: brain.stop.map((value) => value + 1),
  });
  const { low, high } = bounds({ shape: around.shape, vox2world: indexMap(volume, around) });
  const start = low.map((value, axis) => clamp(Math.floor(value) - SURFACE_VOXELS, 0, volume.shape[axis]));
  const stop = high.map((value, axis) =>
    clamp(Math.ceil(value) + 1 + SURFACE_VOXELS, start[axis], volume.shape[axis]),
  );
  const box = { start, stop };
  return { box, logit: conform(field, part(volume, box), FAR_LOGIT).data };
}

/* What is unusual in the volume of a brain mask, as a clause; "" if nothing is. */
export function describeUnusualVolume(mask, [least, greatest]) {
  const volume = countTrue(mask.data) * voxelVolumeMl(mask);
  if (volume >= least && volume <= greatest) return "";
  if (volume < least && mayBeCutOff(mask, least)) return "";
  const comparison = volume < least ? "smaller" : "larger";
  const usual = `${inMl(least)} to ${inMl(greatest)} ml`;
  return `brain of ${inMl(volume)} ml, ${comparison} than any that this model is for (${usual})`;
}

/* Whether a mask may be a part of a brain of the least volume: it touches a face of an image that is long enough. */
function mayBeCutOff(mask, least) {
  const ball = ((6 / Math.PI) * 1000 * least) ** (1 / 3);
  const isLong = Math.max(...voxelSizes(mask).map((size, axis) => size * mask.shape[axis])) >= ball;
  const box = boundingBox(mask);
  return isLong && box.start.some((value, axis) => value === 0 || box.stop[axis] === mask.shape[axis]);
}

function inMl(volume) {
  return volume >= 100 ? volume.toFixed(0) : String(Number(volume.toPrecision(3)));
}
