// A world in the page: the graphs that glass-export wrote, run by ONNX Runtime. Frames are RGBA, places are px.
const here = new URL("./", import.meta.url).href;
const exported = await (await fetch(`${here}runtime.json`)).json();
const wished = new URLSearchParams(location.hash.slice(1)).get("engine"); // wasm, webgpu, or whichever is fast
const adapter = exported.webgpu && wished !== "wasm" ? await (navigator.gpu?.requestAdapter() ?? null) : null;
const played = adapter?.isFallbackAdapter ?? adapter?.info?.isFallbackAdapter; // by the processor: slow
const gpu = adapter && (!played || wished === "webgpu");

/** ONNX Runtime on the graphics card where there is one (and the page was exported for it), else in WebAssembly. */
const ort = await import(`./runtime/ort.${gpu ? "webgpu" : "wasm"}.min.mjs`);
/** Which of the two it is. */
export const engine = gpu ? "WebGPU" : "WebAssembly";
ort.env.wasm.wasmPaths = `${here}runtime/`;
// threads need a page that is isolated (COOP and COEP headers); on any other host one thread does it
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
ort.env.logLevel = "error";

const REACH = 3; // a first window is moved by up to so many px, to where it is drawn best
/** In a list of actions: the episode was begun anew. */
export const AGAIN = 0xffff;
const BATCH = 7; // windows that are tried at once

/** Numbers in [0, 1) that follow from a seed (mulberry32). */
export class Random {
  constructor(seed) { this.state = seed >>> 0; }
  next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let x = this.state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  }
}

/** No agent in a picture. */
export class NoAgentError extends Error {}

