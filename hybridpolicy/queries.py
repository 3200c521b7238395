"""What can be asked of a trained network: act, imagine, infer. Which of it follows from the coupling's row.

Every query starts from a `Context`, computed once per observation. Legend as in `network`; A action size.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from hybridpolicy.blocks import Blocks
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS, Coupling
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.errors import QueryError
from hybridpolicy.flow import CounterNoise, euler
from hybridpolicy.future import Future
from hybridpolicy.network import Context, HybridNetwork
from hybridpolicy.outcome import Outcome
from hybridpolicy.streams import Prefix


@dataclass(frozen=True)
class Queries:
    """The queries of one network in the body of one arm.

    `clean` arguments are values already known (a committed prefix, an imagined action): they stay as given.
    """

    network: HybridNetwork
    embodiment: Embodiment
    config: HybridConfig

    def act(
        self, context: Context, noise: CounterNoise, imagine: str | None = None, clean: Tensor | None = None
    ) -> Tensor:
        """Returns a chunk (B, T, A) in the network's convention.

        Args:
            imagine: overrides the configured setting; `always` runs the world stream first.
            clean: (B, d, A) first actions already committed (training-time real-time chunking, arXiv
                2512.05964).
        """
        row = self._row
        imagine = imagine or self.config.imagine
        row.check_imagine(imagine)
        if imagine == "on_uncertainty":
            raise QueryError(
                "hybrid: on_uncertainty is decided by the policy, from its last plan; ask act with never or "
                "always, or call predict_action_chunk"
            )
        if row.world_shown == "blocks":
            return self._roll(context, noise, clean=clean)[1]
        prefix = context.prefix
        if row.world_shown == "plan":  # encoded with the context, but not by a network in training
            prefix = context.planned or self.network.make_plan(context, prefix)[0]
        elif imagine == "always":
            prefix = self._with_future(context, noise)
        return self._integrate_actions(prefix, self._start_chunk(context, noise), clean)

    def guess(self, context: Context, noise: CounterNoise, draw: str = "") -> Tensor:
        """A chunk (B, T, A) in one step and without a future: a cheap sample; another `draw`, another one."""
        return self._integrate_actions(context.prefix, self._start_chunk(context, noise, draw), steps=1)

    def imagine(self, context: Context, noise: CounterNoise, actions: Tensor | None = None) -> Future:
        """Returns the future that follows, latents, states and named columns at H offsets, given the
        goal or given `actions`.

        Args:
            actions: (B, T, A) in the network's convention, for rows whose W sees A.

        Raises:
            QueryError: the row was not trained for it.
        """
        self._row.require("imagine" if actions is None else "imagine_actions")
        if self._row.world_shown == "blocks":
            return self._roll(context, noise, actions=actions)[0]
        return self._integrate_future(context, context.prefix, self._start_future(context, noise), actions)

    def infer_actions(
        self, context: Context, noise: CounterNoise, future: Future, clean: Tensor | None = None
    ) -> Tensor:
        """Returns the chunk (B, T, A) that leads from the context to a given future (inverse dynamics).

        Args:
            clean: as of `act`.

        Raises:
            QueryError: A was not trained on true futures in this row, or the future is of other offsets or
                lacks what the policy's have.
        """
        self._row.require("infer_actions")
        self._check_whole(context, future)
        if self._row.world_shown == "blocks":
            return self._roll(context, noise, future=future, clean=clean)[1]
        prefix = self._with_clean(context, context.prefix, self._as_shown(context, future))
        return self._integrate_actions(prefix, self._start_chunk(context, noise), clean)

    def evaluate(
        self, context: Context, future: Future | None = None, actions: Tensor | None = None
    ) -> Outcome:
        """Returns progress, success and risk of the moment, or of the moment with what follows.

        Args:
            future: that follows. actions: (B, T, A) the chunk that is taken, in the network's convention.

        Raises:
            QueryError: the policy has no outcome heads, or nothing trained them, or its row has no future to
                show them, or the future is none of this policy's.
        """
        if self.config.outcome_weight == 0 or not self.network.outcome.trained:
            raise QueryError(
                f"hybrid: this policy has no {'' if self.config.outcome_weight == 0 else 'trained '}outcome "
                "heads; train with policy.outcome_weight above 0 on sources that say how episodes ended "
                "(DatasetSource.outcomes)"
            )
        prefix = context.prefix
        if future is not None:
            self._row.require("imagine")
            self._check_whole(context, future)
            prefix = self._with_clean(context, prefix, future)
        if actions is not None:
            tokens = self.network.action_tokens(actions, torch.ones_like(actions[..., 0]), self.embodiment)
            prefix = self.network.streams.encode(tokens, _all(tokens), prefix, actions=True)
        return self.network.outcome(self.network.streams, prefix)

    def _check_whole(self, context: Context, future: Future) -> None:
        """Refuses a future unlike those of training: tokens of a part of one would be taken for others."""
        offsets = list(self.config.world_offsets)
        if future.latents.shape[1] != len(offsets):
            raise QueryError(
                f"hybrid: a future of {future.latents.shape[1]} moments; this policy's have {len(offsets)}, "
                f"{offsets} frames ahead: give all of them, as `imagine` does"
            )
        start = self.network.start_future(context)
        lacks = ["the state"] * (start.state is not None and future.state is None)
        lacks += sorted(start.vectors.keys() - future.vectors.keys())
        if lacks:
            raise QueryError(
                f"hybrid: a future without {' and '.join(lacks)}, which this policy's have; give all of it, "
                "as `imagine` does"
            )

    @property
    def _row(self) -> Coupling:
        return COUPLINGS[self.config.coupling]

    # -- where integration starts: the mask token, and noise on it where the law is a flow
    def _start_future(self, context: Context, noise: CounterNoise) -> Future:
        start = self.network.start_future(context)
        return start if self.config.world_law == "regress" else start.beside(start.noise(noise), torch.add)

    def _start_chunk(self, context: Context, noise: CounterNoise, draw: str = "") -> Tensor:
        x = self.embodiment.action_mask.expand(context.size, self.config.chunk_size, -1)
        return x + noise.normal(f"action{draw}", *x.shape[1:]) if self.config.action_law == "flow" else x

    # -- rows
    def _integrate_future(
        self, context: Context, prefix: Prefix, x: Future, actions: Tensor | None = None, first: int = 0
    ) -> Future:
        """Euler from `x`, offsets from number `first` on, to the future; given `actions`, W sees them."""
        network = self.network
        times = torch.linspace(0.0, 1.0, self.config.world_steps + 1).tolist()
        for tau, next_tau in pairwise(times):
            at = torch.full((context.size,), tau, device=context.latents.device)
            world = network.world_tokens(x, at, context, self.embodiment, first)
            action, mask = None, _see_all(prefix, world.shape[1])
            if actions is not None:
                action = network.action_tokens(actions, torch.ones_like(actions[..., 0]), self.embodiment)
                mask = _given_actions(prefix, world.shape[1], action.shape[1])
            output, _, _ = network.streams(world, action, prefix, mask)
            predicted = network.read_world(output, context, self.embodiment)
            x = x.beside(predicted, partial(euler, tau=tau, next_tau=next_tau))
        return x

    def _integrate_actions(
        self, prefix: Prefix, x: Tensor, clean: Tensor | None = None, first: int = 0, steps: int = 0
    ) -> Tensor:
        """Euler from `x`, actions from position `first` on, to actions; only action tokens run at each step.

        Args:
            clean: (B, d, A) the first of them, given; they stay as they are. steps: 0: as configured.
        """
        count, horizon = x.shape[:2]
        given = 0 if clean is None else clean.shape[1]
        known = torch.arange(horizon, device=x.device) < given
        if clean is not None:
            x = torch.cat((clean.to(x.dtype), x[:, given:]), dim=1)
        mask = _see_all(prefix, horizon)
        times = torch.linspace(0.0, 1.0, (steps or self.config.action_steps) + 1).tolist()
        for tau, next_tau in pairwise(times):
            at = torch.where(known, 1.0, tau).expand(count, -1)
            tokens = self.network.action_tokens(x, at, self.embodiment, first)
            _, output, _ = self.network.streams(None, tokens, prefix, mask)
            predicted = self.embodiment.action_out(output).float()
            x = torch.where(known[:, None], x, euler(x, predicted, tau, next_tau))
        return x

    def _with_future(self, context: Context, noise: CounterNoise) -> Prefix:
        """Context prefix extended by the future, shown as the row trained it."""
        if self._row.world_shown == "clean":
            imagined = self._as_shown(context, self.imagine(context, noise))
            return self._with_clean(context, context.prefix, imagined)
        start = torch.zeros(context.size, device=context.latents.device)
        world = self.network.world_tokens(self._start_future(context, noise), start, context, self.embodiment)
        return self.network.streams.encode(world, _all(world), context.prefix)

    def _as_shown(self, context: Context, future: Future) -> Future:
        """The future as A is given it: its latents, or with `explicit` those of its pictures."""
        if not self.config.explicit:
            return future
        return replace(future, latents=self.network.seen_again(future.latents, context.cameras))

    def _with_clean(self, context: Context, prefix: Prefix, future: Future, first: int = 0) -> Prefix:
        done = torch.ones(context.size, device=context.latents.device)
        world = self.network.world_tokens(future, done, context, self.embodiment, first)
        return self.network.streams.encode(world, _all(world), prefix)

    def _roll(
        self,
        context: Context,
        noise: CounterNoise,
        future: Future | None = None,
        actions: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> tuple[Future, Tensor]:
        """Block after block, z₁ a₁ z₂ a₂ …; what is given is not predicted. Returns future and chunk."""
        blocks = Blocks.of(self.config, context.tokens_per_offset)
        start, chunk, prefix = (
            self._start_future(context, noise),
            self._start_chunk(context, noise),
            context.prefix,
        )
        futures, chunks = [], []
        for block in range(len(blocks.offsets)):
            ahead = start.at(block) if future is None else future.at(block)
            if future is None:
                ahead = self._integrate_future(context, prefix, ahead, first=block)
            prefix = self._with_clean(context, prefix, ahead, first=block)
            futures.append(ahead)
            span = blocks.actions(block)
            if span.start == span.stop:
                continue
            if actions is None:
                known = None if clean is None else clean[:, span]
                part = self._integrate_actions(prefix, chunk[:, span], known, first=span.start)
            else:
                part = actions[:, span]
            chunks.append(part)
            if block < len(blocks.offsets) - 1:
                done = torch.ones_like(part[..., 0])
                tokens = self.network.action_tokens(part, done, self.embodiment, span.start)
                prefix = self.network.streams.encode(tokens, _all(tokens), prefix, actions=True)
        return Future.join(futures), torch.cat(chunks, dim=1)


def _all(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _see_all(prefix: Prefix, count: int) -> Tensor | None:
    """Mask of `count` new tokens that see the visible prefix and one another; None if all is."""
    seen = prefix.visible
    if bool(seen.all()):
        return None
    seen = torch.cat((seen, seen.new_ones(len(seen), count)), dim=1)
    return seen.unsqueeze(1).expand(-1, count, -1)


def _given_actions(prefix: Prefix, num_world: int, num_action: int) -> Tensor:
    """Mask under which W sees everything and A, being given, sees no W: as the row was trained."""
    count, visible = num_world + num_action, prefix.visible
    new = visible.new_ones(count, count)
    new[num_world:, :num_world] = False
    seen = visible.unsqueeze(1).expand(-1, count, -1)
    return torch.cat((seen, new.expand(len(seen), -1, -1)), dim=2)
