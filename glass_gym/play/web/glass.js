// A world in the page: runs the graphs that glass-export wrote in ONNX Runtime. Frames are RGB bytes, positions px.
const here = new URL("./", document.baseURI).href;
const kept = globalThis.kept; // a page of --single-file: its files, by path, as base64 of zlib; else undefined

/** The bytes of a file of the page. */
export async function bytesOf(path) {
  const from = kept ? `data:application/octet-stream;base64,${kept[path]}` : here + path;
  const answer = await fetch(from);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
  const inflated = kept ? new Response(answer.body.pipeThrough(new DecompressionStream("deflate"))) : answer;
  return new Uint8Array(await inflated.arrayBuffer());
}
/** The content of a JSON file of the page. */
export const jsonOf = async (path) => JSON.parse(new TextDecoder().decode(await bytesOf(path)));
/** An address of a script of the page. */
const addressOf = async (path) =>
  kept ? URL.createObjectURL(new Blob([await bytesOf(path)], { type: "text/javascript" })) : here + path;

const exported = await jsonOf("runtime.json");
const wished = new URLSearchParams(location.hash.slice(1)).get("engine"); // wasm, webgpu, or null: the faster one
const adapter = exported.webgpu && wished !== "wasm" ? await (navigator.gpu?.requestAdapter() ?? null) : null;
const emulated = adapter?.isFallbackAdapter ?? adapter?.info?.isFallbackAdapter; // a card emulated by the CPU is slow
const gpu = adapter && (!emulated || wished === "webgpu");

/** ONNX Runtime: on the graphics card if there is one and the page was exported with --webgpu, else in WebAssembly. */
const ort = await import(await addressOf(`runtime/ort.${gpu ? "webgpu" : "wasm"}.min.mjs`));
/** The name of the engine in use. */
export const engine = gpu ? "WebGPU" : "WebAssembly";
if (kept) {
  const binary = `runtime/ort-wasm-simd-threaded${gpu ? ".asyncify" : ""}`;
  ort.env.wasm.wasmBinary = await bytesOf(`${binary}.wasm`);
  ort.env.wasm.wasmPaths = { mjs: await addressOf(`${binary}.mjs`) };
} else ort.env.wasm.wasmPaths = `${here}runtime/`;
// threads need an isolated page (COOP and COEP headers); without those headers there is one thread
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
ort.env.logLevel = "error";

const SEARCH_PX = 3; // refinePosition tries positions up to this far from the first guess
const BATCH = 7; // positions that are tried at once
/** An entry in a list of actions: the episode was restarted. */
export const AGAIN = 0xffff;

/** Random numbers in [0, 1) from a seed (mulberry32). */
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

/** A picture in which the model finds no agent. */
export class NoAgentError extends Error {}

const float = (data, shape) => new ort.Tensor("float32", Float32Array.from(data), shape);

/** A world. A state is an object of tensors with one row. */
export class World {
  /** Load worlds/NAME. */
  static async load(folder, tell = () => {}) {
    const about = await jsonOf(`${folder}/world.json`);
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
    const pictures = async (file) => {
      const picture = await createImageBitmap(new Blob([await bytesOf(`${folder}/${file}`)]));
      const sheet = new OffscreenCanvas(picture.width, picture.height).getContext("2d", { willReadFrequently: true });
      sheet.drawImage(picture, 0, 0);
      return Array.from({ length: about.start_frames.count }, (_, i) =>
        sheet.getImageData(0, i * about.height, about.width, about.height));
    };
    world.starts = await pictures(about.start_frames.file);
    world.backgrounds = await pictures(about.start_backgrounds.file);
    return world;
  }

  /** Call a graph; inputs that it does not have are ignored. */
  async run(name, inputs) {
    const session = this.sessions[name];
    const known = Object.fromEntries(session.inputNames.map((key) => [key, inputs[key]]));
    return session.run(known);
  }

  get hasPrior() { return "prior" in this.sessions; }
  get hasPolicy() { return "policy" in this.sessions; }

  /** The state of start frame `index`. */
  async start(index) {
    const { start_positions: positions, start_origins: origins } = this.about;
    return this.begin(this.starts[index], positions[index], origins[index], this.backgrounds[index]);
  }

  /**
   * The state of a picture (ImageData of the world's size). Without a known position, the agent is searched for;
   * throws NoAgentError if there is none. Without a known background (ImageData), the agent is inpainted.
   */
  async begin(image, position = null, origin = null, background = null) {
    const frame = this.tensorOf(image);
    const seen = await this.run("segment", { frame });
    const known = position !== null;
    const centre = seen.centre.data;
    if (!known) position = [...centre];
    if (!known && this.about.refines_position)
      position = await this.refinePosition(seen.colours, seen.mask, position.map(Math.round));
    const begun = await this.run("begin", { colours: seen.colours, mask: seen.mask, position: float(position, [1, 2]) });
    if (!known) this.check(begun.layer, seen.mask);
    const shown = background ? this.tensorOf(background) : seen.background;
    const state = { ...begun, position: float(position, [1, 2]), background: shown };
    delete state.error;
    return { state, origin: origin ?? [centre[0] - position[0], centre[1] - position[1]], frame: frame.data };
  }

