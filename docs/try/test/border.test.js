import assert from "node:assert/strict";
import { test } from "node:test";
import { withBorder } from "../src/border.js";
import { InputError } from "../src/errors.js";
import { countTrue } from "../src/numbers.js";

const SIDE = 24;

/* What stripping returns of a ball of a radius in voxels of 1 mm. */
function ball(radius) {
  const shape = [SIDE, SIDE, SIDE];
  const logit = new Float32Array(SIDE ** 3);
  for (let k = 0; k < logit.length; k++) {
    const place = [k % SIDE, Math.floor(k / SIDE) % SIDE, Math.floor(k / SIDE ** 2)];
    logit[k] = radius - Math.hypot(...place.map((value) => value - (SIDE - 1) / 2));
  }
  const mask = {
    shape,
    vox2world: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
    data: Uint8Array.from(logit, (v) => +(v > 0)),
  };
  return { mask, logit, box: { start: [0, 0, 0], stop: shape } };
}

const finite = new Float32Array(SIDE ** 3);
const size = (mask) => countTrue(mask.data);

test("the border moves by its mm, and back", () => {
  const stripped = ball(6);
  for (const mm of [2, -2]) {
    const expected = size(ball(6 + mm).mask);
    assert.ok(Math.abs(size(withBorder(stripped, mm, finite)) - expected) < 0.1 * expected, `${mm} mm`);
  }
  assert.equal(withBorder(stripped, 0, finite), stripped.mask);
});

test("what was stripped anew has a distance of its own", () => {
  const image = { stripped: ball(4) };
  withBorder(image.stripped, 2, finite);
  image.stripped = ball(8); // by another model
  assert.ok(size(withBorder(image.stripped, 2, finite)) > size(ball(8).mask));
});

test("voxels that are not finite stay outside, and no brain is an error", () => {
  const damaged = finite.slice();
  damaged[0] = Number.NaN;
  const wide = withBorder(ball(18), 9, damaged);
  assert.equal(wide.data[0], 0);
  assert.equal(wide.data[1], 1);
  assert.throws(() => withBorder(ball(3), -9, finite), InputError);
});
