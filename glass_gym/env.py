"""GlassEnv: the batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.checkpoint import World
from glass_gym.simulator import to_host
from glass_gym.vector_env import RENDER_FPS, GlassCore


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
        render_mode: ``"rgb_array"`` or None.
        kwargs: of :class:`glass_gym.vector_env.GlassCore`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, checkpoint: str | World = "tennis", render_mode: str | None = None, **kwargs: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.core = GlassCore(checkpoint, 1, **kwargs)
        self.render_mode = render_mode
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

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start anew. Options: `start_frame` (index into the pool or a uint8 picture), `target` (x, y) px."""
        super().reset(seed=seed)
        self.core.reset_rows(np.ones(1, bool), [self.np_random], options)
        return self._observation(), _first(self.core.infos())

    def step(self, action):
        """One step under (shift, code)."""
        if self.core.state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        outcome = self.core.advance(np.asarray(action)[None])
        info = _first(self.core.infos(outcome["commanded_shift"]))
        reward, terminated = float(to_host(outcome["reward"])[0]), bool(to_host(outcome["terminated"])[0])
        return self._observation(), reward, terminated, False, info

    def _observation(self):
        batch = self.core.observations()
        return {k: v[0] for k, v in batch.items()} if isinstance(batch, dict) else batch[0]

    def render(self):
        """The frame (H, W', 3) uint8 with the pixel aspect applied; None without a render mode."""
        return self.core.render()[0] if self.render_mode == "rgb_array" else None


def _first(infos: dict[str, np.ndarray]) -> dict[str, Any]:
    """Row 0, with Python scalars for scalars."""
    return {key: value[0].item() if value[0].ndim == 0 else value[0].copy() for key, value in infos.items()}
