"""GlassVectorEnv: the vector environment, with time limits, autoreset modes, and numpy or torch output."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from glass_gym.env.core import GlassCore
from glass_gym.env.gym_mixin import GymMixin
from glass_gym.env.randomness import draw_key, key_of_seed
from glass_gym.env.state import EnvState
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.checks import check_choice, check_flags

RENDER_FPS = 15
OF_ROWS = ("code_prior", "observations", "render", "state")
"""Methods of the vector environment whose results hold one item a row."""


class GlassVectorEnv(GymMixin, VectorEnv):
    """A batch of learned worlds as a Gymnasium vector environment.

    Row i has its own random numbers, seeded seed + i, which do not depend on the number of rows. A row seeded s and a
    :class:`GlassEnv` seeded s play the same episodes.

    With ``output="torch"`` observations, rewards, flags and infos are tensors on the device. On a GPU a step then never
    reads values on the host. This has consequences: values of actions that are tensors on the GPU are not checked;
    SAME_STEP always returns `final_obs` and `final_info` as whole batches (select rows by their masks); and with
    DISABLED a done row continues until it is reset.

    Args:
        checkpoint: the name of a bundled world, a path, or a loaded :class:`World`.
        num_envs: B, the number of environments.
        max_episode_steps: time limit; None: no limit.
        render_mode: ``"rgb_array"`` or None.
        autoreset_mode: NEXT_STEP (the step after a done one ignores its action and returns the reset observation with
            reward 0), SAME_STEP (the done step returns the reset observation; `final_obs` and `final_info` hold the
            last ones), or DISABLED (``reset(options={"reset_mask": mask})`` resets the rows of a bool mask).
        output: ``"numpy"`` or ``"torch"``.
        stagger: let the first time limits of the rows end at different steps, evenly spread.
        kwargs: of :class:`glass_gym.env.core.GlassCore`.

    Raises:
        ValueError: a value is out of range or unknown.
        TypeError: an argument is unknown.
        CheckpointError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | World = "",
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        stagger: bool = False,
        **kwargs: Any,
    ):
        self.autoreset_mode = _mode(autoreset_mode)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_choice("output", output, ("numpy", "torch"))
        check_flags(stagger=stagger)
        if max_episode_steps is not None:
            whole = isinstance(max_episode_steps, (int, np.integer)) and not isinstance(max_episode_steps, bool)
            if not whole or max_episode_steps < 1:
                raise ValueError(
                    f"max_episode_steps must be an integer of at least 1, or None, got {max_episode_steps!r}"
                )
            max_episode_steps = int(max_episode_steps)
        self.core = GlassCore(checkpoint, num_envs, **kwargs)
        # reading values costs nothing on the CPU
        self.core.sync_free = output == "torch" and self.core.device.type != "cpu"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS, "autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.output = output
        self.max_episode_steps = max_episode_steps
        self.stagger = stagger
        self.set_spaces()
        self._seeded = False
        self.closed = False

    def set_spaces(self) -> None:
        """Take the spaces from the core. Call it after the core has changed."""
        self.single_action_space = self.core.action_space
        self.single_observation_space = self.core.observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    # --- reset -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes, in all rows or in those of a mask.

        Args:
            seed: an integer s (row i gets s + i), one per row (None keeps a row's random numbers), or None (all go on).
            options: `start_frame`, `target` (see :meth:`GlassCore.reset`), and `reset_mask`, (num_envs,) bool: other
                rows keep their frame, counters and random numbers.

        Returns:
            observations and infos of all rows.

        Raises:
            ValueError: a seed, mask or option cannot be used.
            ResetNeeded: a masked reset before the first whole one (:mod:`gymnasium.error`).
        """
        self._must_be_open()
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        if mask is not None and not self.core.started:
            if not mask.all():
                raise gym.error.ResetNeeded("reset all rows once before resetting some with reset_mask")
            mask = None
        if mask is None and isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        self._seed(seed, mask)
        device_mask = None if mask is None else torch.from_numpy(mask).to(self.core.device)
        self.core.reset(device_mask, options)
        if mask is None and self.stagger and self.max_episode_steps:
            steps = torch.from_numpy(np.arange(self.num_envs) * self.max_episode_steps // self.num_envs)
            self.core.state = replace(self.core.state, steps=steps.to(self.core.device))
        return self._out(self.core.observations()), self._infos(self.core.infos(), device_mask)

    def _mask(self, mask: Any) -> np.ndarray | None:
        if mask is None:
            return None
        mask = to_numpy(mask)
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), "
                f"got {getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
            )
        if not mask.any():
            raise ValueError("options['reset_mask'] selects no row; leave the reset out instead")
        return mask.copy()

    def _seed(self, seed: Any, mask: np.ndarray | None) -> None:
        rows = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        if isinstance(seed, (int, np.integer)):
            seeds = {row: int(seed) + row for row in rows}
        elif seed is None:
            if self._seeded:
                return
            first = draw_key(self.np_random) & (2**62 - 1)
            seeds = {row: first + row for row in rows}
        else:
            known = isinstance(seed, (list, tuple, np.ndarray)) and len(seed) == self.num_envs
            if not known or not all(s is None or isinstance(s, (int, np.integer)) for s in seed):
                raise ValueError(f"seed must be an int, or {self.num_envs} ints or None, got {str(seed)[:80]!r}")
            seeds = {row: seed[row] for row in rows if seed[row] is not None or not self._seeded}
        if seeds:
            self.core.seed({row: key_of_seed(s) for row, s in seeds.items()})
        self._seeded = True

    # --- step --------------------------------------------------------------------------------------------------

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of all rows.

        Args:
            actions: (num_envs, 2) integers (global shift, local action), or (num_envs, n) px and scores (see `action`),
                an array or a tensor.

        Returns:
            observations, rewards, terminated, truncated (num_envs,), infos.

        Raises:
            ResetNeeded: the environment was not reset, or (DISABLED with numpy output) a row is done
                (:mod:`gymnasium.error`).
            TypeError: the actions are a single value.
            ValueError: the actions are not in the action space.
        """
        self._must_be_ready()
        core = self.core
        resetting = core.state.done if self.autoreset_mode == AutoresetMode.NEXT_STEP else None
        if self.autoreset_mode == AutoresetMode.DISABLED and self.output == "numpy" and core.state.done.any():
            late = np.flatnonzero(to_numpy(core.state.done)).tolist()
            raise gym.error.ResetNeeded(
                f"rows {late} are done; with AutoresetMode.DISABLED reset them first: "
                "reset(options={'reset_mask': done})"
            )
        outcome = core.advance(actions)
        reward, terminated, commanded = outcome.reward, outcome.terminated, outcome.commanded_shift
        if resetting is not None:
            core.reset(resetting)
            reward = reward.masked_fill(resetting, 0)
            terminated = terminated & ~resetting
            commanded = commanded.masked_fill(resetting[:, None], 0)
        truncated = torch.zeros_like(terminated)
        if self.max_episode_steps:
            truncated = core.state.steps >= self.max_episode_steps
        done = terminated | truncated
        core.state = replace(core.state, done=done)
        final = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and (self.output == "torch" or done.any()):
            final = self._final(done, core.observations(), core.infos(commanded))
            core.reset(done)
            commanded = commanded.masked_fill(done[:, None], 0)
        infos = self._infos(core.infos(commanded)) | final
        observations = self._out(core.observations())
        if self.output == "torch":
            return observations, reward, terminated, truncated, infos
        reward = to_numpy(reward).astype(np.float64)
        return observations, reward, to_numpy(terminated, copy=True), to_numpy(truncated), infos

    def _final(self, done: Tensor, observations: Any, infos: dict[str, Tensor]) -> dict[str, Any]:
        """`final_obs` and `final_info` with their masks, as Gymnasium's own vector environments return them."""
        info = self._infos(infos, done)
        if self.output == "torch":
            return {"final_obs": observations, "_final_obs": done, "final_info": info, "_final_info": done}
        mask = to_numpy(done)
        observations = to_numpy(observations)
        last = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(mask):
            last[row] = deepcopy(index_rows(observations, row))
        for key in infos:
            info[key][~mask] = 0
        return {"final_obs": last, "_final_obs": mask.copy(), "final_info": info, "_final_info": mask.copy()}

    # --- attributes and methods, as of Gymnasium's vector environments ------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of each environment, or the result of a method: one item a row."""
        value = getattr(self, name)
        return tuple(self.per_row(name, value(*args, **kwargs) if callable(value) else value))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """As :meth:`call` without arguments."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute, which all rows share; a list or tuple holds one value a row (ValueError: they differ)."""
        each = list(values) if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"set_attr of {name!r} needs one value, or {self.num_envs}, got {len(each)}")
        if not all(value is each[0] or np.array_equal(value, each[0]) for value in each):
            raise ValueError(f"the batch is one environment: {name!r} must be the same in all rows")
        setattr(self, name, each[0])

    def per_row(self, name: str, value: Any) -> list[Any]:
        """What the attribute or method `name` gave, as one item a row; what all rows share is repeated."""
        count = len(value) if isinstance(value, (EnvState, np.ndarray, Tensor)) else None
        if name in OF_ROWS and value is not None and count in (None, self.num_envs):
            take = value.rows if isinstance(value, EnvState) else lambda row: index_rows(value, row[0])
            return [take([row]) for row in range(self.num_envs)]
        return [value] * self.num_envs

    # --- the rest ----------------------------------------------------------------------------------------------

    def state(self, rows: Any = None) -> EnvState:
        """Copy the complete state of rows (integers or a bool mask; None: all): agents, targets, random numbers."""
        self._must_be_ready()
        return self.core.state.rows(self._index(rows))

    def set_state(self, state: EnvState, rows: Any = None) -> None:
        """Replace the state of rows.

        Copies of one row share its random numbers, so that their next episodes are equal. Reset them with different
        seeds for different ones.

        Args:
            state: from :meth:`state`, of as many rows or of one, which is copied into each.
            rows: integers or a bool mask; None: all.

        Raises:
            ValueError: the numbers of rows differ, or :meth:`GlassCore.check_state` refuses the state.
        """
        self._must_be_ready()
        self.core.check_state(state)
        index = self._index(rows)
        if len(state) not in (1, len(index)):
            raise ValueError(
                f"set_state of {len(index)} rows needs a state of as many rows or of one, got {len(state)}"
            )
        if len(state) != len(index):
            state = state.rows(torch.zeros(len(index), dtype=torch.long, device=state.position.device))
        self.core.write(index, state)

    def _index(self, rows: Any) -> Tensor:
        everyone = torch.arange(self.num_envs, device=self.core.device)
        if rows is None:
            return everyone
        rows = torch.as_tensor(rows, device=self.core.device)
        rows = rows if rows.numel() else rows.long()  # an empty list is float32
        if rows.dtype == torch.bool:
            if rows.shape != (self.num_envs,):
                raise ValueError(f"a mask of rows must have shape ({self.num_envs},), got {tuple(rows.shape)}")
            return everyone[rows]
        if rows.ndim != 1 or rows.is_floating_point() or not ((0 <= rows) & (rows < self.num_envs)).all():
            raise ValueError(f"rows must be ints in 0..{self.num_envs - 1}, got {rows.tolist()}")
        return rows.long()

    def observations(self) -> Any:
        """The present observations of all rows, such as after `set_state`."""
        self._must_be_ready()
        return self._out(self.core.observations())

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Frames (H, W', 3) uint8 of all rows, pixel aspect applied; None without a render mode."""
        if self.render_mode != "rgb_array":
            return None
        self._must_be_ready()
        return tuple(self.core.render())

    def close_extras(self, **kwargs: Any) -> None:
        """Free the memory."""
        self.core.forget()

    def _out(self, value: Any) -> Any:
        return value if self.output == "torch" else to_numpy(value)

    def _infos(self, infos: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Any]:
        """Infos with the masks that Gymnasium adds: `_key` is True in rows that have an entry."""
        if present is None:
            present = torch.ones(self.num_envs, dtype=torch.bool, device=self.core.device)
        infos = infos | {f"_{key}": present.clone() for key in infos}
        if self.output == "torch":
            return infos
        # numbers are float64, as Gymnasium's vectors make of Python's
        return {
            key: value.astype(np.float64) if value.ndim == 1 and value.dtype == np.float32 else value
            for key, value in to_numpy(infos).items()
        }


def _mode(mode: Any) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(f"AutoresetMode.{m.name} ({m.value!r})" for m in AutoresetMode)
        raise ValueError(f"autoreset_mode must be one of {known}, got {mode!r}") from None
