"""What a batch may hold and must: read in one form, refused where nothing is to be learned from it."""

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from hybridpolicy.context import present
from hybridpolicy.errors import ConfigurationError, DatasetError


def test_an_arm_of_one_joint_is_read_as_lerobots_loader_gives_it(make_config, make_batch):
    """A column of one number comes without its own axis."""
    config = make_config()
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (1,))
    config.output_features["action"] = PolicyFeature(FeatureType.ACTION, (1,))
    batch = make_batch(2)
    states, actions = batch["observation.state"][..., :1], batch["action"][..., :1]
    for squeezed in (False, True):
        given = {"observation.state": states, "action": actions}
        given = {key: x.squeeze(-1) if squeezed else x for key, x in given.items()}
        sample = present(batch | given, config)
        assert torch.equal(sample.state, states)
        assert torch.equal(sample.action, actions)
    acting = present(make_batch(2, 0) | {"observation.state": states[:, 0]}, config)
    assert torch.equal(acting.state, states[:, :1])
    with pytest.raises(DatasetError, match="the batch has 4 action dimensions, the policy 1"):
        present(batch, config)


def test_labels_the_data_does_not_hold_are_named_once(make_policy, make_batch, caplog):
    fields = {"objects_weight": 1.0, "objects_count": 2, "waypoint_weight": 1.0, "waypoint_offsets": [3]}
    fields |= {"change_weight": 1.0, "change_offsets": [3]}
    policy = make_policy(**fields).train()
    for _ in range(2):
        policy.forward(make_batch(4))
    messages = [record.getMessage() for record in caplog.records]
    assert sum("hold no waypoints" in text for text in messages) == 1
    assert sum("hold no frames ahead" in text for text in messages) == 1
    assert sum("hold no privileged.objects" in text for text in messages) == 1
    # Another source of the run may teach it: rollouts their outcome.
    assert not any("training goes on without" in text for text in messages)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_outcomes_are_missed_only_where_no_source_tells_them(make_policy, make_batch, caplog, elsewhere):
    policy = make_policy(outcome_weight=0.3).train()
    policy.outcomes_elsewhere = elsewhere
    policy.forward(make_batch(4))
    assert ("hold no outcome.labels" in caplog.text) == (not elsewhere)


@pytest.mark.parametrize(
    ("fields", "times", "message"),
    [
        ({"coupling": "vla"}, 3, "coupling = vla trains no world prior"),
        ({"coupling": "joint"}, 1, "neither actions nor future frames"),
    ],
)
def test_a_batch_with_nothing_to_train_is_refused(make_policy, make_batch, fields, times, message):
    with pytest.raises(ConfigurationError, match=message):
        make_policy(**fields).forward(make_batch(4, times=times, action=False))


def test_sample_weighting_is_refused(make_policy, make_batch):
    with pytest.raises(ConfigurationError, match="reduction = 'none'"):
        make_policy().forward(make_batch(), reduction="none")


def test_wrong_action_size_and_absent_cameras_are_refused(make_policy, make_batch):
    policy, batch = make_policy(), make_batch()
    with pytest.raises(DatasetError, match=r"3 action dimensions, the policy 4 .*shoulder_pan\.pos"):
        policy.forward(batch | {"action": batch["action"][..., :3]})
    with pytest.raises(DatasetError, match=r"front.*wrist.*observation\.images\.top"):
        policy.forward({"observation.images.top": batch["observation.images.front"], "index": batch["index"]})


def test_bytes_and_floats_are_the_same_picture(make_policy, make_batch):
    policy, batch = make_policy().train(), make_batch()
    images = [key for key in batch if key.startswith("observation.images")]
    as_bytes = batch | {key: (batch[key] * 255).round().to(torch.uint8) for key in images}
    as_floats = batch | {key: as_bytes[key].float() / 255.0 for key in images}
    torch.testing.assert_close(policy.forward(as_bytes)[0], policy.forward(as_floats)[0])
