// Runs the model beside the page, which stays responsive: a photo in, the probability of every class out.

const HERE = new URL(".", import.meta.url);
const STRIP_PIXELS = 1 << 20; // read from a canvas at once; phones limit a canvas to 16 million
const THUMBNAIL_PX = 320;
const MOST_THREADS = 4;
const ANSWERS = { open, look };
// How engines and the runtime say that there is no memory left; it aborts without a reason where it can have no more.
const NO_MEMORY = /out of memory|enlarge memory|allocat|bad_alloc|\bOOM\b|Aborted\(\)/i;
const AGAIN = "Reload the page. If that does not help, its folder is not whole on the server: copy it there once more.";

let ort;
let session;
let limits;
let last = Promise.resolve(); // one request after another

self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};

// An error in words for people; `detail` is what a program has said, for who wants to know.
class Trouble extends Error {
  constructor(words, cause) {
    super(words);
    this.detail = cause ? cause.message || String(cause) : "";
  }
}

async function answer({ id, kind, ...request }) {
  try {
    self.postMessage({ id, answer: await ANSWERS[kind](request) });
  } catch (error) {
    const told = error instanceof Trouble ? error : new Trouble("Something went wrong that should not. Reload the page.", error);
    self.postMessage({ id, error: told.message, detail: told.detail });
  }
}

// Loads the model; says whether this browser gives back the very pixels of a picture.
async function open(facts) {
  limits = facts;
  await loadRuntime();
  const model = await loadModel();
  try {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  } catch (error) {
    throw explainSession(error);
  }
  return { isFaithful: isFaithful(), threads: ort.env.wasm.numThreads };
}

async function loadRuntime() {
  const runtime = (name) => new URL(`runtime/${name}`, HERE).href;
  try {
    ort = await import(runtime("ort.wasm.min.js"));
  } catch (error) {
    throw new Trouble(`The program that runs the model cannot be loaded. ${AGAIN}`, error);
  }
  ort.env.logLevel = "error"; // it warns of every processor, since it cannot know one here
  ort.env.wasm.wasmPaths = {
    mjs: runtime("ort-wasm-simd-threaded.js"),
    wasm: runtime("ort-wasm-simd-threaded.wasm"),
  };
  // threads share memory, which a page may do only if its server sends two headers that few send
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
}

async function loadModel() {
  const address = new URL("model.onnx", HERE).href;
  let response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw new Trouble("The model cannot be loaded: its server does not answer. Try again when the network is there.", error);
  }
  if (!response.ok) throw new Trouble(`The model cannot be loaded. ${AGAIN}`, `${address}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

function explainSession(error) {
  const said = error.message || String(error);
  if (NO_MEMORY.test(said)) return new Trouble("There is too little memory to load the model. Close other tabs or programs, and reload the page.", error);
  if (/SIMD|WebAssembly is not/i.test(said)) return new Trouble("This browser is too old for the model. Update it, or take another one.", error);
  // it fetches its parts when the first model is opened
  if (/no available backend/.test(said)) return new Trouble(`The program that runs the model cannot be started. ${AGAIN}`, error);
  return new Trouble(`This model cannot be run here. ${AGAIN}`, error);
}

async function look({ photo, wantsThumbnail }) {
  const bitmap = photo instanceof ImageBitmap ? photo : await decode(photo);
  try {
    const { width, height } = bitmap;
    if (width * height > limits.mostPixels) throw new Trouble(`${width} × ${height} pixels are too many for this page.`);
    const shares = await classify(bitmap);
    return { width, height, shares, thumbnail: wantsThumbnail ? await drawThumbnail(bitmap) : null };
  } finally {
    bitmap.close();
  }
}

async function classify(bitmap) {
  let found;
  try {
    const input = readPixels(bitmap);
    const image = new ort.Tensor("uint8", input.pixels, [1, input.height, input.width, 3]);
    found = await session.run({ image });
  } catch (error) {
    const isFull = NO_MEMORY.test(error.message || String(error));
    if (isFull) throw new Trouble("There is too little memory for this photo. Close other tabs or programs, and reload the page.", error);
    throw new Trouble("The model cannot be run on this photo. Reload the page, and try again.", error);
  }
  const shares = Array.from(found.probabilities.data);
  if (shares.length !== limits.classes.length) throw new Trouble("The model is not that of this page. Reload the page.");
  return shares;
}

// Upright, and in the numbers of the file: the model was trained on those, whatever colour profile they are meant in.
async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    const isImage = file.type.startsWith("image/") || /\.(heic|heif|tiff?|avif|jxl)$/i.test(file.name);
    if (!file.size) throw new Trouble("The file is empty.");
    if (!isImage) throw new Trouble("This is no image.");
    throw new Trouble("This image is damaged, or of a kind that this browser cannot read. JPEG and PNG always work.", error);
  }
}

// Pixels (height, width, 3) on white, reduced by the mean of squares where there are too many.
function readPixels(bitmap) {
  const factor = chooseFactor(bitmap.width, bitmap.height);
  const [width, height] = [Math.ceil(bitmap.width / factor), Math.ceil(bitmap.height / factor)];
  const pixels = new Uint8Array(3 * width * height);
  const rows = factor * Math.max(1, Math.floor(STRIP_PIXELS / (bitmap.width * factor)));
  for (let top = 0; top < bitmap.height; top += rows) {
    const strip = readStrip(bitmap, top, Math.min(rows, bitmap.height - top));
    const target = pixels.subarray((3 * width * top) / factor);
    if (factor === 1) dropAlpha(strip, target);
    else reduce(strip, factor, target);
  }
  return { pixels, width, height };
}

function chooseFactor(width, height) {
  let factor = 1;
  const side = Math.min(width, height);
  while (factor < 8 && width * height > limits.fedPixels * factor ** 2 && side >= 2 * factor * limits.reach) factor *= 2;
  return factor;
}

function readStrip(bitmap, top, height) {
  const context = openCanvas(bitmap.width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, top, bitmap.width, height, 0, 0, bitmap.width, height);
  return context.getImageData(0, 0, bitmap.width, height);
}

function openCanvas(width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  return context;
}

function dropAlpha({ data }, target) {
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    target[to] = data[from];
    target[to + 1] = data[from + 1];
    target[to + 2] = data[from + 2];
  }
}

function reduce({ data, width, height }, factor, target) {
  let to = 0;
  for (let top = 0; top < height; top += factor) {
    for (let left = 0; left < width; left += factor, to += 3) {
      const [bottom, right] = [Math.min(top + factor, height), Math.min(left + factor, width)];
      let [red, green, blue] = [0, 0, 0];
      for (let y = top; y < bottom; y++) {
        for (let from = 4 * (y * width + left); from < 4 * (y * width + right); from += 4) {
          red += data[from];
          green += data[from + 1];
          blue += data[from + 2];
        }
      }
      const count = (bottom - top) * (right - left);
      target[to] = Math.round(red / count);
      target[to + 1] = Math.round(green / count);
      target[to + 2] = Math.round(blue / count);
    }
  }
}

function drawThumbnail(bitmap) {
  const scale = Math.min(1, THUMBNAIL_PX / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(scale * side)));
  const context = openCanvas(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
}

// Some browsers alter what is read from a canvas, so that nobody is recognised by it; the model would see other photos.
function isFaithful() {
  const context = openCanvas(16, 16);
  const drawn = new ImageData(16, 16);
  drawn.data.forEach((_, at) => (drawn.data[at] = at % 4 === 3 ? 255 : (37 * at) % 256));
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 16, 16);
  return drawn.data.every((value, at) => value === read.data[at]);
}
