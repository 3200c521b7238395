"""A policy's rollouts, recorded: every column, failures too, and the outcome heads trained on them."""

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from embodiments.dataset_writer import video_encoder
from embodiments.so101 import recording
from embodiments.so101.constants import JOINT_NAMES
from embodiments.so101.rollouts import RolloutWriter
from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.shards import COLLECTION_SEEDS, DEMONSTRATION_SEEDS
from embodiments.so101.twin.variation import Variation
from hybridpolicy import outcome_schema as schema
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.training.config import DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.metrics import read_metrics
from hybridpolicy.training.run import train_recipe
from recipes.collect import MAX_SEED
from recipes.commands import main
from recipes.twin import suites
from recipes.twin.collect import FACTS, SCENES_PER_SEED, CollectSettings, collect

SETTINGS = CollectSettings(5, seed=3, families=("absent", "touch"), noise=0.3)


@pytest.fixture(scope="module")
def collected(still, tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "rollouts"
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.twin.collect.TABLES", 3)  # two batches, the second with a table over
        found = collect(still(), root, SETTINGS, facts={"policy": "p"}, workers=0,
                        progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    return root, found, calls


@pytest.fixture(scope="module")
def rows(collected):
    """The frames of each episode: [{column: (L, …)}]."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/rollouts", root=collected[0], video_backend="pyav")
    table = dataset.hf_dataset.with_format("numpy")
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    episode = columns["episode_index"]
    return dataset, [{name: c[episode == e] for name, c in columns.items()} for e in range(5)]


def test_successes_and_failures_are_kept_and_counted(collected, rows):
    root, found, calls = collected
    dataset, episodes = rows
    assert json.loads((root / FACTS).read_text()) == json.loads(json.dumps(found))
    assert dataset.num_episodes == found["success"]["episodes"] == 5
    assert dataset.num_frames == found["frames"] == sum(len(e["index"]) for e in episodes)
    assert set(found["by_family"]) == {"absent", "touch"}
    assert found["by_family"]["touch"]["failures"] == 2
    assert found["by_family"]["absent"]["failures"] < 3
    won = [bool(e[schema.SUCCESS][-1]) for e in episodes]
    assert sum(won) == 5 - found["success"]["failures"]
    assert calls[-1] == (5, 5)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_every_episode_says_how_it_ended(rows):
    _, episodes = rows
    for episode in episodes:
        length = len(episode["index"])
        last = np.arange(length) == length - 1
        won = bool(episode[schema.SUCCESS].any())
        np.testing.assert_array_equal(episode[schema.DONE].ravel(), last)
        np.testing.assert_array_equal(episode[schema.SUCCESS].ravel(), last & won)
        reasons = [str(reason) for reason in episode[schema.STOP_REASON].ravel()]
        assert reasons == [""] * (length - 1) + ["success" if won else "time limit"]
        assert (length < 40) == won
        assert not episode[schema.INTERVENTION].any()
        assert not episode[schema.IMAGINED].any()  # this policy's default is never


def test_the_actions_recorded_repeat_the_episode_to_the_bit(rows):
    """So they are what was sent, noise included, and the frame beside them is what was seen before."""
    dataset, episodes = rows
    assert dataset.meta.features["action"]["names"] == list(JOINT_NAMES)
    scenarios = SETTINGS.scenarios(Variation())
    table = Episode(96)
    errors, events = [], 0
    for recorded, scenario in zip(episodes, scenarios, strict=True):
        table.start(scenario)
        for frame, action in enumerate(recorded["action"]):
            np.testing.assert_array_equal(table.agent_pos(), recorded["observation.state"][frame])
            objects, present = table.objects()
            np.testing.assert_array_equal(objects.ravel(), recorded["privileged.objects"][frame])
            np.testing.assert_array_equal(present, recorded["privileged.present"][frame] > 0.5)
            if frame % 10 == 0:
                seen = dataset[int(recorded["index"][frame])]["observation.images.front"].numpy()
                truth = table.pictures()["front"].transpose(2, 0, 1) / 255.0
                errors.append(float(np.mean((seen - truth) ** 2)))
            table.advance(action)
            events += int(table.events.any())
            assert bool(table.events.any()) == bool(recorded[schema.EVENT].ravel()[frame])
        assert table.success == bool(recorded[schema.SUCCESS].any())
    assert len(errors) >= 12
    assert max(errors) < 10 ** (-36 / 10)


def test_tables_have_the_columns_of_lerobots_own_writer(collected, rows, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root, _, _ = collected
    features = recording.dataset_features(96) | schema.outcome_features()
    theirs = LeRobotDataset.create(
        "local/t", 10, features, root=tmp_path / "t", rgb_encoder=video_encoder(), streaming_encoding=True
    )
    for frame in range(3):
        numbers = {name: f["shape"] for name, f in features.items() if f["dtype"] == "float32"}
        given = {name: np.zeros(shape, np.float32) for name, shape in numbers.items()}
        given |= {name: np.zeros((96, 96, 3), np.uint8) for name in theirs.meta.video_keys}
        given |= {name: np.array([frame == 2]) for name in schema.FLAGS}
        theirs.add_frame(given | {schema.STOP_REASON: "x", "task": "touch"})
    theirs.save_episode()
    theirs.finalize()
    for table in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        ours, other = pq.read_schema(root / table), pq.read_schema(theirs.root / table)
        assert set(ours.names) == set(other.names)
        for name in ours.names:
            assert ours.field(name).type == other.field(name).type, (table, name)


def test_scenes_are_nobody_elses():
    first = CollectSettings(9, seed=0).scenarios(Variation())
    assert first[0].seed == COLLECTION_SEEDS > suites.SEED + SCENES_PER_SEED
    assert {s.seed for s in first}.isdisjoint(
        s.seed for s in CollectSettings(9, seed=1).scenarios(Variation())
    )
    last = CollectSettings(SCENES_PER_SEED, seed=MAX_SEED, families=("touch",))
    assert COLLECTION_SEEDS + last.seed * SCENES_PER_SEED + last.episodes == DEMONSTRATION_SEEDS
    for wrong, message in (
        ({"episodes": 0}, "episodes = 0; allowed 1"),
        ({"episodes": 1, "seed": -1}, "seed = -1; allowed 0"),
        ({"episodes": 1, "noise": 50.0}, "noise = 50; allowed 0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CollectSettings(**wrong)


def test_nothing_half_written_is_left(still, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    killed = tmp_path / f".half.{2**22 - 1}.partial"  # of a process that is gone
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        collect(still(), tmp_path / "half", replace(SETTINGS, episodes=1), workers=0, progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "half").mkdir()
    with pytest.raises(FileExistsError, match="half exists already; choose another folder"):
        RolloutWriter(tmp_path / "half", "local/x", 96, {})


def test_heads_train_on_it(collected, tmp_path):
    root, _, _ = collected
    policy = HybridConfig(
        device="cpu", embodiment="so101", fps=10.0, width=32, depth=1, frame_channels=16, image_size=[32, 32],
        num_keypoints=8, outcome_weight=1.0, world_share=0.5, rtc_share=0.0,
    )  # fmt: skip
    stage = StageConfig(
        "policy", samples=96, batch_size=8, lr=1e-3, sources=[DatasetSource(str(root), outcomes="recorded")]
    )
    config = TrainConfig(
        "heads",
        policy,
        [stage],
        output_dir=str(tmp_path / "run"),
        cache_dir=str(tmp_path / "cache"),
        log_every=1,
    )
    summary = train_recipe(config)
    losses = [line["outcome_loss"] for line in read_metrics(summary.metrics)]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    actor = Actor.load(summary.policy_path)
    pixels = {name: np.zeros((2, 96, 96, 3), np.uint8) for name in ("front", "wrist")}
    state = np.tile(np.float32([0, -48, 30, 82, 0, 3]), (2, 1))
    with torch.no_grad():
        judged = actor.policy.queries.evaluate(
            actor.policy.context(actor.batch(pixels, state, ["touch"] * 2))
        )
    assert judged.success.shape == (2,)
    assert bool(((judged.success > 0) & (judged.success < 1)).all())


def test_the_command_plans_records_and_refuses(make_policy_folder, tmp_path, capsys):
    folder = make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)
    asked = ["data", "collect", "--policy", folder, "--env", "so101_twin", "--episodes", "2"]
    output = tmp_path / "planned"
    assert main([*asked, "--tasks", "touch", "--output", str(output), "--planner-k", "3"]) == 0
    shown = capsys.readouterr().out
    assert "2 failures" in shown
    assert f"dataset: {output}" in shown
    flags = pq.read_table(output / "data/chunk-000/file-000.parquet", columns=[schema.IMAGINED])
    assert all(flags[schema.IMAGINED].to_pylist())  # a planner imagines every candidate
    facts = json.loads((output / FACTS).read_text())
    assert facts["planner"] == {
        "candidates": 3, "consensus": 1.0, "progress": 0.0, "success": 1.0, "risk": 0.0,
        "warm_start": False, "budget_ms": None, "gate": False, "goal": None,
    }  # fmt: skip
    assert facts["planning"]["mean_candidates"] == 3.0
    assert facts["planning"]["plans"] > 0
    assert facts["settings"]["families"] == ["touch"]
    assert main([*asked, "--output", str(output)]) == 2
    assert f"--output {output} exists already" in capsys.readouterr().err
    both = ["--imagine", "always", "--planner-k", "2", "--output", str(tmp_path / "x")]
    assert main([*asked, *both]) == 2
    assert "leave out one of them" in capsys.readouterr().err
    assert main([*asked, "--gate", "--output", str(tmp_path / "x")]) == 2
    assert "give --planner-k, too" in capsys.readouterr().err
    regress = [
        *asked[:3],
        make_policy_folder(),
        *asked[4:],
        "--planner-k",
        "2",
        "--output",
        str(tmp_path / "x"),
    ]
    assert main(regress) == 2
    assert "action_law = regress, which has one answer" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["planned"]
