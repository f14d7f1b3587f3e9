"""PPO of RLlib; each env runner holds one batched world. For several machines start Ray on each, then run this script.

pip install "glass-gym[scale]"
python examples/rllib_ppo.py --runners 2 --iterations 50
"""

import argparse

import gymnasium as gym
import numpy as np
from gymnasium.wrappers.vector import DtypeObservation, RescaleObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runners", type=int, default=2, help="processes that play")
parser.add_argument("--envs", type=int, default=16, help="environments in each of them")
parser.add_argument("--iterations", type=int, default=50)
parser.add_argument("--steps", type=int, default=2048, help="steps of all runners in an iteration")
parser.add_argument(
    "--learners", type=int, default=0, help="processes with a GPU that learn; 0: learn here, on the CPU"
)
arguments = parser.parse_args()


def world(context):
    """All environments of one env runner; one network call steps them all."""
    import glass_gym  # noqa: F401

    env = gym.make_vec("GlassTennis-v0", num_envs=context.get("num_envs", 1), frame_size=(48, 80), stagger=True)
    # RLlib's networks take floats in [0, 1]
    return RescaleObservation(DtypeObservation(env, np.float32), np.float32(0), np.float32(1))


register_env("glass", world)
config = (
    PPOConfig()
    .environment("glass")
    .env_runners(
        num_env_runners=arguments.runners,
        num_envs_per_env_runner=arguments.envs,
        gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
    )
    .learners(num_learners=arguments.learners, num_gpus_per_learner=1 if arguments.learners else 0)
    .rl_module(
        model_config=DefaultModelConfig(
            conv_filters=[[16, 8, 4], [32, 4, 2], [32, 3, 1]],
            conv_activation="relu",
            head_fcnet_hiddens=[128],
        )
    )
    .training(
        train_batch_size_per_learner=arguments.steps,
        minibatch_size=min(512, arguments.steps),
        num_epochs=4,
        lr=5e-4,
        gamma=0.9,
        lambda_=0.9,
        entropy_coeff=0.005,
        vf_clip_param=float("inf"),
    )
)
algorithm = config.build_algo()
for iteration in range(arguments.iterations):
    played = algorithm.train()["env_runners"]
    print(
        f"{iteration + 1}: {played['num_env_steps_sampled_lifetime']:,.0f} steps, "
        f"return {played.get('episode_return_mean', float('nan')):.2f}, "
        f"steps an episode {played.get('episode_len_mean', float('nan')):.1f}",
        flush=True,
    )
print(f"saved: {algorithm.save_to_path()}")
algorithm.stop()
