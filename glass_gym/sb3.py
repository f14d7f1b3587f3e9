"""Learned worlds for Stable-Baselines3 (SB3): a VecEnv, a rollout buffer on the device, and feature extractors."""

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
    """A batch of environments of one world as SB3's VecEnv. One network call steps all of them.

    Observed frames are (3, H, W) uint8, as SB3's CNNs expect. When an episode ends, its environment is reset in the
    same step; its info holds `terminal_observation`, `TimeLimit.truncated` and `is_success`.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from glass_gym.sb3 import GlassVecEnv
        >>> env = GlassVecEnv("GlassTennis-v0", num_envs=16, frame_size=(48, 80))
        >>> model = PPO("CnnPolicy", env).learn(1000)  # doctest: +SKIP

    Args:
        id: a registered id of a learned world.
        num_envs: number of environments.
        wrappers: classes of :mod:`glass_gym.wrappers.vector`, applied in this order (DQN needs FlattenAction, HER also
            GoalObservation).
        output: ``"numpy"``, or ``"torch"``: an observation is a dict of tensors that stay on the device, for
            ``MultiInputPolicy`` with :class:`DeviceRolloutBuffer`. A frame alone becomes ``{"frame": ...}``.
        seed: of the first environment; environment i gets seed + i. None: not reproducible.
        kwargs: of the id and of :class:`GlassVectorEnv`. ``stagger=True`` starts the first episodes at
            different ages, so that the environments do not all reach their time limits in the same step.

    Raises:
        TypeError: the id is not a learned world, or takes no such argument.
    """

    def __init__(
        self,
        id: str = "GlassTennis-v0",
        num_envs: int = 8,
        wrappers: Sequence[Callable[[VectorEnv], VectorEnv]] = (),
        output: str = "numpy",
        seed: int | None = None,
        **kwargs: Any,
    ):
        if "autoreset_mode" in kwargs:
            raise TypeError(
                "GlassVecEnv takes no autoreset_mode: it resets in the step that ends an episode, as SB3 expects"
            )
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
        """Reset all B environments with what `seed` and `set_options` set for this reset -> observations (B, ...)."""
        unset = all(seed is None for seed in self._seeds)
        options = self._options
        self._reset_options()  # options that are refused must not spoil later resets
        observations, infos = self.env.reset(seed=None if unset else self._seeds, options=_merged(options))
        self.reset_infos = self._split(to_numpy(infos))
        self._reset_seeds()
        return self._named(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep actions for :meth:`step_wait`: integers (B, 2), shift index and code, or (B,) with FlattenAction."""
        self._actions = actions

    def step_wait(self):
        """Step, and reset what ended -> observations (B, ...), rewards (B,) float32, done (B,) bool, B info dicts."""
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
        """Infos as arrays of all environments -> one dict for each, with Python numbers for single values."""
        keys = [key for key in infos if not key.startswith("_")]
        columns = [infos[key].tolist() if infos[key].ndim == 1 else list(infos[key].copy()) for key in keys]
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    # --- attributes and methods, as SB3 asks for them ----------------------------------------------------------

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        """Get an attribute, once for each index. All indices share one batched environment, so the values are equal."""
        return [self._find(attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        """Set an attribute of the batched environment, which all indices share; ValueError: only some are named."""
        if len(self._indices(indices)) != self.num_envs:
            raise ValueError(f"the batch is one environment: set {attr_name!r} for all indices (indices=None)")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices=None, **kwargs: Any) -> list[Any]:
        """Call a method of the batched environment once, and return each index' part of its result."""
        rows = self._indices(indices)
        result = self.env.unwrapped.per_row(method_name, self._find(method_name)(*args, **kwargs))
        return [result[row] for row in rows]

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        """Whether a vector wrapper of that class is applied, once for each index."""
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
        rows = [int(row) for row in self._get_indices(indices)]
        if wrong := [row for row in rows if not -self.num_envs <= row < self.num_envs]:
            raise IndexError(f"indices must lie in 0..{self.num_envs - 1}, got {wrong}")
        return rows

    def get_images(self) -> list[np.ndarray]:
        """The frame of each environment, (H, W', 3) uint8, stretched to square pixels."""
        return list(self.env.unwrapped.core.render())

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class DeviceRolloutBuffer(DictRolloutBuffer):
    """SB3's rollout buffer for dict observations, which stay tensors on the policy's device.

    Example:
        ``PPO("MultiInputPolicy", GlassVecEnv(..., output="torch"), rollout_buffer_class=DeviceRolloutBuffer)``
    """

    observations: Any

    def reset(self) -> None:
        """Empty the buffer, and allocate the observations as tensors."""
        super().reset()
        self.observations = {
            key: torch.zeros(value.shape, dtype=torch.from_numpy(value[:0]).dtype, device=self.device)
            for key, value in self.observations.items()
        }

    def add(self, obs, *args: Any, **kwargs: Any) -> None:
        """Add one step of all B environments: `obs` is a dict of tensors (B, ...), the rest as in SB3's buffer."""
        for key, kept in self.observations.items():
            kept[self.pos] = torch.as_tensor(obs[key], device=self.device)
        kept = self.observations
        self.observations = {}
        super().add({}, *args, **kwargs)
        self.observations = kept

    def to_torch(self, array, copy: bool = True) -> torch.Tensor:
        """An array as a tensor on the device; a tensor is returned as it is."""
        return array if isinstance(array, torch.Tensor) else super().to_torch(array, copy)

    def _get_samples(self, batch_inds: np.ndarray, env=None):
        index = torch.from_numpy(batch_inds).to(self.device)
        whole = self.observations
        self.observations = {}
        samples = super()._get_samples(batch_inds, env)
        self.observations = whole
        return samples._replace(observations={key: value[index] for key, value in whole.items()})


class KeypointCNN(BaseFeaturesExtractor):
    """Frames -> keypoints: convolutions, then the mean position (x, y) of each feature map under a spatial softmax.

    A policy that walks to a target needs to know where things are. A spatial softmax (Levine et al. 2016, "End-to-end
    training of deep visuomotor policies", Sec. 5.1) keeps only that, with few weights: 6,944, where NatureCNN has
    469,664 for frames of 48 x 80 px. Each map is normalised over its positions before the softmax. Without this the
    maps are nearly flat at first, and all keypoints lie in the middle of the frame.

    Args:
        observation_space: Box (3 n, H, W) uint8: n frames.
        channels: C, number of feature maps and so of keypoints.
    """

    FINE = 384
    """Maps have half the frame's height and width if that is at most so many positions, else a quarter."""

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
        """(B, 3 n, H, W) in [0, 1] -> (B, 2 C) keypoints: x and y of each in [-1, 1], from the left and the top."""
        precision = pick_precision("auto", observations.device)
        reduced = precision != torch.float32 and not torch.compiler.is_compiling()  # exported graphs are in float32
        with torch.autocast(observations.device.type, precision, enabled=reduced):
            maps = self.maps(observations.contiguous(memory_format=torch.channels_last))
        maps = maps.float().flatten(2)  # (B, C, places)
        weights = (F.layer_norm(maps, maps.shape[2:]) * self.sharpness).softmax(-1)
        return (weights @ self.places).flatten(1)


class GlassExtractor(BaseFeaturesExtractor):
    """Features of any observation of a world: frames through :class:`KeypointCNN`, positions scaled to [-1, 1].

    It fits ``CnnPolicy`` (frames), ``MlpPolicy`` (positions) and ``MultiInputPolicy`` (dicts, goals).

    Example:
        ``PPO("CnnPolicy", env, policy_kwargs={"features_extractor_class": GlassExtractor})``

    Args:
        observation_space: a Box of frames (3 n, H, W) or of positions (n,) px, or a Dict of such boxes.
        channels: number of keypoints in each frame.
    """

    def __init__(self, observation_space: gym.Space, channels: int = 32):
        whole = isinstance(observation_space, gym.spaces.Dict)
        parts: dict[str, Any] = dict(observation_space.spaces) if whole else {"": observation_space}
        frames = {key: part for key, part in parts.items() if len(part.shape) == 3}
        places = {key: part for key, part in parts.items() if len(part.shape) == 1}
        super().__init__(observation_space, 2 * channels * len(frames) + sum(p.shape[0] for p in places.values()))
        self.frames = nn.ModuleDict({f"of_{key}": KeypointCNN(part, channels) for key, part in frames.items()})
        self.keys = (*frames, *places)
        for key, part in places.items():  # the space spans three frames, so that the frame itself is scaled to [-1, 1]
            low = torch.from_numpy(part.low)
            high = torch.from_numpy(part.high)
            self.register_buffer(f"middle_{key}", (low + high) / 2, persistent=False)
            self.register_buffer(f"half_{key}", (high - low) / 6, persistent=False)

    def forward(self, observations) -> Tensor:
        """Frames (B, 3 n, H, W) in [0, 1] and positions (B, n) px, or a dict of them -> (B, features) in [-1, 1]."""
        parts = observations if isinstance(observations, dict) else {"": observations}
        return torch.cat([self._features(key, parts[key]) for key in self.keys], 1)

    def _features(self, key: str, part: Tensor) -> Tensor:
        if f"of_{key}" in self.frames:
            return self.frames[f"of_{key}"](part)
        return (part - getattr(self, f"middle_{key}")) / getattr(self, f"half_{key}")


def _merged(options: list[dict]) -> dict:
    """A dict of options for each environment -> one dict of arrays."""
    keys = set(options[0])
    if any(set(one) != keys for one in options):
        raise ValueError("set_options: give every environment the same options (or one dict for all)")
    return {key: np.stack([np.asarray(one[key]) for one in options]) for key in keys}
