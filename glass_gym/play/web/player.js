// The page: keys, touch, buttons, canvases. The world itself is in glass.js.
import { $, codeOf, makeClip, makeCodes, makePad, onGamepad, onPicture, positionIn } from "./controls.js";
import { AGAIN, Game, NoAgentError, World, engine, jsonOf, pack, unpack } from "./glass.js";

const LONGEST = 4000; // actions that a link may carry
const FILM = 8; // steps of a local action's film
const KEYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const held = new Set(); // keys, and pointers on the pad as "pad:x,y"
let code = null; // the local action that is held, or was tapped since the last step
let tapped = new Set(); // keys pressed since the last step
let world = null, human = null, agent = null, seed = 0, replay = null;
let running = true, busy = false, turn = 0, films = [], ticks = [];

const say = (text) => { $("message").textContent = text; };

// --- what is shown ------------------------------------------------------------------------------------------

/** A part of a frame (RGB bytes) as ImageData. */
function cut(frame, x, y, width, height) {
  const image = new ImageData(width, height);
  for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) {
    const from = 3 * ((y + r) * world.about.width + x + c), to = 4 * (r * width + c);
    for (let p = 0; p < 3; p++) image.data[to + p] = frame[from + p];
    image.data[to + 3] = 255;
  }
  return image;
}

function paint(figure, game) {
  const { width, height, pixel_aspect: aspect, reach } = world.about;
  const canvas = figure.querySelector("canvas");
  const scale = Math.max(1, Math.floor(768 / (width * aspect)));
  const [w, h] = [Math.round(width * aspect * scale), height * scale];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(cut(game.frame, 0, 0, width, height), 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, w, h);
  const [x, y] = game.target;
  context.lineWidth = 1.5 * scale;
  context.strokeStyle = "#ffe600";
  context.beginPath();
  context.ellipse((x + 0.5) * aspect * scale, (y + 0.5) * scale, reach.radius * aspect * scale, reach.radius * scale, 0, 0, 2 * Math.PI);
  context.stroke();
  const { shift_names: shifts, code_names: codes } = world.about;
  const who = game === agent ? "agent" : replay ? "replay" : "you";
  figure.querySelector("figcaption").textContent = game.last
    ? `${who}: ${shifts[game.last[0]]} + ${codes[game.last[1]]}, ${game.distance.toFixed(0)} px to go`
    : `${who}: walk to the ring`;
}

function show() {
  if (!$("human").hidden) paint($("human"), human);
  if (!$("agent").hidden) paint($("agent"), agent);
  const now = performance.now();
  ticks = ticks.filter((t) => now - t < 2000);
  const line = (game) => `${game.reached} reached${game.best ? `, best in ${game.best} steps` : ""}`;
  const parts = [];
  if (!$("human").hidden) parts.push(`${replay ? "replay" : "you"}: ${line(human)}`);
  if (!$("agent").hidden) parts.push(`agent: ${line(agent)}`);
  $("score").textContent = [...parts, `${(ticks.length / 2).toFixed(0)} frames a second, ${engine}`].join(" · ");
}

/** A small film of each local action, starting from the game's state. */
async function makeFilms(game) {
  const { width, height, agent_radius: radius, code_names: names } = world.about;
  const mine = ++turn;
  const [first, at] = [game.state, game.position];
  films = [];
  const side = Math.min(height, width, 4 * radius);
  for (let k = 0; k < names.length; k++) {
    let state = first;
    const pictures = [];
    for (let t = 0; t < FILM; t++) {
      const out = await exclusive(() => world.step(state, 0, k));
      if (mine !== turn) return; // another world was chosen
      state = out.state;
      const [x, y] = at.map((v, a) => Math.round(Math.min(Math.max(v - side / 2, 0), [width, height][a] - side)));
      pictures.push(cut(out.frame, x, y, side, side));
    }
    const canvas = $("codes").children[k].querySelector("canvas");
    canvas.width = canvas.height = side;
    films.push({ canvas, pictures });
  }
}
setInterval(() => {
  const t = Math.floor(performance.now() / 150) % (FILM + 3);
  for (const { canvas, pictures } of films) canvas.getContext("2d").putImageData(pictures[Math.min(t, FILM - 1)], 0, 0);
}, 150);

// --- what is done -------------------------------------------------------------------------------------------

let queue = Promise.resolve();
/** One call of the networks at a time. */
function exclusive(task) {
  const done = queue.then(task);
  queue = done.catch(() => {});
  return done;
}

