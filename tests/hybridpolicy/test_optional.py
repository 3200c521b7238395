"""Context by name: what is shown counts, what is hidden or absent does not, and none sees what follows."""

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from hybridpolicy.context import Shown, present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.objective import draw_shown
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors

ENTRIES = ("force", "quality", "camera_pose", "past", "goal_image")
COLUMNS = {"observation.force": 3, "observation.quality": 1, "observation.camera_pose.front": 7}
PAST = [-4, -2]
HIDDEN = torch.tensor([True, False])  # the first sample shows it, the second does not


@pytest.fixture
def columns(stats):
    """Statistics with those of the columns."""
    named = {key: {"mean": np.full(size, 0.5), "std": np.full(size, 0.25)} for key, size in COLUMNS.items()}
    return stats | named


@pytest.fixture
def configure(make_config):
    """(*entries, **fields) → the configuration of the small policy, on data with all columns."""

    def make(*entries, columns=COLUMNS, **fields):
        config = make_config(
            optional_context=list(entries), past_offsets=PAST if "past" in entries else [], **fields
        )
        config.input_features |= {k: PolicyFeature(FeatureType.STATE, (n,)) for k, n in columns.items()}
        return config

    return make


@pytest.fixture
def make(configure, columns):
    """(*entries, **fields) → the small policy, every weight off its initial value."""

    def make(*entries, **fields):
        policy = HybridPolicy(configure(*entries, **fields), dataset_stats=columns)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return policy

    return make


@pytest.fixture
def whole_batch(make_batch):
    """(size) → a training batch that holds every entry: now, two futures, two pasts, and a goal."""

    def make(size=2):
        batch = make_batch(size, 3 + len(PAST))
        batch |= {key: torch.randn(size, 5, numbers) for key, numbers in COLUMNS.items()}
        batch["observation.quality"] = batch["observation.quality"][..., 0]  # as LeRobot's loader has it
        goals = {f"goal.{key}": torch.rand(size, 3, 32, 32) for key in batch if "images" in key}
        return batch | goals

    return make


def changed(batch, entry):
    """The batch with another value of one entry, and nothing else changed."""
    new = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
    if entry == "past":
        for key in ("observation.images.front", "observation.images.wrist", "observation.state"):
            new[key][:, 3:] = torch.rand_like(new[key][:, 3:])
    else:
        for key in [key for key in new if (f".{entry}" in key or (entry == "goal_image" and "goal." in key))]:
            new[key] = torch.rand_like(new[key])
    differing = [k for k in new if torch.is_tensor(new[k]) and not torch.equal(new[k], batch[k])]
    assert differing, entry
    return new


def chunk_of(policy, batch, shown):
    with torch.no_grad():
        context = policy.network.encode_context(present(batch, policy.config), policy.embodiment, shown)
        return policy.queries.act(context, CounterNoise(0, 0, torch.arange(context.size)))


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_shown_counts_and_what_is_hidden_does_not(make, whole_batch, entry):
    policy, batch = make(entry).eval(), whole_batch()
    shown = Shown(optional={entry: HIDDEN})
    one, other = (chunk_of(policy, b, shown) for b in (batch, changed(batch, entry)))
    difference = (one - other).abs().amax(dim=(1, 2))
    assert float(difference[0]) > 1e-5
    assert float(difference[1]) == 0.0


@pytest.mark.parametrize("entry", ENTRIES)
def test_hidden_is_the_same_as_absent_and_undeclared_is_not_read(make, whole_batch, entry):
    policy, batch = make(entry).eval(), whole_batch()
    times = 3 if entry == "past" else 5
    without = {
        key: value[:, :1] if torch.is_tensor(value) and value.ndim > 1 and times == 3 else value
        for key, value in batch.items()
        if not (key in COLUMNS or key.startswith("goal."))
    }
    hidden = chunk_of(policy, batch, Shown(optional={entry: torch.tensor([False, False])}))
    torch.testing.assert_close(chunk_of(policy, without, Shown()), hidden, rtol=0, atol=1e-6)
    plain = make().eval()
    sample = present(batch | {"observation.state": batch["observation.state"]}, plain.config)
    assert (sample.vectors, sample.goal, sample.past) == ({}, {}, None)
    assert not any("optional" in name or "vectors" in name for name in plain.state_dict())


