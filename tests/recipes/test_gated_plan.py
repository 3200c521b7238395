"""The planner with the real gate of an SO-101: joined here, because only recipes know both."""

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from embodiments.so101.constants import JOINT_NAMES
from embodiments.so101.gate import SO101Gate
from embodiments.so101.twin.variation import REST_DEG
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.planner import Planner, PlannerSettings, PlanState


def arm_policy(spread_deg):
    """A small untrained policy whose chunks scatter by about `spread_deg` around the rest pose."""
    torch.manual_seed(0)
    picture = PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
    joints = PolicyFeature(FeatureType.STATE, (6,))
    config = HybridConfig(
        device="cpu", image_size=[32, 32], width=32, depth=1, heads=2, num_keypoints=8, tokens_per_view=2,
        keypoint_features=2, frame_channels=16, chunk_size=4, rtc_max_delay=2, world_offsets=[2, 4],
        lexicon=["push"], action_law="flow", action_steps=2, outcome_weight=1.0,
        action_feature_names=list(JOINT_NAMES), state_feature_names=list(JOINT_NAMES),
        input_features={"observation.images.front": picture, "observation.state": joints},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )  # fmt: skip
    stats = {name: {"mean": REST_DEG, "std": np.full(6, spread)} for name, spread in
             (("observation.state", 10.0), ("action", spread_deg))}  # fmt: skip
    return HybridPolicy(config, dataset_stats=stats).eval()


def plan_with(policy, candidates):
    observation = {
        "observation.images.front": torch.rand(2, 3, 32, 32),
        "observation.state": torch.zeros(2, 6),
    }
    context = policy.context({**observation, "task": ["push", "push"]})
    planner = Planner(policy.queries, PlannerSettings(candidates), SO101Gate(10.0))
    return planner.plan(context, lambda count: policy.acting_noise(count, torch.device("cpu")))


def test_a_gentle_policy_passes_and_a_wild_one_is_held():
    gentle = plan_with(arm_policy(0.5), 4)
    assert gentle.states == (PlanState.CHOSEN,) * 2
    assert all(v is None for row in gentle.violations for v in row)
    wild = plan_with(arm_policy(60.0), 4)
    assert wild.states == (PlanState.NONE_PASSED,) * 2
    assert bool(wild.chunk.isnan().all())
    assert {v.kind for row in wild.violations for v in row} & {"velocity", "position"}
