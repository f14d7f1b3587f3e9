"""Behaviour cloning: a player is filmed, glass-decode reads its actions off the films, a policy imitates them.

pip install -e ".[agents,decode]"
python examples/clone.py 100
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import torch
from stable_baselines3 import PPO

import glass_gym  # noqa: F401  (registers the ids)
from glass_gym.policy import load_policy
from glass_gym.sb3 import GlassExtractor, GlassVecEnv

ID, SIZE = "GlassTennis-v0", (24, 40)
count = int(sys.argv[1]) if len(sys.argv) > 1 else 100  # films; a tenth of them is held out
folder = Path(tempfile.mkdtemp())

# 1. Film a player: the bundled policy. Any player will do; nobody writes down what it presses.
env = gym.make(ID)
core = env.unwrapped.core
player = load_policy(Path(__file__).parents[1] / "agents" / "trained" / ID / "ppo.safetensors")
for number in range(count):
    film = [env.reset(seed=number)[0]]
    player.begin()
    over = False
    while not over:
        frame, _, terminated, truncated, _ = env.step(player.act(core)[0])
        film.append(frame)
        over = terminated or truncated
    path = folder / "films" / f"{number:04d}.mp4"
    path.parent.mkdir(exist_ok=True)
    iio.imwrite(path, np.stack(film), plugin="pyav", codec="libx264", fps=15, out_pixel_format="yuv444p")

# 2. Decode the films into a Minari data set.
decode = [Path(sys.executable).with_name("glass-decode"), folder / "films", "--world", "tennis", "--out", folder]
subprocess.run([*decode, "--no-films", "--datasets", "minari"], check=True)
os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
import minari  # noqa: E402

episodes = list(minari.load_dataset("decoded-v0"))
held_out, episodes = episodes[: 1 + count // 10], episodes[1 + count // 10 :]


# 3. Clone: maximise the probability of the decoded actions.
def observed(frames):
    """As the environment shows frames to a policy: (T, 96, 160, 3) -> (T, 3, 24, 40) uint8."""
    small = frames.reshape(len(frames), SIZE[0], 4, SIZE[1], 4, 3).mean((2, 4)).round()
    return torch.from_numpy(small.transpose(0, 3, 1, 2).astype(np.uint8))


envs = GlassVecEnv(ID, num_envs=32, frame_size=SIZE, seed=10_000)
clone = PPO("CnnPolicy", envs, policy_kwargs={"features_extractor_class": GlassExtractor}, seed=0, device="cpu").policy
frames = torch.cat([observed(episode.observations[:-1]) for episode in episodes])
actions = torch.cat([torch.from_numpy(episode.actions) for episode in episodes])
optimiser = torch.optim.AdamW(clone.parameters(), lr=2e-3, weight_decay=1e-2)
for _ in range(800):
    batch = torch.randint(len(frames), (128,))
    loss = -clone.evaluate_actions(frames[batch], actions[batch])[1].mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
clone.set_training_mode(False)

# 4. Held-out behaviour: how probable are the player's actions, to the clone and to the world's prior?
shares = np.bincount(actions[:, 0], minlength=len(core.table.shifts)) + 1.0
shares /= shares.sum()  # the prior is one of local actions; of shifts it knows how frequent they are
told = {"clone": [], "prior": []}
for episode in held_out:
    with torch.no_grad():
        seen = clone.evaluate_actions(observed(episode.observations[:-1]), torch.from_numpy(episode.actions))[1]
    told["clone"] += (-seen).tolist()
    env.reset(options={"start_frame": episode.observations[0]})
    for shift, code in episode.actions:
        told["prior"].append(-np.log(shares[shift] * env.unwrapped.code_prior()[shift, code]))
        env.step((shift, code))
print("nats an action:", ", ".join(f"{name} {np.mean(nats):.2f}" for name, nats in told.items()))


# 5. Act in the world.
def success(act, episodes):
    """Share of the first episodes of each environment in which a player reaches the target."""
    reached, frame = [[] for _ in range(envs.num_envs)], envs.reset()
    while min(map(len, reached)) < episodes:
        frame, _, done, infos = envs.step(act(frame))
        for row in np.flatnonzero(done):
            reached[row].append(infos[row]["is_success"])
    return np.mean([some[:episodes] for some in reached])


names = {
    "clone": lambda frame: clone.predict(frame, deterministic=True)[0],
    "random": lambda frame: np.stack([envs.action_space.sample() for _ in frame]),
    "PPO": lambda frame: player.model.predict(frame, deterministic=True)[0],
}
print("success:", ", ".join(f"{name} {success(act, 1 + count // 10):.1%}" for name, act in names.items()))
