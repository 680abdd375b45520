// Numbers of many values, as NumPy has them.

/* Values of an array for which the same place in `mask` is not 0. */
export function pick(values, mask) {
  let count = 0;
  for (const value of mask) if (value) count++;
  const picked = new Float32Array(count);
  let to = 0;
  for (let k = 0; k < mask.length; k++) if (mask[k]) picked[to++] = values[k];
  return picked;
}

/* A percentile of sorted values, interpolated linearly. */
export function percentileOfSorted(sorted, percent) {
  const place = ((sorted.length - 1) * percent) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

export function percentile(values, percent) {
  return percentileOfSorted(Float64Array.from(values).sort(), percent);
}

export function median(values) {
  return percentile(values, 50);
}

/* Lowest and highest of the values that are finite; infinity and minus infinity if there are none. */
export function finiteRange(values) {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

export function countTrue(mask) {
  let count = 0;
  for (const value of mask) if (value) count++;
  return count;
}

/* Dice of two masks: twice the common voxels over the sum of both; 1 if both are empty. */
export function dice(a, b) {
  let [both, total] = [0, 0];
  for (let k = 0; k < a.length; k++) {
    if (a[k]) total++;
    if (b[k]) total++;
    if (a[k] && b[k]) both++;
  }
  return total ? (2 * both) / total : 1;
}

/* Where values are above a level, as 1 and 0. */
export function above(values, level = 0) {
  const mask = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) if (values[k] > level) mask[k] = 1;
  return mask;
}
