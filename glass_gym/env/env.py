"""GlassEnv: the batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.env.core import EnvState, GlassCore
from glass_gym.env.gym_mixin import GymMixin
from glass_gym.env.randomness import draw_key
from glass_gym.env.render import Window
from glass_gym.env.vector_env import RENDER_FPS
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.worlds.checkpoint import World


class GlassEnv(GymMixin, gym.Env):
    """A learned world; the agent walks to a target.

    Action ``MultiDiscrete([S, K])`` = (global shift, local action). Observation: the generated frame with the target
    drawn in it, (H, W, 3) uint8; or ``obs_type="position" | "dict"``. Terminated on arrival.

    Example:
        >>> import gymnasium as gym, glass_gym
        >>> env = gym.make("GlassTennis-v1")
        >>> frame, info = env.reset(seed=1)
        >>> frame.shape
        (96, 160, 3)

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        render_mode: ``"rgb_array"``, ``"human"`` (a pygame window) or None.
        kwargs: of :class:`glass_gym.env.core.GlassCore`.

    Raises:
        ValueError: a value that no environment can have.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, checkpoint: str | World = "tennis-v1", render_mode: str | None = None, **kwargs: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
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
        """Take the spaces from the core (again, after it was changed)."""
        self.action_space = self.core.action_space
        self.observation_space = self.core.observation_space

    def get_keys_to_action(self) -> dict[tuple[int, ...], np.ndarray]:
        """For :func:`gymnasium.utils.play.play` (with ``noop=np.array([0, 0])``): arrows, chords of them, digits."""
        return self.core.table.keys()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start anew. Options: `start_frame` (an index into the start frames, or a picture), `target` (x, y) px."""
        self._must_be_open()
        super().reset(seed=seed)
        if self._stream is not self.np_random:  # seeded just now, the first time, or set by the user
            self._stream = self.np_random
            self.core.seed({0: draw_key(self.np_random)})
        self.core.reset(options=options)
        return self._observe(to_numpy(self.core.infos()))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step under (shift, code).

        Returns:
            observation, reward, terminated, False (time limits are a wrapper's), info.

        Raises:
            ValueError: not two integers of the action space.
        """
        self._must_be_ready()
        action = np.asarray(action)
        if action.shape != (2,):
            raise ValueError(f"an action is (shift, local action), integers of shape (2,), got shape {action.shape}")
        outcome = self.core.advance(action[None])
        observation, info = self._observe(to_numpy(self.core.infos(outcome.commanded_shift)))
        return observation, float(outcome.reward), bool(outcome.terminated), False, info

    def _observe(self, infos: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        """Row 0 of observation and infos, with Python scalars for scalars; the window shows it."""
        if self.render_mode == "human":
            self.render()
        observation = index_rows(to_numpy(self.core.observations()), 0)
        return observation, {key: v[0].item() if v[0].ndim == 0 else v[0] for key, v in infos.items()}

    def state(self) -> EnvState:
        """A copy of everything: agent, background, target, random stream (not of wrappers such as TimeLimit)."""
        self._must_be_ready()
        return self.core.state.clone()

    def set_state(self, state: EnvState) -> None:
        """Go on from a state of one row.

        Raises:
            ValueError: a state of more rows or of another world, or one that no episode comes to.
        """
        self._must_be_ready()
        self.core.check_state(state)
        if len(state) != 1:
            raise ValueError(f"a single environment takes a state of one row, got {len(state)}; use state.rows([i])")
        self.core.write(slice(None), state)

    def code_prior(self) -> np.ndarray:
        """p(code | state, shift) of the next step: (S, K) probabilities."""
        return super().code_prior()[0]

    def observation(self) -> Any:
        """The observation as it is now (after `set_state` or `set_target`)."""
        self._must_be_ready()
        return self._observe({})[0]

    def render(self) -> Any:
        """The frame (H, W', 3) uint8 with the pixel aspect applied; ``"human"`` shows it and returns None."""
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
        """Close the window and let go of the world; closing twice is fine."""
        if self._window is not None:
            self._window.close()
        self._window = None
        self.closed = True
        self.core.forget()
