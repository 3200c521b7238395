"""What one training micro-batch is asked to do: who is absent, noised or clean, and who sees whom.

Legend: B batch, T chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import Coupling
from hybridpolicy.flow import CounterNoise

# Of labelled samples: policy, policy with W absent, forward (A clean), inverse (W clean), video (A absent).
MIX = {"policy": 0.50, "policy_alone": 0.15, "forward": 0.15, "inverse": 0.10, "video": 0.10}
FUTURE_SHOWN = 0.5  # share of micro-batches without targets on which A still sees the W row
MOST_GIVEN = 0.7  # of a micro-batch with targets may be forward or inverse


@dataclass(frozen=True)
class TrainingPlan:
    """Per-sample settings of one micro-batch.

    Attributes:
        world: W tokens exist in this micro-batch; action: A tokens exist.
        world_tau: (B,) flow time of W; world_jitter: (B,) s of the noise on clean imagined latents.
        world_loss: (B,) bool; action_loss: (B, T) bool, before padding is applied.
        action_tau: (B, T).
        world_visible, action_visible: (B,) bool, is the group there at all.
        world_sees_action, action_sees_world: (B,) bool.
    """

    world: bool
    action: bool
    world_tau: Tensor
    world_jitter: Tensor
    world_loss: Tensor
    action_tau: Tensor
    action_loss: Tensor
    world_visible: Tensor
    action_visible: Tensor
    world_sees_action: Tensor
    action_sees_world: Tensor


def _modes(row: Coupling, labelled: bool, future: bool, imitate: bool, share: float) -> dict[str, float]:
    """The training mix restricted to what the row answers and the micro-batch holds.

    share: of micro-batches that hold a future.
    """
    if not labelled:
        return {"video": 1.0}
    if not imitate:  # what was done says what followed, and what followed says what was done
        if not future or not row.generative:
            return {"video": 1.0}
        if row.world_shown == "blocks":  # each action is foretold from what followed it
            return {"policy": 1.0}
        asked = {"forward": bool(row.world_sees_action), "inverse": row.inverse, "video": True}
        return {name: MIX[name] for name, answered in asked.items() if answered}
    if not row.generative or not future:
        return {"policy_alone": 1.0}
    if row.world_shown == "clean":  # half of the samples carry the world loss, half show A the clean future
        return {"policy_alone": 0.5, "inverse": 0.5}
    if row.world_shown == "blocks":  # given clean to one another; and what to do is learned without them too
        return {"policy": MIX["policy"] / 2, "policy_alone": MIX["policy"] / 2, "video": MIX["video"]}
    if row.world_shown != "row":
        return {name: MIX[name] for name in ("policy", "video")}
    # What only a true future can teach comes from the micro-batches that carry one: the fewer there are, the
    # more of it each holds. Acting without W is learned from the others, too.
    given = {"forward": MIX["forward"] * bool(row.world_sees_action), "inverse": MIX["inverse"] * row.inverse}
    share = max(share, 1e-6)  # a held-out batch holds one also where none is trained on
    most = min(1.0 / share, MOST_GIVEN / max(sum(given.values()), 1e-9))
    modes = {name: most * part for name, part in given.items()}
    alone = MIX["policy_alone"] - (1.0 - share) * (1.0 - FUTURE_SHOWN)
    modes |= {"policy_alone": max(alone, 0.0) / share * row.acts_without_world, "video": MIX["video"]}
    return modes | {"policy": 1.0 - sum(modes.values())}


def _draw(modes: dict[str, float], u: Tensor) -> dict[str, Tensor]:
    """u (B,) in [0, 1) → {mode: (B,) bool}, in the proportions given."""
    total, low, drawn = sum(modes.values()), 0.0, {}
    for name in MIX:
        high = low + modes.get(name, 0.0) / total
        drawn[name] = (u >= low) & (u < high)
        low = high
    return drawn


def _action_tau(config: HybridConfig, noise: CounterNoise, clean: Tensor) -> Tensor:
    """(B, T): 1 where A is given (`clean` samples, and prefixes of real-time chunking), else its time law."""
    steps = torch.arange(config.chunk_size, device=clean.device)
    if config.action_law == "flow":
        tau = noise.uniform("tau_a", 1).expand(-1, config.chunk_size).clone()
    else:
        tau = torch.zeros(len(noise), config.chunk_size, device=clean.device)
    if config.rtc_share > 0 and config.rtc_max_delay > 0:
        chosen = noise.uniform("rtc", 1)[:, 0] < config.rtc_share
        delay = (noise.uniform("delay", 1)[:, 0] * config.rtc_max_delay).long() + 1
        tau[(steps < delay[:, None]) & chosen[:, None]] = 1.0
    tau[clean] = 1.0
    return tau


def _world_jitter(row: Coupling, noise: CounterNoise, inverse: Tensor) -> Tensor:
    """(B,) s: what A will be given clean is imagined, and never exact."""
    jitter = 0.5 * noise.uniform("jitter", 1)[:, 0]
    given = {"blocks": torch.ones_like(inverse), "clean": inverse}.get(row.world_shown)
    return torch.zeros_like(jitter) if given is None else jitter * given


def training_plan(
    config: HybridConfig,
    row: Coupling,
    noise: CounterNoise,
    labelled: bool,
    future: bool,
    imitate: bool = True,
) -> TrainingPlan:
    """Draws the plan of one micro-batch.

    Args:
        labelled: the micro-batch has actions.
        future: it has future frames, so the world loss can be computed.
        imitate: its actions are what to do; False: they only say what followed, and what followed says them.
    """
    count, modes = len(noise), _modes(row, labelled, future, imitate, config.world_share)
    mode = _draw(modes, noise.uniform("mode", 1)[:, 0])
    no = torch.zeros(count, dtype=torch.bool, device=noise.device)
    show = not row.acts_without_world or noise.batch_uniform("shown") < FUTURE_SHOWN
    shown_without_targets = not future and labelled and imitate and row.world_shown == "row" and show
    if shown_without_targets:
        mode = dict.fromkeys(MIX, no) | {"policy": ~no}
    world = row.generative and (future or shown_without_targets)
    carries_world_loss = future and row.generative
    world_tau = torch.zeros(count, device=noise.device)
    if config.world_law == "flow" and carries_world_loss and not row.fixed_time:
        world_tau = noise.uniform("tau_w", 1)[:, 0].square()  # biased to noise
    if row.world_shown == "clean" and future:
        world_loss = mode["policy_alone"] | mode["video"]
        world_visible = ~no
        sees_world = mode["inverse"]
    else:
        world_loss = (mode["policy"] | mode["forward"] | mode["video"]) if carries_world_loss else no
        world_visible = ~mode["policy_alone"]
        sees_world = (mode["policy"] | mode["inverse"]) if row.action_sees_world else no
    world_tau = torch.where(mode["inverse"], torch.ones_like(world_tau), world_tau)
    action_tau = _action_tau(config, noise, mode["forward"])
    half = noise.uniform("half", 1)[:, 0] < row.world_sees_action
    sees_action = mode["forward"] | (half & mode["policy"])
    if row.world_shown == "blocks":  # only A is ever without W; W goes on as it does
        world_loss, world_visible, sees_action = ~no, ~no, ~mode["video"]
    learned = ~(mode["forward"] | mode["video"])
    if not imitate and row.world_shown != "blocks":
        learned = mode["inverse"]
    return TrainingPlan(
        world=world,
        action=labelled and set(modes) != {"video"},
        world_tau=world_tau,
        world_jitter=_world_jitter(row, noise, mode["inverse"]),
        world_loss=world_loss,
        action_tau=action_tau,
        action_loss=(action_tau < 1.0) & learned[:, None],
        world_visible=world_visible,
        action_visible=~mode["video"],
        world_sees_action=sees_action,
        action_sees_world=sees_world,
    )
