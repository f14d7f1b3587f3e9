"""PPO of Stable-Baselines3 on generated frames.

pip install "glass-gym[agents]"
python examples/ppo.py 100000
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from glass_gym.sb3 import GlassExtractor, GlassVecEnv

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
# stagger: the episodes start at different ages, so that they do not all reach the time limit in one step
env = VecMonitor(GlassVecEnv("GlassTennis-v0", num_envs=64, frame_size=(24, 40), stagger=True, seed=0))
model = PPO(
    "CnnPolicy",
    env,
    n_steps=32,
    batch_size=512,
    n_epochs=4,
    learning_rate=1e-3,
    gamma=0.9,
    gae_lambda=0.9,
    ent_coef=0.005,
    policy_kwargs={"features_extractor_class": GlassExtractor},
    seed=0,
    verbose=1,
)
model.learn(steps)
model.save("ppo_tennis")  # watch it: glass-play --agent ppo_tennis.zip
