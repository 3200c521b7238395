"""One training pass: which tokens run under which mask, by the row of the coupling; what comes out.

Legend as in `network`; L learned plan tokens, Q of them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridpolicy.blocks import Blocks
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import Sample
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.flow import CounterNoise, corrupt
from hybridpolicy.future import Future
from hybridpolicy.losses import token_validity
from hybridpolicy.network import Context, HybridNetwork
from hybridpolicy.plan import TrainingPlan
from hybridpolicy.streams import Prefix


@dataclass(frozen=True)
class Predicted:
    """What a pass predicted.

    Attributes:
        future: of W, or None. chunk: (B, T, A), or None.
        informed: (chunk, prior plan, posterior plan) of `latent_plan` where the future was there to see: the
            chunk under the plan that saw it, and both plans (B, Q, D).
    """

    future: Future | None
    chunk: Tensor | None
    informed: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class TrainingPass:
    """One micro-batch on its way through the network."""

    network: HybridNetwork
    embodiment: Embodiment
    config: HybridConfig
    sample: Sample
    plan: TrainingPlan
    noise: CounterNoise
    context: Context

    def predict(self, target: Future | None, wanted: Tensor | None) -> Predicted:
        """The row's pass.

        Args:
            target: the true future, or None where the micro-batch carries none.
            wanted: the true chunk (B, T, A) in the network's convention, or None for video.
        """
        shown = COUPLINGS[self.config.coupling].world_shown
        if shown == "plan":
            return self._planned(target, wanted)
        if shown == "blocks" and target is not None:
            return self._blocks(target, wanted)
        return self._together(target, wanted)

    def _together(self, target: Future | None, wanted: Tensor | None) -> Predicted:
        """Future and chunk at once, each token at its own flow time."""
        plan, world = self.plan, None
        # Padded tokens are absent, unless they are masked and show nothing of the padding.
        world_there = action_there = plan.action_visible.new_ones(self.sample.size, 0)
        if plan.world:
            x = self.network.start_future(self.context)
            if target is not None:
                x = self._as_shown(self._jittered(self._corrupted(x, target)))
            elif self.config.world_law == "flow":  # what A will find at run time: the start of a flow
                x = x.beside(x.noise(self.noise), torch.add)
            world = self.network.world_tokens(x, plan.world_tau, self.context, self.embodiment)
            world_there = (plan.world_tau == 0)[:, None].expand(world.shape[:2])
            if target is not None:
                world_there = world_there | self._real_tokens()
        action = None
        if plan.action and wanted is not None:
            action, action_there = self._action_tokens(wanted)
        mask = self.network.visibility(plan, self.context, world_there, action_there)
        world_out, action_out, _ = self.network.streams(world, action, self.context.prefix, mask)
        return Predicted(self._read_world(world_out), self._read_chunk(action_out))

    def _blocks(self, target: Future, wanted: Tensor | None) -> Predicted:
        """Every block predicted at once: clean copies to be seen, masked or noised ones to be predicted."""
        plan, network, context = self.plan, self.network, self.context
        blocks = Blocks.of(self.config, context.tokens_per_offset)
        done = torch.ones_like(plan.world_tau)
        noised = self._corrupted(network.start_future(context), target)
        copies = ((self._jittered(target), done), (noised, plan.world_tau))
        world = torch.cat([network.world_tokens(x, t, context, self.embodiment) for x, t in copies], dim=1)
        real = self._real_tokens()
        there = [real, real | (plan.world_tau == 0)[:, None]]
        action, mask = None, blocks.mask().to(world.device)
        count = world.shape[1]
        if plan.action and wanted is not None:
            predicted, predicted_there = self._action_tokens(wanted)
            given = network.action_tokens(wanted, torch.ones_like(plan.action_tau), self.embodiment)
            action = torch.cat((given, predicted), dim=1)
            shown = plan.action_visible[:, None]
            there += [self.sample.action_valid & shown, predicted_there & shown]
        else:
            mask = mask[:count, :count]
        visible = mask & torch.cat(there, dim=1)[:, None, :]
        visible[:, count:, :count] &= plan.action_sees_world[:, None, None]
        seen = context.prefix.visible.unsqueeze(1).expand(-1, len(mask), -1)
        world_out, action_out, _ = network.streams(
            world, action, context.prefix, torch.cat((seen, visible), dim=2)
        )
        chunk = None if action_out is None else action_out[:, self.config.chunk_size :]
        return Predicted(self._read_world(world_out[:, count // 2 :]), self._read_chunk(chunk))

    def _planned(self, target: Future | None, wanted: Tensor | None) -> Predicted:
        """The chunk under the plan made from the context, and under one whose plan has seen the future."""
        context, network = self.context, self.network
        prior, plan = network.make_plan(context, context.prefix)
        chunk = self._chunk_after(prior, wanted)
        if target is None:
            return Predicted(None, chunk)
        done = torch.ones_like(self.plan.world_tau)
        world = network.world_tokens(target, done, context, self.embodiment)
        seen = network.streams.encode(world, self._real_tokens(), context.prefix)
        posterior, plan_after = network.make_plan(context, seen)
        return Predicted(None, chunk, (self._chunk_after(posterior, wanted), plan, plan_after))

    def _chunk_after(self, prefix: Prefix, wanted: Tensor) -> Tensor:
        action, there = self._action_tokens(wanted)
        seen = torch.cat((prefix.visible, there), dim=1).unsqueeze(1).expand(-1, action.shape[1], -1)
        return self._read_chunk(self.network.streams(None, action, prefix, seen)[1])

    # -- tokens in and out
    def _action_tokens(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the chunk at its flow time (B, T, D), and which are there (B, T)."""
        tau, flow = self.plan.action_tau, self.config.action_law == "flow"
        epsilon = self.noise.normal("action", *wanted.shape[1:]) if flow else None
        x = corrupt(wanted, tau, self.embodiment.action_mask, epsilon)
        return self.network.action_tokens(x, tau, self.embodiment), self.sample.action_valid | (tau == 0)

    def _real_tokens(self) -> Tensor:
        """(B, Nw) False for tokens of padded frames and states."""
        return token_validity(self.sample, self.context, self.config.tokens_per_view)

    def _read_world(self, output: Tensor | None) -> Future | None:
        return None if output is None else self.network.read_world(output, self.context, self.embodiment)

    def _read_chunk(self, output: Tensor | None) -> Tensor | None:
        return None if output is None else self.embodiment.action_out(output)

    def _corrupted(self, start: Future, target: Future) -> Future:
        """The true future at its flow time."""
        if self.config.world_law == "flow":
            start = start.beside(target.noise(self.noise), torch.add)

        def at_time(mask: Tensor, clean: Tensor) -> Tensor:
            return corrupt(clean, self.plan.world_tau.view(-1, *[1] * (clean.ndim - 2)), mask, None)

        return start.beside(target, at_time)

    def _as_shown(self, future: Future) -> Future:
        """With `explicit`, what is given clean is given as its pictures are seen."""
        given = self.plan.world_tau == 1.0
        if not self.config.explicit or not bool(given.any()):
            return future
        seen = self.network.seen_again(future.latents[given], self.context.cameras)
        latents = future.latents.clone()
        latents[given] = seen.to(latents.dtype)
        return replace(future, latents=latents)

    def _jittered(self, future: Future) -> Future:
        """Latents with s·ε on them: what is given clean at run time is imagined, and never exact."""
        if not bool(self.plan.world_jitter.any()):
            return future
        epsilon = self.noise.normal("jitter2", *future.latents.shape[1:])
        return replace(future, latents=future.latents + self.plan.world_jitter[:, None, None, None] * epsilon)
