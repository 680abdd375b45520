// Masks as shapes: components, holes, bounding boxes. A mask is a volume whose data are 1 and 0.

import { crop } from "./grid.js";
import { apply } from "./matrix.js";

/* The box around the voxels of a mask; null if there are none. */
export function boundingBox({ data, shape }) {
  const start = [...shape];
  const stop = [0, 0, 0];
  let at = 0;
  for (let z = 0; z < shape[2]; z++) {
    for (let y = 0; y < shape[1]; y++) {
      const row = data.subarray(at, at + shape[0]);
      at += shape[0];
      const first = row.indexOf(1);
      if (first < 0) continue;
      start[0] = Math.min(start[0], first);
      stop[0] = Math.max(stop[0], row.lastIndexOf(1) + 1);
      start[1] = Math.min(start[1], y);
      stop[1] = Math.max(stop[1], y + 1);
      start[2] = Math.min(start[2], z);
      stop[2] = z + 1;
    }
  }
  return stop[2] ? { start, stop } : null;
}

/* Give `mark` to all voxels that are 0 in `marks` and `wanted` in the data, and that a path joins to the seeds. */
function flood(data, shape, wanted, seeds, marks, mark) {
  const [width, height] = shape;
  const plane = width * height;
  const stack = [];
  let count = 0;
  function visit(k) {
    if (data[k] !== wanted || marks[k]) return;
    marks[k] = mark;
    count++;
    stack.push(k);
  }
  for (const seed of seeds) visit(seed);
  while (stack.length) {
    const k = stack.pop();
    const x = k % width;
    const y = ((k - x) / width) % height;
    if (x > 0) visit(k - 1);
    if (x < width - 1) visit(k + 1);
    if (y > 0) visit(k - width);
    if (y < height - 1) visit(k + width);
    if (k >= plane) visit(k - plane);
    if (k < data.length - plane) visit(k + plane);
  }
  return count;
}

/* The 6-connected components of a mask: numbers from 1 on for each voxel, and their sizes by number. */
export function components({ data, shape }) {
  const labels = new Int32Array(data.length);
  const sizes = [0];
  for (let k = 0; k < data.length; k++)
    if (data[k] && !labels[k]) sizes.push(flood(data, shape, 1, [k], labels, sizes.length));
  return { labels, sizes };
}

/* The `most` largest components, the largest first; fewer if there are not so many. */
export function largestComponents(mask, most) {
  const { labels, sizes } = components(mask);
  const numbers = sizes.map((_, number) => number).slice(1);
  numbers.sort((a, b) => sizes[b] - sizes[a] || a - b);
  return numbers.slice(0, most).map((number) => ({ ...mask, data: labels.map((label) => label === number) }));
}

/* The largest component; an empty mask stays empty. */
export function largestComponent(mask) {
  const { labels, sizes } = components(mask);
  if (sizes.length <= 2) return mask;
  const largest = sizes.indexOf(Math.max(...sizes.slice(1)), 1);
  const data = new Uint8Array(labels.length);
  for (let k = 0; k < labels.length; k++) if (labels[k] === largest) data[k] = 1;
  return { ...mask, data };
}

/* Whether an image has three slices or fewer along each axis, where every hole would be open. */
export function thinAxes(shape) {
  return shape.map((size) => size <= 3);
}

/* Fill background that no path joins to the outside. thin: axes along which there is no outside. */
export function fillHoles(mask, thin) {
  const { data, shape } = mask;
  const reached = new Uint8Array(data.length);
  flood(data, shape, 0, faceVoxels(shape, thin), reached, 1);
  return { ...mask, data: reached.map((value) => 1 - value) };
}

/* The voxels on the faces of an image, but for those of thin axes. */
function* faceVoxels([width, height, depth], thin) {
  for (let z = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      const row = width * (y + height * z);
      const isFace = (!thin[1] && (y === 0 || y === height - 1)) || (!thin[2] && (z === 0 || z === depth - 1));
      if (isFace) for (let x = 0; x < width; x++) yield row + x;
      else if (!thin[0]) yield* [row, row + width - 1];
    }
  }
}

/* The bounding box of a mask with all slices of thin axes; null if it is empty. */
export function maskBox(mask) {
  const box = boundingBox(mask);
  if (!box) return null;
  const thin = thinAxes(mask.shape);
  return {
    start: box.start.map((value, axis) => (thin[axis] ? 0 : value)),
    stop: box.stop.map((value, axis) => (thin[axis] ? mask.shape[axis] : value)),
  };
}

/* The largest component with its holes filled. */
export function clean(mask) {
  const box = maskBox(mask);
  if (!box) return mask;
  return paste(mask, box, fillHoles(largestComponent(crop(mask, box)), thinAxes(mask.shape)).data);
}

/* A mask that is empty but for the data in a box. */
export function paste(grid, box, inside) {
  const data = new Uint8Array(grid.shape[0] * grid.shape[1] * grid.shape[2]);
  const width = box.stop[0] - box.start[0];
  let from = 0;
  for (let z = box.start[2]; z < box.stop[2]; z++) {
    for (let y = box.start[1]; y < box.stop[1]; y++) {
      data.set(inside.subarray(from, from + width), box.start[0] + grid.shape[0] * (y + grid.shape[1] * z));
      from += width;
    }
  }
  return { shape: grid.shape, vox2world: grid.vox2world, data };
}

/* RAS mm of the middle of a mask's bounding box; null if it is empty. */
export function middleOf(mask) {
  const box = boundingBox(mask);
  if (!box) return null;
  return apply(
    mask.vox2world,
    box.start.map((start, axis) => (start + box.stop[axis] - 1) / 2),
  );
}
