"""Random play in 64 environments, with tensors in and out: no frame leaves the device.

python examples/torch_batch.py
"""

import gymnasium as gym
import torch

import glass_gym  # noqa: F401

envs = gym.make_vec("GlassTennis-v0", num_envs=64, output="torch", frame_size=(48, 80), device="auto")
frames, infos = envs.reset(seed=0)  # (64, 48, 80, 3) uint8, on the device
shifts, codes = envs.single_action_space.nvec.tolist()
returns = torch.zeros(64, device=frames.device)
for _ in range(20):
    actions = torch.stack([torch.randint(shifts, (64,)), torch.randint(codes, (64,))], 1).to(frames.device)
    frames, reward, terminated, truncated, infos = envs.step(actions)
    returns += reward
print(f"frames {tuple(frames.shape)} on {frames.device}, mean return {returns.mean().item():.3f}")
