"""Statistics: by column, of the right size, finite; and the scale of relative chunks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.configs.types import NormalizationMode

from hybridpolicy.errors import ConfigurationError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors
from hybridpolicy.statistics import mean_std, relative_action_std


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, r"no statistics for 'action'; the dataset has them for \['other'\]"),
        ({"mean": [0.0] * 4}, "no statistics for 'action'"),
        ({"mean": [0.0] * 5, "std": [1.0] * 5}, "have 5 numbers, the policy has 4"),
        ({"mean": [0.0] * 4, "std": [1.0, 1.0, float("nan"), 1.0]}, "not finite"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(make_policy, entry, message):
    stats = {"other": {}} | ({"action": entry} if entry else {})
    with pytest.raises(ConfigurationError, match=message):
        mean_std(stats, "action", 4)


def test_statistics_of_any_array_type():
    for value in (np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [1.0, 2.0]):
        mean, std = mean_std({"action": {"mean": value, "std": value}}, "action", 2)
        assert torch.equal(mean, torch.tensor([1.0, 2.0]))
        assert mean.dtype == std.dtype == torch.float32


def test_a_number_that_never_changed_is_told_in_its_own_unit(make_config, stats):
    entry = {"mean": np.array([1.0, 2.0, 3.0, 4.0]), "std": np.array([2.0, 0.0, 1e-9, 0.5])}
    mean, std = mean_std({"action": entry}, "action", 4)
    assert mean.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert std.tolist() == [2.0, 1.0, 1.0, 0.5]
    given = stats | {"observation.state": entry}
    pre, _ = make_hybrid_pre_post_processors(make_config(), given)
    seen = pre({"observation.state": torch.tensor([[3.0, 2.5, 1.0, 4.0]]), "task": ["push"]})
    torch.testing.assert_close(seen["observation.state"], torch.tensor([[1.0, 0.5, -2.0, 0.0]]))
    assert entry["std"][1] == 0.0, "what was handed in stays as it was"


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"])
def test_the_policy_knows_the_units_its_pipeline_normalises_to(make_config, stats, mode):
    """A gate, a dream and a waypoint are in physical units, however the pipeline is set."""
    ranges = {"min": -3.0, "q01": -2.0, "q10": -1.0, "q90": 7.0, "q99": 11.0, "max": 13.0}
    ranges = {name: np.full(4, value) for name, value in ranges.items()}
    given = {key: entry | ranges for key, entry in stats.items()}
    mapping = {"VISUAL": NormalizationMode.IDENTITY} | dict.fromkeys(
        ("STATE", "ACTION"), NormalizationMode(mode)
    )
    config = make_config(normalization_mapping=mapping)
    body = HybridPolicy(config, dataset_stats=given).embodiment
    pre, post = make_hybrid_pre_post_processors(config, given)
    chunk, state = torch.rand(1, 4, 4), torch.tensor([[5.0, -40.0, 60.0, 20.0]])
    seen = pre({"observation.state": state, "task": ["push"]})["observation.state"]
    torch.testing.assert_close(body.normalise_state(state), seen)
    action, posture = body.to_physical(chunk, seen)
    torch.testing.assert_close(action, post(chunk))
    torch.testing.assert_close(posture, state)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES"])
def test_a_number_that_never_changed_comes_back_and_is_told_in_its_own_unit(make_config, stats, mode):
    names = {"min": -3.0, "q01": -2.0, "q99": 11.0, "max": 13.0}
    ranges = {name: np.array([2.0, value, value, value]) for name, value in names.items()}
    still = {"mean": np.array([2.0, 0.0, 0.0, 0.0]), "std": np.array([0.0, 1.0, 1.0, 1.0])}
    given = dict.fromkeys(stats, still | ranges)
    mapping = {"VISUAL": NormalizationMode.IDENTITY} | dict.fromkeys(
        ("STATE", "ACTION"), NormalizationMode(mode)
    )
    config = make_config(normalization_mapping=mapping)
    body = HybridPolicy(config, dataset_stats=given).embodiment
    pre, post = make_hybrid_pre_post_processors(config, given)
    state = torch.tensor([[2.0, 1.0, 1.0, 1.0], [2.01, 1.0, 1.0, 1.0]])
    seen = pre({"observation.state": state, "task": ["push"] * 2})["observation.state"]
    torch.testing.assert_close(seen[:, 0], torch.tensor([0.0, 0.01]))
    torch.testing.assert_close(body.normalise_state(state), seen)
    torch.testing.assert_close(body.to_physical(torch.ones(1, 4, 4), seen[:1])[0], post(torch.ones(1, 4, 4)))
    assert given["action"]["min"][0] == 2.0, "what was handed in stays as it was"


def test_a_range_without_its_statistics_is_refused(make_config, stats):
    mapping = {"STATE": NormalizationMode.MEAN_STD, "ACTION": NormalizationMode.QUANTILES}
    with pytest.raises(ConfigurationError, match=r"'action' is .* by QUANTILES, .* have no \['q01', 'q99'\]"):
        HybridPolicy(make_config(normalization_mapping=mapping), dataset_stats=stats)


@pytest.fixture
def write_dataset(tmp_path):
    def write(states, actions, episodes):
        (tmp_path / "data" / "chunk-000").mkdir(parents=True)
        columns = {
            "observation.state": list(np.asarray(states, np.float32)),
            "action": list(np.asarray(actions, np.float32)),
            "episode_index": list(episodes),
        }
        pq.write_table(pa.table(columns), tmp_path / "data" / "chunk-000" / "file-000.parquet")
        return tmp_path

    return write


def test_relative_scale_is_measured_per_step_ahead_within_episodes(write_dataset):
    ramp = np.arange(10.0)[:, None] * [1.0, -2.0]
    states = np.concatenate((ramp, ramp + 1000.0))  # a second episode, far away
    root = write_dataset(states, states + 0.5, [0] * 10 + [1] * 10)
    scale = relative_action_std(root, 3)
    torch.testing.assert_close(scale, torch.tensor([[0.5, 0.5], [1.5, 1.5], [2.5, 3.5]]))


def test_a_chunk_longer_than_every_episode_has_a_scale(write_dataset):
    states = np.zeros((3, 2))
    scale = relative_action_std(write_dataset(states, states, [0, 0, 0]), 5)
    assert scale.shape == (5, 2)
    assert float(scale.min()) == pytest.approx(1e-3)


def test_an_arm_of_one_joint_has_a_scale(write_dataset):
    """LeRobot stores a column of one number as numbers, not as lists."""
    states = np.arange(6.0)
    scale = relative_action_std(write_dataset(states, states + 0.5, [0] * 6), 2)
    torch.testing.assert_close(scale, torch.tensor([[0.5], [1.5]]))


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no data files under"):
        relative_action_std(tmp_path, 3)


def test_a_relative_policy_measures_its_dataset(make_config, stats, write_dataset):
    from types import SimpleNamespace

    import pandas as pd

    states = np.cumsum(np.random.default_rng(0).normal(size=(50, 4)), axis=0)
    root = write_dataset(states, states, [0] * 50)
    names = make_config().action_feature_names
    features = {key: {"names": names} for key in ("action", "observation.state")}
    dataset_meta = SimpleNamespace(fps=10, features=features, tasks=pd.DataFrame(index=["push"]), root=root)
    config = make_config(action_convention="relative")
    policy = HybridPolicy(config, dataset_stats=stats, dataset_meta=dataset_meta)
    policy.embodiment.check_statistics()
    torch.testing.assert_close(policy.embodiment.relative_std, relative_action_std(root, 4))
    with pytest.raises(ConfigurationError, match="no dataset statistics"):
        HybridPolicy(config, dataset_stats=stats).embodiment.check_statistics()
