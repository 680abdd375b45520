// What a network is shown: intensities from 0 to 1, and other views of the same window.

import { percentile, pick } from "./numbers.js";

const BRIGHT_PERCENT = 99.5;

export function brightPercentile(values) {
  return percentile(values, BRIGHT_PERCENT);
}

/*
 * Scale a window from its minimum to its 99.5th percentile; NaN, beyond the scan, becomes 0. brain: a mask; if it has
 * covered voxels, the percentile is taken of them alone.
 */
export function normalise(window, brain = null) {
  const covered = window.map((value) => (Number.isNaN(value) ? 0 : 1));
  const values = pick(window, covered);
  if (!values.length) return new Float32Array(window.length);
  let low = Number.POSITIVE_INFINITY;
  for (const value of values) if (value < low) low = value;
  const inBrain = brain ? pick(window, brain).filter((value) => !Number.isNaN(value)) : [];
  const high = brightPercentile(inBrain.length ? inBrain : values);
  const range = Math.max(high - low, 1e-6 * Math.abs(high) + 1e-12);
  return window.map((value) => (Number.isNaN(value) ? 0 : Math.min(Math.max((value - low) / range, 0), 1)));
}

/* A window with its first axis, left to right, the other way round; `data` may have several such volumes. */
export function mirror(data, width) {
  const mirrored = new data.constructor(data.length);
  for (let row = 0; row < data.length; row += width)
    for (let x = 0; x < width; x++) mirrored[row + x] = data[row + width - 1 - x];
  return mirrored;
}

/* Intensities that rise to 1 at the peak and fall to 0 at 1: the brightest tissue turns dark. */
export function peaked(shown, peak) {
  return shown.map((value) => Math.min(value / peak, (1 - value) / (1 - peak)));
}
