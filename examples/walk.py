"""Walk straight to the target, in one environment.

python examples/walk.py
"""

import gymnasium as gym
import numpy as np

import glass_gym  # noqa: F401  (registers the ids)

env = gym.make("GlassTennis-v0")
shifts = env.unwrapped.shifts  # (9, 2) px: stay, right, up-right, ...
frame, info = env.reset(seed=1)
total = 0.0
done = False
while not done:
    after = info["agent_position"] + shifts  # (9, 2) px: where each shift leads
    shift = np.linalg.norm(after - info["target"], axis=1).argmin()
    frame, reward, terminated, truncated, info = env.step([shift, 0])  # local action 0
    total = total + reward
    done = terminated or truncated
print(f"arrived: {info['is_success']}, return {total:.2f}, frame {frame.shape}")
