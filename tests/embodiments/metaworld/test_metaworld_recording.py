"""Demonstrations that stock LeRobotDataset reads, from training seeds, without failures."""

from pathlib import Path

import numpy as np
import pytest

from embodiments.metaworld import recording
from embodiments.metaworld.env import EnvSettings
from embodiments.metaworld.rendering import FrameRenderer, RenderSettings
from embodiments.metaworld.simulation import MetaworldSimulation
from embodiments.metaworld.tasks import TRAIN_SEED_BASE, train_seed

SETTINGS = EnvSettings(RenderSettings(64, "fast", "workspace"))


def test_stock_dataset_reads_what_was_shown_and_done(tmp_path: Path) -> None:
    from lerobot.datasets import LeRobotDataset

    root = tmp_path / "demonstrations"
    summary = recording.record_metaworld(root, ["reach-v3", "drawer-close-v3"], 2, seed=3, settings=SETTINGS)
    assert summary.episodes == {"reach-v3": 2, "drawer-close-v3": 2}
    assert summary.fps == 16
    dataset = LeRobotDataset("local/metaworld", root=root, video_backend="pyav")
    assert dataset.num_episodes == 4
    assert len(dataset) == sum(summary.frames.values())
    assert dataset.meta.robot_type == "sawyer_metaworld"
    assert dataset.fps == 16

    simulation = MetaworldSimulation("reach-v3")
    expected = recording.demonstrate(simulation, FrameRenderer(SETTINGS.render), SETTINGS, train_seed(3, 0))
    assert expected is not None
    assert len(expected.actions) > 6
    for index, (image, state, action) in enumerate(
        zip(expected.images, expected.states, expected.actions, strict=True)
    ):
        row = dataset[index]
        assert row["task"] == "Reach a goal position"
        assert int(row["episode_index"]) == 0
        np.testing.assert_array_equal(row["observation.state"].numpy(), state)
        np.testing.assert_array_equal(row["action"].numpy(), action)
        decoded = row["observation.images.corner2"].numpy().transpose(1, 2, 0) * 255.0
        assert np.abs(decoded - image).mean() < 3.0  # h264 at full colour resolution
    assert int(dataset[len(expected.actions)]["episode_index"]) == 1
    with pytest.raises(FileExistsError, match="demonstrations exists already; choose another folder"):
        recording.record_metaworld(root, "reach-v3", 1)


def test_layouts_are_training_layouts_and_failures_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    reset = MetaworldSimulation.reset

    def reset_and_note(self: MetaworldSimulation, seed: int | None = None) -> None:
        assert seed is not None
        seeds.append(seed)
        reset(self, seed)

    expert = MetaworldSimulation.expert_action

    def fail_on_the_first(self: MetaworldSimulation) -> np.ndarray:
        return np.zeros(4, np.float32) if len(seeds) == 1 else expert(self)

    monkeypatch.setattr(MetaworldSimulation, "reset", reset_and_note)
    monkeypatch.setattr(MetaworldSimulation, "expert_action", fail_on_the_first)
    summary = recording.RecordingSummary(Path("unused"), 16)
    settings = EnvSettings(RenderSettings(16), episode_length=20)
    found = list(recording._successful("reach-v3", 2, 0, settings, 0.0, 4, summary))
    assert len(found) == 2
    assert summary.failures == {"reach-v3": 1}
    assert seeds == [TRAIN_SEED_BASE + attempt for attempt in range(3)]

    monkeypatch.setattr(MetaworldSimulation, "expert_action", lambda self: np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="reach-v3: the expert succeeded 0 times in 4 attempts"):
        list(recording._successful("reach-v3", 1, 0, EnvSettings(RenderSettings(16), 80), 0.0, 4, summary))


def test_episodes_hold_past_success_and_noise_is_executed_but_not_written() -> None:
    simulation, renderer = MetaworldSimulation("reach-v3"), FrameRenderer(RenderSettings(16))
    lengths = []
    for hold in (0, 4):
        demonstration = recording.demonstrate(simulation, renderer, SETTINGS, 5, hold_steps=hold)
        assert demonstration is not None
        lengths.append(len(demonstration.actions))
    assert lengths[1] == lengths[0] + 4
    noisy = recording.demonstrate(simulation, renderer, SETTINGS, 5, action_noise=0.3)
    again = recording.demonstrate(simulation, renderer, SETTINGS, 5, action_noise=0.3)
    assert noisy is not None
    assert again is not None
    np.testing.assert_array_equal(noisy.actions[0], demonstration.actions[0])  # the expert's, same state
    assert not np.array_equal(noisy.states[1], demonstration.states[1])  # but another motion was executed
    np.testing.assert_array_equal(np.stack(noisy.actions), np.stack(again.actions))
    assert np.abs(np.stack(noisy.actions)).max() <= 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task=0; give 1 or more"),
        ({"action_noise": 2.0}, "action_noise=2.0; allowed 0..1"),
        ({"hold_steps": -1}, "hold_steps=-1; give 0 or more"),
        ({"tasks": "fly-v3"}, "unknown task 'fly-v3'"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recording.record_metaworld(tmp_path / "none", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()
