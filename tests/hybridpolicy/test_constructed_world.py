"""A world whose answers are known: a point that a camera sees and that moves by what it is told.

Position and action are two numbers; the position after t actions is where it was plus their sum. Whatever a
row of the table claims to answer, is asked here and compared with that.
"""

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from hybridpolicy.context import present
from hybridpolicy.flow import CounterNoise
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.planner import Planner
from hybridpolicy.planner_settings import PlannerSettings

AXES = ["x.pos", "y.pos"]
SIZE, CHUNK, OFFSETS = 32, 4, [2, 4]
STEP = 0.2  # largest motion of one action, in a picture that is 2 wide
STEPS = {"joint": 450, "cascaded": 300, "autoregressive": 300} | dict.fromkeys(
    ("vla", "representation", "features", "latent_plan"), 200
)
# Words are missing now and then, and what tells positions apart in the picture is asked for.
EYES = {"text_dropout": 0.3, "objects_weight": 1.0, "objects_count": 1}
FLOWS = {  # what a planner draws from
    "joint, flow": {"coupling": "joint", "action_law": "flow", "action_steps": 4, **EYES},
    "cascaded, flow": {"coupling": "cascaded", "world_law": "flow", "world_steps": 4, **EYES},
}
STEPS |= {"joint, flow": 600, "cascaded, flow": 450}
LEARNING_RATE = 5e-3
DIRECTIONS = ("left", "right", "up", "down")


def picture(position):
    """(B, n, 2) in [-1, 1] → (B, n, 3, S, S): a bright disc on black."""
    axis = torch.linspace(-1.0, 1.0, SIZE)
    x, y = position[..., 0, None, None], position[..., 1, None, None]
    disc = torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 0.03)
    return disc.unsqueeze(-3).expand(*disc.shape[:-2], 3, SIZE, SIZE)


def scenes(count, seed):
    """A batch as the loader and the pipeline give it, statistics being 0 and 1.

    Each point is told one direction and goes there, at a steady speed and with a steady drift of its own: two
    states say which actions led from one to the other.
    """
    rng = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=rng) * 1.0 - 0.5
    told = torch.randint(0, 4, (count,), generator=rng)
    heading = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[told]
    speed = 0.25 + 0.75 * torch.rand(count, 1, generator=rng)
    drift = 2.0 * torch.rand(count, 2, generator=rng) - 1.0
    action = STEP * (heading * speed + drift * (heading == 0))[:, None].repeat(1, CHUNK, 1)
    track = torch.cat((start[:, None], start[:, None] + action.cumsum(dim=1)), dim=1)
    state = track[:, [0, *OFFSETS]]
    return {
        "observation.images.top": picture(state),
        "observation.state": state / 0.4,
        "action": action / STEP,
        "task": [f"go {DIRECTIONS[i]}" for i in told],
        "index": torch.arange(count) + seed * 100_000,
        "privileged.objects": start,
        "privileged.present": torch.ones(count, 1),
    }


@pytest.fixture(scope="module")
def trained():
    """(coupling or name in `FLOWS`) → the policy of that row, trained for half a minute at most."""
    policies = {}

    def train(coupling):
        if coupling not in policies:
            policies[coupling] = _train(coupling)
        return policies[coupling]

    return train