async function bytesOf(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

const float = (data, shape) => new ort.Tensor("float32", Float32Array.from(data), shape);

/** A world and what it can do; its states are objects of tensors with one row. */
export class World {
  /** Load worlds/NAME. */
  static async load(folder, tell = () => {}) {
    const about = await (await fetch(`${folder}/world.json`)).json();
    if (about.format !== 1) throw new Error(`${folder}: format ${about.format}; this page reads 1`);
    const world = new World();
    world.about = about;
    world.sessions = {};
    tell("weights");
    const weights = await bytesOf(`${folder}/${about.weights}`);
    for (const [name, graph] of Object.entries(about.graphs)) {
      tell(name);
      const externalData = [{ path: about.weights, data: weights }];
      const executionProviders = gpu ? ["webgpu", "wasm"] : ["wasm"];
      world.sessions[name] = await ort.InferenceSession.create(await bytesOf(`${folder}/${graph.file}`), {
        executionProviders, externalData, graphOptimizationLevel: "all", logSeverityLevel: 3,
      });
    }
    tell("start frames");
    const picture = await createImageBitmap(await (await fetch(`${folder}/${about.start_frames.file}`)).blob());
    const sheet = new OffscreenCanvas(picture.width, picture.height).getContext("2d", { willReadFrequently: true });
    sheet.drawImage(picture, 0, 0);
    world.starts = Array.from({ length: about.start_frames.count }, (_, i) =>
      sheet.getImageData(0, i * about.height, about.width, about.height));
    return world;
  }

  /** Call a graph; inputs that it does not know are left out. */
  async run(name, inputs) {
    const session = this.sessions[name];
    const known = Object.fromEntries(session.inputNames.map((key) => [key, inputs[key]]));
    return session.run(known);
  }

  get hasPrior() { return "prior" in this.sessions; }
  get hasPolicy() { return "policy" in this.sessions; }

  /** The state of start frame `index`. */
  async start(index) {
    return this.begin(this.starts[index], this.about.start_positions[index], this.about.start_origins[index]);
  }

  /** The state of a picture (ImageData of the world's size), with its agent at a known place or wherever it is found. */
  async begin(image, place = null, origin = null) {
    const { height, width } = this.about;
    const rgb = new Uint8Array(height * width * 3);
    for (let i = 0; i < height * width; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = image.data[4 * i + c];
    const frame = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
    const seen = await this.run("segment", { frame });
    const known = place !== null;
    const centre = seen.centre.data;
    if (!known) place = this.about.settles ? [Math.round(centre[0]), Math.round(centre[1])] : [...centre];
    if (!known && this.about.settles) place = await this.settle(frame, seen.mask, place);
    const begun = await this.run("begin", { frame, mask: seen.mask, place: float(place, [1, 2]) });
    if (!known) this.check(begun.layer, seen.mask);
    const state = { ...begun, position: float(place, [1, 2]), background: seen.background };
    delete state.error;
    return { state, origin: origin ?? [centre[0] - place[0], centre[1] - place[1]], frame: rgb };
  }

  /** Of the places about one, that from which the agent is drawn best. */
  async settle(frame, mask, place) {
    const offsets = [];
    for (let y = -REACH; y <= REACH; y++) for (let x = -REACH; x <= REACH; x++) offsets.push([place[0] + x, place[1] + y]);
    const many = (tensor, Kind) => {
      const data = new Kind(tensor.data.length * BATCH);
      for (let i = 0; i < BATCH; i++) data.set(tensor.data, i * tensor.data.length);
      return new ort.Tensor(tensor.type, data, [BATCH, ...tensor.dims.slice(1)]);
    };
    const frames = many(frame, Uint8Array), masks = many(mask, Float32Array);
    let best = Infinity, found = place;
    for (let first = 0; first < offsets.length; first += BATCH) {
      const some = offsets.slice(first, first + BATCH);
      const { error } = await this.run("begin", { frame: frames, mask: masks, place: float(some.flat(), [BATCH, 2]) });
      error.data.forEach((value, i) => { if (value < best) { best = value; found = some[i]; } });
    }
    return found;
  }

  check(layer, mask) {
    const mass = massOf(layer), all = mask.data.reduce((a, b) => a + b, 0);
    const { least_mass: least, least_gathered: gathered, usual_mass: usual } = this.about;
    if (mass < least || mass < gathered * all)
      throw new NoAgentError(`no agent found in this picture: the mask covers ${mass.toFixed(0)} px where there is most of it, ` +
        `${(100 * mass / Math.max(all, 1e-6)).toFixed(0)} % of the whole; this world's agents cover about ${usual.toFixed(0)} px`);
  }

  /** The next state and its frame (RGB bytes). */
  async step(state, shift, code) {
    const inputs = { ...state, shift: float(this.about.shifts[shift], [1, 2]),
                     code: new ort.Tensor("int64", BigInt64Array.from([BigInt(code)]), [1]) };
    const out = await this.run("step", inputs);
    const next = { background: state.background };
    for (const [key, value] of Object.entries(out)) if (key !== "frame") next[key.replace(/^next_/, "")] = value;
    return { state: next, frame: out.frame.data };
  }

  /** p(code | state, shift), or null in a world without a prior. */
  async prior(state, shift) {
    if (!this.hasPrior) return null;
    const { probability } = await this.run("prior", { ...state, shifts: float(this.about.shifts[shift], [1, 1, 2]) });
    return probability.data;
  }

  /** What the exported policy does: [shift, code]. */
  async act(frame, target) {
    const { height, width } = this.about;
    const inputs = { frame: new ort.Tensor("uint8", frame, [1, height, width, 3]), target: float(target, [1, 2]) };
    return Array.from((await this.run("policy", inputs)).action.data, Number);
  }
}

function massOf(layer) {
  const size = layer.dims[2] * layer.dims[3];
  let sum = 0;
  for (let i = 3 * size; i < 4 * size; i++) sum += layer.data[i];
  return sum;
}

/** Episodes of one world: a target to walk to, counters, and what was done, so that it can be done again. */
export class Game {
  constructor(world, seed = 0) {
    this.world = world;
    this.random = new Random(seed); // of episodes
    this.chance = new Random(seed ^ 0x5bd1e995); // of codes that nobody presses: a replay draws none
    this.reached = 0;
    this.best = null;
    this.actions = []; // what was done, AGAIN where an episode was begun anew
    this.clicks = []; // [how many actions before, x, y]
  }

  /** Move the target. */
  aim(place) {
    this.target = place.map((x) => Math.round(x));
    this.clicks.push([this.actions.length, ...this.target]);
  }

  /** Begin anew before the target is reached. */
  async again() {
    this.actions.push(AGAIN);
    await this.reset();
  }

  /** A new episode from a start frame, or from a picture. */
  async reset(image = null) {
    const { starts } = this.world;
    const index = Math.floor(this.random.next() * starts.length);
    const begun = image ? await this.world.begin(image) : await this.world.start(index);
    this.state = begun.state;
    this.origin = begun.origin;
    this.frame = begun.frame;
    this.steps = 0;
    this.over = false;
    this.last = null;
    this.target = this.draw();
  }

  get place() {
    const { data } = this.state.position;
    return [data[0] + this.origin[0], data[1] + this.origin[1]];
  }
  get distance() { return Math.hypot(this.place[0] - this.target[0], this.place[1] - this.target[1]); }

  /** A target on the ground, far enough from the agent. */
  draw() {
    const { width, height, ground, reach } = this.world.about;
    const low = [Math.max(reach.margin, ground[0]), Math.max(reach.margin, ground[1])];
    const high = [Math.min(width - 1 - reach.margin, ground[2]), Math.min(height - 1 - reach.margin, ground[3])];
    let found = null, furthest = -1;
    for (let i = 0; i < 32; i++) {
      const place = [0, 1].map((a) => low[a] + this.random.next() * Math.max(0, high[a] - low[a]));
      const away = Math.max(...[0, 1].map((a) => Math.abs(place[a] - this.place[a])));
      if (away >= reach.distance) return place;
      if (away > furthest) { furthest = away; found = place; }
    }
    return found;
  }

  /** One step; code null: what the prior says, or what usually went with the shift. */
  async step(shift, code = null) {
    const { about } = this.world;
    if (code === null) {
      const chances = await this.world.prior(this.state, shift);
      code = about.usual_codes[shift] ?? 0;
      if (chances) {
        let left = this.chance.next();
        code = chances.length - 1;
        for (let k = 0; k < chances.length; k++) if ((left -= chances[k]) < 0) { code = k; break; }
      }
    }
    const { state, frame } = await this.world.step(this.state, shift, code);
    this.state = state;
    this.frame = frame;
    this.last = [shift, code];
    this.steps += 1;
    this.actions.push(shift * about.code_names.length + code);
    this.over = this.distance < about.reach.radius;
    if (this.over) {
      this.reached += 1;
      this.best = Math.min(this.best ?? Infinity, this.steps);
    }
    return this.over;
  }

  /** The agent that came with the page. */
  async act() { return this.world.act(this.frame, this.target); }
}

/** Actions <-> text for a link, two bytes each. */
export const pack = (actions) => btoa(String.fromCharCode(...actions.flatMap((a) => [a >> 8, a & 255])))
  .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
export function unpack(text) {
  const bytes = Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return Array.from({ length: bytes.length >> 1 }, (_, i) => 256 * bytes[2 * i] + bytes[2 * i + 1]);
}
