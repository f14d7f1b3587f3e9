"""GlassEnv: the batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.checkpoint import World
from glass_gym.core import EnvState, GlassCore, emit
from glass_gym.randomness import draw_key
from glass_gym.vector_env import RENDER_FPS


class GlassEnv(gym.Env):
    """A learned world; the agent walks to a target.

    Action ``MultiDiscrete([S, K])`` = (global shift, local action). Observation: the generated frame with the target
    drawn in it, (H, W, 3) uint8; or ``obs_type="position" | "dict"``. Terminated on arrival.

    Example:
        >>> import gymnasium as gym, glass_gym
        >>> env = gym.make("GlassTennis-v0")
        >>> frame, info = env.reset(seed=1)
        >>> frame.shape
        (96, 160, 3)

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        render_mode: ``"rgb_array"``, ``"human"`` (a pygame window) or None.
        kwargs: of :class:`glass_gym.core.GlassCore`.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, checkpoint: str | World = "tennis", render_mode: str | None = None, **kwargs: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
        self.core = GlassCore(checkpoint, 1, **kwargs)
        self.render_mode = render_mode
        self.set_spaces()
        self._stream: np.random.Generator | None = None
        self._window = None
        self._closed = False

    def set_spaces(self) -> None:
        """Take the spaces from the core (again, after it was changed)."""
        self.action_space = self.core.action_space
        self.observation_space = self.core.observation_space

    @property
    def shifts(self) -> np.ndarray:
        """(S, 2) px; row 0 is stay, then right and on counter-clockwise."""
        return self.core.table.shifts

    @property
    def code_names(self) -> tuple[str, ...]:
        """K names of the local actions; 0 is neutral."""
        return self.core.table.code_names

    def get_keys_to_action(self) -> dict[tuple[int, ...], np.ndarray]:
        """For :func:`gymnasium.utils.play.play` (with ``noop=np.array([0, 0])``): arrows, chords of them, digits."""
        return self.core.table.keys()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start anew. Options: `start_frame` (an index into the pool or a picture), `target` (x, y) px."""
        self._must_be_open()
        super().reset(seed=seed)
        if self._stream is not self.np_random:  # seeded just now, the first time, or set by the user
            self._stream = self.np_random
            self.core.seed({0: draw_key(self.np_random)})
        self.core.reset(options=options)
        return self._seen(emit(self.core.infos()))

    def step(self, action):
        """One step under (shift, code)."""
        self._must_be_ready()
        outcome = self.core.advance(np.asarray(action)[None])
        observation, info = self._seen(emit(self.core.infos(outcome["commanded_shift"])))
        return observation, outcome["reward"].item(), outcome["terminated"].item(), False, info

    def _seen(self, infos: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        """Row 0 of observation and infos, with Python scalars for scalars; the window shows it."""
        if self.render_mode == "human":
            self.render()
        batch = emit(self.core.observations())
        observation = {k: v[0] for k, v in batch.items()} if isinstance(batch, dict) else batch[0]
        return observation, {key: v[0].item() if v[0].ndim == 0 else v[0] for key, v in infos.items()}

    def state(self) -> EnvState:
        """A copy of everything: agent, background, target, random stream (not of wrappers such as TimeLimit)."""
        self._must_be_ready()
        return self.core.state.clone()

    def set_state(self, state: EnvState) -> None:
        """Go on from a state of one row."""
        self._must_be_ready()
        if len(state) != 1:
            raise ValueError(f"a single environment takes a state of one row, got {len(state)}; use state.rows([i])")
        self.core.write(slice(None), state)

    def observation(self):
        """The observation as it is now (after `set_state` or `set_target`)."""
        self._must_be_ready()
        return self._seen({})[0]

    def set_target(self, target) -> None:
        """Move the target to (x, y) px."""
        self._must_be_ready()
        self.core.set_target(target)

    def render(self):
        """The frame (H, W', 3) uint8 with the pixel aspect applied; ``"human"`` shows it and returns None."""
        if self.render_mode is None:
            return None
        self._must_be_ready()
        frame = self.core.render()[0]
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            from glass_gym.render import Window

            self._window = Window(frame.shape[:2], title=f"glass_gym: {self.core.world.name}")
        self._window.poll()
        self._window.show(frame)
        self._window.wait(self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window and let go of the world; closing twice is fine."""
        if self._window is not None:
            self._window.close()
        self._window, self._closed = None, True
        self.core.forget()

    def _must_be_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed; make a new one")

    def _must_be_ready(self) -> None:
        self._must_be_open()
        if not self.core.begun:
            raise gym.error.ResetNeeded("call reset() first")