function wanted() {
  let x = 0, y = 0;
  for (const key of new Set([...held, ...tapped])) {
    const way = KEYS[key] ?? (key.startsWith("pad:") ? key.slice(4).split(",").map(Number) : null);
    if (way) { x += Math.sign(way[0]); y += Math.sign(way[1]); }
  }
  tapped = new Set();
  return [Math.sign(x), Math.sign(y)];
}

/** The shift nearest to a direction. */
export function shiftOf([x, y], shifts) {
  if (!x && !y) return 0;
  const size = shifts.reduce((m, s) => [Math.max(m[0], Math.abs(s[0])), Math.max(m[1], Math.abs(s[1]))], [1e-6, 1e-6]);
  let best = 0, least = Infinity;
  shifts.forEach(([dx, dy], i) => {
    const off = Math.hypot(dx / size[0] - x, dy / size[1] - y);
    if (off < least) { least = off; best = i; }
  });
  return best;
}

async function play(game) {
  if (game.over) return game.reset();
  if (game === agent) return game.step(...(await game.act()));
  if (replay) {
    if (!replay.length) {
      replay = null;
      say("the end of the replay: go on from here");
      return undefined;
    }
    const action = replay.shift();
    if (action === AGAIN) return game.again();
    while (replay.clicks.length && replay.clicks[0][0] <= game.actions.length) game.aim(replay.clicks.shift().slice(1));
    const count = world.about.code_names.length;
    return game.step(Math.floor(action / count), action % count);
  }
  const shift = shiftOf(wanted(), world.about.shifts);
  const chosen = code;
  if (!heldCodes.size) code = null;
  return game.step(shift, chosen);
}

async function tick() {
  const began = performance.now();
  if (running && world && human && !busy) {
    busy = true;
    try {
      await exclusive(async () => {
        if (!$("human").hidden) await play(human);
        if (!$("agent").hidden) await play(agent);
      });
      ticks.push(performance.now());
      show();
    } catch (error) { running = false; say(String(error.message ?? error)); }
    busy = false;
  }
  setTimeout(tick, Math.max(0, 1000 / Number($("fps").value) - (performance.now() - began)));
}

async function choose(name, from = {}) {
  seed = from.seed ?? Math.floor(Math.random() * 2 ** 31);
  replay = null;
  turn++; // films of the world before end
  for (const button of $("worlds").children) button.setAttribute("aria-current", button.dataset.name === name);
  say(`loading ${name}`);
  const next = await World.load(`worlds/${encodeURIComponent(name)}`, (what) => say(`loading ${name}: ${what}`));
  await exclusive(async () => {
    world = next;
    world.name = name;
    human = new Game(world, seed);
    await human.reset();
    agent = null;
    if (world.hasPolicy) {
      agent = new Game(world, seed);
      await agent.reset();
    }
  });
  if (from.actions) {
    const most = world.about.shifts.length * world.about.code_names.length;
    replay = from.actions.filter((action) => action < most || action === AGAIN);
    replay.clicks = from.clicks ?? [];
  }
  buttons();
  say("");
  show();
  makeFilms(human).catch((error) => say(String(error.message ?? error)));
}

const heldCodes = new Set();
function holdCode(k, element) { heldCodes.add(k); code = k; element?.classList.add("held"); }
function freeCode(k, element) { heldCodes.delete(k); element?.classList.remove("held"); }

function buttons() {
  makeCodes(world.about.code_names, holdCode, freeCode);
  const options = [["human", "you"]];
  if (agent) options.push(["agent", "the trained agent"], ["both", "both, on the same targets"]);
  $("who").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  who();
}

function who() {
  const chosen = $("who").value;
  $("human").hidden = chosen === "agent";
  $("agent").hidden = chosen === "human";
}

// --- keys, pointers, files ----------------------------------------------------------------------------------

/** A key, or what a gamepad stands for, went down; returns whether it does anything. */
function press(key) {
  const digit = codeOf(key);
  if (key in KEYS) { held.add(key); tapped.add(key); }
  else if (digit !== null && world && digit < world.about.code_names.length) holdCode(digit, $("codes").children[digit]);
  else if (digit !== null && world) say(`no local action ${digit}: this world has 0 to ${world.about.code_names.length - 1}`);
  else if (key === " ") $("pause").click();
  else if (key === "r") $("again").click();
  else return false;
  return true;
}
function release(key) {
  held.delete(key);
  const digit = codeOf(key);
  if (digit !== null) freeCode(digit, $("codes").children[digit]);
}
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (press(event.key)) event.preventDefault();
});
addEventListener("keyup", (event) => release(event.key));
onGamepad(press, release);
addEventListener("blur", () => { // the page is not told of keys released elsewhere
  held.clear();
  heldCodes.clear();
  for (const button of document.querySelectorAll(".held")) button.classList.remove("held");
});

