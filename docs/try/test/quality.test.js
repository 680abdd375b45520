import assert from "node:assert/strict";
import { test } from "node:test";
import { estimateQuality } from "../src/quality.js";

test("without a quality network the reasons are those of the mask that is shown", async () => {
  const stripped = { doubts: ["the views disagree"] };
  const mask = {
    shape: [20, 20, 20],
    vox2world: [9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0],
    data: new Uint8Array(8000),
  };
  mask.data.fill(1, 3000, 5000);
  const usual = await estimateQuality({ quality: null }, stripped, mask, [1000, 2000]);
  assert.deepEqual(usual, { dice: null, flag: null, reasons: stripped.doubts });
  mask.data.fill(1, 0, 5000); // the border moved
  const { reasons } = await estimateQuality({ quality: null }, stripped, mask, [1000, 2000]);
  assert.match(reasons[0], /larger than any/);
  assert.deepEqual(reasons.slice(1), stripped.doubts);
});
