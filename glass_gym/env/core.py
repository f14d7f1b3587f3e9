"""GlassCore: a batch of environments of one world with a task. It knows no API of Gymnasium or Stable-Baselines3.

The single, vector and Stable-Baselines3 environments and the player are built on it. All data are tensors on one
device. A row's randomness follows from two integers (:mod:`glass_gym.env.randomness`). So a step with resets can run
without reading values on the host.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glass_gym.env.randomness import uniform
from glass_gym.env.seen import SeenGround
from glass_gym.env.starts import StartStates
from glass_gym.env.state import EnvState, StepOutcome
from glass_gym.simulator.simulator import PRESENT, Simulator, WorldState
from glass_gym.tasks import Outcome, Scene, Task, TaskState, make_task
from glass_gym.tensors.convert import outside_inference_mode, to_numpy
from glass_gym.tensors.geometry import neighbourhood
from glass_gym.tensors.observe import observed_frames
from glass_gym.tensors.rows import write_rows
from glass_gym.worlds.checkpoint import World, load_world
from glass_gym.worlds.checks import check_choice, check_flags
from glass_gym.worlds.pictures import stretch

CODE_STREAM = 0x636F646573  # Separates the random numbers of local actions from those of starts and targets.
MANY_FRAMES = 4  # Positions in a valid state are at most this many sides of the frame away.
MANY_STEPS = 1 << 20  # More steps than an episode has.


class GlassCore:
    """A batch of environments ("rows") of a world with a task.

    Args:
        checkpoint: the name of a bundled world, a path, or a loaded :class:`World`.
        rows: B, the number of environments.
        obs_type: ``"frame"``, ``"position"`` or ``"dict"`` (both).
        task: ``"reach"`` (walk to a target), ``"collect"`` (several targets), another registered name,
            ``"package.module:name"``, a :class:`glass_gym.tasks.Task`, or None (no task: reward 0, no termination).
        draw_target: draw the targets into observed frames.
        position_from: source of the position that the task uses: ``"state"`` (the simulator's own) or ``"frame"`` (M on
            the generated frame, which costs one more network call per step).
        shifts: the global actions, see :meth:`ActionTable.build`.
        shift_scale: multiplies the shifts.
        action: ``"discrete"`` (indices of a shift and a local action), ``"continuous"`` (a shift in px; the local
            action is drawn from the prior) or ``"hybrid"`` (a shift in px, and a score of each local action, of which
            the highest is played).
        bounds: ``"ground"`` (agents stay in the box around the places where they were seen in the footage) or
            ``"seen"`` (they go nowhere else; the world must store these places).
        frame_size: (height, width) px of observed frames, which are reduced on the device; None: the world's.
        channels_first: observed frames are (3, H, W), not (H, W, 3).
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:i"`` or ``"mps"``.
        precision: of the networks: ``"auto"``, ``"float32"`` or ``"bfloat16"``.
        task_options: see :class:`ReachTask` and :class:`CollectTask`.

    Raises:
        ValueError: a value is out of range or unknown; the message lists what is allowed.
        TypeError: the task does not take an option.
        CheckpointError: the checkpoint cannot be used.
    """

    started = False  # Whether all rows were reset once.
    sync_free = False  # Whether steps and masked resets never read values on the host: all rows are computed then.

    @outside_inference_mode
    def __init__(
        self,
        checkpoint: str | World = "",
        rows: int = 1,
        obs_type: str = "frame",
        task: str | Task | None = "reach",
        draw_target: bool = True,
        position_from: str = "state",
        shifts: Any = "compass",
        shift_scale: float = 1.0,
        action: str = "discrete",
        bounds: str = "ground",
        frame_size: tuple[int, int] | None = None,
        channels_first: bool = False,
        device: str = "auto",
        precision: str = "auto",
        **task_options: Any,
    ):
        if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {rows!r}")
        check_choice("obs_type", obs_type, ("frame", "position", "dict"))
        check_choice("position_from", position_from, ("state", "frame"))
        check_choice("action", action, ("discrete", "continuous", "hybrid"))
        check_choice("bounds", bounds, ("ground", "seen"))
        check_flags(draw_target=draw_target, channels_first=channels_first)
        self.world = checkpoint if isinstance(checkpoint, World) else load_world(checkpoint)
        self.simulator = Simulator(self.world.model, device, precision, self.world.ground)
        self.seen = SeenGround(self.world, self.simulator.device) if bounds == "seen" else None
        self.rows = int(rows)
        self.obs_type = obs_type
        self.position_from = position_from
        self.action = action
        self.height, self.width = self.simulator.height, self.simulator.width
        self.table = self.world.action_table(shifts, shift_scale)
        config = self.world.config
        sizes = self.height, self.width, config.agent_radius, self.table.shifts, self.world.ground
        scene = Scene(*sizes, config.codes, self.simulator, self.world.pixel_aspect)
        self.task = make_task(task, scene, **task_options)
        self.draw_target = draw_target and self.task is not None
        self.channels_first = channels_first
        self.frame_size = (self.height, self.width)
        if frame_size is not None:
            self.resize(frame_size)
        self._shifts = torch.from_numpy(self.table.shifts).to(self.simulator.device)
        self._longest = self._shifts.abs().amax(0)  # (2,) px
        self._usual_codes = torch.tensor(self.table.usual_codes, device=self.simulator.device)
        self.starts = StartStates(self.world, self.simulator)
        self._check_memory()
        self._picture: Tensor | None = None
        self._pixels: Tensor | None = None  # its memory, for the next one
        self._state: EnvState | None = None

    def _check_memory(self) -> None:
        """Refuse more rows than fit into memory. A row holds at least its background and two frames, uint8."""
        needed = self.rows * 9 * self.height * self.width
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory
        elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        else:
            return
        if needed > there:
            raise ValueError(
                f"num_envs is {self.rows}: a row of this world takes {needed / self.rows / 1e6:.1f} MB at least, "
                f"all of them {needed / 1e9:.0f} GB; {self.device} has {there / 1e9:.0f} GB"
            )

    @property
    def state(self) -> EnvState:
        """The state of all rows; ResetNeeded (:mod:`gymnasium.error`): the core was not seeded."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._state

    @state.setter
    def state(self, state: EnvState) -> None:
        self._state = state

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.simulator.device

    # --- spaces ------------------------------------------------------------------------------------------------

    @outside_inference_mode
    def resize(self, frame_size: tuple[int, int]) -> None:
        """Set the size (height, width) px of observed frames, from 8x8 to the world's; ValueError: another size."""
        size = tuple(frame_size) if isinstance(frame_size, (tuple, list, np.ndarray)) else ()
        if len(size) != 2 or not all(isinstance(v, (int, np.integer)) for v in size):
            raise ValueError(f"frame_size must be (height, width) in whole px, such as (48, 80), got {frame_size!r}")
        if not (8 <= size[0] <= self.height and 8 <= size[1] <= self.width):
            raise ValueError(f"frame_size must lie between 8x8 and the world's {self.height}x{self.width}, got {size}")
        self.frame_size = (int(size[0]), int(size[1]))

    @property
    def action_space(self) -> gym.Space:
        """MultiDiscrete([S, K]): shift, local action. Or a Box of px right and down, and with ``"hybrid"`` K scores.

        The box reaches to the longest shift along each axis; along an axis without shifts to 1 px, which does nothing.
        """
        if self.action == "discrete":
            return gym.spaces.MultiDiscrete(list(self.table.nvec))
        scores = self.table.nvec[1] if self.action == "hybrid" else 0
        longest = np.abs(self.table.shifts).max(0)
        high = np.concatenate([np.where(longest > 0, longest, 1), np.ones(scores)]).astype(np.float32)
        return gym.spaces.Box(-high, high, dtype=np.float32)

    def encode_actions(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs (B, 2) of a shift's index and a local action as actions of :attr:`action_space`; floats are such."""
        pairs = np.asarray(pairs)
        if self.action == "discrete" or not np.issubdtype(pairs.dtype, np.integer):
            return pairs
        px = self.table.shifts[pairs[:, 0]]
        if self.action == "continuous":
            return px
        scores = 2 * np.eye(self.table.nvec[1], dtype=np.float32)[pairs[:, 1]] - 1
        return np.concatenate([px, scores], 1)

    @property
    def frame_space(self) -> gym.spaces.Box:
        """A row's frame, uint8."""
        shape = (3, *self.frame_size) if self.channels_first else (*self.frame_size, 3)
        return gym.spaces.Box(0, 255, shape, np.uint8)

    @property
    def position_space(self) -> gym.spaces.Box:
        """A row's position: (x, y) px, and what the task adds (:meth:`Task.observe`)."""
        limits = np.array([self.width, self.height], np.float32)
        low, high = (np.zeros(0, np.float32),) * 2 if self.task is None else self.task.bounds()
        return gym.spaces.Box(np.concatenate([-limits, low]), np.concatenate([2 * limits, high]), dtype=np.float32)

    @property
    def observation_space(self) -> gym.Space:
        """A row's observation: frame, position, or a Dict of both."""
        if self.obs_type == "dict":
            return gym.spaces.Dict({"frame": self.frame_space, "position": self.position_space})
        return self.frame_space if self.obs_type == "frame" else self.position_space

    # --- starting ----------------------------------------------------------------------------------------------

    @outside_inference_mode
    def seed(self, keys: dict[int, int]) -> None:
        """Give rows new random keys: row -> key, an int64. Every row needs one before the first reset."""
        if self._state is None:
            self._state = self._blank()
        index = torch.tensor(list(keys), device=self.device)
        state = self.state = replace(self.state, key=self.state.key.clone(), episode=self.state.episode.clone())
        state.key[index] = torch.tensor(list(keys.values()), device=self.device)
        state.episode[index] = 0

    def _blank(self) -> EnvState:
        """The state before the first reset."""
        zero = torch.zeros(self.rows, dtype=torch.long, device=self.device)
        no = torch.zeros(self.rows, dtype=torch.bool, device=self.device)
        world = self.starts.at(zero)
        place = self.simulator.agent_position(world)
        task = self._begin(torch.zeros(self.rows, self._draws, device=self.device), place, {}, world)
        origin = torch.full_like(zero, self.world.identity)
        return EnvState(world, place, place.clone(), ~no, task, zero, no, zero.clone(), zero.clone(), origin)

    @outside_inference_mode
    def reset(self, mask: Tensor | None = None, options: dict[str, Any] | None = None) -> None:
        """Start new episodes, in all rows or in some.

        Args:
            mask: (B,) bool on the device, the rows; None: all.
            options: `start_frame`: an index of the start frames, a picture, or one of either per row; and options of
                the task, for ``"reach"`` `target`: (x, y) px, or (B, 2).

        Raises:
            ValueError: an option is unknown, or its value cannot be used.
            NoAgentError: the model finds no agent in a start picture.
        """
        options = dict(options or {})
        start = options.pop("start_frame", None)
        given = self._parse(options)
        everyone = torch.arange(self.rows, device=self.device)
        if mask is None or self.sync_free:
            fresh = self._fresh(everyone, start, given)
            self.state = fresh if mask is None else self.state.where(mask, fresh)
            self.started = True
            self._picture = None
            return
        chosen = everyone[mask]
        if not len(chosen):
            return
        fresh = self._fresh(chosen, start, given)
        self.state = self.state.write(chosen, fresh)
        if self._picture is not None:  # other rows keep their frames
            self._picture = write_rows(self._picture, chosen, self.simulator.pictures(fresh.world))

    def _parse(self, options: dict[str, Any]) -> TaskState:
        """The task's reset options for all rows, on the device; ValueError: unknown, or its value cannot be used."""
        if "target" in options and self.task is None:
            raise ValueError("task=None has no target; make the environment with task='reach'")
        known = self.task.options if self.task else ()
        if unknown := set(options) - set(known):
            known = ", ".join(("start_frame", *known, "reset_mask"))
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: {known}")
        parsed = self.task.parse(options, self.rows) if self.task else {}
        return {name: value.to(self.device) for name, value in parsed.items()}

    @property
    def _draws(self) -> int:
        """How many uniform numbers the task needs to start an episode."""
        return self.task.draws if self.task else 0

    def _fresh(self, rows: Tensor, start: Any, given: TaskState) -> EnvState:
        """New episodes of rows (B,) int64; `given` holds the task's reset options for all rows."""
        key = self.state.key[rows]
        episode = self.state.episode[rows]
        numbers = uniform(key, episode, 1 + self._draws)
        drawn = (numbers[:, 0] * self.starts.count).long()
        world = self.starts.at(drawn) if start is None else self.starts.given(start, rows, self.rows)
        position, present = self._locate_agents(world)
        given = {name: value[rows] for name, value in given.items()}
        task = self._begin(numbers[:, 1:], position, given, world)
        steps = torch.zeros_like(key)
        origin = self.state.origin[rows]
        return EnvState(world, position, position.clone(), present, task, steps, steps > 0, key, episode + 1, origin)

    def _begin(self, numbers: Tensor, position: Tensor, given: TaskState, world: WorldState) -> TaskState:
        return self.task.begin(world, self.task.sample(numbers, position, given)) if self.task else {}

    @outside_inference_mode
    def set_target(self, target: Any) -> None:
        """Move the targets, as the task's reset option `target` does; ValueError: no task with targets, or no place."""
        given = self._parse({"target": target})
        numbers = torch.zeros(self.rows, self._draws, device=self.device)
        assert self.task is not None
        state = self.state.task
        moved = self.task.sample(numbers, self.state.position, state | given)
        self.state = replace(self.state, task=state | moved)

    @outside_inference_mode
    def aim(self, place: tuple[float, float]) -> None:
        """Pass a click at (x, y) px to the task, in all rows."""
        if self.task is not None:
            where = torch.tensor(place, dtype=torch.float32, device=self.device)
            self.state = replace(self.state, task=self.task.aim(self.state.task, where))

    @outside_inference_mode
    def forget(self) -> None:
        """Free all states and frames. The core needs seeds and a reset after it."""
        self._state = self._picture = self._pixels = None
        self.starts.forget()
        self.started = False

    @outside_inference_mode
    def write(self, index: Any, other: EnvState) -> None:
        """Replace rows (int64, or a slice) by those of a state that :meth:`check_state` accepts."""
        self.state = self.state.write(index, other)
        self._picture = None

    def check_state(self, other: EnvState) -> None:
        """ValueError: the state is of another world or task, or holds values that no episode reaches."""
        if not isinstance(other, EnvState):
            raise ValueError(f"a state is what state() gives, got {type(other).__name__}")
        sizes = [[(tuple(x.shape[1:]), x.dtype) for x in state.tensors()] for state in (self.state, other)]
        if sizes[0] != sizes[1]:
            raise ValueError("the state is of another world or task: its sizes or types differ")
        if len({len(x) for x in other.tensors()}) != 1:
            raise ValueError(f"parts of the state have {sorted({len(x) for x in other.tensors()})} rows")
        if (other.origin != self.world.identity).any():
            raise ValueError(f"the state is of another world than {self.world.name or 'this one'!r}")
        if not all(x.isfinite().all() for x in other.tensors() if x.is_floating_point()):
            raise ValueError("the state holds numbers that are not finite")
        far = MANY_FRAMES * max(self.height, self.width)
        places = (other.position, other.previous, other.world.position, other.world.origin)
        if any((x.abs() > far).any() for x in places) or (other.steps < 0).any() or (other.episode < 0).any():
            raise ValueError("the state holds positions far outside the frame, or negative counts")

    # --- stepping ----------------------------------------------------------------------------------------------

    @outside_inference_mode
    def advance(self, actions: Any) -> StepOutcome:
        """One step of all rows.

        Args:
            actions: (B, n) of :attr:`action_space`, an array or a tensor. Px and scores outside of a box are cut.

        Returns:
            rewards, terminations and commanded shifts.

        Raises:
            TypeError: the actions are a single value.
            ValueError: the actions have another shape or type, or are out of range (not checked in tensors on a GPU).
        """
        commanded, code = self._decode_actions(actions)
        state = self.state
        move = commanded if self.task is None else self.task.allowed(state.position, commanded)
        if self.seen is not None:
            move = self.seen.allowed(state.world.position, move)
        world = self.simulator.step(state.world, move, code)
        self._picture = None
        position, present = self._locate_agents(world)
        if self.task is None:
            nothing = torch.zeros(self.rows, device=self.device)
            outcome = Outcome(nothing, nothing > 0, state.task)
        else:
            task = self.task.watch(world, code, state.task)
            outcome = self.task.step(state.position, position, task)
        kept = replace(state, world=world, position=position, previous=state.position, present=present)
        self.state = replace(kept, task=outcome.state, steps=state.steps + 1)
        return StepOutcome(outcome.reward, outcome.terminated, commanded)

    def code_prior(self) -> Tensor:
        """p(code | state, shift) of the next step, (B, S, K), for all shifts of the table; ValueError: no prior."""
        return self.simulator.code_prior(self.state.world, self._shifts.expand(self.rows, -1, -1))

    def sample_codes(self, shift_index: Tensor) -> Tensor:
        """Draw local actions (B,) int64 from the prior, for global actions (B,) int64; ValueError: no prior."""
        return self._draw_codes(self._shifts[shift_index])

    def _draw_codes(self, shifts: Tensor) -> Tensor:
        """Draw local actions (B,) int64 from the prior, for shifts (B, 2) px; ValueError: no prior."""
        state = self.state
        chances = self.simulator.code_prior(state.world, shifts[:, None])[:, 0]  # (rows, K)
        # equal states and shifts give equal codes
        number = uniform(state.key ^ CODE_STREAM, state.episode * MANY_STEPS + state.steps, 1)
        return (chances.cumsum(1) < number).sum(1).clamp(max=chances.shape[1] - 1)

    def choose_code(self, shift_index: int, row: int = 0) -> int:
        """A row's local action for a global one: drawn from the prior, or without one the shift's usual code."""
        if not self.simulator.has_prior:
            return self.table.usual_codes[shift_index]
        shifts = torch.full((self.rows,), shift_index, device=self.device)
        return int(self.sample_codes(shifts)[row])

    def _locate_agents(self, world: WorldState) -> tuple[Tensor, Tensor]:
        """Positions of the agents as the task sees them, (B, 2) px, and whether they are visible, (B,) bool."""
        position = self.simulator.agent_position(world)
        present = self.simulator.agent_present(world)
        if self.position_from == "state":
            return position, present
        masks = self.simulator.masks(self.simulator.pictures(world))
        radius = self.world.config.agent_radius
        found = self.simulator.model.gma.locate(masks)
        near = neighbourhood(found, radius, self.height, self.width)
        present = (masks[:, 0] * near).sum((1, 2)) >= PRESENT * world.mass.clamp_min(1.0)
        return torch.where(present[:, None], found, position), present

    def _decode_actions(self, actions: Any) -> tuple[Tensor, Tensor]:
        """Actions (B, n) -> shifts (B, 2) px and local actions (B,) int64, on the device."""
        index = self._checked_actions(actions)
        if self.action == "discrete":
            return self._shifts[index[:, 0]], index[:, 1]
        shifts = index[:, :2].minimum(self._longest).maximum(-self._longest)
        if self.action == "hybrid":
            return shifts, index[:, 2:].argmax(1)
        if self.simulator.has_prior:
            return shifts, self._draw_codes(shifts)
        return shifts, self._usual_codes[torch.cdist(shifts, self._shifts).argmin(1)]

    def _checked_actions(self, actions: Any) -> Tensor:
        """Actions on the device, int64 or of a box float32. Values of tensors on a GPU are not checked."""
        space = self.action_space
        discrete = self.action == "discrete"
        if isinstance(actions, Tensor):
            real = not (actions.is_complex() or actions.dtype == torch.bool)
            whole = real and not actions.is_floating_point()
        else:
            actions = np.asarray(actions)
            whole = np.issubdtype(actions.dtype, np.integer)
            real = whole or np.issubdtype(actions.dtype, np.floating)
        shape = (self.rows, *(space.shape or ()))
        kind = "integers" if discrete else "numbers"
        if not actions.shape:
            raise TypeError(f"actions must be {kind} of shape {shape}, got the single value {actions!r}")
        if tuple(actions.shape) != shape or not (whole if discrete else real):
            raise ValueError(f"actions must be {kind} of shape {shape}, got {actions.dtype} {tuple(actions.shape)}")
        kept = torch.long if discrete else torch.float32
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            return actions.to(self.device, kept)
        actions = np.asarray(actions).astype(np.int64 if discrete else np.float32)
        if discrete:
            wrong = ((actions < 0) | (actions >= np.array(self.table.nvec))).any(1)
            allowed = f"lie in 0..{[n - 1 for n in self.table.nvec]}"
        else:
            wrong, allowed = ~np.isfinite(actions).all(1), "be finite"
        if wrong.any():
            raise ValueError(f"actions must {allowed}, got {actions[wrong][0].tolist()}")
        return torch.from_numpy(actions).to(self.device, non_blocking=True)

    # --- observing ---------------------------------------------------------------------------------------------

    def infos(self, commanded: Tensor | None = None) -> dict[str, Tensor]:
        """New tensors (B, ...) by name: the entries of `info`; `commanded`: (B, 2) px, the last shifts, None: zeros."""
        state = self.state
        out = {
            "agent_position": state.position.clone(),
            "previous_position": state.previous.clone(),
            "agent_present": state.present.clone(),
            "commanded_shift": torch.zeros_like(state.position) if commanded is None else commanded.clone(),
        }
        if (heading := self.simulator.agent_heading(state.world)) is not None:
            out["agent_heading"] = heading
        return out | (self.task.infos(state.position, state.task) if self.task else {})

    def pictures(self, shown: bool) -> Tensor:
        """Frames of the world's size, (B, 3, H, W) uint8.

        Returns:
            new frames with targets if they are `shown`; else the core's own memory, which the next step overwrites.
        """
        if self._picture is None:
            # reuse memory: the system clears new memory first, which is slow
            self._picture = self._pixels = self.simulator.pictures(self.state.world, self._pixels)
        return self.task.draw(self._picture, self.state.task) if shown and self.task else self._picture

    def observations(self) -> Tensor | dict[str, Tensor]:
        """Observations of all rows: new tensors on the device."""
        return self.observe(self.obs_type, self.frame_size, self.channels_first, self.draw_target)

    @outside_inference_mode
    def observe(
        self,
        obs_type: str,
        frame_size: tuple[int, int] | None = None,
        channels_first: bool = False,
        shown: bool = True,
    ) -> Any:
        """Observations of all rows, of a type of your choice.

        Args:
            obs_type: ``"frame"``, ``"position"`` or ``"dict"``.
            frame_size: (height, width) px; None: the world's.
            channels_first: frames are (3, H, W), not (H, W, 3).
            shown: draw the targets into frames.

        Returns:
            frames (B, ...) uint8, positions (B, n) px, or a dict of both: new tensors on the device.
        """
        parts = [self.state.position] + ([self.task.observe(self.state.task)] if self.task else [])
        position = torch.cat(parts, 1)
        if obs_type == "position":
            return position
        pictures = self.pictures(shown)
        frames = observed_frames(pictures, frame_size, channels_first, fresh=pictures is not self._picture)
        return frames if obs_type == "frame" else {"frame": frames, "position": position}

    def render(self) -> np.ndarray:
        """Frames (B, H, W', 3) uint8 with targets, as displayed: W' applies the pixel aspect."""
        return stretch(to_numpy(self.pictures(True).permute(0, 2, 3, 1), copy=True), self.world.pixel_aspect)
