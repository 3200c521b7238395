"""Choosing among what the policy itself proposes: K candidates, imagined, scored, gated; the best is kept.

Legend as in `network`; K candidates of each of B observations, T chunk, A action size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS, Coupling
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.errors import ConfigurationError, NonFiniteError, QueryError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.future import Future
from hybridpolicy.gate import Gate, Violation
from hybridpolicy.network import Context
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.queries import Queries


class PlanState(Enum):
    """How planning ended for one observation."""

    CHOSEN = "chosen"
    NONE_PASSED = "none_passed"  # the gate refused every candidate: hold, and plan again


@dataclass(frozen=True)
class Plan:
    """What was chosen, and among what.

    Attributes:
        chunk: (B, T, A) the best candidate; NaN where none passed, so that it cannot be sent by mistake.
        future: (B, H, …) what it is imagined to lead to; where none passed, that of the best refused one.
        candidates: (B, K, T, A). scores: (B, K), of refused candidates too.
        chosen: (B,) index of the best that passed, −1 where none did.
        violations: B × K, why a candidate was refused; None where it passed or nothing was asked.
    """

    chunk: Tensor
    future: Future
    candidates: Tensor
    scores: Tensor
    chosen: Tensor
    violations: tuple[tuple[Violation | None, ...], ...]

    @property
    def states(self) -> tuple[PlanState, ...]:
        """How planning ended, for each observation. What to do where none passed is the caller's: hold."""
        return tuple(PlanState.NONE_PASSED if i < 0 else PlanState.CHOSEN for i in self.chosen.tolist())

    @property
    def spread(self) -> Tensor:
        """(B,) how far candidates lie apart: standard deviation over K, mean over the chunk."""
        if self.candidates.shape[1] == 1:
            return torch.zeros_like(self.scores[:, 0])
        return self.candidates.std(dim=1).mean(dim=(1, 2))


NoiseSource = Callable[[int], CounterNoise]
"""Number of samples → their noise, as `HybridPolicy.acting_noise` gives it."""

_WARM_UP = 2  # plans with one candidate before the pace is believed
_FORGET = 0.9
_TIME_AGAIN = 20  # plans of many observations at once between two of one alone


