"""PPO (Schulman et al. 2017) in one file; frames stay on the device: python -m agents.ppo_torch

The world steps in batches of tensors, and the policy reads them on the same device, so that no frame is copied to the
host during a rollout. The networks are Stable-Baselines3's actor-critic: the policy is saved, watched and measured like
any other. Writes OUT/policy.safetensors, OUT/evaluation.json and OUT/best_episode.gif.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from tqdm import tqdm

import glass_gym  # noqa: F401  (registers the ids)
from agents import evaluation
from agents.command import make_parser, run_command
from agents.evaluation_env import make_evaluation_env
from agents.options import changes_of
from glass_gym.policy import Policy, save_policy


@dataclass
class Settings:
    """Hyperparameters of PPO."""

    n_envs: int = 64
    n_steps: int = 32
    batch_size: int = 512
    n_epochs: int = 4
    learning_rate: float = 2e-3
    gamma: float = 0.9
    gae_lambda: float = 0.9
    clip_range: float = 0.2
    ent_coef: float = 0.005
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


@dataclass
class Rollout:
    """What happened in a rollout, tensors (n_steps, n_envs, ...)."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor  # 1 where the step ended an episode, else 0

    @classmethod
    def empty(cls, settings: Settings, observation: Tensor) -> Rollout:
        """Allocate a rollout."""
        shape = (settings.n_steps, settings.n_envs)
        device = observation.device
        actions = torch.zeros(*shape, 2, dtype=torch.long, device=device)
        numbers = [torch.zeros(shape, device=device) for _ in range(4)]
        return cls(observation.new_zeros(settings.n_steps, *observation.shape), actions, *numbers)


def make_policy(env, learning_rate: float, device):
    """SB3's actor-critic on :class:`glass_gym.sb3.GlassExtractor`, and an object that :func:`save_policy` can write."""
    from stable_baselines3.common.policies import ActorCriticCnnPolicy
    from stable_baselines3.common.vec_env import VecTransposeImage

    from glass_gym.sb3 import GlassExtractor

    torch.distributions.Distribution.set_default_validate_args(False)  # each check would wait for the device
    kwargs = {"features_extractor_class": GlassExtractor, "net_arch": [128]}
    seen, acted = VecTransposeImage.transpose_space(env.single_observation_space), env.single_action_space
    policy = ActorCriticCnnPolicy(seen, acted, lambda _: learning_rate, **kwargs).to(device)
    return policy, SimpleNamespace(policy=policy, policy_kwargs=kwargs, observation_space=seen, action_space=acted)


def channels_first(frames: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W) as a view; memory stays channels last, which is fast for convolutions."""
    return frames.permute(0, 3, 1, 2)


@torch.no_grad()
def collect(env, policy, rollout: Rollout, observation: Tensor, settings: Settings) -> Tensor:
    """Fill a rollout; returns the next observation.

    Where the time limit cut an episode, the discounted value of the state before the last step is added to its reward.
    It stands for the value of the last state, whose observation is not evaluated.
    """
    for t in range(settings.n_steps):
        actions, values, log_probs = policy(channels_first(observation))
        rollout.observations[t] = observation
        rollout.actions[t] = actions
        rollout.values[t] = values[:, 0]
        rollout.log_probs[t] = log_probs
        observation, reward, terminated, truncated, _ = env.step(actions)
        cut = truncated & ~terminated
        rollout.rewards[t] = reward + settings.gamma * values[:, 0] * cut
        rollout.ends[t] = (terminated | truncated).float()
    return observation


def advantages(rollout: Rollout, last: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, Eq. 16), (n_steps, n_envs).

    `last` (n_envs,) are the values of the states after the last step, `gamma` is the discount, `lam` lambda.
    """
    out = torch.zeros_like(rollout.rewards)
    running = torch.zeros_like(last)
    for t in reversed(range(len(out))):
        goes_on = 1 - rollout.ends[t]
        error = rollout.rewards[t] + gamma * goes_on * last - rollout.values[t]
        running = error + gamma * lam * goes_on * running
        out[t] = running
        last = rollout.values[t]
    return out


