"""The network: context, future and chunk tokens over two streams.

Legend: B batch, V views present, P tokens a view, F latent size, H future offsets, T chunk, D width.
Token order of W: for each offset, the views' latent tokens, then one state token (if there is a state), then
one token per named column that is foretold.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import EVERYTHING, Sample, Shown
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.decoder import Pictures
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.frames import FrameStack, KeypointReadout, normalise_latents
from hybridpolicy.future import Future
from hybridpolicy.goal import GoalEncoder
from hybridpolicy.optional import Moments, OptionalContext, Projections
from hybridpolicy.optional_keys import GOAL_IMAGE, PAST
from hybridpolicy.outcome import OutcomeHeads
from hybridpolicy.plan import TrainingPlan
from hybridpolicy.streams import Prefix, TwoStreams, extend


@dataclass(frozen=True)
class Context:
    """Everything an observation contributes, computed once: valid for every coupling, query, step and
    candidate.

    Attributes:
        prefix: keys and values of the context tokens.
        latents: (B, V·P, F) run-time latents of the newest frames, no gradient; the copy-last reference.
        online_latents: (B, V·P, F) the same by the encoder in training, with gradient.
        asked: (B, V·P, F) what the goal readout found, with gradient.
        cameras: views present, in token order.
        state: (B, S) normalised, or None.
        vectors: {name: (B, S)} named columns that are foretold, normalised.
        goal: (B, G·D) what the goal readout was told, zero where the text is hidden or absent; with gradient.
        looked: {camera: (B, C, h, w)} the maps it found `asked` on, with gradient.
        planned: `prefix` and the plan that follows from it; None in training and in rows without a plan.
    """

    prefix: Prefix
    latents: Tensor
    online_latents: Tensor
    asked: Tensor
    cameras: tuple[str, ...]
    state: Tensor | None
    vectors: dict[str, Tensor]
    goal: Tensor
    looked: dict[str, Tensor]
    planned: Prefix | None = None

    @property
    def size(self) -> int:
        return len(self.latents)

    @property
    def tokens_per_offset(self) -> int:
        """World tokens at one future offset: the views' latents, and one for the state and each vector."""
        return self.latents.shape[1] + (self.state is not None) + len(self.vectors)

    @property
    def now(self) -> Future:
        """The future if nothing changes, at one offset: what copying predicts."""
        return Future(self.latents, self.state, self.vectors).each(lambda x: x.unsqueeze(1))

    def repeat(self, count: int) -> "Context":
        """Each observation `count` times in a row, (B·count, …): for candidates that share it."""
        if count == 1:
            return self
        return self.take(torch.arange(self.size, device=self.latents.device).repeat_interleave(count))

    def take(self, rows: Tensor) -> "Context":
        """The observations of numbers `rows` (N,), (N, …)."""

        def many(x: Tensor) -> Tensor:
            return x.index_select(0, rows)

        state = None if self.state is None else many(self.state)
        return Context(
            self.prefix.each(many),
            many(self.latents),
            many(self.online_latents),
            many(self.asked),
            self.cameras,
            state,
            {name: many(x) for name, x in self.vectors.items()},
            many(self.goal),
            {name: many(x) for name, x in self.looked.items()},
            None if self.planned is None else self.planned.each(many),
        )


def _token_mask(tokens: Tensor, seen: Tensor | None) -> Tensor:
    """(B, N, D) tokens that are `seen`, (B,) or (B, N) → (B, N) bool."""
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if seen is None:
        return mask
    return mask & (seen[:, None] if seen.ndim == 1 else seen)


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)


