"""Steps, tasks and a policy's training without values (:func:`tests.conftest.meta`)."""

import gymnasium as gym
import pytest
import torch

import glass_gym  # noqa: F401  (registers the ids)

IDS = ("GlassTennis-v0", "GlassSprites-v0", "GlassArm-v0", "GlassMouse-v0")


def made(id, rows=4, **options):
    return gym.make_vec(
        id, rows, vectorization_mode="vector_entry_point", output="torch", precision="float32", **options
    )


def on_meta(value) -> bool:
    if isinstance(value, dict):
        return all(on_meta(part) for part in value.values())
    return value.device.type == "meta"


@pytest.mark.parametrize(
    ("id", "options"),
    [
        *((id, {}) for id in IDS),
        *(("GlassTennis-v0", {"task": task}) for task in ("perform", "match", "follow", "maze", "collect")),
        ("GlassTennis-v0", {"action": "hybrid", "channels_first": True, "obs_type": "dict", "frame_size": (24, 40)}),
    ],
)
def test_steps_run_without_values(meta, id, options):
    envs = made(id, **options)
    observation, _ = envs.reset(seed=0)
    assert on_meta(observation)
    space = envs.action_space
    action = torch.zeros(space.shape, dtype=torch.float32 if space.dtype.kind == "f" else torch.int64, device=meta)
    for _ in range(2):
        observation, reward, terminated, truncated, _ = envs.step(action)
        assert on_meta(observation) and on_meta(reward) and on_meta(terminated) and on_meta(truncated)


def test_a_rollout_and_an_update_of_ppo_run_without_values(meta):
    ppo = pytest.importorskip("agents.ppo_torch")
    settings = ppo.Settings(n_envs=4, n_steps=2, batch_size=4, n_epochs=1)
    envs = made("GlassTennis-v0", frame_size=(24, 40))
    observation, _ = envs.reset(seed=0)
    policy, _ = ppo.make_policy(envs, 1e-3, meta)
    optimiser = torch.optim.Adam(policy.parameters())
    rollout = ppo.Rollout.empty(settings, observation)
    ppo.collect(envs, policy, rollout, observation, settings)
    gain = ppo.advantages(rollout, torch.zeros(4, device=meta), 0.9, 0.9)
    ppo.update(policy, optimiser, rollout, gain, settings)
