"""A small untrained policy, of the SO-101 if nothing else is asked for, as training would have saved it."""

import pytest

from embodiments.so101.constants import JOINT_NAMES

MEAN = [0.0, -40.0, 30.0, 70.0, 0.0, 20.0]


@pytest.fixture(scope="session")
def make_policy_folder(tmp_path_factory):
    """(**config) → the folder of an untrained policy as training would have saved it.

    columns: features of further inputs. states, actions: names of their numbers.
    """

    def make(mean=MEAN, states=JOINT_NAMES, actions=JOINT_NAMES, **fields):
        import torch
        from lerobot.configs.types import FeatureType, PolicyFeature

        from hybridpolicy.configuration_hybrid import HybridConfig
        from hybridpolicy.modeling_hybrid import HybridPolicy
        from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors

        torch.manual_seed(0)
        pictures = {
            f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
            for name in fields.pop("cameras", ("front", "wrist"))
        }
        columns = fields.pop("columns", {})
        numbers = {"observation.state": PolicyFeature(FeatureType.STATE, (len(states),))} | columns
        settings = {
            "device": "cpu",
            "fps": 10.0,
            "embodiment": "so101",
            "input_features": pictures | numbers,
            "output_features": {"action": PolicyFeature(FeatureType.ACTION, (len(actions),))},
            "image_size": [32, 32],
            "width": 32,
            "depth": 2,
            "heads": 2,
            "num_keypoints": 8,
            "tokens_per_view": 2,
            "keypoint_features": 2,
            "frame_channels": 16,
            "chunk_size": 8,
            "n_action_steps": 2,
            "world_offsets": [4, 8],
            "action_convention": "relative",
            "rtc_share": 0.1,
            "rtc_max_delay": 4,
            "lexicon": ["touch", "the", "red", "block"],
            "action_feature_names": list(actions),
            "state_feature_names": list(states),
        }
        config = HybridConfig(**settings | fields)
        spread = torch.full((len(mean),), 15.0 if mean is MEAN else 0.3)
        statistics = {
            name: {"mean": torch.tensor(mean), "std": spread} for name in ("action", "observation.state")
        } | {
            name: {"mean": torch.zeros(column.shape), "std": torch.ones(column.shape)}
            for name, column in columns.items()
        }
        policy = HybridPolicy(config, dataset_stats=statistics)
        if config.action_convention == "relative":
            policy.embodiment.relative_std.fill_(1.0)
        if config.outcome_weight > 0:
            policy.network.outcome.labels.fill_(1)
        folder = tmp_path_factory.mktemp("policy")
        policy.save_pretrained(folder)
        for pipeline in make_hybrid_pre_post_processors(config, dataset_stats=statistics):
            pipeline.save_pretrained(folder)
        return str(folder)

    return make
