"""glass-export: a world as ONNX, or as a page that any static host serves.

  glass-export tennis-v1 --onnx tennis_onnx
  glass-export tennis-v1 sprites-v1 arm --web site --runtime onnxruntime-web-1.30.0.tgz

ONNX: four graphs share one file of weights, world.json says what goes in and out, and ONNX Runtime is compared with
torch before anything is called done. A page needs onnxruntime-web beside it: `npm pack onnxruntime-web@1.30.0`, once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from glass_gym.env.core import GlassCore
from glass_gym.env.starts import GATHERED
from glass_gym.model.pose_model import PoseLMA
from glass_gym.simulator.simulator import PRESENT, Simulator
from glass_gym.tasks.reach import ReachTask
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.drawing import draw_rings, observed_frames
from glass_gym.tensors.geometry import densest_point
from glass_gym.worlds.checkpoint import CheckpointError, World, load_world

if TYPE_CHECKING:
    import onnx

FORMAT = 1
OPSET = 18
ROWS = 2
"""Rows of the example that graphs are traced with; they run with any number."""
SHARED = 256
"""Bytes from which a weight goes into the shared file."""
CLOSE = 2.0
"""Grey levels, in the mean where an agent is drawn, by which ONNX Runtime may differ from torch."""


class ExportError(RuntimeError):
    """What keeps a world from being exported; the message says what to do."""


class Graph(nn.Module):
    """One of a world's functions, as a module that can be traced.

    Args:
        simulator: of the world, float32, on the CPU.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, simulator: Simulator):
        super().__init__()
        self.simulator = simulator
        self.model = simulator.model


class Segment(Graph):
    """Frames (B, H, W, 3) uint8 -> masks (B, H, W), backgrounds (B, H, W, 3) uint8, centres (B, 2) px."""

    inputs = ("frame",)
    outputs = ("mask", "background", "centre")

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`Simulator.start`, up to where the agents are."""
        images = to_images(frame.permute(0, 3, 1, 2))
        masks = self.model.gma.mask(images).float()
        background = to_bytes(self.model.gma.inpaint_background(images, masks).float())
        centre = densest_point(masks, self.model.config.agent_radius)
        return masks[:, 0], background.permute(0, 2, 3, 1), centre


class Begin(Graph):
    """Frames, masks and places (B, 2) px of layers -> the first state, and how badly the model draws it (B,)."""

    inputs = ("frame", "mask", "place")

    def __init__(self, simulator: Simulator, memories: int):
        super().__init__(simulator)
        self.outputs = ("layer", *(f"memory_{i}" for i in range(memories)), "error")

    def forward(self, frame: Tensor, mask: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`Simulator.start`, once the places are known; the least error says which of many fits best."""
        images = to_images(frame.permute(0, 3, 1, 2))
        layer = self.model.lma.view.cut(images, mask[:, None], place)
        lma = self.model.lma
        memory = lma.start_state(layer)
        error = layer.new_zeros(1).expand(layer.shape[0])
        if isinstance(lma, PoseLMA):
            error = (lma.draw(memory, place).layer - layer).square().sum((1, 2, 3))
        return layer, *(m.clone() for m in memory), error.clone()


