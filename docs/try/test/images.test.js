import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { gzipSync, inflateRawSync } from "node:zlib";
import { InputError } from "../src/errors.js";
import { displayed, readImage } from "../src/images.js";

const own = DecompressionStream;
const [HEADER, TRAILER] = [10, 8]; // bytes of a gzip member without a name
const [DIM, VOX_OFFSET] = [40, 108]; // bytes of fields in the header of NIfTI-1

afterEach(() => {
  globalThis.DecompressionStream = own;
});

/* Unpacks one member, and refuses a file of more, as browsers do and Node.js does not. */
class OneMember extends TransformStream {
  constructor() {
    const parts = [];
    super({
      transform: (part) => void parts.push(part),
      flush(controller) {
        const bytes = Buffer.concat(parts);
        const { buffer, engine } = inflateRawSync(bytes.subarray(HEADER), { info: true });
        if (HEADER + engine.bytesWritten + TRAILER !== bytes.length) throw new TypeError("junk after the member");
        controller.enqueue(new Uint8Array(buffer));
      },
    });
  }
}

/* A NIfTI file of 2 × 3 × 4 voxels, which change(view) has changed. */
function file(change = () => {}) {
  const grid = { shape: [2, 3, 4], vox2world: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0] };
  const bytes = displayed(
    grid,
    Uint8Array.from({ length: 24 }, (_, k) => k),
  );
  change(new DataView(bytes.buffer));
  return bytes;
}

function packed(...parts) {
  return new Uint8Array(Buffer.concat(parts.map((part) => gzipSync(part))));
}

test("a packed file may have several members", async () => {
  globalThis.DecompressionStream = OneMember;
  const content = file();
  for (const ends of [[376], [100, 376], [1, 200, 201, 376]]) {
    const parts = ends.map((end, k) => content.subarray(ends[k - 1] ?? 0, end));
    const { data } = await readImage(packed(...parts), "image.nii.gz");
    assert.deepEqual(data, content.subarray(352));
  }
});

test("what looks like the start of a member within one is none", async () => {
  globalThis.DecompressionStream = OneMember;
  const content = file((view) => view.setUint32(360, 0x1f8b0800));
  const stored = new Uint8Array(gzipSync(content, { level: 0 })); // the bytes stand in the file as they are
  const { data } = await readImage(stored, "image.nii.gz");
  assert.deepEqual(data, content.subarray(352));
});

test("a damaged or cut member gets a sentence", async () => {
  const whole = packed(file().subarray(0, 100), file().subarray(100));
  const damaged = whole.slice();
  damaged[60] ^= 255;
  for (const bytes of [whole.slice(0, -3), damaged])
    await assert.rejects(readImage(bytes, "image.nii.gz"), /damaged or cut short/);
});

test("a failure of memory is not called a damaged file", async () => {
  globalThis.DecompressionStream = class extends TransformStream {
    constructor() {
      super({
        transform() {
          throw new RangeError("Array buffer allocation failed");
        },
      });
    }
  };
  await assert.rejects(readImage(packed(file()), "image.nii.gz"), RangeError);
});

test("headers without a usable offset, with two axes, or with damaged axes", async () => {
  for (const offset of [Number.NaN, 0, -1, 352.5]) {
    const { data } = await readImage(
      file((view) => view.setFloat32(VOX_OFFSET, offset, true)),
      "image.nii",
    );
    assert.equal(data.length, 24, `offset ${offset}`);
  }
  const flat = await readImage(
    file((view) => view.setInt16(DIM, 2, true)),
    "image.nii",
  );
  assert.deepEqual(flat.shape, [2, 3, 1]);
  for (const [axis, value] of [
    [0, 1],
    [0, 8],
    [1, -2],
    [4, -2],
  ]) {
    const damaged = file((view) => {
      if (axis === 4) view.setInt16(DIM, 4, true);
      view.setInt16(DIM + 2 * axis, value, true);
    });
    await assert.rejects(readImage(damaged, "image.nii"), InputError, `dim[${axis}] ${value}`);
  }
});
