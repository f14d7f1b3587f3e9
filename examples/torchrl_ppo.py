"""PPO of TorchRL on positions, in a batched world whose tensors stay on the device.

pip install torchrl
python examples/torchrl_ppo.py 200000
"""

import sys

import gymnasium as gym
import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.envs import GymWrapper
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import glass_gym  # noqa: F401  (registers the ids)
from glass_gym.wrappers.vector import FlattenAction

N_ENVS, STEPS, EPOCHS, BATCH = 64, 32, 4, 512
total = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000

torch.manual_seed(0)
# SameStep: TorchRL resets nothing itself, and reads the last observation of an episode from final_obs
kwargs = {"obs_type": "position", "output": "torch", "autoreset_mode": "SameStep", "stagger": True}
envs = FlattenAction(gym.make_vec("GlassTennis-v0", num_envs=N_ENVS, **kwargs))
actions = int(envs.single_action_space.n)
size = torch.tensor([envs.unwrapped.core.width, envs.unwrapped.core.height]).repeat(2)
env = GymWrapper(envs, categorical_action_encoding=True)
env.set_seed(0)


class Head(nn.Sequential):
    """An MLP on the agent's position in the frame and the target's position relative to it."""

    def __init__(self, out: int):
        super().__init__(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out))

    def forward(self, observation):
        """Positions of agent and target (..., 4) px -> (..., out)."""
        agent, target = (observation / size * 2 - 1).chunk(2, -1)
        return super().forward(torch.cat([agent, 4 * (target - agent)], -1))


actor = ProbabilisticTensorDictSequential(
    TensorDictModule(Head(actions), ["observation"], ["logits"]),
    ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical, return_log_prob=True),
)
critic = TensorDictModule(Head(1), ["observation"], ["state_value"])
advantage = GAE(gamma=0.9, lmbda=0.9, value_network=critic)
loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.005, normalize_advantage=True)
optimiser = torch.optim.Adam(loss_module.parameters(), lr=2e-3)

state = env.reset()
for update in range(max(1, total // (N_ENVS * STEPS))):
    with torch.no_grad():
        rollout = env.rollout(STEPS, actor, auto_reset=False, tensordict=state, break_when_any_done=False)
        state = rollout[:, -1]["next"].exclude("reward")
        advantage(rollout)
    samples = rollout.reshape(-1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(samples)).split(BATCH):
            losses = loss_module(samples[batch])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
            optimiser.step()
    done = rollout["next", "done"].sum().item()
    won = rollout["next", "terminated"].sum().item()
    print(f"{(update + 1) * N_ENVS * STEPS:,} steps: {won} of {done} episodes reached the target")