class Planner:
    """Plans with one policy. Keeps the pace of this machine, to know how many candidates a budget allows."""

    def __init__(self, queries: Queries, settings: PlannerSettings, gate: Gate | None = None) -> None:
        """`gate`: of the arm the plans are for; candidates that fail it are never chosen.

        Raises `ConfigurationError` if the policy cannot propose, imagine or judge what is asked, or has no
        state to show the gate.
        """
        check_planner(queries.config, settings)
        judges = queries.config.outcome_weight > 0
        if settings.risk > 0 and judges and not queries.network.outcome.knows("risk"):
            raise ConfigurationError(
                f"planner: risk = {settings.risk}, and the risk head was never trained on both answers; "
                "train it on rollouts in which something happened (outcomes = 'recorded'), or set risk = 0"
            )
        if gate is not None and not queries.config.state_size:
            raise ConfigurationError(
                "planner: a gate judges chunks from where the arm is, and this policy has no "
                "observation.state; train it with one, or check chunks where the arm is driven"
            )
        self._queries, self._settings, self._gate = queries, settings, gate
        self._one_ms: list[float] = []
        self._each_ms: float | None = None
        self._timed_at = 0
        self.num_plans = self.num_candidates = 0  # made, and imagined for them, since the beginning

    @property
    def embodiment(self) -> Embodiment:
        """The arm it plans for."""
        return self._queries.embodiment

    @torch.no_grad()
    def plan(
        self,
        context: Context,
        noise: NoiseSource,
        *,
        goal: Tensor | None = None,
        warm: Tensor | None = None,
        committed: Tensor | None = None,
        since: float | None = None,
    ) -> Plan:
        """The best of K chunks for each observation.

        Args:
            goal: (B, V·P, F) latents of a goal picture: score by nearness of the last imagined latents to it
                instead of by the outcome heads.
            warm: (B, d, A) what is left of the last plan, NaN where nothing is; with `warm_start` the first
                candidate goes on with as much of it as the policy was trained to (`rtc_max_delay`).
            committed: (B, d, A) first actions that will be executed whatever is chosen.
            since: `time.perf_counter()` when the observation came, which the budget counts from; None: now.

        Raises:
            NonFiniteError: of some observation no candidate and its score are numbers.
        """
        started = time.perf_counter()
        since = started if since is None else since
        if self._settings.budget_ms is not None and context.size > 1:
            encoding_ms = 1e3 * (started - since) / context.size
            self._time_one(context, noise, encoding_ms, goal, warm, committed)
        count = self.affordable()
        plan = self._best_of(count, context, noise, goal, warm, committed)
        if context.size == 1:
            self._learn_pace(count, 1e3 * (time.perf_counter() - since))
        self.num_plans += context.size
        self.num_candidates += count * context.size
        return plan

    def _time_one(
        self, context: Context, noise: NoiseSource, before_ms: float, *given: Tensor | None
    ) -> None:
        """Of many observations at once, one is planned for alone now and then: the budget is one arm's."""
        known = self._each_ms is not None or self._settings.candidates == 1
        if known and self.num_plans < self._timed_at + _TIME_AGAIN * context.size:
            return
        self._timed_at, known = self.num_plans, False
        first = context.take(torch.zeros(1, dtype=torch.int64, device=context.latents.device))
        goal, warm, committed = (None if x is None else x[:1] for x in given)
        while not known:
            known = self._each_ms is not None or self._settings.candidates == 1
            started, count = time.perf_counter(), self.affordable()
            self._best_of(count, first, noise, goal, warm, committed)
            self._learn_pace(count, before_ms + 1e3 * (time.perf_counter() - started))

    def _best_of(
        self,
        count: int,
        context: Context,
        noise: NoiseSource,
        goal: Tensor | None,
        warm: Tensor | None,
        committed: Tensor | None,
    ) -> Plan:
        many = context.repeat(count)
        drawn = noise(many.size)
        if self._row.world_shown == "clean":
            future = self._queries.imagine(many, drawn)
            chunks = self._propose(many, drawn, warm, committed, count, future)
        else:
            chunks = self._propose(many, drawn, warm, committed, count)
            future = self._queries.imagine(many, drawn, chunks)
        begun = 0 if committed is None else committed.shape[1]
        scores = self._score(many, future, chunks, goal, count, begun)
        violations = self._violations(many, chunks, count)
        passed = torch.tensor([[v is None for v in row] for row in violations], device=scores.device)
        numbers = chunks.isfinite().all(dim=(1, 2)).unflatten(0, (-1, count)) & scores.isfinite()
        if not bool(numbers.any(dim=1).all()):
            raise NonFiniteError(
                "planner: every candidate or its score holds NaN or infinity; look at the cameras and at "
                "the state"
            )
        passed = passed & numbers
        none = ~passed.any(dim=1)
        usable = torch.where(none[:, None], numbers, passed)
        best = scores.masked_fill(~usable, -torch.inf).argmax(dim=1)
        flat = best + count * torch.arange(context.size, device=best.device)
        chosen = future.each(lambda x: x[flat])
        chunk = chunks[flat].masked_fill(none[:, None, None], torch.nan)
        best = best.masked_fill(none, -1)
        return Plan(chunk, chosen, chunks.unflatten(0, (-1, count)), scores, best, violations)

    def affordable(self) -> int:
        """K that fits the budget at the pace of the plans so far; the first ones measure it."""
        wanted, budget = self._settings.candidates, self._settings.budget_ms
        if budget is None:
            return wanted
        if len(self._one_ms) < _WARM_UP:
            return 1
        if self._each_ms is None:
            return min(2, wanted)
        return max(1, min(wanted, 1 + int((budget - min(self._one_ms)) / self._each_ms)))

    @property
    def _row(self) -> Coupling:
        return COUPLINGS[self._queries.config.coupling]

    def _propose(
        self,
        many: Context,
        noise: CounterNoise,
        warm: Tensor | None,
        committed: Tensor | None,
        count: int,
        future: Future | None = None,
    ) -> Tensor:
        """(B·K, T, A) by the policy, the first of each K going on with the last plan.

        Args:
            future: to invert; None: the policy acts.
        """
        config, queries = self._queries.config, self._queries
        imagine = "never" if self._row.acts_without_world else "always"
        first = torch.arange(0, many.size, count, device=many.latents.device)

        def ask(context: Context, drawn: CounterNoise, ahead: Future | None, clean: Tensor | None) -> Tensor:
            if ahead is not None:
                return queries.infer_actions(context, drawn, ahead, clean)
            return queries.act(context, drawn, imagine=imagine, clean=clean)

        given = None if committed is None else committed.repeat_interleave(count, dim=0)
        chunks = ask(many, noise, future, given)
        if warm is None or not self._settings.warm_start or count == 1:
            return chunks  # an only candidate looks at what there is now
        most = min(config.rtc_max_delay, chunks.shape[1] - 1)
        ahead = None if future is None else future.each(lambda x: x[first])
        going_on = ask(many.take(first), noise.take(first), ahead, warm[:, :most])
        left = warm.isfinite().all(dim=(1, 2))  # of arms side by side, one may have stood
        return chunks.index_copy(0, first[left], going_on[left])

    def _violations(
        self, many: Context, chunks: Tensor, count: int
    ) -> tuple[tuple[Violation | None, ...], ...]:
        """B × K what the gate finds wrong with each candidate; None everywhere without a gate."""
        if self._gate is None:
            return ((None,) * count,) * (len(chunks) // count)
        if many.state is None:
            raise ConfigurationError(
                "planner: the gate judges chunks from where the arm is, and the observation has no state"
            )
        chunk, state = self._queries.embodiment.to_physical(chunks.float(), many.state)
        found = self._gate.check(chunk.cpu().numpy(), state.cpu().numpy()).violations
        return tuple(tuple(found[start : start + count]) for start in range(0, len(found), count))

    def _score(
        self, many: Context, future: Future, chunks: Tensor, goal: Tensor | None, count: int, begun: int
    ) -> Tensor:
        """(B, K), higher is better. begun: actions that all have in common."""
        if goal is not None:
            distance = future.latents[:, -1] - goal.repeat_interleave(count, dim=0)
            return -distance.square().mean(dim=(1, 2)).unflatten(0, (-1, count))
        settings, steps = self._settings, self._queries.config.n_action_steps
        executed = chunks[:, begun : begun + steps].float().unflatten(0, (-1, count))
        score = settings.consensus * consensus(executed)
        if not (settings.progress or settings.success or settings.risk):
            return score
        judges = self._queries.config.outcome_weight > 0
        shown = judges and self._queries.network.outcome.knows("success", chunk=True)
        try:
            says = self._queries.evaluate(many, future, chunks if shown else None)
        except QueryError as error:
            raise QueryError(f"{error}, or plan with success = 0: consensus needs no heads") from error
        judged = (
            settings.progress * says.progress + settings.success * says.success - settings.risk * says.risk
        )
        return score + judged.unflatten(0, (-1, count))

    def _learn_pace(self, count: int, spent_ms: float) -> None:
        """A plan takes what one candidate takes, and something for each further one."""
        if count == 1:
            self._one_ms = [*self._one_ms[1 - _WARM_UP :], spent_ms]
            if self._each_ms is not None:  # one slow plan is forgotten, and two candidates are tried again
                self._each_ms *= _FORGET
        elif self._one_ms:
            each = max((spent_ms - min(self._one_ms)) / (count - 1), 1e-3)
            self._each_ms = each if self._each_ms is None else 0.8 * self._each_ms + 0.2 * each


def consensus(candidates: Tensor) -> Tensor:
    """(B, K) how near each of the candidates (B, K, T, A) is to the others.

    It is minus its mean distance to them, as a multiple of what that is on average: −1 is as near as most; 0
    where all are the same, or there is but one.

    The nearest is the one a policy is least wrong with, taking its own samples for what may be right: minimum
    Bayes risk. Candidates that are no numbers are nobody's others.
    """
    count = candidates.shape[1]
    real = candidates.isfinite().all(dim=(2, 3))
    points = candidates.masked_fill(~real[:, :, None, None], 0.0).flatten(2)
    others = real[:, None, :] & ~torch.eye(count, dtype=torch.bool, device=real.device)
    apart = (points[:, :, None] - points[:, None]).norm(dim=-1) * others
    mean = apart.sum(dim=-1) / others.sum(dim=-1).clamp_min(1)
    scale = (mean * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp_min(1)
    return -mean / scale.clamp_min(torch.finfo(mean.dtype).tiny)


def check_planner(config: HybridConfig, settings: PlannerSettings) -> None:
    """Raises `ConfigurationError` if a policy of `config` cannot be planned with."""
    row = COUPLINGS[config.coupling]
    able = [r.name for r in COUPLINGS.values() if _can_plan(r)]
    if not _can_plan(row):
        raise ConfigurationError(
            f"planner: coupling = {row.name} cannot imagine what its own proposals lead to; rows that can: "
            f"{', '.join(able)}"
        )
    begun = min(config.rtc_max_delay, config.chunk_size - 1) if config.rtc_share > 0 else 0
    if settings.warm_start and begun < 1:
        raise ConfigurationError(
            f"planner: warm_start with rtc_share = {config.rtc_share:g} and rtc_max_delay = "
            f"{config.rtc_max_delay}: the policy was never trained to go on with a plan; train it with both "
            "above 0, or leave warm_start out"
        )
    law = "world_law" if row.world_shown == "clean" else "action_law"
    drawn = getattr(config, law)
    if settings.candidates > 1 and drawn != "flow":
        raise ConfigurationError(
            f"planner: candidates = {settings.candidates} with {law} = {drawn}, which has one answer and so "
            f"proposes {settings.candidates} times the same; train with {law} = flow, or set candidates = 1"
        )


def _can_plan(row: Coupling) -> bool:
    """It imagines under its own actions, or acts by inverting what it imagines."""
    return "imagine_actions" in row.queries or (row.world_shown == "clean" and row.inverse)
