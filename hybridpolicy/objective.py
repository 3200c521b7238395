"""What training minimises: one micro-batch to a loss and its parts, by the plan its coupling draws.

Legend as in `network`.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import Sample, Shown
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.flow import CounterNoise, flow_weight
from hybridpolicy.frames import collapse_penalty, effective_rank, normalise_latents, unit_range
from hybridpolicy.future import Future
from hybridpolicy.losses import (
    action_loss,
    change_loss,
    frame_validity,
    goal_spread_loss,
    masked_mean,
    objects_loss,
    outcome_loss,
    step_weights,
    token_validity,
    vector_losses,
    world_loss,
    world_skill,
)
from hybridpolicy.network import Context, HybridNetwork
from hybridpolicy.passes import Predicted, TrainingPass
from hybridpolicy.plan import TrainingPlan, training_plan

LATENT_RANK = "latent_rank"  # as it is reported; `training.collapse` stops by it
FEWEST_RANKED, MOST_RANKED = 8, 32  # samples: of two the rank is 1 whatever they are; of many it costs
PICTURES = 16  # of a micro-batch are decoded with `explicit`; a decoder costs more than the rest

Part = tuple[Tensor, dict[str, float]]
"""A weighted term of the loss, and what is reported of it."""


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` for the samples (B,) chosen, `other` for the rest."""
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)


def draw_shown(config: HybridConfig, noise: CounterNoise, sample: Sample) -> Shown:
    """What each sample shows: now and then no text, no state, an entry of the optional context or one camera
    less (never the last one).
    """
    text = noise.uniform("text", 1)[:, 0] >= config.text_dropout if sample.task is not None else None
    state = noise.uniform("state", 1)[:, 0] >= config.state_dropout if sample.state is not None else None
    optional = {}
    for number, entry in enumerate(config.optional_context):
        drawn = noise.uniform("optional", len(config.optional_context))[:, number]
        optional[entry] = drawn >= config.optional_dropout(entry)
    if len(sample.frames) < 2:
        return Shown(text, state, optional=optional)
    dropped = noise.uniform("camera", 2)
    choice = (dropped[:, 1] * len(sample.frames)).long()
    hidden = dropped[:, 0] < config.camera_dropout
    cameras = {name: ~(hidden & (choice == view)) for view, name in enumerate(sample.frames)}
    return Shown(text, state, cameras, optional)