class Step(Graph):
    """A state, its place and background, shifts (B, 2) px, codes (B,) -> the next state, its place, and the frame."""

    def __init__(self, simulator: Simulator, memories: int):
        super().__init__(simulator)
        self.inputs = ("layer", *(f"memory_{i}" for i in range(memories)), "position", "background", "shift", "code")
        state = ("next_layer", *(f"next_memory_{i}" for i in range(memories)))
        self.outputs = (*state, "next_position", "frame")

    def forward(self, layer: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`Simulator.step` and :meth:`Simulator.frames`."""
        *memory, position, background, shift, code = rest
        view = self.model.lma.view
        expected = self.simulator.clamp(position + shift, position)
        vector = self.model.lma.quantiser.embed(code)
        drawn, memory = self.model.lma.animate(layer, tuple(memory), expected - position, vector, expected)
        after = drawn.layer.float()
        position = view.locate(after, expected)
        frame = view.draw(after, background.permute(0, 3, 1, 2), position).permute(0, 2, 3, 1)
        return after, *(m.clone() for m in memory), position, frame


class Prior(Graph):
    """A state and shifts (B, N, 2) px -> p(code | state, shift) (B, N, K)."""

    outputs = ("probability",)

    def __init__(self, simulator: Simulator, memories: int):
        super().__init__(simulator)
        self.inputs = ("layer", *(f"memory_{i}" for i in range(memories)), "shifts")

    def forward(self, layer: Tensor, *rest: Tensor) -> Tensor:
        """As :meth:`Simulator.code_prior`."""
        *memory, shifts = rest
        return self.model.lma.code_prior(tuple(memory), shifts).exp()


def export_onnx(world: World, folder: str | Path, progress: Callable[[str], Any] = lambda what: None) -> dict[str, Any]:
    """Write a world as ONNX.

    Args:
        world: any architecture.
        folder: gets segment.onnx, begin.onnx, step.onnx, prior.onnx (in a world with a prior), weights.bin, which they
            share, start_frames.png (the start frames, one below the other) and world.json.
        progress: called with the name of what is made next.

    Returns:
        what world.json says.

    Raises:
        ExportError: a package is missing, or torch cannot trace the model.
    """
    _need("onnx", "onnxscript")
    folder = Path(folder)
    core = core_of_world(world)
    simulator, first = core.simulator, core.starts.states
    rows = first.rows(slice(0, ROWS)) if len(first) >= ROWS else first.rows(torch.zeros(ROWS, dtype=torch.long))
    memory = [m.clone() for m in simulator.model.lma.start_state(rows.layer)]  # without the cache's part
    memories = len(memory)
    frames = torch.from_numpy(world.start_frames[:1]).expand(ROWS, -1, -1, -1).contiguous()
    masks = torch.zeros(ROWS, simulator.height, simulator.width)
    background = rows.background.permute(0, 2, 3, 1).contiguous()
    shifts = torch.zeros(ROWS, 2)
    state = (rows.layer, *memory)
    made: dict[str, tuple[Graph, tuple[Tensor, ...]]] = {
        "segment": (Segment(simulator), (frames,)),
        "begin": (Begin(simulator, memories), (frames, masks, rows.position)),
        "step": (
            Step(simulator, memories),
            (*state, rows.position, background, shifts, torch.zeros(ROWS, dtype=torch.long)),
        ),
    }
    if simulator.has_prior:
        made["prior"] = (Prior(simulator, memories), (*state, torch.zeros(ROWS, 9, 2)))
    folder.mkdir(parents=True, exist_ok=True)
    weights = SharedWeights(folder / "weights.bin")
    about = describe(core)
    about["graphs"] = {}
    for name, (graph, example) in made.items():
        progress(name)
        model = _trace(graph, example)
        weights.take(model)
        about["graphs"][name] = _write_graph(model, folder, name)
    weights.close()
    stacked = world.start_frames.reshape(-1, simulator.width, 3)
    Image.fromarray(stacked).save(folder / "start_frames.png", optimize=True)
    (folder / "world.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def core_of_world(world: World) -> GlassCore:
    """One row of a world as it is exported: float32, on the CPU, with the task ``"reach"``."""
    return GlassCore(world, 1, device="cpu", precision="float32", task="reach")


def describe(core: GlassCore) -> dict[str, Any]:
    """What whoever runs the graphs has to know: sizes, actions, where agents start and may go, the task's numbers."""
    world, simulator, table, task = core.world, core.simulator, core.table, core.task
    assert isinstance(task, ReachTask)
    first = core.starts.states
    usual, share = core.starts.usual_agent()
    return {
        "format": FORMAT,
        "opset": OPSET,
        "name": world.name or "world",
        "architecture": world.config.architecture,
        "height": simulator.height,
        "width": simulator.width,
        "pixel_aspect": world.pixel_aspect,
        "fps": 15,
        "shifts": table.shifts.tolist(),
        "shift_names": list(table.shift_names),
        "code_names": list(table.code_names),
        "usual_codes": list(table.usual_codes),
        "ground": list(simulator.ground),
        "agent_radius": world.config.agent_radius,
        "weights": "weights.bin",
        "start_frames": {"file": "start_frames.png", "count": len(world.start_frames)},
        "start_positions": [[round(x, 4) for x in row] for row in first.position.tolist()],
        "start_origins": [[round(x, 4) for x in row] for row in first.origin.tolist()],
        "refines_position": isinstance(simulator.model.lma, PoseLMA),
        "usual_mass": usual,
        "least_mass": PRESENT * usual,
        "least_gathered": GATHERED * share,
        "reach": {"radius": task.radius, "margin": task.margin, "distance": task.scene.min_distance},
    }


def _write_graph(model: onnx.ModelProto, folder: Path, name: str) -> dict[str, Any]:
    """Write a graph; returns what world.json says of it."""
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    sides = {"inputs": model.graph.input, "outputs": model.graph.output}
    shapes = {side: {value.name: _shape(value) for value in values} for side, values in sides.items()}
    return {"file": f"{name}.onnx", **shapes}


def _shape(value: Any) -> dict[str, Any]:
    kinds = {1: "float32", 2: "uint8", 7: "int64"}
    tensor = value.type.tensor_type
    shape = [d.dim_param or d.dim_value for d in tensor.shape.dim]
    return {"type": kinds[tensor.elem_type], "shape": shape}


def _trace(graph: Graph | Acting, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    rows = torch.export.Dim("rows", min=1, max=1 << 16)
    asked = torch.export.Dim("shifts", min=1, max=1 << 10)
    shapes = [{0: rows, 1: asked} if name == "shifts" else {0: rows} for name in graph.inputs]
    variadic = not isinstance(graph, (Segment, Begin, Acting))
    dynamic = (shapes[0], tuple(shapes[1:])) if variadic else tuple(shapes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
        except Exception as error:  # whatever torch's exporter raises
            raise ExportError(f"torch cannot trace {type(graph).__name__} ({str(error)[:300]})") from error
    assert program is not None
    model = program.model_proto
    for side, names in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        if [value.name for value in side] != list(names):
            raise ExportError(f"{type(graph).__name__}: torch named {[v.name for v in side]}, expected {list(names)}")
        if fixed := [v.name for v in side if v.type.tensor_type.shape.dim[0].dim_param != "rows"]:
            raise ExportError(f"{type(graph).__name__}: torch fixed the number of rows of {', '.join(fixed)}")
    return model


class SharedWeights:
    """One file of weights for several graphs; equal ones are written once.

    Args:
        path: of the file.
    """

    ALIGNED = 64

    def __init__(self, path: Path):
        self.path = path
        self.file = path.open("wb")
        self.known: dict[bytes, tuple[int, int]] = {}

    def take(self, model: onnx.ModelProto) -> None:
        """Move a graph's weights to the file."""
        import onnx
        from onnx import numpy_helper

        for tensor in model.graph.initializer:
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < SHARED:
                continue
            if raw not in self.known:
                self.file.write(b"\0" * (-self.file.tell() % self.ALIGNED))
                self.known[raw] = self.file.tell(), len(raw)
                self.file.write(raw)
            offset, length = self.known[raw]
            for field in ("float_data", "int32_data", "int64_data", "raw_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", self.path.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))

    def close(self) -> None:
        """The file is whole."""
        self.file.close()


class OnnxWorld:
    """An exported world in ONNX Runtime, on the CPU: what a page does, in Python.

    Args:
        folder: of :func:`export_onnx`.
        threads: of ONNX Runtime; 0: its own choice.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        _need("onnxruntime")
        folder = Path(folder)
        import onnxruntime

        self.about = json.loads((folder / "world.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.sessions = {
            name: onnxruntime.InferenceSession(str(folder / graph["file"]), options, providers=["CPUExecutionProvider"])
            for name, graph in self.about["graphs"].items()
        }
        self.memories = sum(name.startswith("memory_") for name in self.about["graphs"]["step"]["inputs"])

    def run(self, graph: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """One call of a graph, by names."""
        session = self.sessions[graph]
        known = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        out = session.run(names, {key: value for key, value in inputs.items() if key in known})
        return {name: np.asarray(value) for name, value in zip(names, out, strict=True)}

    def start(self, frames: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
        """The state of frames (B, H, W, 3) uint8 whose layers are at places (B, 2) px."""
        seen = self.run("segment", frame=frames)
        begun = self.run("begin", frame=frames, mask=seen["mask"], place=place.astype(np.float32))
        begun.pop("error")
        return begun | {"position": place.astype(np.float32), "background": seen["background"]}

    def step(self, state: dict[str, np.ndarray], shift: np.ndarray, code: np.ndarray) -> tuple[dict, np.ndarray]:
        """The next state, and its frames (B, H, W, 3) uint8, under shifts (B, 2) px and codes (B,)."""
        out = self.run("step", **state, shift=shift.astype(np.float32), code=code.astype(np.int64))
        frame = out.pop("frame")
        kept = {"background": state["background"]}
        return kept | {key.removeprefix("next_"): value for key, value in out.items()}, frame


def compare(world: World, folder: str | Path, steps: int = 100, rows: int = 4, seed: int = 0) -> list[float]:
    """How far ONNX Runtime and torch (float32) are apart under the same random actions.

    Args:
        world: what was exported ...
        folder: ... to this folder.
        steps: how many.
        rows: episodes.
        seed: of the start frames and actions.

    Returns:
        after each step, the mean difference of the frames where an agent is drawn, in grey levels.
    """
    rng = np.random.default_rng(seed)
    core = core_of_world(world)
    simulator = core.simulator
    exported = OnnxWorld(folder)
    index = rng.integers(core.starts.count, size=rows)
    state = core.starts.at(torch.from_numpy(index))
    mine = exported.start(world.start_frames[index], state.position.numpy())
    shifts = np.asarray(exported.about["shifts"], np.float32)
    off = []
    for _ in range(steps):
        shift, code = shifts[rng.integers(len(shifts), size=rows)], rng.integers(world.config.codes, size=rows)
        state = simulator.step(state, torch.from_numpy(shift), torch.from_numpy(code))
        mine, frame = exported.step(mine, shift, code)
        true = simulator.frames(state).numpy()
        drawn = (true != mine["background"]).any(-1) | (frame != mine["background"]).any(-1)
        apart = np.abs(frame.astype(int) - true)[drawn]
        off.append(float(apart.mean()) if apart.size else 0.0)
    return off


# --- a policy ---------------------------------------------------------------------------------------------------


class Acting(nn.Module):
    """Frames (B, H, W, 3) uint8 and targets (B, 2) px -> a policy's likeliest actions (B, 2) int64.

    Args:
        policy: of Stable-Baselines3's actor-critic kind, on frames or on frames and positions.
        radius: of the ring that shows the target, px.

    Raises:
        ExportError: another kind of policy.
    """

    inputs = ("frame", "target")
    outputs = ("action",)

    def __init__(self, policy: Any, radius: float):
        super().__init__()
        net = getattr(policy.model, "policy", policy.model)
        space = net.observation_space
        if not hasattr(net, "action_net") or hasattr(net, "lstm_actor"):
            raise ExportError(f"a page plays policies of PPO and A2C, not {type(net).__name__}")
        shape = tuple(getattr(space, "shape", None) or ())
        if len(shape) != 3 or shape[0] != 3 or not hasattr(net.action_space, "nvec"):
            raise ExportError(f"a page plays policies that see a frame and choose a pair, not {space}")
        self.net = net
        self.radius = radius
        self.size = shape[1:]
        self.counts = [int(n) for n in net.action_space.nvec]

    def forward(self, frame: Tensor, target: Tensor) -> Tensor:
        """Draw the target, look, act."""
        shown = draw_rings(frame.permute(0, 3, 1, 2).contiguous(), target, self.radius)
        seen = observed_frames(shown, self.size, channels_first=True)
        features = self.net.extract_features(seen, self.net.pi_features_extractor)
        latent = self.net.mlp_extractor.forward_actor(features)
        logits = self.net.action_net(latent).split(self.counts, 1)
        return torch.stack([part.argmax(1) for part in logits], 1)


def export_policy(world: World, folder: Path, path: Path) -> None:
    """Add a policy to an exported world: policy.onnx, and what world.json says of it.

    Args:
        world: where it acts.
        folder: of :func:`export_onnx`.
        path: .safetensors of :func:`glass_gym.policy.save_policy`.

    Raises:
        ExportError: a policy that a page cannot play, or that another world is for.
    """
    _need("stable_baselines3")
    from glass_gym.policy import PolicyError, load_policy

    core = GlassCore(world, ROWS, device="cpu", precision="float32")
    try:
        policy = load_policy(path, core=core)
    except PolicyError as error:
        raise ExportError(str(error)) from None
    about = json.loads((folder / "world.json").read_text())
    acting = Acting(policy, about["reach"]["radius"])
    if acting.counts != [len(about["shifts"]), len(about["code_names"])]:
        raise ExportError(f"{path}: it chooses among {acting.counts}, {world.name} has other actions")
    frames = torch.from_numpy(world.start_frames[:1]).expand(ROWS, -1, -1, -1).contiguous()
    model = _trace(acting, (frames, torch.zeros(ROWS, 2)))
    about["graphs"]["policy"] = _write_graph(model, folder, "policy")
    (folder / "world.json").write_text(json.dumps(about, indent=1) + "\n")


# --- a page -----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent / "web"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs of onnxruntime-web's dist/ ..."""
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
"""... and what it needs besides to use a graphics card."""
RUNTIME_VERSION = "1.30.0"
LARGEST_RUNTIME = 64 << 20
FIX = (
    f"fetch it once with `npm pack onnxruntime-web@{RUNTIME_VERSION}` and name the file: "
    f"--runtime onnxruntime-web-{RUNTIME_VERSION}.tgz"
)


def write_page(
    worlds: Sequence[World],
    folder: Path,
    runtime: Path,
    policies: Sequence[Path] = (),
    progress: Callable[[str], Any] = lambda what: None,
    webgpu: bool = False,
) -> Path:
    """Write a folder that any static host serves.

    Args:
        worlds: what can be played in it.
        folder: gets index.html and all that it needs.
        runtime: onnxruntime-web: the .tgz of `npm pack`, its unpacked folder, or its dist/.
        policies: of the worlds in the same order; fewer: the rest have none.
        progress: called with what is made next.
        webgpu: use a graphics card where the browser offers one; 27 MB more, which other browsers do not load.

    Returns:
        the page.

    Raises:
        ExportError: no such runtime; nothing is written.
    """
    parts = _runtime(runtime, RUNTIME + WEBGPU * webgpu)
    names = [world.name or "world" for world in worlds]
    if len(set(names)) != len(names):
        raise ExportError(f"worlds of one name cannot be told apart: {', '.join(names)}")
    for name, raw in parts.items():
        (folder / "runtime").mkdir(parents=True, exist_ok=True)
        (folder / "runtime" / name).write_bytes(raw)
    for file in PAGE.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    for index, (world, name) in enumerate(zip(worlds, names, strict=True)):
        export_onnx(world, folder / "worlds" / name, lambda what, name=name: progress(f"{name}: {what}"))
        if index < len(policies):
            progress(f"{name}: policy")
            export_policy(world, folder / "worlds" / name, policies[index])
    (folder / "worlds.json").write_text(json.dumps(names) + "\n")
    (folder / "runtime.json").write_text(json.dumps({"webgpu": webgpu}) + "\n")
    return folder / "index.html"


def _runtime(path: Path, needed: Sequence[str] = RUNTIME) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by name; its licence too, where it is there."""
    found: dict[str, bytes] = {}
    wanted = {*needed, "LICENSE"}
    try:
        if path.is_file():
            with tarfile.open(path) as archive:
                for member in archive:  # only read: nothing is unpacked, whatever the names say
                    name = Path(member.name).name
                    if name in wanted and member.isfile() and member.size <= LARGEST_RUNTIME:
                        found[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
        else:
            for name in wanted:
                for file in (path / name, path / "dist" / name):
                    if file.is_file() and file.stat().st_size <= LARGEST_RUNTIME:
                        found[name] = file.read_bytes()
    except (OSError, tarfile.TarError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); {FIX}") from None
    if missing := [name for name in needed if name not in found]:
        raise ExportError(f"{path}: no onnxruntime-web ({', '.join(missing)} is not there); {FIX}")
    return found


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ExportError(f"this needs {', '.join(missing)}: pip install 'glass-gym[export]'")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = argparse.ArgumentParser(
        "glass-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("worlds", nargs="+", metavar="WORLD", help="bundled names or .safetensors files")
    p.add_argument("--onnx", type=Path, metavar="DIR", help="write the world as ONNX (several: a folder each)")
    p.add_argument("--web", type=Path, metavar="DIR", help="write a page to play the worlds in")
    p.add_argument(
        "--runtime", type=Path, metavar="PATH", help=f"onnxruntime-web: a .tgz of npm pack, or a folder ({FIX})"
    )
    p.add_argument(
        "--webgpu",
        action="store_true",
        help="--web: use a graphics card where the browser offers one (27 MB more, which other browsers do not load)",
    )
    p.add_argument(
        "--policy",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="trained policies (PPO or A2C on frames, .safetensors) of the worlds, in their order",
    )
    p.add_argument("--steps", type=int, default=100, help="random steps of the comparison with torch (default: 100)")
    arguments = p.parse_args(argv)
    if not (arguments.onnx or arguments.web):
        p.error("say what to write: --onnx DIR or --web DIR")
    if arguments.steps < 1:
        p.error("--steps is at least 1")
    if len(arguments.policy) > len(arguments.worlds):
        p.error(f"{len(arguments.policy)} policies for {len(arguments.worlds)} worlds")
    if arguments.web and not arguments.runtime:
        p.error(f"--web needs onnxruntime-web: {FIX}")

    def tell(what: str) -> None:
        print(what, flush=True)

    try:
        worlds = [load_world(name) for name in arguments.worlds]
        if arguments.onnx:
            for index, world in enumerate(worlds):
                folder = arguments.onnx if len(worlds) == 1 else arguments.onnx / world.name
                export_onnx(world, folder, lambda what, world=world: tell(f"{world.name}: {what}"))
                if index < len(arguments.policy):
                    export_policy(world, folder, arguments.policy[index])
                _check(world, folder, arguments.steps)
        if arguments.web:
            page = write_page(worlds, arguments.web, arguments.runtime, arguments.policy, tell, arguments.webgpu)
            for world in worlds:
                _check(world, arguments.web / "worlds" / (world.name or "world"), arguments.steps)
            tell(f"{page}: serve it, for example: python -m http.server -d {arguments.web}")
    except (CheckpointError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check(world: World, folder: Path, steps: int) -> None:
    off = compare(world, folder, steps)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB; {max(off):.3f} grey levels from torch at most, over {steps} random steps")
    if max(off) > CLOSE:
        raise ExportError(f"{folder}: ONNX Runtime's frames differ by {max(off):.2f} grey levels from torch's")


if __name__ == "__main__":
    sys.exit(main())
