import assert from "node:assert/strict";
import { test } from "node:test";
import { droppedFiles, nameFault, sortFiles } from "../src/files.js";

const named = (...names) => names.map((name) => ({ name }));
const item = (file, entry = null) => ({ kind: "file", getAsFile: () => file, webkitGetAsEntry: () => entry });

/* A dropped folder, whose reader gives so many entries at a time. */
function folder(name, files, atOnce) {
  const entries = [
    ...files.map((file) => ({ isFile: true, file: (resolve) => resolve(file) })),
    { isFile: false, isDirectory: true },
  ];
  const createReader = () => ({ readEntries: (resolve) => resolve(entries.splice(0, atOnce)) });
  return item({ name }, { isDirectory: true, createReader });
}

test("a scan is found among other files, and networks come first", () => {
  const [sidecar, scan, network] = named("a.json", "a.NII.GZ", "locator.onnx");
  assert.equal(sortFiles([sidecar, scan]).scan, scan);
  assert.deepEqual(sortFiles([scan, network]), { networks: [network], scan: null });
  assert.equal(sortFiles([sidecar]).scan, sidecar);
  assert.equal(sortFiles([]).scan, null);
});

test("names that are not of a scan get a clause", () => {
  for (const name of ["a.nii", "a.b.nii.gz", "A.MGZ", "a.mgh"]) assert.equal(nameFault(name), "");
  for (const name of ["a.hdr", "a.img.gz"]) assert.match(nameFault(name), /pair/);
  assert.match(nameFault("a.dcm"), /not a name of an image/);
});

test("a dropped folder gives all its files, and is none itself", async () => {
  const files = named("a.json", "b.nii", "c.nii");
  const single = { name: "d.nii" };
  const items = [folder("scans", files, 2), item(single), { kind: "string" }];
  assert.deepEqual(await droppedFiles({ items }), [...files, single]);
});
