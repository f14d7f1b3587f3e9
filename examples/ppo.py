"""Stable-Baselines3's PPO on generated frames.

pip install "glass-gym[agents]"
python examples/ppo.py 200000
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from glass_gym.sb3 import GlassVecEnv

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
env = VecMonitor(GlassVecEnv("GlassTennis-v0", num_envs=32, frame_size=(48, 80), stagger=True, seed=0))
model = PPO("CnnPolicy", env, n_steps=32, batch_size=256, n_epochs=4, learning_rate=5e-4, seed=0, verbose=1)
model.learn(steps)
model.save("ppo_tennis")  # watch it: glass-play --agent ppo_tennis.zip
