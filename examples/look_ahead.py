"""Planning with copies of states: try each shift for three steps in a copy of the world, and take the best.

python examples/look_ahead.py
"""

import gymnasium as gym
import numpy as np

import glass_gym  # noqa: F401

DEPTH = 3
env = gym.make("GlassTennis-v0", obs_type="position", max_episode_steps=-1)
choices = len(env.unwrapped.shifts)
dream = gym.make_vec("GlassTennis-v0", num_envs=choices, obs_type="position", max_episode_steps=None)
dream.reset(seed=0)
_, info = env.reset(seed=3)
steps = 0
arrived = False
while not arrived and steps < 60:
    dream.unwrapped.set_state(env.unwrapped.state())  # one copy for each shift
    tried = np.stack([np.arange(choices), np.zeros(choices, int)], 1)
    value = np.zeros(choices)
    running = np.ones(choices, bool)
    for _ in range(DEPTH):
        _, reward, done, _, _ = dream.step(tried)
        value += reward * running
        running &= ~done
    _, _, arrived, _, info = env.step(tried[value.argmax()])
    steps += 1
print(f"arrived: {arrived} after {steps} steps, distance {info['distance']:.1f} px")