def update(policy, optimiser, rollout: Rollout, advantage: Tensor, settings: Settings) -> None:
    """Some epochs of the clipped objective of PPO (Eq. 9 of the paper) over shuffled batches."""
    returns = (advantage + rollout.values).flatten()
    advantage = advantage.flatten()
    parts = (rollout.observations, rollout.actions, rollout.log_probs)
    observations, actions, log_probs = (part.flatten(0, 1) for part in parts)
    for _ in range(settings.n_epochs):
        for index in torch.randperm(len(returns), device=returns.device).split(settings.batch_size):
            values, log_prob, entropy = policy.evaluate_actions(
                channels_first(observations.index_select(0, index)), actions[index]
            )
            gain = advantage[index]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = (log_prob - log_probs[index]).exp()
            clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
            loss = (
                -torch.minimum(ratio * gain, clipped * gain).mean()
                + settings.vf_coef * (values[:, 0] - returns[index]).square().mean()
                - settings.ent_coef * entropy.mean()
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
            optimiser.step()


def train(arguments: argparse.Namespace) -> None:
    """Train a policy, save it and measure it."""
    settings = Settings(**{name: getattr(arguments, name) for name in vars(Settings())})
    torch.manual_seed(arguments.seed)
    kwargs = changes_of(arguments.env_kwargs)
    env = gym.make_vec(
        arguments.env,
        num_envs=settings.n_envs,
        output="torch",
        autoreset_mode=AutoresetMode.SAME_STEP,
        stagger=True,  # episodes start at different ages: they do not all reach the time limit in one step
        frame_size=tuple(arguments.frame_size),
        device=arguments.device,
        **kwargs,
    )
    observation, _ = env.reset(seed=arguments.seed)
    policy, whole = make_policy(env, settings.learning_rate, observation.device)
    optimiser = torch.optim.Adam(policy.parameters(), settings.learning_rate, eps=1e-5)
    rollout = Rollout.empty(settings, observation)
    chunk = settings.n_envs * settings.n_steps
    rounds = -(-arguments.n_timesteps // chunk)
    done = 0
    began = time.monotonic()
    with tqdm(total=rounds * chunk, unit="step", unit_scale=True) as bar:
        for number in range(rounds):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * (1 - number / rounds)
            policy.set_training_mode(False)
            observation = collect(env, policy, rollout, observation, settings)
            with torch.no_grad():
                last = policy.predict_values(channels_first(observation))[:, 0]
            policy.set_training_mode(True)
            update(policy, optimiser, rollout, advantages(rollout, last, settings.gamma, settings.gae_lambda), settings)
            done += chunk
            bar.update(chunk)
            ends = rollout.ends.sum().clamp_min(1)
            bar.set_postfix(
                steps_an_episode=f"{chunk / ends.item():.1f}", reward=f"{rollout.rewards.mean().item():.3f}"
            )
            if time.monotonic() - began > arguments.max_minutes * 60:
                break
    minutes = (time.monotonic() - began) / 60
    policy.set_training_mode(False)
    policy.cpu()
    about = {
        "env": arguments.env,
        "timesteps": done,
        "minutes": round(minutes, 2),
        "seed": arguments.seed,
        "device": str(observation.device),
        "command": " ".join(sys.argv[1:]),
    }
    print(f"policy: {save_policy(arguments.out / 'policy.safetensors', whole, 'ppo', about)}")
    figures = evaluation.compare(
        lambda: make_evaluation_env(
            arguments.env, min(64, arguments.final_episodes), arguments.seed + 20_000, **kwargs
        ),
        Policy(policy),
        arguments.final_episodes,
        arguments.out / "best_episode.gif",
    )
    evaluation.write(arguments.out / "evaluation.json", {"algo": "ppo_torch", **about, "policies": figures})
    print(evaluation.table(figures) + str(arguments.out / "evaluation.json"))


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("ppo_torch", __doc__)
    add = p.add_argument
    add("--env", default="GlassTennis-v0", help="environment id (default: GlassTennis-v0)")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, as task:match")
    add("-n", "--n-timesteps", type=int, default=100_000, help="steps of all environments together (default: 100000)")
    add("--frame-size", type=int, nargs=2, default=(24, 40), help="height, width px (default: 24 40)")
    add("--final-episodes", type=int, default=1000, help="episodes of the evaluation (default: 1000)")
    add("--max-minutes", type=float, default=float("inf"), help="stop training after this time")
    add("--out", type=Path, default=Path("logs/ppo_torch"), help="folder (default: logs/ppo_torch)")
    add("--device", default="auto", help="of world and policy: auto, cpu, cuda (default: auto)")
    add("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    for name, default in vars(Settings()).items():
        add(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"(default: {default})")
    return run_command(train, p.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
