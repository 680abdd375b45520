// The networks of a model: ONNX files that `singlestrip export` made, and what their metadata tell.

import { InputError } from "./errors.js";

const FORMAT = "singlestrip-onnx";
const FORMAT_VERSION = 1;
const METADATA = 14; // field of ONNX's ModelProto; its entries have a key, field 1, and a value, field 2
const NO_MODEL = "not an ONNX file of singlestrip export";

/*
 * The metadata of an ONNX file, texts by their keys. ONNX Runtime for browsers does not tell them. The file is a message
 * of protocol buffers, of which the other fields are skipped.
 */
export function readMetadata(bytes) {
  const metadata = {};
  try {
    for (const [field, value] of fieldsOf(bytes)) {
      if (field !== METADATA) continue;
      const entry = Object.fromEntries(fieldsOf(value));
      metadata[decode(entry[1])] = decode(entry[2] ?? new Uint8Array());
    }
  } catch {
    throw new InputError(NO_MODEL);
  }
  return metadata;
}

function decode(bytes) {
  return new TextDecoder().decode(bytes);
}

/* The fields of a message: number, and content of those that have a length. */
function* fieldsOf(bytes) {
  let at = 0;
  function varint() {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError("cut short");
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  }
  while (at < bytes.length) {
    const key = varint();
    const kind = key % 8;
    let content = null;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      content = bytes.subarray(at, at + length);
      at += length;
    } else throw new RangeError("not a message");
    if (at > bytes.length) throw new RangeError("cut short");
    if (content) yield [Math.floor(key / 8), content];
  }
}

/*
 * A model of its files, bytes each. createSession(bytes): makes a session of ONNX Runtime by promise. Tensor: its class of
 * tensors. Throws an InputError unless there is a locator and a segmenter of the same model.
 */
export async function loadModel(files, createSession, Tensor) {
  const told = {};
  const sessions = {};
  for (const bytes of files) {
    const metadata = readMetadata(bytes);
    if (metadata.format !== FORMAT) throw new InputError(NO_MODEL);
    if (Number(metadata.format_version) > FORMAT_VERSION)
      throw new InputError("the ONNX file is newer than this page; update the page");
    told[metadata.network] = metadata;
    sessions[metadata.network] = bytes;
  }
  for (const network of ["locator", "segmenter"])
    if (!told[network])
      throw new InputError(`${network}.onnx is missing: choose all files that singlestrip export wrote`);
  if (new Set(Object.values(told).map((metadata) => metadata.model_sha256)).size > 1)
    throw new InputError("these files are of different models: choose those of one folder");
  const parse = (network, key) => JSON.parse(told[network][key]);
  const { classes, brain_channels: brain, class_evidence: evidence } = parse("segmenter", "configuration");
  if (classes.length && evidence)
    throw new InputError(
      "this model asks the image what its classes look like, which this page cannot; choose another",
    );
  if (classes.length && !brain.length)
    throw new InputError("none of the classes that this model tells apart is brain; it cannot strip");
  for (const network of Object.keys(sessions)) sessions[network] = await createSession(sessions[network]);

  async function run(network, { data, shape }) {
    const input = new Tensor("float32", swapOrder(data, shape), [1, 1, ...shape]);
    const { logit } = await sessions[network].run({ image: input });
    const channels = logit.dims[1];
    const out = new Float32Array(logit.data.length);
    const count = out.length / channels;
    const reverse = [...shape].reverse();
    for (let channel = 0; channel < channels; channel++) {
      const part = logit.data.subarray(channel * count, (channel + 1) * count);
      out.set(swapOrder(part, reverse), channel * count);
    }
    return out;
  }
  return {
    run,
    name: told.segmenter.model,
    licence: told.segmenter.licence,
    card: parse("segmenter", "card"),
    configuration: parse("segmenter", "configuration"),
    stripping: parse("segmenter", "stripping"),
    anatomy: parse("segmenter", "anatomy"),
    quality: told.quality
      ? {
          configuration: parse("quality", "configuration"),
          estimator: parse("quality", "estimator"),
          flags: parse("quality", "flags"),
          reasons: parse("quality", "reasons"),
        }
      : null,
  };
}

/* Values whose first axis varies fastest in the order in which the last one does. */
export function swapOrder(data, [width, height, depth]) {
  const out = new Float32Array(data.length);
  let from = 0;
  for (let z = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0, to = z + depth * y; x < width; x++, to += depth * height) out[to] = data[from++];
  return out;
}