def test_a_hidden_camera_hides_its_pose_its_past_and_its_goal(make, whole_batch):
    policy, batch = make("camera_pose", "past", "goal_image").eval(), whole_batch()
    other = {
        k: torch.rand_like(v) if k.endswith((".front", ".front_is_pad")) else v for k, v in batch.items()
    }
    shown = Shown(cameras={"front": torch.tensor([False, False]), "wrist": torch.tensor([True, True])})
    assert torch.equal(chunk_of(policy, batch, shown), chunk_of(policy, other, shown))
    assert not torch.equal(chunk_of(policy, batch, Shown()), chunk_of(policy, other, Shown()))


def test_padding_of_the_past_is_absent(make, whole_batch):
    policy, batch = make("past").eval(), whole_batch()
    keys = [key for key in batch if key.startswith("observation.")]
    pad = torch.zeros(2, 5, dtype=torch.bool)
    pad[1, 3:] = True  # the second sample is the first of its episode
    padded = batch | {f"{key}_is_pad": pad for key in keys}
    difference = chunk_of(policy, padded, Shown()) - chunk_of(policy, changed(padded, "past"), Shown())
    assert float(difference[0].abs().max()) > 1e-5
    assert float(difference[1].abs().max()) == 0.0


def test_dropout_hides_each_entry_at_its_rate(make, whole_batch):
    rates = dict(zip(ENTRIES, (0.05, 0.1, 0.1, 0.3, 0.5), strict=True))
    config = make(*ENTRIES).config
    batch = whole_batch(2)
    sample = present(batch, config)
    noise = CounterNoise(0, 0, torch.arange(4000))
    shown = draw_shown(config, noise, sample).optional
    assert {entry: float((~shown[entry]).float().mean()) for entry in ENTRIES} == pytest.approx(
        rates, abs=0.03
    )
    both = (~shown["past"] & ~shown["goal_image"]).float().mean()
    assert float(both) == pytest.approx(0.15, abs=0.03)  # each on its own
    assert draw_shown(make().config, noise, sample).optional == {}


def test_training_hides_what_was_drawn(make, whole_batch):
    """With a dropout of 1 an entry cannot change the loss; with 0 it does."""
    for dropout, counts in ((1.0, False), (0.0, True)):
        rates = {f"{kind}_dropout": dropout for kind in ("low_dim", "quality", "past", "goal_image")}
        policy = make("force", "quality", "past", "goal_image", coupling="vla", **rates).train()
        batch = whole_batch()
        for entry in ("force", "quality", "past", "goal_image"):
            losses = [policy.forward(b)[0] for b in (batch, changed(batch, entry))]
            assert (not torch.equal(*losses)) == counts, entry


def test_context_sees_the_present_the_past_and_the_goal_and_nothing_later(make, whole_batch):
    policy, batch = make(*ENTRIES).train(), whole_batch()
    inputs = {
        key: x.requires_grad_() for key, x in batch.items() if torch.is_tensor(x) and x.is_floating_point()
    }
    context = policy.network.encode_context(present(batch, policy.config), policy.embodiment)
    tensors = [*context.prefix.keys, *context.prefix.values]
    total = sum((x * torch.randn_like(x)).sum() for x in tensors)
    gradients = dict(zip(inputs, torch.autograd.grad(total, inputs.values(), allow_unused=True), strict=True))
    assert gradients["action"] is None
    seen = {key: gradients[key] for key in inputs if key.startswith("observation.")}
    assert len(seen) == 6
    for key, gradient in seen.items():
        by_time = (
            gradient.flatten(2).abs().amax(dim=(0, 2)) if gradient.ndim > 2 else gradient.abs().amax(dim=0)
        )
        expected = [
            True,
            False,
            False,
            *([key == "observation.state"] * 2),
        ]  # past frames: no gradient, by target
        assert (by_time > 0).tolist() == expected, key


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_named_column_is_foretold(make, whole_batch, coupling):
    policy, batch = make("force", coupling=coupling).train(), whole_batch(4)
    batch = {key: x[:, :3] if key.startswith("observation.") else x for key, x in batch.items()}
    loss, report = policy.forward(batch)
    loss.backward()
    trained = policy.embodiment.vectors_future_out["observation_force"].weight.grad is not None
    row = COUPLINGS[coupling]
    assert trained == row.generative
    assert ("world_loss.observation_force" in report) == row.generative
    if not row.generative:
        return
    policy.eval()
    context = policy.context({k: x[:, 0] if k.startswith("observation.") else x for k, x in batch.items()})
    assert context.tokens_per_offset == 2 * 2 + 1 + 1
    future = policy.queries.imagine(context, policy.acting_noise(4, context.latents.device))
    assert {name: tuple(x.shape) for name, x in future.vectors.items()} == {"observation_force": (4, 2, 3)}


