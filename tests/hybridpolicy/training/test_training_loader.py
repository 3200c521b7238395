"""Batches: equal to LeRobot's windows, pure in the step, the same for any number of processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from tiny_training import CAMERAS, FPS, LENGTHS, STATE

from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.training import augmentation
from hybridpolicy.training.bench import measure_loader
from hybridpolicy.training.config import AugmentationConfig, DatasetSource
from hybridpolicy.training.loader import (
    BatchPlan,
    MixtureLoader,
    Prefetcher,
    SourceReader,
    Window,
    open_readers,
)

WINDOW = Window((0, 2, 4), tuple(range(6)))
VIDEO_ONLY = ("action", "observation.state", "task")
JITTER = AugmentationConfig(brightness=0.2, contrast=0.2, saturation=0.2, shift_px=4)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def open_loader(video_dataset, image_dataset, cache_dir):
    """loader(plan changes) over a labelled source and, at weight 0.5, action-free video."""

    def loader(needs_future=None, **changes):
        sources = [
            DatasetSource(str(video_dataset), embodiment="arm"),
            DatasetSource(str(image_dataset), weight=0.5, drop=VIDEO_ONLY, embodiment="camera"),
        ]
        readers = open_readers(sources, WINDOW, cache_dir)
        return MixtureLoader(readers, BatchPlan(WINDOW, **({"batch_size": 8} | changes)), needs_future)

    return loader


def same(first, second):
    """True when two batches hold the same keys and values."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


def test_windows_and_pads_equal_lerobots_for_every_frame(video_dataset, cache_dir):
    (reader,) = open_readers([DatasetSource(str(video_dataset))], WINDOW, cache_dir)
    deltas = {key: [k / FPS for k in WINDOW.observation_offsets] for key in (*CAMERAS, "observation.state")}
    deltas["action"] = [k / FPS for k in WINDOW.action_offsets]
    stock = LeRobotDataset(
        "local/tiny", root=video_dataset, delta_timestamps=deltas, video_backend="pyav", return_uint8=True
    )
    batch = reader.gather(np.arange(len(stock)), world=True)
    padded = 0
    for i in range(len(stock)):
        item = stock[i]
        for key in (*deltas, *(f"{key}_is_pad" for key in deltas), "index", "episode_index", "timestamp"):
            assert torch.equal(batch[key][i], item[key]), (key, i)
        assert batch["task"][i] == item["task"]
        padded += int(item["action_is_pad"].sum())
    # Every episode of length ≥ 6 ends with 1 + 2 + … + 5 padded actions, the one of length 5 likewise
    # and one more for its first frame.
    assert padded == 15 * len(LENGTHS)
    assert batch["action"].shape == (len(stock), 6, STATE)


def test_waypoints_are_later_states_and_stay_in_the_episode(video_dataset, tmp_path):
    source = DatasetSource(str(video_dataset))
    reader = open_readers([source], Window((0,), (0,), (2, 50)), tmp_path)[0]
    columns, ends = reader.cache.columns, reader.cache.episode_to
    rows = reader.cache.episode_from.copy()
    found = reader.gather(rows, world=False)["waypoints"]
    assert found.shape == (len(rows), 2, STATE)
    np.testing.assert_array_equal(found[:, 0], columns["observation.state"][rows + 2])
    np.testing.assert_array_equal(found[:, 1], columns["observation.state"][ends - 1])
    plain = open_readers([source], Window((0,), (0,)), tmp_path)[0]
    assert "waypoints" not in plain.gather(rows, world=False)


def test_what_is_not_to_be_imitated_keeps_its_actions_and_loses_its_aims(video_dataset, tmp_path):
    source = DatasetSource(str(video_dataset), imitate=False)
    reader = open_readers([source], Window((0, 1), (0,), (2,), (2,)), tmp_path)[0]
    batch = reader.gather(reader.cache.episode_from, world=False)
    assert batch["imitate"] is False
    assert "action" in batch
    assert not [key for key in batch if key == "waypoints" or key.startswith("ahead.")]
    loader = MixtureLoader([reader], BatchPlan(Window((0, 1), (0,)), 2), lambda step: False)
    assert loader.batch(0)[CAMERAS[0]].shape[1] == 2  # the future is what is left to learn


def test_frames_ahead_stay_in_the_episode_and_change_as_the_context_frame_does(video_dataset, tmp_path):
    source = DatasetSource(str(video_dataset))
    reader = open_readers([source], Window((0, 1), (0,), (), (2, 50)), tmp_path)[0]
    frames, ends = reader.cache.frames[CAMERAS[0]], reader.cache.episode_to
    rows = reader.cache.episode_from.copy()
    found = reader.gather(rows, world=False)[f"ahead.{CAMERAS[0]}"]
    np.testing.assert_array_equal(found[:, 0], frames[rows + 2])
    np.testing.assert_array_equal(found[:, 1], frames[ends - 1])
    still = open_readers([source], Window((0, 1), (0,), (), (1,)), tmp_path)[0]
    for name, every in still._frames.items():
        still._frames[name] = every[:1].expand_as(every)  # a video that stands still
    plan = BatchPlan(
        still._window, 8, augmentation=AugmentationConfig(brightness=0.5, contrast=0.5, shift_px=3)
    )
    batch = MixtureLoader([still], plan).batch(0)
    now = batch[CAMERAS[0]]
    assert torch.equal(batch[f"ahead.{CAMERAS[0]}"][:, 0], now[:, 0])
    assert not torch.equal(now[:, 1], now[:, 0])  # futures are changed on their own


