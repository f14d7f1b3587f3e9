"""GlassEnv: the single environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.env.core import GlassCore
from glass_gym.env.gym_mixin import GymMixin
from glass_gym.env.randomness import draw_key
from glass_gym.env.state import EnvState
from glass_gym.env.vector_env import RENDER_FPS
from glass_gym.env.window import Window
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.checks import check_choice


class GlassEnv(GymMixin, gym.Env):
    """A learned world as a Gymnasium environment: the agent walks to a target.

    Actions are ``MultiDiscrete([S, K])``: a global shift and a local action. Observations are generated frames with the
    target drawn in, (H, W, 3) uint8, or positions, or both (`obs_type`). Episodes terminate on arrival.

    Example:
        >>> import gymnasium as gym, glass_gym
        >>> env = gym.make("GlassTennis-v0")
        >>> frame, info = env.reset(seed=1)
        >>> frame.shape
        (96, 160, 3)

    Args:
        checkpoint: the name of a bundled world, a path, or a loaded :class:`World`.
        render_mode: ``"rgb_array"``, ``"human"`` (a pygame window) or None.
        kwargs: of :class:`glass_gym.env.core.GlassCore`.

    Raises:
        ValueError: a value is out of range or unknown.
        TypeError: an argument is unknown.
        CheckpointError: the checkpoint cannot be used.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, checkpoint: str | World = "", render_mode: str | None = None, **kwargs: Any):
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if "autoreset_mode" in kwargs:
            raise TypeError(
                "a single environment has no autoreset_mode; for Gymnasium's own vector environments give it to them: "
                "gym.make_vec(..., vectorization_mode='sync', vector_kwargs={'autoreset_mode': ...})"
            )
        self.core = GlassCore(checkpoint, 1, **kwargs)
        self.render_mode = render_mode
        self.set_spaces()
        self._stream: np.random.Generator | None = None
        self._window: Window | None = None
        self.closed = False

    def set_spaces(self) -> None:
        """Take the spaces from the core. Call it after the core has changed."""
        self.action_space = self.core.action_space
        self.observation_space = self.core.observation_space

    def get_keys_to_action(self) -> dict[tuple[int, ...], np.ndarray]:
        """Keys for :func:`gymnasium.utils.play.play` (its `noop` is [0, 0]), see :meth:`ActionTable.keys`."""
        keys = self.core.table.keys()
        return {key: self.core.encode_actions(pair[None])[0] for key, pair in keys.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode.

        Args:
            seed: of the random numbers; None: go on with the present ones.
            options: `start_frame` (an index of the start frames, or a picture) and options of the task, for ``"reach"``
                `target`: (x, y) px.

        Returns:
            observation and info.

        Raises:
            ValueError: an option is unknown, or its value cannot be used.
            NoAgentError: the model finds no agent in the start picture.
            ClosedEnvironmentError: the environment is closed (:mod:`gymnasium.error`).
        """
        self._must_be_open()
        super().reset(seed=seed)
        if self._stream is not self.np_random:  # just seeded, the first reset, or set by the user
            self._stream = self.np_random
            self.core.seed({0: draw_key(self.np_random)})
        self.core.reset(options=options)
        return self._observe(to_numpy(self.core.infos()))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Args:
            action: two integers, (global shift, local action), or px and scores (see `action`).

        Returns:
            observation, reward, terminated, truncated (always False: a wrapper sets the time limit), info.

        Raises:
            ValueError: the action is not in the action space.
            ResetNeeded: the environment was not reset (:mod:`gymnasium.error`).
        """
        self._must_be_ready()
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            what = "(shift, local action), integers" if self.core.action == "discrete" else "px and scores, numbers"
            raise ValueError(f"an action is {what} of shape {self.action_space.shape}, got shape {action.shape}")
        outcome = self.core.advance(action[None])
        observation, info = self._observe(to_numpy(self.core.infos(outcome.commanded_shift)))
        return observation, float(outcome.reward), bool(outcome.terminated), False, info

    def _observe(self, infos: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        """Observation and info of the one row, scalars as Python scalars; ``"human"`` shows the frame."""
        if self.render_mode == "human":
            self.render()
        observation = index_rows(to_numpy(self.core.observations()), 0)
        return observation, {key: v[0].item() if v[0].ndim == 0 else v[0] for key, v in infos.items()}

    def state(self) -> EnvState:
        """A copy of the complete state of one row: agent, background, target, random numbers, but not of wrappers."""
        self._must_be_ready()
        return self.core.state.clone()

    def set_state(self, state: EnvState) -> None:
        """Continue from a :meth:`state`; ValueError: several rows, or of another world or task, or out of range."""
        self._must_be_ready()
        self.core.check_state(state)
        if len(state) != 1:
            raise ValueError(f"a single environment takes a state of one row, got {len(state)}; use state.rows([i])")
        self.core.write(slice(None), state)

    def code_prior(self) -> np.ndarray:
        """The prior p(code | state, shift) of the next step: (S, K) probabilities."""
        return super().code_prior()[0]

    def observation(self) -> Any:
        """The present observation, such as after `set_state` or `set_target`."""
        self._must_be_ready()
        return self._observe({})[0]

    def render(self) -> Any:
        """Frame (H, W', 3) uint8 with target and pixel aspect; ``"human"`` shows it and returns None."""
        if self.render_mode is None:
            return None
        self._must_be_ready()
        frame = self.core.render()[0]
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            self._window = Window(frame.shape[:2], title=f"glass_gym: {self.core.world.name}")
        self._window.poll()
        self._window.show(frame)
        self._window.wait(self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window and free the memory; it may be called twice."""
        if self._window is not None:
            self._window.close()
        self._window = None
        self.closed = True
        self.core.forget()
