import assert from "node:assert/strict";
import { test } from "node:test";
import { bounds, conformedGrid, roundHalfEven } from "../src/grid.js";
import { apply, invert, multiply } from "../src/matrix.js";
import { clean, components, fillHoles, largestComponents, thinAxes } from "../src/morphology.js";
import { mirror, normalise, peaked } from "../src/normalise.js";
import { dice, percentile } from "../src/numbers.js";
import { blockMean, conform } from "../src/resample.js";

const OBLIQUE = [0.9, -0.2, 0.1, -40, 0.3, 1.1, -0.2, 12, -0.1, 0.15, 2.5, 7];

function volume(shape, valueAt, vox2world = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]) {
  const data = [];
  for (let z = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++) for (let x = 0; x < shape[0]; x++) data.push(valueAt(x, y, z));
  return { shape, vox2world, data: Float32Array.from(data) };
}

function mask(shape, isInside) {
  const made = volume(shape, (...index) => (isInside(...index) ? 1 : 0));
  return { ...made, data: Uint8Array.from(made.data) };
}

test("a map and its inverse are the identity", () => {
  const product = multiply(OBLIQUE, invert(OBLIQUE));
  const expected = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0];
  for (let k = 0; k < 12; k++) assert.ok(Math.abs(product[k] - expected[k]) < 1e-12);
});

test("halves are rounded to the even number", () => {
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, 1.4, 1.6].map(roundHalfEven), [0, 2, 2, 0, 1, 2]);
});

test("the middle of a conformed grid lies at its point", () => {
  const { low, high } = bounds(conformedGrid([1, 2, 3], [4, 6, 8], 2));
  assert.deepEqual(low, [-3, -4, -5]);
  assert.deepEqual(high, [5, 8, 11]);
});

test("linear interpolation is exact for linear values, also on an oblique grid", () => {
  const source = volume([9, 8, 7], (x, y, z) => 3 * x - 2 * y + z, OBLIQUE);
  const grid = conformedGrid(apply(OBLIQUE, [4, 3.5, 3]), [3, 3, 3], 0.5);
  const { data } = conform(source, grid, Number.NaN);
  const place = multiply(invert(OBLIQUE), grid.vox2world);
  for (let z = 0, k = 0; z < 3; z++)
    for (let y = 0; y < 3; y++)
      for (let x = 0; x < 3; x++, k++) {
        const [a, b, c] = apply(place, [x, y, z]);
        assert.ok(Math.abs(data[k] - (3 * a - 2 * b + c)) < 1e-4);
      }
});

test("a voxel reaches half a voxel beyond its centre", () => {
  const source = volume([2, 1, 1], (x) => 10 + x);
  const grid = { shape: [8, 1, 1], vox2world: [0.5, 0, 0, -1, 0, 1, 0, 0, 0, 0, 1, 0] };
  assert.deepEqual([...conform(source, grid, -1).data], [-1, 10, 10, 10.5, 11, 11, -1, -1]);
});

test("means of blocks, of which the last may be partial", () => {
  const { data, shape, vox2world } = blockMean(
    volume([5, 1, 1], (x) => x),
    2,
  );
  assert.deepEqual(
    [shape, [...data]],
    [
      [3, 1, 1],
      [0.5, 2.5, 4],
    ],
  );
  assert.deepEqual(apply(vox2world, [0, 0, 0]), [0.5, 0, 0]);
});

test("percentiles are interpolated", () => {
  assert.equal(percentile([4, 1, 3, 2], 50), 2.5);
  assert.ok(Math.abs(percentile([0, 1, 2, 3], 99.5) - 2.985) < 1e-12);
});

test("components share faces, and the largest come first", () => {
  const two = mask([6, 3, 3], (x, y, z) => x < 2 || (x === 4 && y === 1 && z === 1));
  assert.deepEqual(components(two).sizes.slice(1), [18, 1]);
  const sizes = largestComponents(two, 3).map(({ data }) => data.filter(Boolean).length);
  assert.deepEqual(sizes, [18, 1]);
  const diagonal = mask([3, 3, 3], (x, y, z) => x === y && y === z);
  assert.equal(components(diagonal).sizes.length, 4);
});

test("holes are filled, but not those that are open along a thin axis", () => {
  const shell = mask([5, 5, 5], (x, y, z) => !(x === 2 && y === 2 && z === 2));
  assert.ok(fillHoles(shell, thinAxes(shell.shape)).data.every(Boolean));
  const ring = mask([5, 5, 1], (x, y) => !(x === 2 && y === 2));
  assert.ok(fillHoles(ring, thinAxes(ring.shape)).data.every(Boolean));
  const open = mask([5, 5, 5], (x, y) => !(x === 2 && y === 2));
  assert.equal(dice(fillHoles(open, thinAxes(open.shape)).data, open.data), 1);
});

test("what is clean is the largest component with its holes filled", () => {
  const dirty = mask([9, 7, 7], (x, y, z) => (x < 7 && !(x === 3 && y === 3 && z === 3)) || (x === 8 && y === 0));
  const expected = mask([9, 7, 7], (x) => x < 7);
  assert.deepEqual(clean(dirty).data, expected.data);
  const empty = mask([3, 3, 3], () => false);
  assert.deepEqual(clean(empty).data, empty.data);
});

test("intensities go from the lowest to the 99.5th percentile, and nothing is 0", () => {
  const window = Float32Array.from({ length: 1001 }, (_, k) => (k === 1000 ? Number.NaN : k));
  const shown = normalise(window);
  assert.equal(shown[0], 0);
  assert.ok(Math.abs(shown[497] - 497 / percentile(window.subarray(0, 1000), 99.5)) < 1e-6);
  assert.deepEqual([shown[999], shown[1000]], [1, 0]);
  const brain = Uint8Array.from(window, (_, k) => (k < 101 ? 1 : 0));
  assert.equal(normalise(window, brain)[150], 1);
});

test("views", () => {
  assert.deepEqual([...mirror(Float32Array.of(1, 2, 3, 4, 5, 6), 3)], [3, 2, 1, 6, 5, 4]);
  const values = [...peaked(Float32Array.of(0, 0.35, 0.7, 1), 0.7)];
  [0, 0.5, 1, 0].forEach((value, k) => {
    assert.ok(Math.abs(values[k] - value) < 1e-6);
  });
});
