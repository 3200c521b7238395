"""What can be asked of a trained network: act, imagine, infer. Which of it follows from the coupling's row.

Every query starts from a `Context`, computed once per observation. Legend as in `network`; A action size.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.flow import CounterNoise, euler
from hybridpolicy.network import Context, Future, HybridNetwork
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
        row = COUPLINGS[self.config.coupling]
        imagine = imagine or self.config.imagine
        row.check_imagine(imagine)
        prefix = context.prefix
        if imagine == "always":
            prefix = self._with_future(context, noise)
        return self._integrate_actions(context, prefix, noise, clean)

    def imagine(self, context: Context, noise: CounterNoise, actions: Tensor | None = None) -> Future:
        """Returns the future that follows, (B, H, V·P, F) latents and states, given the goal or given
        `actions`.

        Args:
            actions: (B, T, A) in the network's convention, for rows whose W sees A.

        Raises:
            QueryError: the row was not trained for it.
        """
        row = COUPLINGS[self.config.coupling]
        row.require("imagine" if actions is None else "imagine_actions")
        network, x = self.network, self._noised_future(context, noise)
        times = torch.linspace(0.0, 1.0, self.config.world_steps + 1).tolist()
        for tau, next_tau in pairwise(times):
            at = torch.full((context.size,), tau, device=context.latents.device)
            world = network.world_tokens(x, at, context, self.embodiment)
            action, mask = None, self._see_all(context, world.shape[1])
            if actions is not None:
                action = network.action_tokens(actions, torch.ones_like(actions[..., 0]), self.embodiment)
                mask = self._given_actions(context, world.shape[1], action.shape[1])
            output, _, _ = network.streams(world, action, context.prefix, mask)
            predicted = network.read_world(output, context, self.embodiment)
            x = Future(
                euler(x.latents, predicted.latents, tau, next_tau),
                None if x.state is None else euler(x.state, predicted.state, tau, next_tau),
            )
        return x

    def infer_actions(self, context: Context, future: Future, noise: CounterNoise) -> Tensor:
        """Returns the chunk (B, T, A) that leads from the context to a given future (inverse dynamics).

        Raises:
            QueryError: A does not see W in this row.
        """
        COUPLINGS[self.config.coupling].require("infer_actions")
        return self._integrate_actions(context, self._with_clean(context, future), noise, None)

    # -- rows
    def _see_all(self, context: Context, count: int) -> Tensor | None:
        """Mask of `count` new tokens that see the visible context and one another; None if all is."""
        seen = context.prefix.visible
        if bool(seen.all()):
            return None
        seen = torch.cat((seen, seen.new_ones(len(seen), count)), dim=1)
        return seen.unsqueeze(1).expand(-1, count, -1)

    def _given_actions(self, context: Context, num_world: int, num_action: int) -> Tensor:
        """Mask under which W sees everything and A, being given, sees no W: as the row was trained."""
        count, visible = num_world + num_action, context.prefix.visible
        new = visible.new_ones(count, count)
        new[num_world:, :num_world] = False
        seen = visible.unsqueeze(1).expand(-1, count, -1)
        return torch.cat((seen, new.expand(len(seen), -1, -1)), dim=2)

    def _noised_future(self, context: Context, noise: CounterNoise) -> Future:
        start = self.network.start_future(context)
        if self.config.world_law == "regress":
            return start
        latents = start.latents + noise.normal("world", *start.latents.shape[1:])
        state = None if start.state is None else start.state + noise.normal("wstate", *start.state.shape[1:])
        return Future(latents, state)

    def _with_future(self, context: Context, noise: CounterNoise) -> Prefix:
        """Context prefix extended by the future, shown as the row trained it."""
        if COUPLINGS[self.config.coupling].world_shown == "clean":
            return self._with_clean(context, self.imagine(context, noise))
        start = torch.zeros(context.size, device=context.latents.device)
        world = self.network.world_tokens(
            self._noised_future(context, noise), start, context, self.embodiment
        )
        return self.network.streams.encode(world, self._all(world), context.prefix)

    def _with_clean(self, context: Context, future: Future) -> Prefix:
        done = torch.ones(context.size, device=context.latents.device)
        world = self.network.world_tokens(future, done, context, self.embodiment)
        return self.network.streams.encode(world, self._all(world), context.prefix)

    @staticmethod
    def _all(tokens: Tensor) -> Tensor:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def _integrate_actions(
        self, context: Context, prefix: Prefix, noise: CounterNoise, clean: Tensor | None
    ) -> Tensor:
        """Euler from mask token (and noise) to a chunk; only action tokens are computed at each step."""
        count, horizon = context.size, self.config.chunk_size
        x = self.embodiment.action_mask.expand(count, horizon, -1)
        if self.config.action_law == "flow":
            x = x + noise.normal("action", *x.shape[1:])
        given = 0 if clean is None else clean.shape[1]
        known = torch.arange(horizon, device=x.device) < given
        if clean is not None:
            x = torch.cat((clean.to(x.dtype), x[:, given:]), dim=1)
        times = torch.linspace(0.0, 1.0, self.config.action_steps + 1).tolist()
        seen = None if bool(prefix.visible.all()) else prefix.visible
        mask = None
        if seen is not None:
            mask = (
                torch.cat((seen, seen.new_ones(count, horizon)), dim=1).unsqueeze(1).expand(-1, horizon, -1)
            )
        for tau, next_tau in pairwise(times):
            at = torch.where(known, 1.0, tau).expand(count, -1)
            tokens = self.network.action_tokens(x, at, self.embodiment)
            _, output, _ = self.network.streams(None, tokens, prefix, mask)
            predicted = self.embodiment.action_out(output).float()
            x = torch.where(known[:, None], x, euler(x, predicted, tau, next_tau))
        return x