def test_the_column_is_learned(configure, columns, whole_batch, train_steps):
    """It grows by as much in every sample. Copying, with which the policy begins, costs 1."""
    policy, batch = HybridPolicy(configure("force", world_weight=1.0), dataset_stats=columns), whole_batch(2)
    batch = {key: x[:, :3] if key.startswith("observation.") else x for key, x in batch.items()}
    grown = batch["observation.force"][:, :1] + torch.tensor([0.0, 0.2, 0.3])[:, None]
    batch["observation.force"] = grown
    losses = []
    for steps in (0, 25):
        train_steps(policy, batch, steps, lr=1e-2)
        losses.append(policy.eval().forward(batch)[1]["world_loss.observation_force"])
    assert losses[0] == pytest.approx(1.0)
    assert losses[1] < 0.5


def test_a_padded_column_costs_nothing(make, whole_batch):
    policy, batch = make("force", world_weight=1.0, low_dim_dropout=0.0).eval(), whole_batch()
    batch = {key: x[:, :3] if key.startswith("observation.") else x for key, x in batch.items()}
    keys = [key for key in batch if key.startswith("observation.")]
    pad = torch.tensor([[False, False, True]] * 2)
    batch |= {f"{key}_is_pad": pad for key in keys}
    other = dict(batch)
    other["observation.force"] = batch["observation.force"].clone()
    other["observation.force"][:, 2] += 5.0
    losses = [policy.forward(b)[1]["world_loss.observation_force"] for b in (batch, other)]
    assert losses[0] == losses[1] > 0


def observe(size=2):
    batch = {f"observation.images.{name}": torch.rand(size, 3, 32, 32) for name in ("front", "wrist")}
    batch |= {"observation.state": torch.randn(size, 4), "task": ["push the red block"] * size}
    batch |= {
        "observation.force": torch.randn(size, 3),
        "observation.camera_pose.front": torch.randn(size, 7),
    }
    return batch | {"goal.observation.images.wrist": torch.rand(size, 3, 32, 32)}


def test_the_past_is_what_was_seen_when_planning(make, whole_batch):
    """Remembered at run time or gathered by a loader: the same chunk. Before that and after reset: absent."""
    policy, batch = make("past").eval(), whole_batch()
    times = {-4: 3, -2: 4, 0: 0}
    looks = {
        tick: {k: x[:, t] for k, x in batch.items() if k.startswith("observation.")} | {"task": batch["task"]}
        for tick, t in times.items()
    }
    trained = chunk_of(policy, batch, Shown())
    alone = policy.predict_action_chunk(looks[0])
    policy.reset()
    acted = [policy.predict_action_chunk(looks[tick]) for tick in sorted(looks)]
    torch.testing.assert_close(acted[-1], trained, rtol=0, atol=1e-5)
    assert not torch.allclose(acted[-1], alone, atol=1e-5)
    policy.reset()
    assert torch.equal(policy.predict_action_chunk(looks[0]), alone)
    policy.predict_action_chunk(looks[-4], elapsed=3)  # replanned sooner: no look is 2 or 4 ticks old
    assert torch.equal(policy.predict_action_chunk(looks[0], elapsed=3), alone)
    left = torch.ones(1, 2, 4)  # of a chunk of 4: two ticks have passed
    policy.reset()
    policy.predict_action_chunk(looks[-2])
    by_count = policy.predict_action_chunk(looks[0], prev_chunk_left_over=left)
    policy.reset()
    policy.predict_action_chunk(looks[-2])
    assert torch.equal(policy.predict_action_chunk(looks[0], elapsed=2), by_count)
    policy.reset()
    policy.observe(looks[-2])  # as a planner does
    with policy.look(remember=False):  # as somebody does who only wants to know
        policy.observe(looks[-4])
    assert torch.equal(policy.predict_action_chunk(looks[0]), by_count)
    assert not torch.allclose(by_count, alone, atol=1e-5)


def test_quality_is_asked_for_in_the_units_of_its_column(make):
    policy, batch = make("quality").eval(), observe()
    asked = {}
    for quality in (1.0, 0.0, None):
        policy.config.quality = quality
        asked[quality] = policy.predict_action_chunk(batch)
    normalised = torch.full((2, 1), (1.0 - 0.5) / 0.25)
    torch.testing.assert_close(
        policy.predict_action_chunk(batch | {"observation.quality": normalised}),
        asked[1.0],
        rtol=0,
        atol=1e-6,
    )
    assert not torch.allclose(asked[1.0], asked[0.0], atol=1e-5)
    assert not torch.allclose(asked[1.0], asked[None], atol=1e-5)
    policy.config.quality = 90.0
    with pytest.raises(DatasetError, match="quality = 90 reaches 358"):
        policy.predict_action_chunk(batch)


