// glass-play --web: frames of the simulator that runs where glass-play does; keys, clicks and touches go back to it.
const $ = (id) => document.getElementById(id);
const KEYS = { ArrowRight: "right", ArrowLeft: "left", ArrowUp: "up", ArrowDown: "down", " ": "space", Shift: "left shift" };
const PAD = [["left", "up"], ["up"], ["right", "up"], ["left"], [], ["right"], ["left", "down"], ["down"], ["right", "down"]];
const ARROWS = "↖↑↗← →↙↓↘";

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket${location.search}`);
socket.binaryType = "arraybuffer";
let about = null, number = 0, drawing = false, next = null;
const sent = new Map(); // when events went out, until a frame has seen them

/** What tests and curious people look at: ms from key to pixel. */
globalThis.glass = { delays: [], plays: null, frames: 0 };

function send(kind, rest = {}) {
  if (socket.readyState !== WebSocket.OPEN || !glass.plays) return;
  number += 1;
  sent.set(number, performance.now());
  socket.send(JSON.stringify({ number, kind, ...rest }));
}

async function draw(data) {
  const length = new DataView(data).getUint32(0);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/png" }));
  const canvas = $("frame");
  const scale = Math.max(1, Math.floor(1024 / picture.width));
  if (canvas.width !== picture.width * scale) { canvas.width = picture.width * scale; canvas.height = picture.height * scale; }
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  $("lines").textContent = told.lines.join("\n");
  $("page").textContent = told.page.join("\n");
  $("page").hidden = !told.page.length;
  glass.frames += 1;
  for (const [n, at] of sent) if (n <= told.seen) { glass.delays.push(performance.now() - at); sent.delete(n); }
}

/** The newest frame, when the one before is drawn. */
async function drawNext() {
  if (drawing) return;
  drawing = true;
  while (next) {
    const data = next;
    next = null;
    try { await draw(data); } catch (error) { $("message").textContent = String(error.message ?? error); }
  }
  drawing = false;
}

socket.addEventListener("message", (event) => {
  if (typeof event.data !== "string") { next = event.data; drawNext(); return; }
  const told = JSON.parse(event.data);
  if ("plays" in told) {
    glass.plays = told.plays;
    $("message").textContent = told.plays ? "" : "somebody else plays: you watch";
  } else { about = told; ready(); }
});
socket.addEventListener("close", (event) => {
  const why = { 1013: "too many browsers watch already", 1008: "refused", 1006: "the player has ended, or the token is wrong" };
  $("message").textContent = why[event.code] ?? "the player has ended";
});

function hold(element, keys) {
  element.addEventListener("pointerdown", () => { element.classList.add("held"); for (const key of keys) send("press", { key }); });
  for (const end of ["pointerup", "pointerleave", "pointercancel"])
    element.addEventListener(end, () => {
      if (!element.classList.contains("held")) return;
      element.classList.remove("held");
      for (const key of keys) send("release", { key });
    });
}

function ready() {
  document.title = $("title").textContent = about.title;
  $("message").textContent = "";
  $("codes").replaceChildren(...about.codes.slice(0, 10).map((name, k) => {
    const button = document.createElement("button");
    button.textContent = `${(k + 1) % 10} ${name}`;
    hold(button, [String((k + 1) % 10)]);
    return button;
  }));
  $("pad").replaceChildren(...PAD.map((keys, i) => {
    const button = document.createElement("button");
    button.textContent = ARROWS[i];
    button.disabled = !keys.length;
    hold(button, keys);
    return button;
  }));
}

const nameOf = (event) => KEYS[event.key] ?? (event.key.length === 1 ? event.key.toLowerCase() : null);
addEventListener("keydown", (event) => {
  const key = nameOf(event);
  if (!key || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  send("press", { key });
  event.preventDefault();
});
addEventListener("keyup", (event) => { const key = nameOf(event); if (key) send("release", { key }); });
addEventListener("blur", () => send("release", { key: "" })); // keys let go elsewhere are never reported
$("frame").addEventListener("pointerdown", (event) => {
  if (!about) return;
  const box = event.target.getBoundingClientRect();
  const ratio = Math.min(box.width / event.target.width, box.height / event.target.height);
  const size = [event.target.width * ratio, event.target.height * ratio];
  const x = (event.clientX - box.left - (box.width - size[0]) / 2) / size[0];
  const y = (event.clientY - box.top - (box.height - size[1]) / 2) / size[1];
  send("click", { place: [x * about.width, y * about.height] });
});
