// Image files: NIfTI-1 and NIfTI-2 in one file, MGH and MGZ. What is written has the header of what was read.

import { InputError } from "./errors.js";
import { clamp } from "./grid.js";
import { columnLengths } from "./matrix.js";

const NIFTI_TYPES = {
  2: Uint8Array,
  4: Int16Array,
  8: Int32Array,
  16: Float32Array,
  64: Float64Array,
  256: Int8Array,
  512: Uint16Array,
  768: Uint32Array,
  1024: BigInt64Array,
  1280: BigUint64Array,
};
const MGH_TYPES = { 0: Uint8Array, 1: Int32Array, 3: Float32Array, 4: Int16Array, 10: Uint16Array };
const UNIT_MM = { 0: 1, 1: 1e3, 2: 1, 3: 1e-3 };
const MGH_HEADER_BYTES = 284;
const DEFLATE = 8; // the one method of gzip
// Bytes of fields in the headers of NIfTI-1 and NIfTI-2.
const FIELDS = {
  348: {
    dim: 40,
    intent: 56,
    intentCode: 68,
    datatype: 70,
    bitpix: 72,
    pixdim: 76,
    voxOffset: 108,
    slope: 112,
    intercept: 116,
    units: 123,
    cal: 124,
    qformCode: 252,
    sformCode: 254,
    quatern: 256,
    srow: 280,
    intentName: 328,
  },
  540: {
    dim: 16,
    intent: 80,
    intentCode: 504,
    datatype: 12,
    bitpix: 14,
    pixdim: 104,
    voxOffset: 168,
    slope: 176,
    intercept: 184,
    units: 500,
    cal: 192,
    qformCode: 344,
    sformCode: 348,
    quatern: 352,
    srow: 400,
    intentName: 508,
  },
};

/* The bytes that a stream makes of others, which it packs or unpacks. */
async function through(bytes, stream) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return joined(parts);
    parts.push(value);
  }
}

export async function gzip(bytes) {
  return through(bytes, new CompressionStream("gzip"));
}

function isPacked(bytes, at = 0) {
  return bytes[at] === 0x1f && bytes[at + 1] === 0x8b;
}

/*
 * The content of a gzip file. It may have several members, as bgzip makes them, one after the other; browsers unpack one at
 * a time. A member ends where the next begins, or at the end of the file; its checksum tells.
 */
async function gunzip(bytes) {
  const parts = [];
  let start = 0;
  for (let end = 1; end <= bytes.length; end++) {
    const mayEnd = end === bytes.length || (isPacked(bytes, end) && bytes[end + 2] === DEFLATE);
    if (!mayEnd) continue;
    try {
      parts.push(await through(bytes.subarray(start, end), new DecompressionStream("gzip")));
      start = end;
    } catch (error) {
      if (error instanceof RangeError) throw error; // memory
    }
  }
  if (start < bytes.length) throw new InputError("the file is damaged or cut short: it cannot be unpacked");
  return joined(parts);
}

/*
 * An image of a file's bytes and its name: a volume with `data` as stored, `slope` and `intercept`, and what is needed to
 * write another with the same header. Of several frames the first counts. Throws an InputError.
 */
export async function readImage(bytes, name) {
  const content = isPacked(bytes) ? await gunzip(bytes) : bytes;
  if (content.length < 348) throw new InputError("not an image, or cut short: it ends within its header");
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (/\.mg[hz]$/i.test(name)) return readMgh(content, view);
  return readNifti(content, view);
}

