// The distance to the surface of a mask, which lies between voxels. The planes are those of space/surface.py: each voxel
// beside the surface gets a plane through the point where the logit is zero. The foot is the point of the plane nearest to
// the voxel. Any other voxel takes over the foot of a neighbour if that is nearer than its own (Danielsson, Computer Graphics
// and Image Processing 14:227, 1980), within a band around the surface.

import { clamp, part, voxelSizes } from "./grid.js";
import { invert, turn } from "./matrix.js";

const LEAST_STEP = 1e-3; // edges; a crossing nearer to a voxel counts as this far
const NEAR_VOXELS = 3; // nearer to the surface than this it counts as flat between two feet

/*
 * The signed distance to the surface of a mask in mm, negative inside, in a box around the mask. logit: in `logitBox`,
 * positive in the brain. reach: mm; farther away than this the distance is infinite. Returns a volume and its `box`.
 */
export function signedDistance(mask, logit, logitBox, reach) {
  const sizes = voxelSizes(mask);
  const margin = sizes.map((size) => Math.ceil(reach / size) + 1);
  const box = {
    start: logitBox.start.map((value, axis) => Math.max(0, value - margin[axis])),
    stop: logitBox.stop.map((value, axis) => Math.min(mask.shape[axis], value + margin[axis])),
  };
  const grid = part(mask, box);
  const inside = copyBox(mask.data, mask.shape, box, Uint8Array);
  const values = logitIn(grid, logit, logitBox, box);
  const feet = findFeet(grid, inside, values);
  const nearest = spread(grid, feet, reach + Math.max(...sizes));
  return { ...grid, box, data: measure(grid, inside, feet, nearest, reach) };
}

function copyBox(data, shape, box, Type) {
  const [width, height, depth] = box.stop.map((stop, axis) => stop - box.start[axis]);
  const out = new Type(width * height * depth);
  let to = 0;
  for (let z = box.start[2]; z < box.stop[2]; z++)
    for (let y = box.start[1]; y < box.stop[1]; y++, to += width) {
      const from = box.start[0] + shape[0] * (y + shape[1] * z);
      out.set(data.subarray(from, from + width), to);
    }
  return out;
}

/* The logit on the grid of a larger box, -20 beyond its own. */
function logitIn(grid, logit, logitBox, box) {
  const out = new Float32Array(grid.shape[0] * grid.shape[1] * grid.shape[2]).fill(-20);
  const width = logitBox.stop[0] - logitBox.start[0];
  let from = 0;
  for (let z = logitBox.start[2]; z < logitBox.stop[2]; z++)
    for (let y = logitBox.start[1]; y < logitBox.stop[1]; y++, from += width) {
      const row = grid.shape[0] * (y - box.start[1] + grid.shape[1] * (z - box.start[2]));
      out.set(logit.subarray(from, from + width), row + logitBox.start[0] - box.start[0]);
    }
  return out;
}

/* Boundary voxels, with the foot, the normal toward the surface and the distance of each; places in mm from voxel 0. */
function findFeet(grid, inside, logit) {
  const [width, height, depth] = grid.shape;
  const strides = [1, width, width * height];
  const toWorld = grid.vox2world;
  const toIndex = invert(toWorld);
  const [voxels, feet, normals, depths] = [[], [], [], []];
  for (let k = 0, z = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, k++) {
        const index = [x, y, z];
        const plane = planeAt(k, index, grid.shape, strides, inside, logit, toWorld, toIndex);
        if (!plane) continue;
        const place = turn(toWorld, index);
        voxels.push(k);
        depths.push(plane.depth);
        for (let axis = 0; axis < 3; axis++) {
          feet.push(place[axis] + plane.normal[axis] * plane.depth);
          normals.push(plane.normal[axis]);
        }
      }
  return {
    voxels: Int32Array.from(voxels),
    feet: Float32Array.from(feet),
    normals: Float32Array.from(normals),
    depths: Float32Array.from(depths),
  };
}

