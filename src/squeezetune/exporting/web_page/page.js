// The page: takes photos, asks the worker what they show, and shows the answers. Nothing is sent anywhere.
"use strict";

const SHOWN = 3; // classes of each photo
const PAUSE_MS = 120; // between two looks of the camera, so that a phone stays cool
const CAMERA_PROBLEMS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it beside the address, and try again.",
  NotFoundError: "No camera was found. Choose photos instead.",
  NotReadableError: "The camera is in use by another program. Close that, and try again.",
};
const AS_FILE =
  "Opened as a file, this page may not load its model. Run “python3 -m http.server” in its folder, and open http://localhost:8000";

const find = (id) => document.getElementById(id);
const facts = JSON.parse(find("facts").textContent);
const queue = [];
let isWorking = false;
let stream = null;
window.results = []; // for scripts and tests: what each photo was found to be, in the order of the answers

// ---- the model, in a worker

const waiting = new Map();
let lastId = 0;
const worker = startWorker();
const model = ask("open", facts);

function startWorker() {
  // Begun from a blob a worker keeps to this page's policy, which lets nothing out; begun from a file it would not.
  const code = `import ${JSON.stringify(new URL("worker.js", location.href).href)};`;
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const started = new Worker(address, { type: "module" });
  started.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if ("error" in data) reject(Object.assign(new Error(data.error), { detail: data.detail }));
    else resolve(data.answer);
  };
  started.onerror = ({ message }) => {
    const error = new Error("A part of this page cannot be loaded. Reload the page.");
    waiting.forEach(({ reject }) => reject(Object.assign(error, { detail: message || "worker.js" })));
  };
  return started;
}

function ask(kind, request, transferred = []) {
  lastId += 1;
  const id = lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, kind, ...request }, transferred);
  });
}

model.then(
  ({ isFaithful }) => {
    if (!queue.length) say("Ready.");
    if (!isFaithful) complain("This browser alters what a page reads of a picture, so that you are not recognised by it. The answers may be wrong.");
    keepOffline();
  },
  (error) => {
    say("");
    complain(location.protocol === "file:" ? AS_FILE : error.message, error.detail);
  },
);

async function keepOffline() {
  if (!navigator.serviceWorker) return; // as on http:// elsewhere than on this computer
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
    find("offline").hidden = false;
  } catch {
    // without room, or in a private window: the page works, as long as it is open
  }
}

// ---- photos and their cards

function take(photos) {
  const before = find("cards").firstChild;
  for (const photo of photos) {
    const card = addCard(photo.name, before);
    queue.push({ card, photo });
  }
  complain("");
  work();
}

async function work() {
  if (isWorking) return;
  isWorking = true;
  let done = 0;
  while (queue.length) {
    say(`Looking at photo ${done + 1} of ${done + queue.length} …`);
    await showResult(queue.shift());
    done += 1;
  }
  isWorking = false;
  if (done) say(summarise(done));
}

function summarise(done) {
  const latest = window.results[window.results.length - 1];
  if (done > 1) return `${done} photos looked at.`;
  return `${latest.name}: ${latest.error || `${latest.label}, ${percent(latest.probabilities[latest.label])}.`}`;
}

async function showResult({ card, photo: { name, image } }) {
  const result = { name };
  try {
    await model;
    const transferred = image instanceof ImageBitmap ? [image] : [];
    const { shares, width, height, thumbnail } = await ask("look", { photo: image, wantsThumbnail: true }, transferred);
    const order = rank(shares);
    result.label = facts.classes[order[0]];
    result.probabilities = Object.fromEntries(order.map((at) => [facts.classes[at], shares[at]]));
    card.querySelector(".blank").replaceWith(showThumbnail(thumbnail, name, result.label));
    card.insertBefore(showAnswers(make("ol", "answers"), shares), card.querySelector(".file"));
    card.querySelector(".file").append(make("span", "size", `${width} × ${height}`));
  } catch (error) {
    result.error = error.message;
    card.querySelector(".blank").textContent = "✗";
    const problem = make("div", "problem");
    problem.append(make("p", "", error.message), ...showDetail(error.detail));
    card.insertBefore(problem, card.querySelector(".file"));
  }
  card.classList.remove("is-waiting");
  window.results.push(result);
}

function addCard(name, before) {
  const card = make("li", "card is-waiting");
  const file = make("p", "file");
  file.append(make("bdi", "", name));
  const blank = make("div", "blank", "…");
  blank.setAttribute("aria-hidden", "true");
  card.append(blank, file);
  find("cards").insertBefore(card, before);
  find("clear").hidden = false;
  return card;
}