function readNifti(content, view) {
  const little = [true, false].find((order) => FIELDS[view.getInt32(0, order)]);
  if (little === undefined) throw new InputError("not an image, or damaged: its first bytes are no NIfTI header");
  const size = view.getInt32(0, little);
  const fields = FIELDS[size];
  const numbers = numbersOf(view, size === 540, little);
  if (size === 348 && !["n+1", "n+2"].includes(text(content, 344, 3)))
    throw new InputError("a pair of files, or an Analyze file: convert it to one NIfTI file");
  if (content.length < size) throw new InputError("not an image, or cut short: it ends within its header");
  const axes = numbers.index(fields.dim);
  const step = size === 540 ? 8 : 2;
  const dims = [1, 2, 3, 4, 5, 6, 7].map((axis) =>
    axis <= axes ? numbers.index(fields.dim + step * axis) || 1 : 1,
  );
  const shape = dims.slice(0, 3);
  if (axes < 2 || axes > 7 || dims.some((value) => value < 1))
    throw new InputError(
      `its header is damaged: no image of ${dims.slice(0, Math.max(axes, 3)).join(" × ")} voxels`,
    );
  const Type = NIFTI_TYPES[view.getInt16(fields.datatype, little)];
  if (!Type) throw new InputError("its voxels are not real numbers, or of a type that is not supported");
  const offset = Math.max(Math.trunc(numbers.offset(fields.voxOffset)) || 0, size + 4);
  const { data, raw } = readValues(content, Type, offset, shape, little);
  let slope = numbers.real(fields.slope);
  let intercept = numbers.real(fields.intercept);
  if (slope === 0 || !Number.isFinite(slope)) [slope, intercept] = [1, 0];
  return {
    data,
    shape,
    frames: dims.slice(3).reduce((product, value) => product * value, 1),
    vox2world: niftiGeometry(view, numbers, fields, size, little),
    slope,
    intercept,
    file: { kind: "nifti", head: content.slice(0, offset), raw, Type, size, little },
  };
}

/* Readers of numbers whose width differs between NIfTI-1 and NIfTI-2. */
function numbersOf(view, isWide, little) {
  return {
    index: (at) => (isWide ? Number(view.getBigInt64(at, little)) : view.getInt16(at, little)),
    offset: (at) => (isWide ? Number(view.getBigInt64(at, little)) : view.getFloat32(at, little)),
    real: (at) => (isWide ? view.getFloat64(at, little) : view.getFloat32(at, little)),
    code: (at) => (isWide ? view.getInt32(at, little) : view.getInt16(at, little)),
    width: isWide ? 8 : 4,
  };
}

function text(bytes, start, length) {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}

/* vox2world in mm: the sform if it has a code, else the qform if it has one, else the voxel sizes alone. */
function niftiGeometry(view, numbers, fields, size, little) {
  const reals = (at, count) => Array.from({ length: count }, (_, k) => numbers.real(at + numbers.width * k));
  const pixdim = reals(fields.pixdim, 4);
  const edges = pixdim.slice(1).map((value) => Math.abs(value) || 1);
  let given;
  if (numbers.code(fields.sformCode) > 0) given = reals(fields.srow, 12);
  else if (numbers.code(fields.qformCode) > 0) given = qform(reals(fields.quatern, 6), edges, pixdim[0]);
  else given = guessed(numbers, fields, edges);
  const units = size === 348 ? view.getUint8(fields.units) : view.getInt32(fields.units, little);
  return given.map((value) => value * (UNIT_MM[units % 8] ?? 1));
}

/* The matrix of a qform. Its quaternion has unit length. */
function qform([b, c, d, ...offset], edges, handedness) {
  const square = b * b + c * c + d * d;
  if (!(square <= 1.01 ** 2)) throw new InputError("the qform of its header is invalid; repair the header");
  const a = 1 - square > 3.6e-7 ? Math.sqrt(1 - square) : 0;
  const norm = a * a + square;
  const [x, y, z] = edges;
  const depth = handedness < 0 ? -z : z;
  const s = 2 / norm;
  return [
    (1 - s * (c * c + d * d)) * x,
    s * (b * c - a * d) * y,
    s * (b * d + a * c) * depth,
    offset[0],
    s * (b * c + a * d) * x,
    (1 - s * (b * b + d * d)) * y,
    s * (c * d - a * b) * depth,
    offset[1],
    s * (b * d - a * c) * x,
    s * (c * d + a * b) * y,
    (1 - s * (b * b + c * c)) * depth,
    offset[2],
  ];
}

