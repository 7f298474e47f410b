// Runs a page's model in Node.js by the runtime that lies beside it: images in, probabilities out, over pipes.
//
//     node node.mjs FOLDER
//
// One thread computes, as on a page whose server sends no headers for more.
// In: for every call number, height and width (uint32, little-endian), then the pixels (uint8 RGB).
// Out: a line of JSON, {"count": numbers that follow, "peakMb": ...}, then the probabilities (float32), or
// {"error": ...}. The first line, of no numbers, says that the model is loaded.
import { copyFileSync, mkdtempSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [FOLDER] = process.argv.slice(2);
const SCRIPTS = ["ort.wasm.min", "ort-wasm-simd-threaded"];
console.log = console.error; // what the runtime has to say is no answer

let ort;
try {
  const session = await openModel();
  answer([]);
  for (;;) answer(await run(session));
} catch (error) {
  writeAll(Buffer.from(`${JSON.stringify({ error: error.message || String(error) })}\n`));
  process.exit(1);
}

// The runtime's scripts are named .js beside the page, as servers want them; Node.js, and they themselves, want .mjs.
async function openModel() {
  const scratch = mkdtempSync(join(tmpdir(), "squeezetune-"));
  try {
    for (const name of SCRIPTS) copyFileSync(join(FOLDER, "runtime", `${name}.js`), join(scratch, `${name}.mjs`));
    ort = await import(pathToFileURL(join(scratch, `${SCRIPTS[0]}.mjs`)).href);
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = readFileSync(join(FOLDER, "runtime", "ort-wasm-simd-threaded.wasm"));
    return await ort.InferenceSession.create(readFileSync(join(FOLDER, "model.onnx")), { executionProviders: ["wasm"] });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function run(session) {
  const header = readAll(12);
  const [count, height, width] = [0, 4, 8].map((at) => header.readUInt32LE(at));
  const pixels = readAll(count * height * width * 3);
  const image = new ort.Tensor("uint8", new Uint8Array(pixels.buffer, pixels.byteOffset, pixels.length), [count, height, width, 3]);
  const { probabilities } = await session.run({ image });
  return probabilities.data;
}

function answer(numbers) {
  const about = { count: numbers.length, peakMb: Math.round(process.resourceUsage().maxRSS / 1024) };
  writeAll(Buffer.from(`${JSON.stringify(about)}\n`));
  if (numbers.length) writeAll(Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength));
}

function readAll(count) {
  const buffer = Buffer.alloc(count);
  for (let at = 0; at < count; ) {
    const got = readSome(buffer, at, count - at);
    if (!got) process.exit(0); // nobody asks any more
    at += got;
  }
  return buffer;
}

function readSome(buffer, at, count) {
  try {
    return readSync(0, buffer, at, count, null);
  } catch (error) {
    if (error.code === "EOF") return 0; // so Windows ends a pipe
    throw error;
  }
}

function writeAll(buffer) {
  for (let at = 0; at < buffer.length; ) at += writeSync(1, buffer, at);
}
