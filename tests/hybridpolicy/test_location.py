"""A policy is found, or one message says what is there instead, before anything is loaded."""

import pytest

from hybridpolicy.errors import CheckpointError
from hybridpolicy.location import find_policy


def test_a_folder_with_a_configuration_and_a_hub_id_are_found(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert find_policy(tmp_path) == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_policy("lerobot/some-policy_1.0") == "lerobot/some-policy_1.0"


def test_a_folder_of_a_run_names_its_last_checkpoint(tmp_path):
    policy = tmp_path / "train" / "checkpoints" / "last" / "pretrained_model"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"no policy here.*did you mean {policy}"):
        find_policy(tmp_path)


@pytest.mark.parametrize("given", ["nowhere", "outputs/mistyped", "/no/such/folder", "../else", "a/b/c"])
def test_a_mistyped_folder_is_no_hub_id(tmp_path, monkeypatch, given):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        find_policy(given)