const padKey = (way) => `pad:${way[0]},${way[1]}`;
makePad((way) => { held.add(padKey(way)); tapped.add(padKey(way)); }, (way) => held.delete(padKey(way)));

for (const [id, of] of [["human", () => human], ["agent", () => agent]]) {
  $(id).querySelector("canvas").addEventListener("pointerdown", (event) => {
    const game = of();
    if (!game || replay) return;
    const at = positionIn(event.target, event);
    if (!at) return;
    game.aim([at[0] * world.about.width, at[1] * world.about.height]);
    show();
  });
}

$("pause").addEventListener("click", () => {
  running = !running;
  $("pause").textContent = running ? "pause" : "go on";
});
$("again").addEventListener("click", () => {
  if (!human) return;
  replay = null;
  running = true;
  $("pause").textContent = "pause";
  say("");
  exclusive(async () => { for (const game of [human, agent]) await game?.again(); }).then(show);
});
$("who").addEventListener("change", () => { who(); show(); $("who").blur(); });

makeClip(
  () => ($("human").hidden ? $("agent") : $("human")).querySelector("canvas"), () => Number($("fps").value), () => world.name);

/** A link that replays a game. */
export function linkTo(game) {
  const parts = new URLSearchParams({ world: world.name, seed });
  if (game.actions.length) parts.set("actions", pack(game.actions.slice(0, LONGEST)));
  if (game.clicks.length) parts.set("clicks", game.clicks.map((c) => c.join(".")).join("_"));
  return `${location.href.split("#")[0]}#${parts}`;
}
$("link").addEventListener("click", async () => {
  const link = linkTo(human);
  history.replaceState(null, "", link);
  let told = "the address bar has it";
  try { await navigator.clipboard.writeText(link); told = "copied"; } catch { /* not allowed here */ }
  const cut = human.actions.length > LONGEST ? `, the first ${LONGEST} steps` : "";
  say(human.pictured ? `a game from a picture of your own cannot be linked: ${told}, without the picture` : `${told}${cut}`);
});

async function startFrom(file) {
  try {
    const picture = await createImageBitmap(file);
    const { width, height, pixel_aspect: aspect } = world.about;
    const scale = Math.max((width * aspect) / picture.width, height / picture.height); // the centre is cropped
    const [w, h] = [(width * aspect) / scale, height / scale];
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    const exact = picture.width === width && picture.height === height;
    if (exact) context.drawImage(picture, 0, 0);
    else context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
    replay = null;
    await exclusive(async () => {
      await human.reset(context.getImageData(0, 0, width, height));
      human.pictured = true;
    });
    running = true;
    $("pause").textContent = "pause";
    say("");
    show();
  } catch (error) {
    say(error instanceof NoAgentError ? error.message : `${file.name ?? "this"}: no picture that can be read`);
  }
}
onPicture(startFrom);

// --- begin --------------------------------------------------------------------------------------------------

function asked() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const out = { name: parts.get("world") };
  const number = Number(parts.get("seed"));
  if (parts.has("seed") && Number.isInteger(number) && number >= 0 && number < 2 ** 32) out.seed = number;
  try {
    if (parts.has("actions")) out.actions = unpack(parts.get("actions")).slice(0, LONGEST);
    if (parts.has("clicks")) out.clicks = parts.get("clicks").split("_").map((c) => c.split(".").map(Number)).filter((c) => c.length === 3 && c.every(Number.isFinite));
  } catch { say("this link is damaged: it plays from its seed alone"); }
  return out;
}

async function begin() {
  const names = await jsonOf("worlds.json");
  $("worlds").replaceChildren(...names.map((name) => {
    const button = document.createElement("button");
    button.textContent = button.dataset.name = name;
    button.addEventListener("click", () => { button.blur(); choose(name).catch((error) => say(String(error.message ?? error))); });
    return button;
  }));
  const from = asked();
  const known = names.includes(from.name);
  await choose(known ? from.name : names[0], known ? from : {});
  if (from.name && !known) say(`no world called ${from.name} here`);
}
begin().then(tick, (error) => say(String(error.message ?? error)));

// for tests and the browser's console
globalThis.glass = {
  Game, World,
  get game() { return human; },
  get agent() { return agent; },
  get world() { return world; },
  get ready() { return Boolean(world && human?.frame && films.length === world.about.code_names.length); },
  pause() { running = false; },
  engine, exclusive, linkTo: () => linkTo(human),
};