@dataclass(frozen=True)
class Objective:
    """The training objective of one network in the body of one arm."""

    network: HybridNetwork
    embodiment: Embodiment
    config: HybridConfig

    def __call__(self, sample: Sample, step: int, future: bool) -> Part:
        """Returns the loss and its parts.

        Args:
            step: of the noise. future: future frames are there to learn from.
        """
        config = self.config
        noise = CounterNoise(config.seed, step, sample.index)
        plan = training_plan(
            config, COUPLINGS[config.coupling], noise, sample.acted, future, imitate=sample.imitate
        )
        shown = draw_shown(config, noise, sample)
        context = self.network.encode_context(
            sample, self.embodiment, shown, with_reference=plan.world or future
        )
        target = self.network.encode_future(sample) if future else None
        wanted = self.embodiment.to_network(sample.action, context.state) if sample.acted else None
        run = TrainingPass(self.network, self.embodiment, config, sample, plan, noise, context)
        predicted = run.predict(target, wanted) if plan.world or plan.action else Predicted(None, None)

        parts = [(config.collapse_weight * collapse_penalty(context.online_latents), {})]
        if plan.action:
            parts.append(self._action_part(sample, plan, predicted.chunk, wanted))
        if predicted.informed is not None:
            parts += self._informed_parts(sample, plan, wanted, *predicted.informed)
        if predicted.future is not None and target is not None:
            parts.append(self._world_part(sample, plan, context, predicted.future, target))
        if config.waypoint_weight > 0 and sample.waypoints is not None and context.state is not None:
            parts.append(self._waypoint_part(sample, context, shown.text))
        if config.change_weight > 0 and sample.ahead:
            parts.append(self._change_part(sample, context, shown.text))
        if config.goal_spread_weight > 0 and sample.task is not None:
            parts.append(self._goal_part(sample, context))
        if config.outcome_weight > 0 and sample.outcome is not None:
            imagined = predicted.future
            if imagined is not None and target is not None:  # where W was given, nothing trained what it says
                imagined = imagined.beside(target, partial(_where, plan.world_loss))
            parts.append(self._outcome_part(sample, noise, context, imagined, target, wanted))
        if config.explicit and target is not None and self.network.trains_frames:
            parts.append(self._picture_part(sample, target))
        if config.objects_weight > 0:
            parts += self._privileged_parts(sample, context, shown.text)
        loss = torch.stack([value for value, _ in parts]).sum()
        report = {name: value for _, reported in parts for name, value in reported.items()}
        return loss, report | {"loss": float(loss.detach())}

    def _action_part(self, sample: Sample, plan: TrainingPlan, chunk: Tensor, wanted: Tensor) -> Part:
        config = self.config
        weight = flow_weight(plan.action_tau, config.action_law)
        steps = step_weights(config.chunk_size, config.action_step_decay).to(weight.device)
        valid = plan.action_loss & sample.action_valid
        loss = action_loss(chunk, wanted, valid, weight, steps, config.action_law)
        return loss, {"action_loss": float(loss.detach())}

    def _world_part(
        self, sample: Sample, plan: TrainingPlan, context: Context, predicted: Future, target: Future
    ) -> Part:
        config = self.config
        frames = frame_validity(sample.frame_valid, context, config.tokens_per_view)
        valid = frames & plan.world_loss[:, None, None]
        weight, carried = flow_weight(plan.world_tau, config.world_law), plan.world_loss[:, None]
        loss = world_loss(predicted, target, context.now, valid, weight)
        with torch.no_grad():
            skill = world_skill(predicted.latents, target.latents, context.latents, valid)
        report = {"world_loss": float(loss.detach())}
        if predicted.vectors:
            real = torch.stack([sample.vector_valid[name][:, 1:] for name in predicted.vectors]).all(dim=0)
            losses = vector_losses(predicted, target, context.now, real & carried, weight)
            report |= {f"world_loss.{name}": float(x.detach()) for name, x in losses.items()}
            loss = loss + 0.5 * torch.stack(list(losses.values())).mean()
        report |= {f"world_skill_{k}": s for k, s in zip(config.world_offsets, skill, strict=True)}
        if sample.size > 1:
            report["latent_deviation"] = float(context.latents.std(dim=0).min())
        if sample.size >= FEWEST_RANKED and self.network.trains_frames:
            report[LATENT_RANK] = effective_rank(context.latents[:MOST_RANKED].flatten(1))
        return config.world_weight * loss, report

    def _informed_parts(
        self,
        sample: Sample,
        plan: TrainingPlan,
        wanted: Tensor,
        chunk: Tensor,
        prior: Tensor,
        posterior: Tensor,
    ) -> list[Part]:
        """`latent_plan`: a plan that saw the future acts too, and the one that did not learns to equal it.

        The posterior is held up by the variance term, or both plans would agree on saying nothing.
        """
        action, _ = self._action_part(sample, plan, chunk, wanted)
        ahead = normalise_latents(posterior).detach()
        distance = (normalise_latents(prior) - ahead).square().mean()
        spread = collapse_penalty(posterior)
        report = {"informed_action_loss": float(action.detach()), "plan_distance": float(distance.detach())}
        config = self.config
        return [(action, {}), (config.world_weight * distance + config.collapse_weight * spread, report)]

    def _outcome_part(
        self,
        sample: Sample,
        noise: CounterNoise,
        context: Context,
        imagined: Future | None,
        target: Future | None,
        wanted: Tensor | None,
    ) -> Part:
        """The heads on the moment alone, with the true future, or with the imagined one, and each with the
        chunk that was taken and without: all six occur.
        """
        network, prefix, future = self.network, context.prefix, None
        choice = noise.batch_uniform("outcome")
        if target is not None and choice < 2 / 3:
            future = imagined if imagined is not None and choice < 1 / 3 else target
        if future is not None:
            shown = future.each(Tensor.detach)
            done = torch.ones(context.size, device=context.latents.device)
            world = network.world_tokens(shown, done, context, self.embodiment)
            real = token_validity(sample, context, self.config.tokens_per_view)  # padding is no future
            prefix = network.streams.encode(world, real, prefix)
        chunk = wanted is not None and noise.batch_uniform("outcome.chunk") < 0.5
        if network.training and network.outcome.out.weight.requires_grad:  # beside an adapter they are frozen
            network.outcome.count(*sample.outcome, chunk)
        if chunk:
            given = torch.ones_like(wanted[..., 0])
            tokens = network.action_tokens(wanted, given, self.embodiment)
            prefix = network.streams.encode(tokens, sample.action_valid, prefix, actions=True)
        loss = outcome_loss(network.outcome.logits(network.streams, prefix), *sample.outcome)
        return self.config.outcome_weight * loss, {"outcome_loss": float(loss.detach())}

    def _waypoint_part(self, sample: Sample, context: Context, shown: Tensor | None) -> Part:
        """Where the arm will be, read linearly from what the goal readout found; only where text is shown."""
        wanted = self.embodiment.normalise_state(sample.waypoints)
        found = self.embodiment.read_waypoints(context.asked, context.state).float()
        valid = wanted.new_ones(sample.size, dtype=torch.bool) if shown is None else shown
        loss = masked_mean((found - wanted).abs(), valid[:, None, None])
        return self.config.waypoint_weight * loss, {"waypoint_loss": float(loss.detach())}

    def _change_part(self, sample: Sample, context: Context, shown: Tensor | None) -> Part:
        """How each picture will have changed, said cell by cell from the goal readout's map."""
        valid = context.goal.new_ones(sample.size, dtype=torch.bool) if shown is None else shown
        losses = [
            change_loss(self.network.change_out[name](context.looked[name]), frames[:, 0], ahead, valid)
            for (name, frames), ahead in zip(sample.frames.items(), sample.ahead.values(), strict=True)
        ]
        loss = torch.stack(losses).mean()
        return self.config.change_weight * loss, {"change_loss": float(loss.detach())}

    def _picture_part(self, sample: Sample, target: Future) -> Part:
        """The decoders of `explicit`, on the last future frame of some samples: they learn soon."""
        some = slice(0, PICTURES)
        frames = {name: unit_range(x[some, -1]) for name, x in sample.frames.items()}
        valid = {name: sample.frame_valid[name][some, -1].float() for name in frames}
        loss = self.network.pictures.loss(target.latents[some, -1], frames, valid)
        return loss, {"picture_loss": float(loss.detach())}

    def _goal_part(self, sample: Sample, context: Context) -> Part:
        loss = goal_spread_loss(context.goal, self.network.goal.word_bags(sample.task))
        return self.config.goal_spread_weight * loss, {"goal_spread_loss": float(loss.detach())}

    def _privileged_parts(self, sample: Sample, context: Context, shown: Tensor | None) -> list[Part]:
        """All objects from the latents; the named one from what the goal readout found."""
        parts, weight = [], self.config.objects_weight
        if sample.objects is not None:
            features = normalise_latents(context.online_latents).flatten(1)
            loss = objects_loss(self.network.objects_out(features), *sample.objects)
            parts.append((weight * loss, {"objects_loss": float(loss.detach())}))
        if sample.target is not None and shown is not None:
            position, there = sample.target
            found = self.network.target_out(context.asked.flatten(1))
            loss = objects_loss(found, position.unsqueeze(1), (there & shown).unsqueeze(1))
            parts.append((weight * loss, {"target_loss": float(loss.detach())}))
        return parts