def test_without_future_only_the_present_is_gathered(open_loader):
    loader = open_loader(needs_future=lambda step: step % 2 == 0, first_step=10)
    labelled = [step for step in range(40) if loader.choose(step).has_actions]
    sizes = {step: loader.batch(step)[CAMERAS[0]].shape[1] for step in range(40)}
    assert {sizes[step] for step in labelled if step % 2} == {1}
    assert {sizes[step] for step in labelled if step % 2 == 0} == {3}
    # Without actions nothing but the future is to be learned.
    assert {sizes[step] for step in range(40) if step not in labelled} == {3}
    step = next(step for step in labelled if step % 2)
    assert loader.batch(step)["observation.state"].shape == (8, 1, STATE)


def test_dropped_columns_are_absent_and_sources_come_by_weight(open_loader):
    loader = open_loader()
    batches = [loader.batch(step) for step in range(300)]
    video = [batch for batch in batches if batch["embodiment"] == "camera"]
    assert 70 <= len(video) <= 130  # a third of 300; within four standard deviations
    for batch in video:
        assert not [key for key in batch if key.startswith(VIDEO_ONLY)]
        assert "privileged.objects" in batch
    labelled = next(batch for batch in batches if batch["embodiment"] == "arm")
    assert {"action", "observation.state", "task", "action_is_pad", *CAMERAS} <= labelled.keys()
    assert labelled["privileged.objects"].shape == (8, 4)


def test_batch_depends_on_nothing_but_seed_stage_and_step(open_loader):
    first, second = open_loader(augmentation=JITTER), open_loader(augmentation=JITTER)
    forward = [first.batch(step) for step in range(6)]
    backward = [second.batch(step) for step in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    for changes in ({"seed": 1}, {"stage": 1}):
        other = open_loader(augmentation=JITTER, **changes)
        assert not any(torch.equal(other.batch(step)["index"], forward[step]["index"]) for step in range(6))


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_split_the_batch_of_one(open_loader, num_processes):
    whole = open_loader(augmentation=JITTER)
    parts = [
        open_loader(augmentation=JITTER, num_processes=num_processes, rank=rank)
        for rank in range(num_processes)
    ]
    for step in range(5):
        expected = whole.batch(step)
        batches = [part.batch(step) for part in parts]
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(torch.cat([batch[key] for batch in batches]), value), key
            elif key == "task":
                assert [task for batch in batches for task in batch[key]] == value


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ConfigurationError, match="batch_size = 8 does not split over 3 processes"):
        BatchPlan(WINDOW, 8, num_processes=3)


def test_sample_index_counts_through_the_run(open_loader):
    loader = open_loader(first_sample=100, num_processes=2, rank=1)
    assert loader.batch(3)["sample_index"].tolist() == [128, 129, 130, 131]


def test_only_chosen_episodes_are_sampled(video_dataset, cache_dir):
    source = DatasetSource(str(video_dataset), episodes=(1, 3))
    (reader,) = open_readers([source], WINDOW, cache_dir)
    loader = MixtureLoader([reader], BatchPlan(WINDOW, 64))
    drawn = torch.cat([loader.batch(step)["index"] for step in range(20)])
    expected = [i for e in (1, 3) for i in range(sum(LENGTHS[:e]), sum(LENGTHS[: e + 1]))]
    assert sorted(set(drawn.tolist())) == expected
    with pytest.raises(DatasetError, match=r"no episodes \[7\]; it has 0 … 3"):
        SourceReader(DatasetSource(str(video_dataset), episodes=(7,)), reader.cache, WINDOW)


def test_augmentation_draws_context_and_targets_apart():
    frames = (
        torch.randint(0, 256, (16, 1, 3, 32, 32), dtype=torch.uint8).expand(-1, 3, -1, -1, -1).contiguous()
    )
    changed = {}
    for targets in ("independent", "same", "none"):
        config = AugmentationConfig(0.2, 0.2, 0.2, shift_px=4, targets=targets)
        numbers = augmentation.draw(config, np.random.default_rng(0), 16)
        changed[targets] = augmentation.apply(config, frames, numbers)
        assert changed[targets].dtype == torch.uint8
        assert torch.equal(changed[targets][:, 1], changed[targets][:, 2])
    assert torch.equal(changed["same"][:, 0], changed["same"][:, 1])
    assert torch.equal(changed["none"][:, 1], frames[:, 1])
    differs = (changed["independent"][:, 0] != changed["independent"][:, 1]).flatten(1).any(1)
    assert differs.all()


