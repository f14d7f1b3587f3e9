"""A world as ONNX graphs, and the same world run by ONNX Runtime.

:func:`export_onnx` writes four graphs, one file with the weights that they share, and world.json, which describes
them. :class:`OnnxWorld` runs them, and :func:`compare` measures how far their frames are from torch's.
:func:`export_policy` adds a trained policy as a fifth graph.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glass_gym.env.core import GlassCore
from glass_gym.env.starts import GATHERED
from glass_gym.export.graphs import Begin, ExportError, Graph, PolicyGraph, Prior, Segment, Step
from glass_gym.model.pose_model import PoseLMA
from glass_gym.simulator.simulator import PRESENT
from glass_gym.tasks.reach import ReachTask
from glass_gym.worlds.checkpoint import World

if TYPE_CHECKING:
    import onnx

FORMAT = 1  # Version of world.json; the page reads no other.
OPSET = 18  # ONNX operator set of the graphs.
EXAMPLE_ROWS = 2  # Batch size of the example inputs that the graphs are traced with. The graphs accept any batch size.
SHARED_BYTES = 256  # Weights of at least this many bytes go into the shared file; smaller ones stay in the graph.
ALIGNMENT = 64  # Each weight in it starts at a multiple of so many bytes.
TOLERANCE = 2.0
"""Largest accepted difference between ONNX Runtime's and torch's frames: grey levels, mean over the agent's pixels."""


def need_packages(extra: str, *packages: str) -> None:
    """Check that packages are installed; ExportError: some are missing; it names them and the `extra` to install."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ExportError(f"this needs {', '.join(missing)}: pip install 'glass-gym[{extra}]'")


def export_onnx(world: World, folder: str | Path, progress: Callable[[str], Any] = lambda what: None) -> dict[str, Any]:
    """Write a world as ONNX.

    Args:
        world: of either architecture.
        folder: gets segment.onnx, begin.onnx, step.onnx, prior.onnx (if the world has a prior), weights.bin, which the
            graphs share, start_frames.png and start_backgrounds.png (one below the other) and world.json.
        progress: called with the name of each graph before it is traced.

    Returns:
        the content of world.json: sizes, actions, start positions, and each graph's inputs and outputs.

    Raises:
        ExportError: a package is missing, or torch cannot trace the model.
    """
    need_packages("export", "onnx", "onnxscript")
    folder = Path(folder)
    core = core_of_world(world)
    simulator, first = core.simulator, core.starts.states
    count = EXAMPLE_ROWS
    rows = first.rows(torch.arange(count) % len(first))
    memory = [m.clone() for m in simulator.model.lma.start_state(rows.layer)]  # of the LMA, not of the DecoderCache
    memories = len(memory)
    frames = torch.from_numpy(world.start_frames[:1]).expand(count, -1, -1, -1).contiguous()
    masks = torch.zeros(count, simulator.height, simulator.width)
    background = rows.background.permute(0, 2, 3, 1).contiguous()
    action = (torch.zeros(count, 2), torch.zeros(count, dtype=torch.long))
    state = (rows.layer, *memory)
    graphs: dict[str, tuple[Graph, tuple[Tensor, ...]]] = {
        "segment": (Segment(simulator, memories), (frames,)),
        "begin": (Begin(simulator, memories), (frames, masks, rows.position)),
        "step": (Step(simulator, memories), (*state, rows.position, background, *action)),
    }
    if simulator.has_prior:
        graphs["prior"] = (Prior(simulator, memories), (*state, torch.zeros(count, 9, 2)))
    models = {}
    for name, (graph, example) in graphs.items():
        progress(name)
        models[name] = _trace(graph, example)
    folder.mkdir(parents=True, exist_ok=True)
    _share_weights(models.values(), folder / "weights.bin")
    about = describe(core) | {"graphs": {name: _write_graph(model, folder, name) for name, model in models.items()}}
    backgrounds = first.background.permute(0, 2, 3, 1).numpy()
    for name, pictures in (("start_frames", world.start_frames), ("start_backgrounds", backgrounds)):
        Image.fromarray(pictures.reshape(-1, simulator.width, 3)).save(folder / f"{name}.png", optimize=True)
    (folder / "world.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def core_of_world(world: World) -> GlassCore:
    """A world as it is exported: one row, float32, on the CPU, with the task ``"reach"``."""
    return GlassCore(world, 1, device="cpu", precision="float32", task="reach")


def describe(core: GlassCore) -> dict[str, Any]:
    """What a program needs to run the graphs: sizes, actions, start positions, the ground, the task's numbers."""
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
        "window_scale": world.config.window_scale,
        "weights": "weights.bin",
        "start_frames": {"file": "start_frames.png", "count": len(world.start_frames)},
        "start_backgrounds": {"file": "start_backgrounds.png"},
        "start_positions": [[round(x, 4) for x in row] for row in first.position.tolist()],
        "start_origins": [[round(x, 4) for x in row] for row in first.origin.tolist()],
        "refines_position": isinstance(simulator.model.lma, PoseLMA),
        "usual_mass": usual,
        "least_mass": PRESENT * usual,
        "least_gathered": GATHERED * share,
        "reach": {"radius": task.radius, "margin": task.margin, "distance": task.scene.min_distance},
    }