/* The geometry of a header without one: the middle at the origin, the first axis to the left. */
function guessed(numbers, fields, [x, y, z]) {
  const step = numbers.width === 8 ? 8 : 2;
  const [width, height, depth] = [1, 2, 3].map((axis) => Math.max(1, numbers.index(fields.dim + step * axis)));
  const middle = (size, edge) => ((size - 1) / 2) * edge;
  return [-x, 0, 0, middle(width, x), 0, y, 0, -middle(height, y), 0, 0, z, -middle(depth, z)];
}

/* The first frame: its bytes in the file, and its values. Whole numbers of 64 bits become reals. */
function readValues(content, Type, offset, shape, little) {
  const length = shape[0] * shape[1] * shape[2] * Type.BYTES_PER_ELEMENT;
  if (offset + length > content.length)
    throw new InputError(
      `cut short, or its header is damaged: it tells of ${shape.join(" × ")} voxels, more than the file can hold`,
    );
  const raw = content.subarray(offset, offset + length);
  const bytes = raw.slice();
  if (!little) swapBytes(bytes, Type.BYTES_PER_ELEMENT);
  const values = new Type(bytes.buffer);
  const isBig = Type === BigInt64Array || Type === BigUint64Array;
  return { data: isBig ? Float64Array.from(values, Number) : values, raw, Type };
}

function swapBytes(bytes, width) {
  for (let start = 0; start < bytes.length; start += width) bytes.subarray(start, start + width).reverse();
}

function readMgh(content, view) {
  if (view.getInt32(0) !== 1) throw new InputError("not an image, or damaged: its first bytes are no MGH header");
  const shape = [4, 8, 12].map((at) => view.getInt32(at));
  const frames = view.getInt32(16);
  if (Math.min(...shape, frames) < 1)
    throw new InputError(`its header is damaged: no image of ${shape.join(" × ")} voxels`);
  const Type = MGH_TYPES[view.getInt32(20)];
  if (!Type) throw new InputError("its voxels are of a type that is not supported");
  const { data, raw } = readValues(content, Type, MGH_HEADER_BYTES, shape, false);
  const hasGeometry = view.getInt16(28) > 0;
  const reals = (at, count) => Array.from({ length: count }, (_, k) => view.getFloat32(at + 4 * k));
  const sizes = hasGeometry ? reals(30, 3) : [1, 1, 1];
  const directions = hasGeometry ? reals(42, 9) : [-1, 0, 0, 0, 0, -1, 0, 1, 0];
  const middle = hasGeometry ? reals(78, 3) : [0, 0, 0];
  const vox2world = [0, 1, 2].flatMap((row) => {
    const axes = [0, 1, 2].map((axis) => directions[3 * axis + row] * sizes[axis]);
    return [...axes, middle[row] - axes.reduce((sum, value, axis) => sum + (value * shape[axis]) / 2, 0)];
  });
  const end = MGH_HEADER_BYTES + raw.length * frames;
  return {
    data,
    shape,
    frames,
    vox2world,
    slope: 1,
    intercept: 0,
    file: {
      kind: "mgh",
      head: content.slice(0, MGH_HEADER_BYTES),
      raw,
      Type,
      footer: content.slice(end),
      little: false,
    },
  };
}

/*
 * The bytes of a file with the header of an image: its mask, of bytes 1 and 0, or its brain, which keeps the type of the
 * image. Of the fields only those change that must: type, scaling, range and intent of a mask, unless the image has bytes
 * too; the axes of one frame of several.
 */
export function writeLike(image, mask, kind) {
  const isMask = kind === "mask";
  const voxels = isMask ? mask : brainBytes(image, mask);
  const isAlike = image.file.Type === Uint8Array && image.slope === 1 && image.intercept === 0;
  const changesValues = isMask && !isAlike;
  return image.file.kind === "mgh" ? writeMgh(image, voxels, isMask) : writeNifti(image, voxels, changesValues);
}

/* The bytes of an image as they were, but for 0 outside the mask, or the stored value that comes next to it. */
function brainBytes({ file, slope, intercept }, mask) {
  const { Type, raw, little } = file;
  const background = new Uint8Array(oneValue(Type, -intercept / slope).buffer);
  if (!little) background.reverse();
  const out = raw.slice();
  for (let k = 0; k < mask.length; k++) if (!mask[k]) out.set(background, k * background.length);
  return out;
}