def test_augmentation_arithmetic():
    frames = torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)
    frames[0, 0, :, 2, 3] = torch.tensor([200, 100, 50], dtype=torch.uint8)
    moved = augmentation.shift_frames(frames, np.array([[[2, -1]]]), 4)
    assert moved[0, 0, :, 4, 2].tolist() == [200, 100, 50]
    assert int((moved > 0).sum()) == 3
    edge = torch.arange(8, dtype=torch.uint8).expand(1, 1, 3, 8, 8).contiguous()
    assert augmentation.shift_frames(edge, np.array([[[0, 3]]]), 4)[0, 0, 0, 0].tolist() == [
        0,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
    ]
    brighter = augmentation.change_colour(frames, 1.5 * torch.eye(3).expand(1, 1, 3, 3), torch.zeros(1, 1, 3))
    assert brighter[0, 0, :, 2, 3].tolist() == [255, 150, 75]


def test_prefetching_keeps_order_and_passes_errors_on():
    with Prefetcher(lambda step: {"step": step}, 2, 6) as batches:
        assert [batch["step"] for batch in batches] == [2, 3, 4, 5]

    def load(step):
        if step == 3:
            raise DatasetError("row 3")
        return {"step": step}

    seen = []
    with pytest.raises(DatasetError, match="row 3"), Prefetcher(load, 0, 9) as batches:
        seen.extend(batch["step"] for batch in batches)
    assert seen == [] or seen == [0, 1, 2]
    with Prefetcher(lambda step: {"step": step}, 0, 10**9) as batches:
        next(iter(batches))  # leaving early ends the thread
    assert not batches._thread.is_alive()


def test_measured_loader_beats_lerobots(video_dataset, cache_dir):
    measured = measure_loader(
        DatasetSource(str(video_dataset)), WINDOW, Path(cache_dir), batch_size=8, budget_s=0.3
    )
    assert measured.num_cameras == 2
    assert measured.num_observation_frames == 3
    assert measured.ratio > 3  # by a factor of hundreds on an idle machine


def test_the_onset_share_draws_the_moments_of_decision(video_dataset, tmp_path):
    drawn = {}
    for share in (0.0, 0.5, 1.0):
        source = DatasetSource(str(video_dataset), onset_share=share, onset_frames=2)
        reader = open_readers([source], Window((0,), (0,)), tmp_path)[0]
        rows = reader.draw_rows(np.random.default_rng(0), 4000)
        starts = reader.cache.episode_from[np.searchsorted(reader.cache.episode_to, rows, side="right")]
        drawn[share] = float(np.mean(rows - starts < 2))
    frames = reader.cache.num_frames
    even = 2 * reader.cache.num_episodes / frames
    assert drawn[0.0] == pytest.approx(even, abs=0.03)
    assert drawn[0.5] == pytest.approx(0.5 + 0.5 * even, abs=0.03)
    assert drawn[1.0] == 1.0


def test_frames_are_drawn_in_proportion_to_their_weights(video_dataset, cache_dir, tmp_path):
    file, count = tmp_path / "weights.npy", sum(LENGTHS)
    weights = np.zeros(count, np.float32)
    weights[[0, 1, LENGTHS[0], count - 1]] = 1.0, 3.0, 4.0, 8.0
    np.save(file, weights)
    (reader,) = open_readers([DatasetSource(str(video_dataset), frame_weights=str(file))], WINDOW, cache_dir)
    drawn = np.bincount(reader.draw_rows(np.random.default_rng(0), 16_000), minlength=count)
    assert drawn[weights == 0].sum() == 0
    np.testing.assert_allclose(drawn, 1000 * weights, rtol=0.1)
    chosen = DatasetSource(
        str(video_dataset), frame_weights=str(file), episodes=(0,), onset_share=0.5, onset_frames=1
    )
    (part,) = open_readers([chosen], WINDOW, cache_dir)
    drawn = np.bincount(part.draw_rows(np.random.default_rng(0), 8_000), minlength=count)
    np.testing.assert_allclose(drawn[:2], [5000, 3000], rtol=0.1)  # half by weight, half the first frame
    assert drawn.sum() == drawn[:2].sum()
    assert part.left_out().draw_rows(np.random.default_rng(0), 500).min() >= LENGTHS[0]  # evenly again
    weights[0] = 0.0  # no first frame weighs anything: there is none to draw more often
    np.save(file, weights)
    (rest,) = open_readers([chosen], WINDOW, cache_dir)
    assert set(rest.draw_rows(np.random.default_rng(0), 500)) == {1}

    for wrong in (weights[:-1], -weights, weights * np.nan):
        np.save(file, wrong)
        with pytest.raises(DatasetError, match=r"frame_weights .*needs \(\d+,\), finite"):
            open_readers([DatasetSource(str(video_dataset), frame_weights=str(file))], WINDOW, cache_dir)
    source = DatasetSource(str(video_dataset), frame_weights=str(tmp_path / "absent.npy"))
    with pytest.raises(DatasetError, match=r"absent\.npy: unreadable"):
        open_readers([source], WINDOW, cache_dir)
