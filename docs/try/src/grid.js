// Where voxels lie. A volume has `data` (the first axis varies fastest), `shape` [3] and `vox2world`, the affine map from
// voxel index, the centre of a voxel, to RAS mm. A grid is a volume without data.

import { apply, columnLengths, determinant, invert, multiply, scaling } from "./matrix.js";

/* The grid of isotropic voxels along right, anterior and superior whose middle lies at a point in RAS mm. */
export function conformedGrid(centre, shape, voxelSize) {
  const start = centre.map((value, axis) => value - (voxelSize * (shape[axis] - 1)) / 2);
  return { shape, vox2world: scaling([voxelSize, voxelSize, voxelSize], start) };
}

export function voxelCount({ shape }) {
  return shape[0] * shape[1] * shape[2];
}

export function voxelSizes({ vox2world }) {
  return columnLengths(vox2world);
}

export function voxelVolumeMl({ vox2world }) {
  return Math.abs(determinant(vox2world)) / 1000;
}

function corners(low, high) {
  const points = [];
  for (const x of [low[0], high[0]])
    for (const y of [low[1], high[1]]) for (const z of [low[2], high[2]]) points.push([x, y, z]);
  return points;
}

function boundsOf(points) {
  const axes = [0, 1, 2];
  return {
    low: axes.map((axis) => Math.min(...points.map((point) => point[axis]))),
    high: axes.map((axis) => Math.max(...points.map((point) => point[axis]))),
  };
}

/* The lowest and highest coordinates that any part of a voxel reaches, RAS mm. */
export function bounds({ shape, vox2world }) {
  const points = corners(
    [-0.5, -0.5, -0.5],
    shape.map((size) => size - 0.5),
  );
  return boundsOf(points.map((point) => apply(vox2world, point)));
}

/* The map from voxel index of `target` to voxel index of `source`. */
export function indexMap(source, target) {
  return multiply(invert(source.vox2world), target.vox2world);
}

/* The part within a box, which has `start` and `stop` [3]; it may reach beyond the grid. */
export function part(grid, box) {
  return {
    shape: box.start.map((start, axis) => box.stop[axis] - start),
    vox2world: multiply(grid.vox2world, scaling([1, 1, 1], box.start)),
  };
}

/* The part of a volume within a box that lies in it. */
export function crop(volume, box) {
  const grid = part(volume, box);
  const [width, height, depth] = grid.shape;
  const data = new volume.data.constructor(width * height * depth);
  let to = 0;
  for (let z = box.start[2]; z < box.stop[2]; z++) {
    for (let y = box.start[1]; y < box.stop[1]; y++) {
      const from = box.start[0] + volume.shape[0] * (y + volume.shape[1] * z);
      data.set(volume.data.subarray(from, from + width), to);
      to += width;
    }
  }
  return { ...volume, ...grid, data };
}

/* The box around bounds in RAS mm, with a margin that is a share of their longest side; at least one voxel. */
export function boxAround(grid, low, high, margin) {
  const beyond = margin * Math.max(...high.map((value, axis) => value - low[axis]));
  const points = corners(
    low.map((value) => value - beyond),
    high.map((value) => value + beyond),
  );
  const world2vox = invert(grid.vox2world);
  const index = boundsOf(points.map((point) => apply(world2vox, point)));
  const start = index.low.map((value, axis) => clamp(Math.floor(value), 0, grid.shape[axis] - 1));
  const stop = index.high.map((value, axis) => clamp(Math.ceil(value) + 1, start[axis] + 1, grid.shape[axis]));
  return { start, stop };
}

/* A grid counted as `thickness` mm thick along axes where it is thinner. */
export function thickened(grid, thickness) {
  const sizes = voxelSizes(grid);
  const factors = sizes.map((size, axis) => Math.max(1, (1.001 * thickness) / (size * grid.shape[axis])));
  const offsets = factors.map((factor, axis) => ((grid.shape[axis] - 1) / 2) * (1 - factor));
  return multiply(grid.vox2world, scaling(factors, offsets));
}

/* The side of the head that each axis points to most, as letters such as "RAS". */
export function axisCodes({ vox2world }) {
  return [0, 1, 2]
    .map((axis) => {
      const column = [vox2world[axis], vox2world[axis + 4], vox2world[axis + 8]];
      const row = column.reduce((best, value, k) => (Math.abs(value) > Math.abs(column[best]) ? k : best), 0);
      return ["LR", "PA", "IS"][row][column[row] > 0 ? 1 : 0];
    })
    .join("");
}

/* What makes a geometry unusable for a head, as a clause; "" if nothing does. */
export function geometryFault({ vox2world }) {
  if (!vox2world.every(Number.isFinite))
    return "its geometry, the map from voxels to the world, is not finite; repair its header";
  const sizes = columnLengths(vox2world);
  if (!(Math.abs(determinant(vox2world)) > 1e-6 * sizes[0] * sizes[1] * sizes[2]))
    return "its geometry, the map from voxels to the world, is singular; repair its header";
  if (Math.min(...sizes) < 0.01 || Math.max(...sizes) > 100)
    return `voxels of ${sizes.map((size) => Number(size.toPrecision(6))).join(" × ")} mm are not of a head scan`;
  return "";
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/* Rounding of halves to the even number, as NumPy rounds. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