def _train(coupling):
    from hybridpolicy.configuration_hybrid import HybridConfig

    torch.manual_seed(0)
    steps, fields = STEPS[coupling], FLOWS.get(coupling, {"coupling": coupling})
    config = HybridConfig(
        device="cpu", image_size=[SIZE, SIZE], width=48, depth=2, heads=2, num_keypoints=4,
        tokens_per_view=1, keypoint_features=2, frame_channels=16, chunk_size=CHUNK, n_action_steps=1,
        world_offsets=OFFSETS, world_share=1.0, world_weight=1.0, rtc_share=0.0, rtc_max_delay=1,
        state_dropout=0.0, goal_lr_scale=1.0, goal_spread_weight=0.0, **({"text_dropout": 0.0} | fields),
        lexicon=["go", *DIRECTIONS],
        action_feature_names=AXES, state_feature_names=AXES,
        input_features={"observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)),
                        "observation.state": PolicyFeature(FeatureType.STATE, (2,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
    )  # fmt: skip
    unit = {"mean": np.zeros(2), "std": np.ones(2)}
    policy = HybridPolicy(config, dataset_stats={"action": unit, "observation.state": unit}).train()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [LEARNING_RATE] * 3, total_steps=steps)
    for step in range(steps):
        batch = scenes(64, step + 1)
        if not policy.needs_future(step):
            batch = {k: v[:, :1] if k.startswith("observation") else v for k, v in batch.items()}
        loss, _ = policy.forward(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        policy.update()
    return policy.eval()


@pytest.fixture
def held_out():
    return scenes(256, 0)


@torch.no_grad()
def ask(policy, batch):
    sample = present(batch, policy.config)
    now = {k: v[:, 0] if k.startswith("observation") else v for k, v in batch.items() if k != "action"}
    return policy.context(now), policy.network.encode_future(sample), CounterNoise(0, 1, sample.index)


def explained(truth, error):
    """Share of the truth's square that the error leaves out, 1 being an exact answer."""
    return 1.0 - float(error.square().mean() / truth.square().mean())


@pytest.mark.parametrize("coupling", ["joint", "autoregressive", "joint, flow"])
def test_the_forward_query_is_the_dynamics(trained, held_out, coupling):
    policy = trained(coupling)
    context, _, noise = ask(policy, held_out)
    truth = held_out["observation.state"][:, 1:]
    with torch.no_grad():
        given = policy.queries.imagine(context, noise, held_out["action"]).state
        shuffled = policy.queries.imagine(context, noise, held_out["action"].roll(1, dims=0)).state
    told, mistold = (float((s - truth)[:, -1].abs().mean()) for s in (given, shuffled))
    assert told < 0.25 * mistold
    moved = (truth - held_out["observation.state"][:, :1])[:, -1]
    assert explained(moved, (given - truth)[:, -1]) > 0.95


@pytest.mark.parametrize("coupling", ["joint", "cascaded", "autoregressive", *FLOWS])
def test_the_inverse_query_recovers_the_action(trained, held_out, coupling):
    policy = trained(coupling)
    context, future, noise = ask(policy, held_out)
    taken = held_out["action"]
    with torch.no_grad():
        inferred = policy.queries.infer_actions(context, noise, future)
        guessed = policy.queries.act(context, noise)
    assert explained(taken, inferred - taken) > 0.92
    assert float((inferred - taken).abs().mean()) < 0.5 * float((guessed - taken).abs().mean())


@pytest.mark.parametrize("coupling", ["vla", "representation", "joint", "cascaded", "features", "latent_plan",
                                      "autoregressive", *FLOWS])  # fmt: skip
def test_every_row_goes_where_it_is_told(trained, held_out, coupling):
    policy = trained(coupling)
    context, _, noise = ask(policy, held_out)
    with torch.no_grad():
        going = policy.queries.act(context, noise).mean(dim=1)
    told = torch.tensor([DIRECTIONS.index(text.split()[1]) for text in held_out["task"]])
    axis = (told >= 2).long()[:, None]
    expected = torch.where((told == 1) | (told == 2), 1.0, -1.0)
    assert float((going.gather(1, axis)[:, 0].sign() == expected).float().mean()) > 0.97


def test_imagination_given_the_goal_goes_there(trained, held_out):
    policy = trained("joint")
    context, _, noise = ask(policy, held_out)
    with torch.no_grad():
        imagined = policy.queries.imagine(context, noise).state[:, -1]
    moved = imagined - held_out["observation.state"][:, 0]
    truth = held_out["observation.state"][:, -1] - held_out["observation.state"][:, 0]
    same = torch.nn.functional.cosine_similarity(moved, truth).mean()
    assert float(same) > 0.7


@pytest.mark.parametrize("coupling", FLOWS)
def test_planning_towards_a_picture_gets_nearer_to_it(trained, held_out, coupling):
    """No word says where to: K ways are imagined, and the one that looks most like the picture is gone.

    The world is known, so is where the chosen chunk really leads.
    """
    policy = trained(coupling)
    silent = {**held_out, "task": [""] * len(held_out["task"])}
    context, future, _ = ask(policy, silent)
    here, there = held_out["observation.state"][:, 0] * 0.4, held_out["observation.state"][:, -1] * 0.4

    def distance(count):
        planner = Planner(policy.queries, PlannerSettings(candidates=count))
        plan = planner.plan(
            context, lambda size: policy.acting_noise(size, torch.device("cpu")), goal=future.latents[:, -1]
        )
        return float((here + STEP * plan.chunk.sum(dim=1) - there).norm(dim=1).mean())

    one, eight = distance(1), distance(8)
    assert eight < 0.85 * one
