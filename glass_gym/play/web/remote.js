// glass-play --web: frames of the simulator that runs where glass-play does; keys, clicks, touches, pictures go back.
import { $, makeClip, makeCodes, makePad, onPicture, placeIn } from "./controls.js";

const KEYS = { ArrowRight: "right", ArrowLeft: "left", ArrowUp: "up", ArrowDown: "down", " ": "space", Shift: "left shift" };
const keysOf = ([x, y]) => [["left", "", "right"][x + 1], ["up", "", "down"][y + 1]].filter(Boolean);
const canvas = $("human").querySelector("canvas");

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket${location.search}`);
socket.binaryType = "arraybuffer";
let about = null, number = 0, drawing = false, next = null, pass = "", films = [];
const sent = new Map(); // when events went out, until a frame has seen them

/** What tests and curious people look at: ms from key to pixel. */
globalThis.glass = { delays: [], plays: null, frames: 0, get films() { return films.length; } };

const say = (text) => { $("message").textContent = text; };

function send(kind, rest = {}) {
  if (socket.readyState !== WebSocket.OPEN || !glass.plays) return;
  number += 1;
  sent.set(number, performance.now());
  socket.send(JSON.stringify({ number, kind, ...rest }));
}
const tap = (key) => { send("press", { key }); send("release", { key }); };

async function draw(data) {
  const length = new DataView(data).getUint32(0);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/png" }));
  const scale = Math.max(1, Math.floor(1024 / picture.width));
  if (canvas.width !== picture.width * scale) { canvas.width = picture.width * scale; canvas.height = picture.height * scale; }
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const [who = "", score = "", hint = ""] = told.lines;
  $("human").querySelector("figcaption").textContent = who;
  $("score").textContent = score;
  $("hint").textContent = hint;
  $("page").textContent = told.page.join("\n");
  $("page").hidden = !told.page.length;
  $("pause").textContent = who.includes("PAUSED") ? "go on" : "pause";
  if (document.activeElement !== $("who")) $("who").value = who.startsWith("agent") ? "agent" : "human";
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
    try { await draw(data); } catch (error) { say(String(error.message ?? error)); }
  }
  drawing = false;
}

socket.addEventListener("message", (event) => {
  if (typeof event.data !== "string") { next = event.data; drawNext(); return; }
  const told = JSON.parse(event.data);
  if ("plays" in told) {
    glass.plays = told.plays;
    pass = told.pass ?? "";
    for (const part of $("controls").querySelectorAll("button, input, select")) part.disabled = !told.plays && part.id !== "clip";
    say(told.plays ? "" : "somebody else plays: you watch");
  } else { about = told; ready(); }
});
socket.addEventListener("close", (event) => {
  const why = { 1013: "too many browsers watch already", 1008: "refused", 1006: "the player has ended, or the token is wrong" };
  say(why[event.code] ?? "the player has ended");
});

async function ready() {
  document.title = about.title;
  document.querySelector("h1").textContent = about.title;
  document.querySelector("footer").textContent = "Every frame but the first is generated, where glass-play runs, by a network that learned the world from video without labels.";
  for (const id of ["worlds", "agent", "link"]) $(id).hidden = true;
  const options = [["human", "you"], ...(about.agent ? [["agent", "the trained agent"]] : [])];
  $("who").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  $("fps").value = about.fps;
  makeCodes(about.codes.slice(0, 10), (k) => send("press", { key: String((k + 1) % 10) }), (k) => send("release", { key: String((k + 1) % 10) }));
  makePad((way) => keysOf(way).forEach((key) => send("press", { key })), (way) => keysOf(way).forEach((key) => send("release", { key })));
  films = await Promise.all(about.films.slice(0, 10).map(async (strip, k) => {
    const picture = new Image();
    picture.src = strip;
    await picture.decode();
    const small = $("codes").children[k].querySelector("canvas");
    small.width = small.height = picture.height;
    return { small, picture };
  }));
}
setInterval(() => {
  for (const { small, picture } of films) {
    const count = picture.width / picture.height;
    const t = Math.min(Math.floor(performance.now() / 150) % (count + 3), count - 1);
    small.getContext("2d").drawImage(picture, -t * picture.height, 0);
  }
}, 150);

const nameOf = (event) => KEYS[event.key] ?? (event.key.length === 1 ? event.key.toLowerCase() : null);
addEventListener("keydown", (event) => {
  const key = nameOf(event);
  if (!key || event.target.matches("input, select") || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  send("press", { key });
  event.preventDefault();
});
addEventListener("keyup", (event) => { const key = nameOf(event); if (key) send("release", { key }); });
addEventListener("blur", () => send("release", { key: "" })); // keys let go elsewhere are never reported
canvas.addEventListener("pointerdown", (event) => {
  const place = placeIn(canvas, event);
  if (about && place) send("click", { place: [place[0] * about.width, place[1] * about.height] });
});

$("pause").addEventListener("click", () => { $("pause").blur(); tap("space"); });
$("again").addEventListener("click", () => { $("again").blur(); tap("r"); });
$("who").addEventListener("change", () => { $("who").blur(); tap("a"); });
$("fps").addEventListener("input", () => send("speed", { place: [Number($("fps").value), 0] }));
$("fps").addEventListener("change", () => $("fps").blur());
makeClip(() => canvas, () => Number($("fps").value), () => "glass-play");
onPicture(async (file) => {
  const answer = await fetch(`/picture${location.search}`, { method: "POST", headers: { "X-Glass-Pass": pass }, body: file });
  if (!answer.ok) say(await answer.text());
  $("picture").value = "";
  $("picture").blur();
});