function showThumbnail(blob, name, label) {
  const image = make("img");
  image.src = URL.createObjectURL(blob);
  image.onload = () => URL.revokeObjectURL(image.src);
  image.alt = `${name}, named ${label}`;
  return image;
}

function showAnswers(list, shares) {
  const rows = rank(shares).slice(0, SHOWN).map((at) => {
    const row = make("li");
    const words = make("span", "words");
    const name = make("span");
    name.append(make("bdi", "", facts.classes[at]));
    words.append(name, make("span", "", percent(shares[at])));
    const bar = make("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    bar.append(make("i"));
    bar.firstChild.style.width = `${(100 * shares[at]).toFixed(1)}%`;
    row.append(words, bar);
    return row;
  });
  list.replaceChildren(...rows);
  return list;
}

function clear() {
  queue.length = 0;
  window.results.length = 0;
  find("cards").replaceChildren();
  find("clear").hidden = true;
  find("files").focus();
  complain("");
  say("Ready.");
}

// ---- the camera

async function openCamera(deviceId) {
  complain("");
  if (!navigator.mediaDevices) {
    complain("The camera needs a page from https:// or from localhost. Choose photos instead.");
    return;
  }
  const wish = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
  try {
    closeCamera();
    stream = await navigator.mediaDevices.getUserMedia({ video: { ...wish, width: { ideal: 1280 } } });
  } catch (error) {
    complain(CAMERA_PROBLEMS[error.name] || "The camera cannot be used. Choose photos instead.", error.message);
    return;
  }
  find("video").srcObject = stream;
  await find("video").play();
  find("finder").hidden = false;
  find("camera").setAttribute("aria-expanded", "true");
  find("turn").hidden = (await listCameras()).length < 2;
  find("keep").focus();
  watch(stream);
}

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  find("finder").hidden = true;
  find("camera").setAttribute("aria-expanded", "false");
  find("live").replaceChildren();
}

async function watch(watched) {
  await model;
  while (stream === watched) {
    if (!document.hidden) await showLive(watched);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

async function showLive(watched) {
  try {
    const image = await createImageBitmap(find("video"));
    const { shares } = await ask("look", { photo: image, wantsThumbnail: false }, [image]);
    if (stream === watched) showAnswers(find("live"), shares);
  } catch {
    // a frame that is not there yet; the next one will be
  }
}

async function keepPicture() {
  const image = await createImageBitmap(find("video"));
  take([{ name: `camera ${new Date().toLocaleTimeString()}`, image }]);
}

async function turnCamera() {
  const cameras = await listCameras();
  const current = stream.getVideoTracks()[0].getSettings().deviceId;
  const at = cameras.findIndex(({ deviceId }) => deviceId === current);
  await openCamera(cameras[(at + 1) % cameras.length].deviceId);
}

async function listCameras() {
  return (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
}

// ---- words

function say(text) {
  find("status").textContent = text;
}

function complain(text, detail = "") {
  find("problem").replaceChildren(make("p", "", text), ...showDetail(detail));
  find("problem").hidden = !text;
}

// What a program has said, folded away; nothing where it has said nothing.
function showDetail(detail) {
  if (!detail) return [];
  const folded = make("details", "detail");
  folded.append(make("summary", "", "Technical detail"), make("code", "", detail));
  return [folded];
}

function percent(share) {
  if (share < 0.0005) return share ? "<\u20090.1\u00a0%" : "0\u00a0%";
  return `${Math.min(100 * share, share < 1 ? 99.9 : 100).toFixed(1)}\u00a0%`; // only what is really all reads 100 %
}

function rank(shares) {
  return [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// ---- what people do

function takeFiles(files) {
  if (files.length) take([...files].map((file) => ({ name: file.name, image: file })));
}

find("files").addEventListener("change", ({ target }) => {
  takeFiles(target.files);
  target.value = ""; // so that the same photo can be chosen again
});
find("camera").addEventListener("click", () => (stream ? closeCamera() : openCamera()));
find("keep").addEventListener("click", keepPicture);
find("turn").addEventListener("click", turnCamera);
find("stop").addEventListener("click", () => {
  closeCamera();
  find("camera").focus();
});
find("clear").addEventListener("click", clear);
document.addEventListener("paste", ({ clipboardData }) => takeFiles(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("is-over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("is-over");
  if (event.dataTransfer.files.length) takeFiles(event.dataTransfer.files);
  else complain("What was dropped is no file. Save the photo first, or copy and paste it.");
});