def test_a_goal_picture_and_its_latents_say_the_same(make):
    policy, batch = make("goal_image").eval(), observe()
    by_picture = policy.predict_action_chunk(batch)
    picture = batch.pop("goal.observation.images.wrist")
    without = policy.predict_action_chunk(batch)
    latents = policy.context(batch | {"observation.images.wrist": picture}).latents[:, 2:]
    by_latents = policy.predict_action_chunk(batch | {"goal.observation.images.wrist": latents})
    torch.testing.assert_close(by_latents, by_picture, rtol=0, atol=1e-6)
    assert not torch.allclose(without, by_picture, atol=1e-5)


def test_saved_and_loaded_it_acts_the_same_to_the_bit(make, tmp_path):
    policy = make(*ENTRIES).eval()
    policy.save_pretrained(tmp_path)
    loaded = HybridPolicy.from_pretrained(tmp_path).eval()
    assert loaded.config.optional_context == list(ENTRIES)
    looks = [observe() for _ in range(3)]
    plain = {
        key: x for key, x in looks[2].items() if "images" in key or key.endswith("state") or key == "task"
    }
    chunks = [[p.predict_action_chunk(look) for look in looks] for p in (policy, loaded)]
    assert all(torch.equal(*pair) for pair in zip(*chunks, strict=True))
    policy.reset()
    assert not torch.equal(policy.predict_action_chunk(plain), chunks[0][2])


def test_it_is_declared_from_the_command_line(configure, tmp_path):
    configure()._save_pretrained(tmp_path)
    given = [
        '--optional_context=["force", "past"]',
        "--past_offsets=[-4, -2]",
        "--quality=0.5",
        "--past_dropout=0.2",
    ]
    read = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=given)
    assert (read.optional_context, read.past_offsets) == (["force", "past"], [-4, -2])
    assert (read.quality, read.past_dropout) == (0.5, 0.2)
    assert [vector.key for vector in read.vectors] == ["observation.force"]


def test_wrong_declarations_say_what_to_do(configure, stats, columns):
    for entries, fields, message in (
        (("state",), {}, "'state' is part of every context"),
        (("force", "force"), {}, "named twice"),
        (("low_dim",), {}, "or a kind"),
        (("torque",), {}, r"needs a column observation\.torque"),
        (("force",), {"columns": {"observation.force": 3} | {"observation.a.b": 1}}, None),
        (("a.b", "a_b"), {"columns": {"observation.a.b": 1, "observation.a_b": 1}}, "only in dots"),
        (("camera_pose",), {"columns": {}}, r"none of .*observation\.camera_pose\.front.* is among"),
        (("quality",), {"columns": {"observation.quality": 2}}, "of one number"),
        ((), {"past_dropout": 1.5}, r"past_dropout = 1\.5; allowed 0"),
    ):
        if message is None:
            configure(*entries, **fields).validate_features()
            continue
        with pytest.raises(ConfigurationError, match=message):
            configure(*entries, **fields).validate_features()
    with pytest.raises(ConfigurationError, match=r"no statistics for 'observation\.force'"):
        make_hybrid_pre_post_processors(configure("force"), stats)
    make_hybrid_pre_post_processors(configure("force"), columns)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "the past needs both"),
        ([-3], "multiples of n_action_steps = 2"),
        ([-2, -4], "increasing"),
        ([0], "below 0"),
    ],
)
def test_wrong_past_offsets_say_what_to_do(make_config, offsets, message):
    with pytest.raises(ConfigurationError, match=message):
        make_config(optional_context=["past"], past_offsets=offsets)


def test_wrong_batches_say_what_to_do(make, whole_batch):
    policy, batch = make("force", "past"), whole_batch()
    with pytest.raises(
        DatasetError, match=r"observation\.force is \(2, 5, 2\) in the batch; the policy takes 3"
    ):
        present(batch | {"observation.force": torch.randn(2, 5, 2)}, policy.config)
    short = {key: x[:, :4] if key.startswith("observation.") else x for key, x in batch.items()}
    with pytest.raises(DatasetError, match=r"a batch of 4 observation times.* or 3 or 5"):
        present(short, policy.config)
    with pytest.raises(DatasetError, match=r"observation\.force reaches 99"):
        present(batch | {"observation.force": torch.full((2, 5, 3), 99.0)}, policy.config, check_range=True)