class HybridNetwork(nn.Module):
    """Tokens in, tokens out. Which rows are run, in which order, is `queries`' business."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        cameras, width, tokens = list(config.cameras), config.width, config.tokens_per_view
        readout = (config.frame_channels, config.num_keypoints, config.keypoint_features, tokens)
        self.goal = GoalEncoder(config)
        self.frames = FrameStack(cameras, *readout)
        self.target_frames = FrameStack(cameras, *readout).requires_grad_(False)
        self.target_frames.load_state_dict(self.frames.state_dict())
        self.goal_readout = nn.ModuleDict(
            {name: KeypointReadout(*readout, goal_width=config.goal_tokens * width) for name in cameras}
        )
        size = self.frames.size
        self.latent_in = nn.Linear(size, width)
        self.goal_latent_in = nn.Linear(size, width)
        self.view_position = nn.ParameterDict({name: _positions(2, tokens, width) for name in cameras})
        self.goal_position = _positions(config.goal_tokens, width)
        self.state_position = _positions(width)
        self.latent_future_in = nn.Linear(size, width)
        self.latent_change = nn.Parameter(torch.zeros(width, size))
        self.latent_out = nn.Linear(width, size)
        self.offset_position = _positions(len(config.world_offsets), width)
        self.latent_mask = nn.Parameter(torch.zeros(size))
        self.state_mask = nn.Parameter(torch.zeros(max(config.state_size, 1)))
        self.action_position = _positions(config.chunk_size, width)
        self.time = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        tied = config.streams == "tied"
        self.streams = TwoStreams(width, config.depth, config.heads, config.mlp_ratio, tied)
        self.plan_queries = None
        if COUPLINGS[config.coupling].world_shown == "plan":
            self.plan_queries = nn.Parameter(torch.randn(config.plan_tokens, width) * 0.5)
        nn.init.zeros_(self.latent_out.weight)
        nn.init.zeros_(self.latent_out.bias)
        if config.outcome_weight > 0:
            self.outcome = OutcomeHeads(width)
        if config.change_weight > 0:
            channels, moments = config.frame_channels, len(config.change_offsets)
            self.change_out = nn.ModuleDict({name: nn.Conv2d(channels, 3 * moments, 1) for name in cameras})
        if config.objects_weight > 0:
            self.objects_out = nn.Linear(len(cameras) * tokens * size, 2 * config.objects_count)
            self.target_out = nn.Linear(len(cameras) * tokens * size, 2)
        if config.explicit:
            height, width = config.image_size
            self.pictures = Pictures(cameras, tokens, size, (height, width))
        self.optional = OptionalContext(config)

    @property
    def trains_frames(self) -> bool:
        """False where the base is frozen: an adapter is trained on the latents it will meet at run time."""
        return next(self.frames.parameters()).requires_grad

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Moves the target encoder towards the trained one by 1 − decay; a frozen base stays as it is."""
        if not self.trains_frames:
            return
        pairs = zip(self.target_frames.parameters(), self.frames.parameters(), strict=True)
        target, online = (list(tensors) for tensors in zip(*pairs, strict=True))
        torch._foreach_lerp_(target, online, 1.0 - decay)

    # -- context
    def encode_context(
        self,
        sample: Sample,
        embodiment: Embodiment,
        shown: Shown = EVERYTHING,
        with_reference: bool = True,
        moment: Tensor | None = None,
        past: Moments | None = None,
    ) -> Context:
        """Runs the context tokens once.

        Args:
            shown: what of each sample is shown; the rest is seen by no token.
            with_reference: in training, also encode the frames with the target weights; only W needs that.
            moment: (B, V·P, F) an imagined moment's latents, instead of what the frames' encoding would say;
                the goal readout still looks at the frames.
            past: what the policy remembers, where the sample itself does not bring it.
        """
        now = {name: frames[:, 0] for name, frames in sample.frames.items()}
        online_pass = self.training and self.trains_frames
        runtime = self.frames if online_pass else self.target_frames
        maps, latents = runtime(now)
        if moment is not None:
            latents = dict(zip(now, moment.split(self.config.tokens_per_view, dim=1), strict=True))
        online = torch.cat([latents[name] for name in now], dim=1)
        frozen = normalise_latents(online.detach())
        if online_pass and with_reference:
            frozen = self._target_latents(now)
        tokens, text_visible, goal = self._goal_tokens(sample, shown.text)
        visible = [] if not tokens else [(tokens[0], text_visible)]
        looked = {name: self.goal_readout[name].look(maps[name], goal) for name in now}
        asked = {name: self.goal_readout[name].point(looked[name]) for name in now}
        for name in now:
            looks = self.goal_latent_in(asked[name]) + self.view_position[name][1]
            tokens = [self._view_tokens(name, normalise_latents(latents[name])), looks]
            seen = None if shown.cameras is None else shown.cameras[name]
            visible += [(token, seen) for token in tokens]
        state = None if sample.state is None else sample.state[:, 0]
        if state is not None:
            visible.append((self._state_tokens(sample.state[:, :1], embodiment), shown.state))
        projections = Projections(self._view_tokens, lambda states: self._state_tokens(states, embodiment))
        moments = self._moments(sample, past)
        visible += self.optional.tokens(sample, moments, shown, projections, embodiment)
        joined = torch.cat([token for token, _ in visible], dim=1)
        mask = torch.cat([_token_mask(token, seen) for token, seen in visible], dim=1)
        planned = None
        if self.plan_queries is None or self.training:
            prefix = self.streams.encode(joined, mask)
        else:
            queries = self.plan_queries.expand(sample.size, -1, -1)
            prefix, planned = self.streams.encode_in_turn(joined, mask, queries)
        found = torch.cat(list(asked.values()), dim=1)
        vectors = {name: x[:, 0] for name, x in sample.vectors.items() if name in self.optional.mask}
        return Context(prefix, frozen, online, found, tuple(now), state, vectors, goal, looked, planned)

    def _view_tokens(self, camera: str, latents: Tensor) -> Tensor:
        """(…, P, F) normalised latents of one camera → (…, P, D)."""
        return self.latent_in(latents) + self.view_position[camera][0]

    def _state_tokens(self, states: Tensor, embodiment: Embodiment) -> Tensor:
        """(…, S) → (…, D)."""
        return embodiment.state_in(states) + self.state_position

    def _moments(self, sample: Sample, past: Moments | None) -> dict[str, Moments]:
        """Other moments than now by entry, those that are given. A goal may come as latents."""
        given = {}
        if sample.goal:
            frames = {name: x for name, x in sample.goal.items() if x.ndim == 4}
            latents = {n: x for n, x in sample.goal.items() if x.ndim == 3} | self._target_views(frames)
            there = torch.ones(sample.size, 1, dtype=torch.bool, device=sample.index.device)
            views = {name: x.unsqueeze(1) for name, x in latents.items()}
            given[GOAL_IMAGE] = Moments(views, dict.fromkeys(views, there))
        if sample.past is not None:
            then = sample.past
            flat = self._target_views({name: x.flatten(0, 1) for name, x in then.frames.items()})
            latents = {name: x.unflatten(0, (sample.size, -1)) for name, x in flat.items()}
            past = Moments(latents, then.frame_valid, then.state, then.state_valid)
        return given if past is None else given | {PAST: past}

    def _goal_tokens(
        self, sample: Sample, text_visible: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """Goal tokens as a list of zero or one (B, G, D), their visibility, and the readout's goal (B, G·D).

        The readout's goal is zero where there is no text: absent at run time is what dropout made familiar.
        """
        spoken = [bool(text.strip()) for text in sample.task or ()]
        if not any(spoken):
            return [], None, self.goal_position.new_zeros(sample.size, self.goal_position.numel())
        texts = sample.task
        if not all(spoken):  # a tokenizer needs something to cut: any text stands in, hidden
            there = torch.tensor(spoken, device=sample.index.device)
            text_visible = there if text_visible is None else there & text_visible
            texts = [text if text.strip() else texts[spoken.index(True)] for text in texts]
        goal = self.goal(texts)
        if text_visible is not None:
            goal = goal * text_visible[:, None, None]
        return [goal + self.goal_position], text_visible, goal.flatten(1)

    @torch.no_grad()
    def _target_views(self, frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run-time latents of frames {camera: (N, 3, H, W)}, {camera: (N, P, F)}."""
        _, latents = self.target_frames(frames)
        return {name: normalise_latents(x) for name, x in latents.items()}

    def _target_latents(self, frames: dict[str, Tensor]) -> Tensor:
        return torch.cat(list(self._target_views(frames).values()), dim=1)

    @torch.no_grad()
    def encode_future(self, sample: Sample) -> Future:
        """Targets: run-time latents of the later frames, (B, H, V·P, F), encoded apart from the context."""
        count, times = sample.size, sample.times
        flat = {name: frames[:, 1:].flatten(0, 1) for name, frames in sample.frames.items()}
        latents = self._target_latents(flat).view(count, times - 1, -1, self.frames.size)
        vectors = {name: x[:, 1:] for name, x in sample.vectors.items() if name in self.optional.mask}
        return Future(latents, None if sample.state is None else sample.state[:, 1:], vectors)

    @torch.no_grad()
    def seen_again(self, latents: Tensor, cameras: tuple[str, ...]) -> Tensor:
        """(…, V·P, F) → the same: decoded to pictures, those encoded, as `explicit` shows A the future."""
        pictures = self.pictures(latents.flatten(0, -3), cameras)
        return self._target_latents(pictures).view_as(latents)

    # -- tokens of the future and of the chunk
    def _time(self, tau: Tensor) -> Tensor:
        """(...) flow time → (..., D)."""
        return self.time(torch.stack((tau, 1.0 - tau), dim=-1))

    def world_tokens(
        self, x: Future, tau: Tensor, context: Context, embodiment: Embodiment, first: int = 0
    ) -> Tensor:
        """Future x, of the offsets from number `first` on, at flow time tau (B,), → (B, Nw, D)."""
        views = torch.cat([self.view_position[name][0] for name in context.cameras])

        def change(then: Tensor, now: Tensor) -> Tensor:
            """How what will be differs from now: not at all, where nothing is known of it yet."""
            return (then - now) * tau.view(-1, *[1] * (then.ndim - 1))

        changes = x.beside(context.now, change)
        parts = [self.latent_future_in(x.latents) + F.linear(changes.latents, self.latent_change) + views]
        if x.state is not None:
            token = embodiment.state_future_in(x.state) + F.linear(changes.state, embodiment.state_change)
            parts.append((token + self.state_position).unsqueeze(2))
        for name, value in x.vectors.items():
            token = embodiment.vectors_future_in[name](value) + self.optional.position[name]
            token = token + F.linear(changes.vectors[name], embodiment.vectors_change[name])
            parts.append(token.unsqueeze(2))
        tokens = torch.cat(parts, dim=2)
        positions = self.offset_position[first : first + x.latents.shape[1], None]
        tokens = tokens + positions + self._time(tau)[:, None, None]
        return tokens.flatten(1, 2)

    def read_world(self, output: Tensor, context: Context, embodiment: Embodiment) -> Future:
        """World outputs (B, H·tokens_per_offset, D) → the predicted future, as a change from now; any H."""
        output = output.unflatten(1, (-1, context.tokens_per_offset))
        now, views = context.now, context.latents.shape[1]
        latents, rest = self.latent_out(output[:, :, :views]), iter(output[:, :, views:].unbind(dim=2))
        state = None if now.state is None else embodiment.state_future_out(next(rest)).float()
        vectors = {name: embodiment.vectors_future_out[name](next(rest)).float() for name in now.vectors}
        return now.beside(Future(latents.float(), state, vectors), torch.add)

    def action_tokens(self, x: Tensor, tau: Tensor, embodiment: Embodiment, first: int = 0) -> Tensor:
        """Actions x (B, N, A), of a chunk from position `first` on, at flow times tau (B, N) → (B, N, D)."""
        positions = self.action_position[first : first + x.shape[1]]
        return embodiment.action_in(x) + positions + self._time(tau)

    def start_future(self, context: Context) -> Future:
        """The fully masked future, mask tokens μ."""
        count, offsets = context.size, len(self.config.world_offsets)
        latents = self.latent_mask.expand(count, offsets, context.latents.shape[1], -1)
        state = None if context.state is None else self.state_mask.expand(count, offsets, -1)
        vectors = {name: self.optional.mask[name].expand(count, offsets, -1) for name in context.vectors}
        return Future(latents, state, vectors)

    def make_plan(self, context: Context, seen: Prefix) -> tuple[Prefix, Tensor]:
        """Plan tokens that see `seen`: the context's prefix with them alone added, their outputs (B, Q, D).

        What they saw beyond the context stays out of the prefix: a chunk knows of it only through the plan.
        """
        count = context.size
        assert self.plan_queries is not None
        tokens = self.plan_queries.expand(count, -1, -1)
        there = seen.visible.new_ones(count, tokens.shape[1])
        visible = torch.cat((seen.visible, there), dim=1)
        mask = None if bool(visible.all()) else visible.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        output, _, new = self.streams(tokens, None, seen, mask)
        return extend(context.prefix, new, there), output

    def visibility(self, plan: TrainingPlan, context: Context, world: Tensor, action: Tensor) -> Tensor:
        """(B, Nw + Na, Nc + Nw + Na) bool: the row's who-sees-whom, sample by sample.

        Args:
            world, action: (B, Nw) and (B, Na) bool, tokens that are there; a padded one is seen by nobody.
        """
        num_world, num_action = world.shape[1], action.shape[1]
        seen = context.prefix.visible.unsqueeze(1).expand(-1, num_world + num_action, -1)

        def block(flag: Tensor, there: Tensor, rows: int) -> Tensor:
            return (flag[:, None] & there).unsqueeze(1).expand(-1, rows, -1)

        from_world = (
            block(plan.world_visible, world, num_world),
            block(plan.world_sees_action & plan.action_visible, action, num_world),
        )
        from_action = (
            block(plan.action_sees_world & plan.world_visible, world, num_action),
            block(plan.action_visible, action, num_action),
        )
        new = torch.cat((torch.cat(from_world, dim=2), torch.cat(from_action, dim=2)), dim=1)
        return torch.cat((seen, new), dim=2)
