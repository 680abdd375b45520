// The range of an image's intensities, without damaged voxels and padding. The same as stripping/intensities.py.

import { InputError } from "./errors.js";
import { finiteRange, percentileOfSorted } from "./numbers.js";

const [LARGEST, NARROWEST, FINEST, BRIGHTEST] = [1e30, 1e-6, 1e-3, 1e6];
const MOST_INFINITE = 0.01; // share of the voxels

/*
 * How stored values become intensities. volume: with `slope` and `intercept`. config: "intensities" of a model.
 * Returns `of`, from a stored value to an intensity, and `relative`, to a share of the range.
 */
export function intensitiesOf(volume, config) {
  const { data, slope = 1, intercept = 0 } = volume;
  const ends = finiteRange(data);
  if (!(ends[0] <= ends[1])) throw new InputError("the image has no finite voxel");
  checkNotOverflowed(data);
  const [lowest, highest] = ends.map((value) => value * slope + intercept).sort((a, b) => a - b);
  if (!Number.isFinite(highest - lowest))
    throw new InputError(
      `the intensities reach from ${lowest} to ${highest}: the voxels or their scaling are damaged`,
    );
  const sorted = sample(data, config.sample)
    .map((value) => value * slope + intercept)
    .sort();
  const [low, high] = robustEnds(sorted, lowest, highest, config);
  if (low === high) throw new InputError("the image is constant: there is nothing to strip");
  const size = Math.max(Math.abs(lowest), Math.abs(highest));
  const isExtreme =
    size > LARGEST || high - low < Math.max(NARROWEST, FINEST * Math.max(Math.abs(low), Math.abs(high)));
  const isRescaled = isExtreme || low > lowest;
  const [start, range] = isRescaled ? [0, 1] : [low, high - low];

  function of(stored) {
    const value = stored * slope + intercept;
    if (!Number.isFinite(value)) return start;
    return isRescaled ? Math.min(Math.max((value - low) / (high - low), 0), BRIGHTEST) : value;
  }
  return { of, relative: (stored) => (of(stored) - start) / range };
}

function checkNotOverflowed(data) {
  let count = 0;
  for (const value of data) if (value === Number.POSITIVE_INFINITY || value === Number.NEGATIVE_INFINITY) count++;
  if (count / data.length > MOST_INFINITE)
    throw new InputError("many voxels are infinite: values became too large for their type; make the image anew");
}

/* Finite values of voxels drawn at random, the same at each call; all of a small image. */
function sample(data, count) {
  if (data.length <= count) return Float64Array.from(data).filter(Number.isFinite);
  const drawn = new Float64Array(count);
  let state = 1;
  for (let k = 0; k < count; k++) {
    // mulberry32, https://github.com/bryc/code/blob/master/jshash/PRNGs.md (public domain)
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    drawn[k] = data[Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * data.length)];
  }
  return drawn.filter(Number.isFinite);
}

/* The lower end without what lies apart from it, and the upper end of what lies above that. */
function robustEnds(sorted, lowest, highest, config) {
  if (!sorted.length) return [lowest, highest];
  const percentileAbove = (low) => {
    const start = firstAbove(sorted, low);
    return start < sorted.length ? percentileOfSorted(sorted.subarray(start), config.high_percent) : highest;
  };
  let high = percentileAbove(sorted[0]);
  let low = lowest;
  const dark = percentileOfSorted(sorted, config.low_percent);
  if (dark - low > config.apart * (high - dark)) low = dark; // a few damaged voxels
  const levels = [...new Set(sorted.filter((value) => value >= low))];
  let first = 0;
  while (
    levels.length - first > config.few &&
    levels[first + 1] - levels[first] > config.apart * (high - levels[first + 1])
  ) {
    low = levels[++first]; // padding
    high = percentileAbove(low);
  }
  return [low, Math.max(low, high)];
}

/* The place of the first of sorted values that is above a value. */
function firstAbove(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