/* An array of one number, rounded and cut to what the type holds. */
function oneValue(Type, number) {
  if (Type === Float32Array || Type === Float64Array) return new Type([number + 0]);
  const isBig = Type === BigInt64Array || Type === BigUint64Array;
  const bits = 8 * Type.BYTES_PER_ELEMENT;
  const isSigned = [Int8Array, Int16Array, Int32Array, BigInt64Array].includes(Type);
  const [low, high] = isSigned ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  const rounded = clamp(Math.round(number), low, high) + 0;
  return new Type([isBig ? BigInt(rounded) : rounded]);
}

function writeNifti({ file, frames }, voxels, changesValues) {
  const { head, size, little } = file;
  const fields = FIELDS[size];
  const out = head.slice();
  const view = new DataView(out.buffer);
  const isWide = size === 540;
  const setIndex = (at, value) =>
    isWide ? view.setBigInt64(at, BigInt(value), little) : view.setInt16(at, value, little);
  const setReal = (at, value) =>
    isWide ? view.setFloat64(at, value, little) : view.setFloat32(at, value, little);
  if (numbersOf(view, isWide, little).offset(fields.voxOffset) !== head.length) {
    if (isWide) view.setBigInt64(fields.voxOffset, BigInt(head.length), little);
    else view.setFloat32(fields.voxOffset, head.length, little);
  }
  if (frames > 1) {
    const [step, width] = isWide ? [8, 8] : [2, 4];
    setIndex(fields.dim, 3);
    for (let axis = 4; axis <= 7; axis++) {
      setIndex(fields.dim + step * axis, 1);
      setReal(fields.pixdim + width * axis, 1);
    }
  }
  if (changesValues) {
    const width = isWide ? 8 : 4;
    view.setInt16(fields.datatype, 2, little);
    view.setInt16(fields.bitpix, 8, little);
    setReal(fields.slope, 1);
    setReal(fields.intercept, 0);
    for (const at of [fields.cal, fields.cal + width, ...[0, 1, 2].map((k) => fields.intent + width * k)])
      setReal(at, 0);
    if (isWide) view.setInt32(fields.intentCode, 0, little);
    else view.setInt16(fields.intentCode, 0, little);
    out.fill(0, fields.intentName, fields.intentName + 16);
    out.set(new TextEncoder().encode("brain mask"), fields.intentName);
  }
  return joined([out, voxels]);
}

function writeMgh({ file }, voxels, isMask) {
  const out = file.head.slice();
  const view = new DataView(out.buffer);
  view.setInt32(16, 1);
  if (isMask) view.setInt32(20, 0);
  return joined([out, voxels, file.footer]);
}

/* Arrays of bytes, one after the other. */
function joined(parts) {
  if (parts.length === 1) return parts[0];
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/* The bytes of a NIfTI file that shows values on the grid of a volume, in a viewer. */
export function displayed({ shape, vox2world, slope = 1, intercept = 0 }, values) {
  const code = Object.keys(NIFTI_TYPES).find((each) => values instanceof NIFTI_TYPES[each]);
  const fields = FIELDS[348];
  const out = new Uint8Array(352);
  const view = new DataView(out.buffer);
  const setIndex = (at, value) => view.setInt16(at, value, true);
  const setReal = (at, value) => view.setFloat32(at, value, true);
  view.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((value, k) => {
    setIndex(fields.dim + 2 * k, value);
  });
  setIndex(fields.datatype, Number(code));
  setIndex(fields.bitpix, 8 * values.BYTES_PER_ELEMENT);
  [1, ...columnLengths(vox2world)].forEach((value, k) => {
    setReal(fields.pixdim + 4 * k, value);
  });
  setReal(fields.voxOffset, 352);
  setReal(fields.slope, slope);
  setReal(fields.intercept, intercept);
  out[fields.units] = 2;
  setIndex(fields.sformCode, 1);
  vox2world.forEach((value, k) => {
    setReal(fields.srow + 4 * k, value);
  });
  out.set(new TextEncoder().encode("n+1"), 344);
  return joined([out, new Uint8Array(values.buffer, values.byteOffset, values.byteLength)]);
}
