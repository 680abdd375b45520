// Between grids: means of blocks of voxels, and linear interpolation. The same as space/resample.py.

import { clamp, indexMap, roundHalfEven, thickened, voxelCount, voxelSizes } from "./grid.js";
import { multiply, scaling } from "./matrix.js";

const EDGE = 1e-4; // voxels that a rounded coordinate may lie beyond the source

/* Average whole blocks of voxels so that none is much smaller than `target` mm. intensityOf: from a stored value. */
export function blockMean(volume, target, intensityOf = Number) {
  const { data, shape } = volume;
  const factors = voxelSizes(volume).map((size, axis) =>
    Math.min(Math.max(1, roundHalfEven(target / size)), shape[axis]),
  );
  const blocks = shape.map((size, axis) => Math.ceil(size / factors[axis]));
  const sums = new Float64Array(blocks[0] * blocks[1] * blocks[2]);
  let from = 0;
  for (let z = 0; z < shape[2]; z++) {
    for (let y = 0; y < shape[1]; y++) {
      const row = blocks[0] * (Math.floor(y / factors[1]) + blocks[1] * Math.floor(z / factors[2]));
      for (let x = 0, block = row, left = factors[0]; x < shape[0]; x++, left--) {
        if (left === 0) {
          block++;
          left = factors[0];
        }
        sums[block] += intensityOf(data[from++]);
      }
    }
  }
  const counts = shape.map((size, axis) =>
    Array.from({ length: blocks[axis] }, (_, k) => Math.min(factors[axis], size - k * factors[axis])),
  );
  const means = new Float32Array(sums.length);
  let at = 0;
  for (const depth of counts[2])
    for (const height of counts[1])
      for (const width of counts[0]) {
        means[at] = sums[at] / (width * height * depth);
        at++;
      }
  const centres = factors.map((factor) => (factor - 1) / 2);
  return { data: means, shape: blocks, vox2world: multiply(volume.vox2world, scaling(factors, centres)) };
}

/* `blockMean`, of which no slab is thinner than one voxel. */
export function coarsened(volume, voxelSize, intensityOf) {
  const means = blockMean(volume, voxelSize, intensityOf);
  return { ...means, vox2world: thickened(means, voxelSize) };
}

/* For each index along one axis of the target, its share of a coordinate in the source. */
function steps(size, step) {
  return Float64Array.from({ length: size }, (_, index) => index * step);
}

/*
 * A volume on another grid, by linear interpolation; float32. A voxel reaches half a voxel beyond its centre, so that a
 * single slice has its thickness. Beyond that is `fill`.
 */
export function conform(volume, grid, fill = 0) {
  const { data, shape } = volume;
  const place = indexMap(volume, grid);
  const out = new Float32Array(voxelCount(grid));
  const ends = shape.map((size) => size - 1);
  const [stepY, stepZ] = [shape[0], shape[0] * shape[1]];
  const along = [0, 1, 2].map((row) => steps(grid.shape[0], place[4 * row]));
  let to = 0;
  for (let z = 0; z < grid.shape[2]; z++) {
    for (let y = 0; y < grid.shape[1]; y++) {
      const start = [0, 4, 8].map((row) => place[row + 1] * y + place[row + 2] * z + place[row + 3]);
      for (let x = 0; x < grid.shape[0]; x++, to++) {
        let px = along[0][x] + start[0];
        let py = along[1][x] + start[1];
        let pz = along[2][x] + start[2];
        const isBeyond =
          px < -0.5 - EDGE ||
          py < -0.5 - EDGE ||
          pz < -0.5 - EDGE ||
          px > ends[0] + 0.5 + EDGE ||
          py > ends[1] + 0.5 + EDGE ||
          pz > ends[2] + 0.5 + EDGE;
        if (isBeyond) {
          out[to] = fill;
          continue;
        }
        px = clamp(px, 0, ends[0]);
        py = clamp(py, 0, ends[1]);
        pz = clamp(pz, 0, ends[2]);
        const ix = Math.trunc(px);
        const iy = Math.trunc(py);
        const iz = Math.trunc(pz);
        const fx = px - ix;
        const fy = py - iy;
        const fz = pz - iz;
        const base = ix + stepY * iy + stepZ * iz;
        const dx = ix < ends[0] ? 1 : 0;
        const dy = iy < ends[1] ? stepY : 0;
        const dz = iz < ends[2] ? stepZ : 0;
        const low =
          (data[base] * (1 - fx) + data[base + dx] * fx) * (1 - fy) +
          (data[base + dy] * (1 - fx) + data[base + dy + dx] * fx) * fy;
        const high =
          (data[base + dz] * (1 - fx) + data[base + dz + dx] * fx) * (1 - fy) +
          (data[base + dz + dy] * (1 - fx) + data[base + dz + dy + dx] * fx) * fy;
        out[to] = low * (1 - fz) + high * fz;
      }
    }
  }
  return { data: out, shape: grid.shape, vox2world: grid.vox2world };
}
