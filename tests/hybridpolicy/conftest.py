"""A small policy, batches it understands, and what several files ask of them."""

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.modeling_hybrid import HybridPolicy

CAMERAS = ("front", "wrist")
JOINTS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"]
TEXTS = ("push the red block", "put the blue block into the bin")
SMALL = {
    "device": "cpu",
    "image_size": [32, 32],
    "width": 32,
    "depth": 2,
    "heads": 2,
    "num_keypoints": 8,
    "tokens_per_view": 2,
    "keypoint_features": 2,
    "frame_channels": 16,
    "chunk_size": 4,
    "n_action_steps": 2,
    "world_offsets": [2, 4],
    "world_share": 1.0,
    "rtc_max_delay": 2,
    "plan_tokens": 3,
    "lexicon": ["push", "put", "the", "red", "blue", "block", "into", "bin"],
    "action_feature_names": JOINTS,
    "state_feature_names": JOINTS,
}


@pytest.fixture(autouse=True)
def _same_numbers():
    """Weights and batches start at the same place in every test. More threads would only slow it down."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _features(state):
    inputs = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for name in CAMERAS
    }
    if state:
        inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (len(JOINTS),))
    return inputs


@pytest.fixture
def make_config():
    """(state=True, **fields) → HybridConfig of the small policy."""

    def make(state=True, **fields):
        if fields.get("action_law") == "flow":
            fields.setdefault("action_steps", 3)
        if fields.get("world_law") == "flow":
            fixed = COUPLINGS[fields.get("coupling", "joint")].fixed_time
            fields.setdefault("world_steps", 1 if fixed else 2)
        if not state:
            fields = {"state_feature_names": None} | fields
        inputs = {"input_features": _features(state)}
        outputs = {"output_features": {"action": PolicyFeature(FeatureType.ACTION, (len(JOINTS),))}}
        return HybridConfig(**(SMALL | inputs | outputs | fields))

    return make


@pytest.fixture
def stats():
    """Statistics of an arm in degrees."""
    mean, std = np.array([10.0, -50.0, 80.0, 40.0]), np.array([20.0, 15.0, 25.0, 30.0])
    return {name: {"mean": mean, "std": std} for name in ("action", "observation.state")}


@pytest.fixture
def make_policy(make_config, stats):
    """(live=True, **fields) → HybridPolicy; `live` moves every weight off its initial zero or one;
    outcome heads were shown a success.
    """

    def make(live=True, with_stats=True, **fields):
        policy = HybridPolicy(make_config(**fields), dataset_stats=stats if with_stats else None)
        if live:
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        if with_stats and policy.config.action_convention == "relative":
            policy.embodiment.relative_std.copy_(torch.linspace(2.0, 8.0, 16).view(4, 4))
        if policy.config.outcome_weight > 0:
            policy.network.outcome.labels[0, :, 1] = 1  # trained, on one answer
        return policy

    return make


@pytest.fixture
def make_batch():
    """(size, times) → a batch as LeRobot's loader and preprocessor give it; times = 0: to act on."""

    def make(size=4, times=3, action=True, state=True, task=True):
        axis = (times,) if times else ()
        batch = {f"observation.images.{name}": torch.rand(size, *axis, 3, 32, 32) for name in CAMERAS}
        if state:
            batch["observation.state"] = torch.randn(size, *axis, len(JOINTS))
        if action and times:
            batch["action"] = torch.randn(size, SMALL["chunk_size"], len(JOINTS))
        if task:
            batch["task"] = [TEXTS[i % 2] for i in range(size)]
        batch["index"] = torch.arange(size)
        return batch

    return make


@pytest.fixture
def train_steps():
    """(policy, batch, count) → losses of `count` optimizer steps on one batch, as LeRobot's loop does."""

    def train(policy, batch, count, lr=3e-3):
        policy.train()
        optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses = []
        for _ in range(count):
            loss, _ = policy.forward(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            policy.update()
            losses.append(float(loss.detach()))
        return losses

    return train
