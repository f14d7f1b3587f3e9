"""Stable-Baselines3 over a core: GlassVecEnv, a rollout buffer on the device, features of observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn
from torch.nn import functional as F

import glass_gym  # noqa: F401  (registers the ids)
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.tensors.device import pick_precision

try:
    from stable_baselines3.common.buffers import DictRolloutBuffer
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("glass_gym.sb3 needs Stable-Baselines3: pip install 'glass-gym[agents]'") from error


class GlassVecEnv(VecEnv):
    """A batched world for Stable-Baselines3; one network call steps all rows.

    Frames are (3, H, W), as SB3's CNNs want them. A done row is reset at once; its infos hold `terminal_observation`,
    `TimeLimit.truncated` and `is_success`.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from glass_gym.sb3 import GlassVecEnv
        >>> env = GlassVecEnv("GlassTennis-v1", num_envs=16, frame_size=(48, 80))
        >>> model = PPO("CnnPolicy", env).learn(1000)  # doctest: +SKIP

    Args:
        id: a registered id.
        num_envs: rows.
        wrappers: of :mod:`glass_gym.wrappers.vector`, applied in order (DQN: FlattenAction; HER: GoalObservation).
        output: ``"numpy"``; or ``"torch"``: observations are a dict of tensors that stay on the device (a frame alone
            becomes ``{"frame": ...}``), for ``MultiInputPolicy`` with :class:`DeviceRolloutBuffer`.
        seed: of row 0; row i gets seed + i.
        kwargs: of the id and of :class:`GlassVectorEnv` (``stagger=True`` spreads the first time limits).
    """

    def __init__(
        self,
        id: str = "GlassTennis-v1",
        num_envs: int = 8,
        wrappers: Sequence[Callable[[VectorEnv], VectorEnv]] = (),
        output: str = "numpy",
        seed: int | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("channels_first", True)
        foreign = f"{id} is not a glass_gym world; use stable_baselines3.common.env_util.make_vec_env"
        mode = AutoresetMode.DISABLED
        try:
            self.env: Any = gym.make_vec(id, num_envs=num_envs, autoreset_mode=mode, output=output, **kwargs)
        except TypeError as error:
            raise TypeError(foreign if "'autoreset_mode'" in str(error) else str(error)) from error
        if not isinstance(self.env.unwrapped, GlassVectorEnv):
            raise TypeError(foreign)
        for wrapper in wrappers:
            self.env = wrapper(self.env)
        self.output = output
        space = self.env.single_observation_space
        self._name = None  # torch output: SB3 takes tensors in dicts only
        if output == "torch" and not isinstance(space, gym.spaces.Dict):
            self._name = self.env.unwrapped.core.obs_type
            space = gym.spaces.Dict({self._name: space})
        self._actions: np.ndarray | None = None
        super().__init__(num_envs, space, self.env.single_action_space)
        self.metadata = self.metadata | {"render_fps": self.env.unwrapped.metadata["render_fps"]}
        if seed is not None:
            self.seed(seed)

    def reset(self):
        """All rows anew, with what `seed` and `set_options` left."""
        unset = all(seed is None for seed in self._seeds)
        observations, infos = self.env.reset(seed=None if unset else self._seeds, options=_merged(self._options))
        self.reset_infos = self._split(to_numpy(infos))
        self._reset_seeds()
        self._reset_options()
        return self._named(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions."""
        self._actions = actions

    def step_wait(self):
        """Step, and reset what is done."""
        observations, reward, terminated, truncated, infos = self.env.step(self._actions)
        reward, terminated, truncated, infos = (to_numpy(x) for x in (reward, terminated, truncated, infos))
        done = terminated | truncated
        rows = self._split(infos)
        for info, late in zip(rows, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = late
        observations = self._named(observations)
        if done.any():
            last = to_numpy(index_rows(observations, np.flatnonzero(done)))
            observations, fresh = self.env.reset(options={"reset_mask": done})
            observations = self._named(observations)
            fresh = self._split(to_numpy(fresh))
            for place, row in enumerate(np.flatnonzero(done).tolist()):
                rows[row]["terminal_observation"] = deepcopy(index_rows(last, place))
                self.reset_infos[row] = fresh[row]
        return observations, reward.astype(np.float32), done, rows

    def _named(self, observations):
        return {self._name: observations} if self._name else observations

    def _split(self, infos: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Arrays -> one dict a row, Python scalars for scalars."""
        keys = [key for key in infos if not key.startswith("_")]
        columns = [infos[key].tolist() if infos[key].ndim == 1 else list(infos[key].copy()) for key in keys]
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    # --- SB3's way to reach through ----------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        """An attribute of the environment (all rows share it), once an index."""
        return [self._find(attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        """Set an attribute for all rows; some rows alone cannot have another."""
        if len(self._indices(indices)) != self.num_envs:
            raise ValueError(f"the rows share one environment: set {attr_name!r} for all of them (indices=None)")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices=None, **kwargs: Any) -> list[Any]:
        """Call a method once; its result once an index."""
        return [self._find(method_name)(*args, **kwargs)] * len(self._indices(indices))

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        """Whether a vector wrapper of that class is on."""
        env: Any = self.env
        found = False
        while env is not env.unwrapped:
            found = found or isinstance(env, wrapper_class)
            env = env.env
        return [found] * len(self._indices(indices))

    def _find(self, name: str) -> Any:
        env = self.env
        while not hasattr(env, name) and env is not env.unwrapped:
            env = env.env
        return getattr(env, name)

    def _indices(self, indices) -> list[int]:
        return list(self._get_indices(indices))

    def get_images(self) -> list[np.ndarray]:
        """One frame (H, W', 3) uint8 a row, pixel aspect applied."""
        return list(self.env.unwrapped.core.render())

    def close(self) -> None:
        """Let go of the world."""
        self.env.close()


class DeviceRolloutBuffer(DictRolloutBuffer):
    """SB3's rollout buffer for dicts, with observations kept as tensors on the policy's device.

    ``PPO("MultiInputPolicy", GlassVecEnv(..., output="torch"), rollout_buffer_class=DeviceRolloutBuffer)``
    """

    observations: Any

    def reset(self) -> None:
        """Empty it."""
        super().reset()
        self.observations = {
            key: torch.zeros(value.shape, dtype=torch.from_numpy(value[:0]).dtype, device=self.device)
            for key, value in self.observations.items()
        }

    def add(self, obs, *args: Any, **kwargs: Any) -> None:
        """Keep a step; observations are tensors (rows, ...)."""
        for key, kept in self.observations.items():
            kept[self.pos] = torch.as_tensor(obs[key], device=self.device)
        kept = self.observations
        self.observations = {}
        super().add({}, *args, **kwargs)
        self.observations = kept

    def to_torch(self, array, copy: bool = True) -> torch.Tensor:
        """Tensors are there already."""
        return array if isinstance(array, torch.Tensor) else super().to_torch(array, copy)

    def _get_samples(self, batch_inds: np.ndarray, env=None):
        index = torch.from_numpy(batch_inds).to(self.device)
        whole = self.observations
        self.observations = {}
        samples = super()._get_samples(batch_inds, env)
        self.observations = whole
        return samples._replace(observations={key: value[index] for key, value in whole.items()})


class KeypointCNN(BaseFeaturesExtractor):
    """Frames -> where things are: convolutions, then each map's mean place under a spatial softmax.

    Reaching a target asks where, not what; a spatial softmax (Levine et al. 2016, "End-to-end training of deep
    visuomotor policies", sec. 5.1) keeps just that, with a tenth of NatureCNN's weights. Maps are normalised first, so
    that from the first step each looks at what stands out to it, and not at the middle of everything.

    Args:
        observation_space: Box (3 n, H, W) uint8. 24 x 40 px learn as well as 48 x 80, in half of the time.
        channels: C, number of maps and of keypoints.
    """

    FINE = 384
    """Places of the largest maps of half of a frame's size."""

    def __init__(self, observation_space: gym.spaces.Box, channels: int = 32):
        planes, height, width = observation_space.shape
        super().__init__(observation_space, features_dim=2 * channels)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        stride = 1 if rows * columns <= self.FINE else 2
        rows, columns = (rows + stride - 1) // stride, (columns + stride - 1) // stride
        self.maps = nn.Sequential(
            nn.Conv2d(planes, channels // 2, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.sharpness = nn.Parameter(torch.ones(channels, 1))
        y = torch.linspace(-1, 1, rows)[:, None].expand(rows, columns)
        x = torch.linspace(-1, 1, columns).expand(rows, columns)
        self.places: Tensor
        self.register_buffer("places", torch.stack([x, y], -1).flatten(0, 1), persistent=False)  # (places, 2)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, 3 n, H, W) in [0, 1] -> (B, 2 C) in [-1, 1]."""
        precision = pick_precision("auto", observations.device)
        reduced = precision != torch.float32 and not torch.compiler.is_compiling()  # exported graphs are in float32
        with torch.autocast(observations.device.type, precision, enabled=reduced):
            maps = self.maps(observations.contiguous(memory_format=torch.channels_last))
        maps = maps.float().flatten(2)  # (B, C, places)
        weights = (F.layer_norm(maps, maps.shape[2:]) * self.sharpness).softmax(-1)
        return (weights @ self.places).flatten(1)


class GlassExtractor(BaseFeaturesExtractor):
    """Features of any observation of a world: frames through :class:`KeypointCNN`, positions scaled to the frame.

    ``PPO("CnnPolicy", env, policy_kwargs={"features_extractor_class": GlassExtractor})``; also for ``MlpPolicy``
    (positions) and ``MultiInputPolicy`` (dicts, goals).

    Args:
        observation_space: a Box of frames (3 n, H, W) or positions (n,), or a Dict of them.
        channels: keypoints a frame.
    """

    def __init__(self, observation_space: gym.Space, channels: int = 32):
        whole = isinstance(observation_space, gym.spaces.Dict)
        parts: dict[str, Any] = dict(observation_space.spaces) if whole else {"": observation_space}
        frames = {key: part for key, part in parts.items() if len(part.shape) == 3}
        places = {key: part for key, part in parts.items() if len(part.shape) == 1}
        super().__init__(observation_space, 2 * channels * len(frames) + sum(p.shape[0] for p in places.values()))
        self.frames = nn.ModuleDict({f"of_{key}": KeypointCNN(part, channels) for key, part in frames.items()})
        self.keys = (*frames, *places)
        for key, part in places.items():  # the space is three frames wide: what lies in the frame becomes [-1, 1]
            low = torch.from_numpy(part.low)
            high = torch.from_numpy(part.high)
            self.register_buffer(f"middle_{key}", (low + high) / 2, persistent=False)
            self.register_buffer(f"half_{key}", (high - low) / 6, persistent=False)

    def forward(self, observations) -> Tensor:
        """A batch of observations, frames in [0, 1] -> (B, features)."""
        parts = observations if isinstance(observations, dict) else {"": observations}
        return torch.cat([self._features(key, parts[key]) for key in self.keys], 1)

    def _features(self, key: str, part: Tensor) -> Tensor:
        if f"of_{key}" in self.frames:
            return self.frames[f"of_{key}"](part)
        return (part - getattr(self, f"middle_{key}")) / getattr(self, f"half_{key}")


def _merged(options: list[dict]) -> dict:
    """One dict of options a row -> one dict of arrays."""
    keys = set(options[0])
    if any(set(one) != keys for one in options):
        raise ValueError("set_options: give every row the same options (or one dict for all)")
    return {key: np.stack([np.asarray(one[key]) for one in options]) for key in keys}
