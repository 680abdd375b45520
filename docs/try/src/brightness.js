// What is bright in an image: where the head lies, and how bright a brain is. The same as stripping/brightness.py.

import { bounds, part, voxelCount } from "./grid.js";
import { boundingBox, largestComponent } from "./morphology.js";
import { countTrue, finiteRange, median } from "./numbers.js";

const MAD = 1.4826; // standard deviation of a normal distribution over its median absolute deviation

/* The largest bright part of a volume at the locator's voxel size, without specks. config: "brightness" of a model. */
export function findBright(volume, config) {
  const image = volume.data;
  const darkest = finiteRange(image)[0];
  const middle = median(image);
  const noise = middle + config.deviations * MAD * median(image.map((value) => Math.abs(value - middle)));
  let withoutSpecks = image;
  let first = null;
  for (;;) {
    const rank = Math.min(config.brightest_voxels, 1 + Math.floor(image.length / 200));
    const brightest = Float32Array.from(withoutSpecks).sort()[image.length - rank];
    let level = darkest + config.bright * (brightest - darkest);
    if (noise < darkest + config.air * (brightest - darkest)) level = Math.max(level, noise);
    level = Math.fround(level);
    const bright = { ...volume, data: Uint8Array.from(withoutSpecks, (value) => (value >= level ? 1 : 0)) };
    const largest = largestComponent(bright);
    const { low, high } = bounds(part(volume, boundingBox(largest)));
    const size = countTrue(largest.data);
    const latest = new Bright(low, high, size / countTrue(bright.data), darkest, brightest);
    first ??= latest;
    if (size >= config.speck_voxels) return latest;
    if (level <= middle || level >= brightest) return first; // all that is bright is small
    withoutSpecks = withoutSpecks.map((value, k) => (bright.data[k] ? darkest : value));
  }
}

/* The largest bright part: bounds in RAS mm, its share of all that is bright, darkest and brightest of the image. */
class Bright {
  constructor(low, high, share, darkest, brightest) {
    Object.assign(this, { low, high, share, darkest, brightest });
    this.length = Math.max(...high.map((value, axis) => value - low[axis]));
  }

  /* A value as a share of the brightness of the image. */
  relative(value) {
    return (value - this.darkest) / Math.max(this.brightest - this.darkest, 1e-30);
  }

  /* The share of a mask on a conformed grid that lies within the bounds and a margin, a share of the length. */
  shareOf(mask, margin) {
    const beyond = margin * this.length;
    const size = mask.vox2world[0];
    const first = [mask.vox2world[3], mask.vox2world[7], mask.vox2world[11]];
    const start = this.low.map((value, axis) => Math.max(0, Math.ceil((value - beyond - first[axis]) / size)));
    const stop = this.high.map((value, axis) =>
      Math.max(0, Math.floor((value + beyond - first[axis]) / size + 1)),
    );
    let [inside, total] = [0, 0];
    for (let k = 0; k < voxelCount(mask); k++) {
      if (!mask.data[k]) continue;
      total++;
      const x = k % mask.shape[0];
      const row = (k - x) / mask.shape[0];
      const index = [x, row % mask.shape[1], Math.floor(row / mask.shape[1])];
      if (index.every((value, axis) => value >= start[axis] && value < stop[axis])) inside++;
    }
    return inside / total;
  }
}