  /** A picture (ImageData of the world's size) as uint8 tensor (1, H, W, 3). */
  tensorOf(image) {
    const { height, width } = this.about;
    const rgb = new Uint8Array(height * width * 3);
    for (let i = 0; i < height * width; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = image.data[4 * i + c];
    return new ort.Tensor("uint8", rgb, [1, height, width, 3]);
  }

  /** The position within SEARCH_PX px (of the window) from which the model draws the agent best. */
  async refinePosition(colours, mask, position) {
    const scale = this.about.window_scale;
    const candidates = [];
    for (let y = -SEARCH_PX; y <= SEARCH_PX; y++)
      for (let x = -SEARCH_PX; x <= SEARCH_PX; x++) candidates.push([position[0] + scale * x, position[1] + scale * y]);
    const repeat = (tensor, Kind) => {
      const data = new Kind(tensor.data.length * BATCH);
      for (let i = 0; i < BATCH; i++) data.set(tensor.data, i * tensor.data.length);
      return new ort.Tensor(tensor.type, data, [BATCH, ...tensor.dims.slice(1)]);
    };
    const pictures = repeat(colours, Uint8Array), masks = repeat(mask, Float32Array);
    let best = Infinity, found = position;
    for (let first = 0; first < candidates.length; first += BATCH) {
      const some = candidates.slice(first, first + BATCH);
      const { error } = await this.run("begin", { colours: pictures, mask: masks, position: float(some.flat(), [BATCH, 2]) });
      error.data.forEach((value, i) => { if (value < best) { best = value; found = some[i]; } });
    }
    return found;
  }

  /** Throw NoAgentError if the window holds too little of the mask for an agent. */
  check(layer, mask) {
    const mass = massOf(layer), all = mask.data.reduce((a, b) => a + b, 0);
    const { least_mass: least, least_gathered: gathered, usual_mass: usual } = this.about;
    if (mass < least || mass < gathered * all)
      throw new NoAgentError(`no agent found in this picture: the densest window of the mask covers ${mass.toFixed(0)} px, ` +
        `${(100 * mass / Math.max(all, 1e-6)).toFixed(0)} % of the mask; this world's agents cover about ${usual.toFixed(0)} px`);
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

  /** The action of the exported policy: [shift, code]. */
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

/** Episodes in one world: a target to walk to, counters, and a list of all actions, from which the game can be replayed. */
export class Game {
  constructor(world, seed = 0) {
    this.world = world;
    this.random = new Random(seed); // start frames and targets
    this.chance = new Random(seed ^ 0x5bd1e995); // codes drawn from the prior; a replay draws none
    this.reached = 0;
    this.best = null;
    this.actions = []; // shift * K + code of each step; AGAIN where the episode was restarted
    this.clicks = []; // [number of actions before it, x, y]
  }

  /** Move the target to [x, y] px. */
  aim(position) {
    this.target = position.map((x) => Math.round(x));
    this.clicks.push([this.actions.length, ...this.target]);
  }

  /** Restart before the target is reached. */
  async again() {
    this.actions.push(AGAIN);
    await this.reset();
  }

  /** A new episode from a random start frame, or from a picture. */
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

  /** The agent's position, [x, y] px. */
  get position() {
    const { data } = this.state.position;
    return [data[0] + this.origin[0], data[1] + this.origin[1]];
  }
  get distance() { return Math.hypot(this.position[0] - this.target[0], this.position[1] - this.target[1]); }

  /** A random target on the ground, at least reach.distance px from the agent if possible. */
  draw() {
    const { width, height, ground, reach } = this.world.about;
    const low = [Math.max(reach.margin, ground[0]), Math.max(reach.margin, ground[1])];
    const high = [Math.min(width - 1 - reach.margin, ground[2]), Math.min(height - 1 - reach.margin, ground[3])];
    let found = null, furthest = -1;
    for (let i = 0; i < 32; i++) {
      const target = [0, 1].map((a) => low[a] + this.random.next() * Math.max(0, high[a] - low[a]));
      const away = Math.max(...[0, 1].map((a) => Math.abs(target[a] - this.position[a])));
      if (away >= reach.distance) return target;
      if (away > furthest) { furthest = away; found = target; }
    }
    return found;
  }

  /** One step. Without a code, it is drawn from the prior, or in a world without one it is the shift's usual code. */
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

  /** The action of the page's trained agent. */
  async act() { return this.world.act(this.frame, this.target); }
}

/** Actions <-> text for a link, two bytes an action. */
export const pack = (actions) => btoa(String.fromCharCode(...actions.flatMap((a) => [a >> 8, a & 255])))
  .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
export function unpack(text) {
  const bytes = Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return Array.from({ length: bytes.length >> 1 }, (_, i) => 256 * bytes[2 * i] + bytes[2 * i + 1]);
}