/* The plane that stands for the surface at a voxel; null if the voxel has no neighbour on the other side. */
function planeAt(k, index, shape, strides, inside, logit, toWorld, toIndex) {
  const here = inside[k];
  let isBoundary = false;
  for (let axis = 0; axis < 3 && !isBoundary; axis++) {
    if (index[axis] > 0 && inside[k - strides[axis]] !== here) isBoundary = true;
    if (index[axis] < shape[axis] - 1 && inside[k + strides[axis]] !== here) isBoundary = true;
  }
  if (!isBoundary) return null;
  const inverse = [0, 0, 0];
  const isTrusted = [false, false, false];
  const slope = [0, 0, 0];
  for (let axis = 0; axis < 3; axis++) {
    const ends = [];
    for (const sign of [-1, 1]) {
      const at = clamp(index[axis] + sign, 0, shape[axis] - 1);
      const there = k + (at - index[axis]) * strides[axis];
      ends.push([logit[there], at]);
      if (inside[there] === here) continue;
      const isAgreed =
        logit[k] > 0 === (here === 1) && logit[there] > 0 === (inside[there] === 1) && logit[k] !== logit[there];
      const share = clamp(isAgreed ? logit[k] / (logit[k] - logit[there]) : 0.5, LEAST_STEP, 1);
      if (1 / share > Math.abs(inverse[axis])) {
        inverse[axis] = sign / share;
        isTrusted[axis] = isAgreed;
      }
    }
    slope[axis] = (ends[1][0] - ends[0][0]) / Math.max(ends[1][1] - ends[0][1], 1);
  }
  const covector = transposedTurn(toIndex, inverse);
  let gradient = transposedTurn(toIndex, slope);
  const length = Math.hypot(...covector);
  const steepness = Math.max(Math.hypot(...gradient), 1e-12) * (here ? -1 : 1);
  gradient = gradient.map((value) => value / steepness);
  const axis = inverse.reduce(
    (best, value, other) => (Math.abs(value) > Math.abs(inverse[best]) ? other : best),
    0,
  );
  const column = [toWorld[axis], toWorld[axis + 4], toWorld[axis + 8]];
  const depth = dot(column, gradient) / inverse[axis];
  if (isTrusted[axis] && depth > 0) return { normal: gradient, depth };
  return { normal: covector.map((value) => value / length), depth: 1 / length };
}

function transposedTurn(m, v) {
  return [0, 1, 2].map((column) => m[column] * v[0] + m[column + 4] * v[1] + m[column + 8] * v[2]);
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* For each voxel the number of a foot near it, -1 if there is none within reach. */
function spread(grid, { voxels, feet }, reach) {
  const [width, height, depth] = grid.shape;
  const count = width * height * depth;
  const m = grid.vox2world;
  const nearest = new Int32Array(count).fill(-1);
  const squared = new Float32Array(count).fill(reach * reach);
  let front = [];
  function offer(k, x, y, z, foot, next) {
    const dx = m[0] * x + m[1] * y + m[2] * z - feet[3 * foot];
    const dy = m[4] * x + m[5] * y + m[6] * z - feet[3 * foot + 1];
    const dz = m[8] * x + m[9] * y + m[10] * z - feet[3 * foot + 2];
    const distance = dx * dx + dy * dy + dz * dz;
    if (distance >= squared[k]) return;
    squared[k] = distance;
    nearest[k] = foot;
    next.push(k);
  }
  for (let foot = 0; foot < voxels.length; foot++) {
    const k = voxels[foot];
    const x = k % width;
    const row = (k - x) / width;
    offer(k, x, row % height, Math.floor(row / height), foot, front);
  }
  while (front.length) {
    const next = [];
    for (const k of front) {
      const x = k % width;
      const row = (k - x) / width;
      const y = row % height;
      const z = (row - y) / height;
      const foot = nearest[k];
      for (let dz = z > 0 ? -1 : 0; dz <= (z < depth - 1 ? 1 : 0); dz++)
        for (let dy = y > 0 ? -1 : 0; dy <= (y < height - 1 ? 1 : 0); dy++)
          for (let dx = x > 0 ? -1 : 0; dx <= (x < width - 1 ? 1 : 0); dx++) {
            const other = k + dx + width * (dy + height * dz);
            if (nearest[other] !== foot) offer(other, x + dx, y + dy, z + dz, foot, next);
          }
    }
    front = next;
  }
  return nearest;
}

/* Signed distances by the feet; near the surface to the plane itself, where a voxel lies over its foot. */
function measure(grid, inside, { feet, normals, voxels, depths }, nearest, reach) {
  const [width, height] = grid.shape;
  const m = grid.vox2world;
  const toIndex = invert(m);
  const near = NEAR_VOXELS * Math.max(...voxelSizes(grid));
  const out = new Float32Array(nearest.length);
  for (let k = 0; k < out.length; k++) {
    const foot = nearest[k];
    let distance = Number.POSITIVE_INFINITY;
    if (foot >= 0) {
      const x = k % width;
      const row = (k - x) / width;
      const y = row % height;
      const z = (row - y) / height;
      const dx = m[0] * x + m[1] * y + m[2] * z - feet[3 * foot];
      const dy = m[4] * x + m[5] * y + m[6] * z - feet[3 * foot + 1];
      const dz = m[8] * x + m[9] * y + m[10] * z - feet[3 * foot + 2];
      distance = Math.sqrt(dx * dx + dy * dy + dz * dz);
      if (distance < near) {
        const [nx, ny, nz] = [normals[3 * foot], normals[3 * foot + 1], normals[3 * foot + 2]];
        const along = dx * nx + dy * ny + dz * nz;
        const aside = turn(toIndex, [dx - along * nx, dy - along * ny, dz - along * nz]);
        if (aside.every((value) => Math.abs(value) < 1)) distance = Math.abs(along);
      }
      if (distance > reach) distance = Number.POSITIVE_INFINITY;
    }
    out[k] = inside[k] ? -distance : distance;
  }
  for (let foot = 0; foot < voxels.length; foot++)
    out[voxels[foot]] = inside[voxels[foot]] ? -depths[foot] : depths[foot];
  return out;
}
