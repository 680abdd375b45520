import assert from "node:assert/strict";
import { test } from "node:test";
import { InputError } from "../src/errors.js";
import { loadModel, readMetadata, swapOrder } from "../src/model.js";

/* A field of a message with a length below 128. */
function field(number, content) {
  return [8 * number + 2, content.length, ...content];
}

/* An ONNX file of metadata alone. */
function fileOf(metadata) {
  const encode = (text) => [...new TextEncoder().encode(text)];
  const entries = Object.entries(metadata).map(([key, value]) =>
    field(14, [...field(1, encode(key)), ...field(2, encode(value))]),
  );
  return Uint8Array.from([8, 8, ...field(2, encode("maker")), ...entries.flat()]);
}

function files(changes = {}) {
  return ["locator", "segmenter"].map((network) =>
    fileOf({ format: "singlestrip-onnx", format_version: "1", network, model_sha256: "a", ...changes[network] }),
  );
}

const load = (bytes) => loadModel(bytes, async () => {}, null);

test("metadata are read, and other fields skipped", () => {
  assert.deepEqual(readMetadata(fileOf({ format: "x", key: "värde" })), { format: "x", key: "värde" });
});

test("what is no ONNX file of ours is refused with a sentence", async () => {
  assert.throws(() => readMetadata(Uint8Array.from([7, 1, 2])), InputError);
  assert.throws(() => readMetadata(Uint8Array.from([18, 100, 1])), InputError);
  await assert.rejects(load([fileOf({ format: "other" })]), /not an ONNX file of singlestrip export/);
  await assert.rejects(load(files({ locator: { format_version: "2" } })), /newer than this page/);
  await assert.rejects(load(files().slice(0, 1)), /segmenter.onnx is missing/);
  await assert.rejects(load(files({ locator: { model_sha256: "b" } })), /of different models/);
  const organs = JSON.stringify({ classes: [{ number: 1 }], brain_channels: [] });
  await assert.rejects(load(files({ segmenter: { configuration: organs } })), /it cannot strip/);
});

test("the order of values is swapped and back", () => {
  const values = Float32Array.from({ length: 24 }, (_, k) => k);
  const swapped = swapOrder(values, [2, 3, 4]);
  assert.deepEqual([...swapped.subarray(0, 5)], [0, 6, 12, 18, 2]);
  assert.deepEqual(swapOrder(swapped, [4, 3, 2]), values);
});