def _write_graph(model: onnx.ModelProto, folder: Path, name: str) -> dict[str, Any]:
    """Write a graph and return its entry for world.json: file, inputs and outputs."""

    def about(value: Any) -> dict[str, Any]:
        tensor, kinds = value.type.tensor_type, {1: "float32", 2: "uint8", 7: "int64"}
        return {"type": kinds[tensor.elem_type], "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim]}

    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    sides = {"inputs": model.graph.input, "outputs": model.graph.output}
    return {"file": f"{name}.onnx"} | {side: {v.name: about(v) for v in values} for side, values in sides.items()}


def _trace(graph: Graph | PolicyGraph, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Trace a module with a free batch size; its inputs and outputs keep their names."""
    rows = torch.export.Dim("rows", min=1, max=1 << 16)
    count = torch.export.Dim("shifts", min=1, max=1 << 10)
    shapes = [{0: rows, 1: count} if name == "shifts" else {0: rows} for name in graph.inputs]
    variadic = not isinstance(graph, (Segment, Begin, PolicyGraph))
    dynamic = (shapes[0], tuple(shapes[1:])) if variadic else tuple(shapes)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
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


def _share_weights(models: Iterable[onnx.ModelProto], path: Path) -> None:
    """Move the weights of graphs into one file, equal ones once; the graphs keep references to them."""
    import onnx
    from onnx import numpy_helper

    known: dict[bytes, tuple[int, int]] = {}
    with path.open("wb") as file:
        for tensor in (tensor for model in models for tensor in model.graph.initializer):
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < SHARED_BYTES:
                continue
            if raw not in known:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                known[raw] = file.tell(), len(raw)
                file.write(raw)
            for field in ("float_data", "int32_data", "int64_data", "raw_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in zip(("location", "offset", "length"), (path.name, *known[raw]), strict=True):
                tensor.external_data.add(key=key, value=str(value))


class OnnxWorld:
    """An exported world, run by ONNX Runtime on the CPU. The web page does the same in JavaScript.

    Args:
        folder: written by :func:`export_onnx`.

    Raises:
        ExportError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path):
        need_packages("export", "onnxruntime")
        folder = Path(folder)
        import onnxruntime

        self.about = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.sessions = {
            name: onnxruntime.InferenceSession(str(folder / graph["file"]), options, providers=["CPUExecutionProvider"])
            for name, graph in self.about["graphs"].items()
        }

    def run(self, graph: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Call a graph with inputs by name; inputs that it does not have are ignored. Returns its outputs by name."""
        session = self.sessions[graph]
        known = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        out = session.run(names, {key: value for key, value in inputs.items() if key in known})
        return {name: np.asarray(value) for name, value in zip(names, out, strict=True)}

    def start(
        self, frames: np.ndarray, position: np.ndarray, background: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Start an episode.

        Args:
            frames: (B, H, W, 3) uint8.
            position: (B, 2) px, of the agents' layers.
            background: (B, H, W, 3) uint8, the frames without their agents; None: N inpaints them.

        Returns:
            the state, arrays by name.
        """
        position = position.astype(np.float32)
        found = self.run("segment", frame=frames)
        begun = self.run("begin", colours=found["colours"], mask=found["mask"], position=position)
        begun.pop("error")
        return begun | {"position": position, "background": found["background"] if background is None else background}

    def step(self, state: dict[str, np.ndarray], shift: np.ndarray, code: np.ndarray) -> tuple[dict, np.ndarray]:
        """State, shifts (B, 2) px right and down, codes (B,) -> the next state, and its frames (B, H, W, 3) uint8."""
        out = self.run("step", **state, shift=shift.astype(np.float32), code=code.astype(np.int64))
        frame = out.pop("frame")
        return state | {key.removeprefix("next_"): value for key, value in out.items()}, frame


def compare(world: World, folder: str | Path, steps: int = 100, rows: int = 4, seed: int = 0) -> list[float]:
    """Compare an exported world with torch (float32) under the same random actions, in `rows` episodes at once.

    Returns:
        for each step, the mean absolute difference in grey levels, over the pixels where an agent is drawn.
    """
    rng = np.random.default_rng(seed)
    core = core_of_world(world)
    simulator = core.simulator
    exported = OnnxWorld(folder)
    index = rng.integers(core.starts.count, size=rows)
    state = core.starts.at(torch.from_numpy(index))
    known = None if world.start_backgrounds is None else world.start_backgrounds[index]
    other = exported.start(world.start_frames[index], state.position.numpy(), known)
    shifts = np.asarray(exported.about["shifts"], np.float32)
    differences = []
    for _ in range(steps):
        shift, code = shifts[rng.integers(len(shifts), size=rows)], rng.integers(world.config.codes, size=rows)
        state = simulator.step(state, torch.from_numpy(shift), torch.from_numpy(code))
        other, frame = exported.step(other, shift, code)
        expected = simulator.frames(state).numpy()
        drawn = (expected != other["background"]).any(-1) | (frame != other["background"]).any(-1)
        difference = np.abs(frame.astype(int) - expected)[drawn]
        differences.append(float(difference.mean()) if difference.size else 0.0)
    return differences


def export_policy(world: World, folder: Path, path: Path) -> None:
    """Add a policy to an exported world: writes policy.onnx and its entry in world.json.

    Args:
        world: that it acts in.
        folder: written by :func:`export_onnx`.
        path: .safetensors file of :func:`glass_gym.policy.save_policy`.

    Raises:
        ExportError: a package is missing, the policy cannot be exported, or it does not fit the world.
    """
    need_packages("agents", "stable_baselines3")
    from glass_gym.policy import PolicyError, load_policy

    core = GlassCore(world, EXAMPLE_ROWS, device="cpu", precision="float32")
    try:
        policy = load_policy(path, core=core)
    except PolicyError as error:
        raise ExportError(str(error)) from None
    about = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    graph = PolicyGraph(policy, about["reach"]["radius"])
    if graph.counts != [len(about["shifts"]), len(about["code_names"])]:
        raise ExportError(f"{path}: the policy has {graph.counts} actions; those of {world.name} are others")
    frames = torch.from_numpy(world.start_frames[:1]).expand(EXAMPLE_ROWS, -1, -1, -1).contiguous()
    model = _trace(graph, (frames, torch.zeros(EXAMPLE_ROWS, 2)))
    about["graphs"]["policy"] = _write_graph(model, folder, "policy")
    (folder / "world.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
