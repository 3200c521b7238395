"""Milliseconds of one chunk for every coupling, imagine setting, step count and planner size, and for peers.

All rows are timed in turn, round after round, so that what else the machine does falls on all of them alike.
Weights are random: a forward pass takes as long as with trained ones.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.planner import Planner
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.streams import Prefix, TwoStreams
from recipes.bench.peers import features, observation, peers, plan_once
from recipes.bench.work import count_flops, count_live
from recipes.so101_quickstart import recipe as quickstart

WARM_UP = 3  # rounds that are not counted
STEPS = (1, 2, 4, 10)
CANDIDATES = (1, 4, 8, 16)
PLANNED = 8  # candidates of the other couplings that can be planned with, and of the bar
EVERY = 5  # plans, one of which imagines, in rows of on_uncertainty: calibrate --imagine-rate 0.2
# The most a row at default steps may cost, times `vla`; K = 8 times K = 1; and lose by imagining.
MOST_NEVER, MOST_ALWAYS = 1.05, {"joint": 1.3, "cascaded": 1.8}
MOST_PLANNING, MOST_LOST = 4.0, 0.05
FEWEST_EPISODES = 200  # paired ones, for a row to be judged by its success
LARGE = {"width": 432, "heads": 8}  # the quickstart's network, as wide as 15 M take


@dataclass(frozen=True)
class Row:
    """One line of the table: what it says of itself, and a call that makes one chunk from pictures.

    tokens: token-forwards of one call. network: whose committed success is this row's; None where the same
    network is run with other numbers, or is not ours.
    """

    facts: dict[str, Any]
    call: Callable[[], object]
    tokens: Callable[[], int] | None = None
    network: dict[str, Any] | None = None


def small_policy(**changes: Any) -> HybridPolicy:
    """The quickstart's policy with random weights, and `changes` of its configuration."""
    bare = {"objects_weight": 0.0, "objects_count": 0, "waypoint_weight": 0.0, "imagine": None}
    config = replace(quickstart().policy, **(bare | features() | changes))
    assert isinstance(config, HybridConfig)
    unit = {"mean": np.zeros(6), "std": np.ones(6)}
    policy = HybridPolicy(config, dataset_stats={"action": unit, "observation.state": unit})
    policy.embodiment.relative_std.fill_(1.0)
    return policy.eval()


def _count(policy: nn.Module) -> int:
    return sum(parameter.numel() for parameter in policy.parameters())


def _hybrid(name: str, policy: HybridPolicy, imagine: str, **facts: Any) -> Row:
    """A row of this project's policy at one `imagine` setting."""
    batch = observation()

    def call() -> Tensor:
        policy.config.imagine = imagine
        return policy.predict_action_chunk(batch)

    config = policy.config
    return Row(
        {"policy": name, "coupling": config.coupling, "imagine": imagine, "steps": config.action_steps,
         "planner_k": None, "params": _count(policy),
         "live_params": count_live(policy, call), "flops": count_flops(call), **facts},
        call, _counted(policy, call), config.network,
    )  # fmt: skip


def _counted(policy: HybridPolicy, call: Callable[[], object], calls: int = 1) -> Callable[[], int]:
    """Counts the token-forwards of one of `calls` calls."""
    streams = policy.network.streams

    def tokens() -> int:
        streams.token_forwards = 0
        for _ in range(calls):
            call()
        return round(streams.token_forwards / calls)

    return tokens


def coupling_rows() -> Iterator[Row]:
    """Every coupling at every `imagine` setting; on_uncertainty imagines in one plan of `EVERY`."""
    for row in COUPLINGS.values():
        policy = small_policy(coupling=row.name)
        for imagine in (mode for mode in ("never", "always") if mode in row.imagine):
            yield _hybrid("hybrid", policy, imagine, default=imagine == row.imagine[0])
        if "on_uncertainty" in row.imagine:
            yield _on_demand(row.name)


def _on_demand(coupling: str) -> Row:
    policy = small_policy(coupling=coupling, imagine_threshold=math.inf)
    row = _hybrid("hybrid", policy, "on_uncertainty", default=False, imagined_share=1 / EVERY)
    plans = count()

    def call() -> object:
        policy.config.imagine_threshold = -1.0 if next(plans) % EVERY == 0 else math.inf
        return row.call()

    live = count_live(policy, lambda: [call() for _ in range(EVERY)])
    facts = row.facts | {"live_params": live, "flops": count_flops(call, EVERY)}
    return replace(row, facts=facts, call=call, tokens=_counted(policy, call, EVERY))


def explicit_row() -> Row:
    """`cascaded` whose actions see the imagined pictures: decoded, and encoded again."""
    policy = small_policy(coupling="cascaded", explicit=True)
    return _hybrid("hybrid, explicit", policy, "always", default=False)


def step_rows() -> Iterator[Row]:
    """Integration steps of a flow head, with the context kept and with it run again beside the chunk in each;
    then those of a flow world.
    """
    for steps in STEPS:
        policy = small_policy(coupling="joint", action_law="flow", action_steps=steps)
        yield _hybrid("hybrid, flow", policy, "never", default=False, prefix_cache=True)
        if steps > 1:
            yield _hybrid("hybrid, flow", uncached(policy), "never", default=False, prefix_cache=False)
    for steps in STEPS:
        policy = small_policy(coupling="cascaded", world_law="flow", world_steps=steps)
        yield _hybrid("hybrid, flow world", policy, "always", default=False, world_steps=steps)


class Uncached(TwoStreams):
    """Streams that keep no keys and values: the context's tokens are run again beside those of each chunk."""

    def encode(self, tokens: Tensor, visible: Tensor, *_: Any, **__: Any) -> Prefix:
        self._context = tokens
        return Prefix((), (), visible)

    def forward(self, world: None, action: Tensor, prefix: Prefix, *_: Any, **__: Any) -> Any:
        """Context and chunk in one call, in which the context does not see the chunk."""
        assert world is None, "a future is not run here"
        seen = torch.cat((prefix.visible, prefix.visible.new_ones(action.shape[:2])), dim=1)
        mask = seen.unsqueeze(1).repeat(1, seen.shape[1], 1)
        mask[:, : len(prefix), len(prefix) :] = False
        _, output, new = super().forward(self._context, action, None, mask)
        return None, output, new


def uncached(policy: HybridPolicy) -> HybridPolicy:
    """The same policy, acting without a future, whose context is not kept from one integration step to the
    next.
    """
    policy = deepcopy(policy)
    config, cached = policy.config, policy.network.streams
    streams = Uncached(config.width, config.depth, config.heads, config.mlp_ratio)
    streams.load_state_dict(cached.state_dict())
    policy.network.streams = streams
    return policy.eval()


def planner_rows() -> Iterator[Row]:
    """K candidates imagined and scored, one going on with the last plan; K = 1 runs the same code."""
    for candidates in CANDIDATES:
        yield _planner_row("joint", candidates)
    for coupling in ("cascaded", "autoregressive"):
        yield _planner_row(coupling, PLANNED)


def _planner_row(coupling: str, candidates: int) -> Row:
    """A planner as it runs: its heads know both answers, with and without a chunk."""
    policy = small_policy(
        coupling=coupling, action_law="flow", action_steps=1, outcome_weight=1.0,
        world_law="flow" if coupling == "cascaded" else "regress",
    )  # fmt: skip
    policy.network.outcome.labels.fill_(1)
    batch = observation()
    planner = Planner(policy.queries, PlannerSettings(candidates=candidates))

    def call() -> object:
        context = policy.context(batch)
        return planner.plan(context, lambda size: policy.acting_noise(size, torch.device("cpu")))

    row = _hybrid("hybrid, flow", policy, COUPLINGS[coupling].imagine[-1], default=False)
    facts = row.facts | {"imagine": "always", "planner_k": candidates,
                         "live_params": count_live(policy, call), "flops": count_flops(call)}  # fmt: skip
    return Row(facts, call, _counted(policy, call))


def variant_rows() -> Iterator[Row]:
    """The default row compiled, in bfloat16 and in int8; `cascaded` by way of pictures."""
    compiled = small_policy(coupling="joint")
    row = _hybrid("hybrid, compiled", compiled, "never", default=False)
    assert row.tokens is not None
    forwards = row.tokens()  # a compiled graph does not count
    compiled.network.streams.compile(dynamic=False)
    yield replace(row, tokens=lambda: forwards, network=None)
    tied = small_policy(coupling="joint", streams="tied")
    yield _hybrid("hybrid, tied", tied, "always", default=False)
    half = small_policy(coupling="joint")
    row = _hybrid("hybrid, bfloat16", half, "never", default=False)

    def call() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return row.call()

    yield replace(row, call=call, network=None)
    yield explicit_row()
    quantised = small_policy(coupling="joint")
    torch.ao.quantization.quantize_dynamic(quantised.network.streams, {nn.Linear}, torch.qint8, inplace=True)
    before = {name: row.facts[name] for name in ("params", "live_params", "flops")}  # it has none to count
    yield replace(_hybrid("hybrid, int8 streams", quantised, "never", default=False, **before), network=None)


def peer_rows(folder: Path) -> Iterator[Row]:
    """LeRobot's ACT, Diffusion and SmolVLA, and a hybrid of their size."""
    for coupling in ("vla", "joint"):
        policy = small_policy(coupling=coupling, **LARGE)
        for imagine in (mode for mode in ("never", "always") if mode in COUPLINGS[coupling].imagine):
            yield _hybrid("hybrid, 15 M", policy, imagine, default=False)
    batch = observation()
    for name, build in peers(folder).items():
        peer = build().eval()

        def call(peer: nn.Module = peer) -> object:
            return plan_once(peer, batch)

        steps = {"lerobot act": 1}.get(name, 10)
        yield Row(
            {"policy": name, "coupling": None, "imagine": None, "steps": steps, "planner_k": None,
             "params": _count(peer), "live_params": count_live(peer, call),
             "flops": count_flops(call), "default": False},
            call,
        )  # fmt: skip


GROUPS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "couplings": lambda _: coupling_rows(),
    "steps": lambda _: step_rows(),
    "planner": lambda _: planner_rows(),
    "variants": lambda _: variant_rows(),
    "peers": peer_rows,
}


def build_rows(groups: Sequence[str], folder: Path) -> list[Row]:
    """The rows of some of `GROUPS`; `folder` keeps the small vision-language model of SmolVLA."""
    return [row for name in groups for row in GROUPS[name](folder)]


@torch.inference_mode()
def time_rows(
    rows: Sequence[Row], budget_s: float, progress: Callable[[int, int], None] | None = None
) -> list[list[float]]:
    """Milliseconds of every counted call of every row, rounds over all rows until the budget is spent."""
    spent: list[list[float]] = [[] for _ in rows]
    order = np.random.default_rng(0)
    deadline = time.perf_counter() + budget_s
    rounds = 0
    gc.collect()
    gc.disable()
    try:
        while rounds < WARM_UP + 10 or time.perf_counter() < deadline:
            for index in order.permutation(len(rows)):
                start = time.perf_counter()
                rows[index].call()
                spent[index].append(1e3 * (time.perf_counter() - start))
            rounds += 1
            if progress is not None:
                left = max(deadline - time.perf_counter(), 0.0)
                progress(int(budget_s - left), int(budget_s))
    finally:
        gc.enable()
    return [each[WARM_UP:] for each in spent]


def latency_table(
    rows: Sequence[Row], spent: Sequence[Sequence[float]], results: Path
) -> list[dict[str, Any]]:
    """The rows as they are printed: facts, tokens, percentiles, ratio to `vla` of the same size, success.

    Args:
        results: folder of committed results; success is joined from there and never assumed.
    """
    table = []
    for row, times in zip(rows, spent, strict=True):
        p50, p95 = np.percentile(times, [50, 95])
        tokens = row.tokens() if row.tokens is not None else None
        table.append(
            {**row.facts, "tokens": tokens, "p50_ms": float(p50), "p95_ms": float(p95),
             "mean_ms": float(np.mean(times)), "calls": len(times)}
        )  # fmt: skip
    for row, line in zip(rows, table, strict=True):
        size = "hybrid, 15 M" if "15 M" in line["policy"] or "lerobot" in line["policy"] else "hybrid"
        vla = next((r for r in table if r["policy"] == size and r["coupling"] == "vla"), None)
        # The median of plans of which one in five imagines is one that does not.
        typical = "mean_ms" if line["imagine"] == "on_uncertainty" else "p50_ms"
        line["ratio_to_vla"] = line[typical] / vla[typical] if vla else None
        line |= _committed(row, results)
    _judge(table)
    return table


def _judge(table: Sequence[dict[str, Any]]) -> None:
    """Adds `bars` (what is bounded, by how much) and `pass` to the rows that have one. `pass` is None, and
    `unjudged` says why, where success is not known of enough paired episodes.
    """
    one = next((r["p50_ms"] for r in table if r["planner_k"] == 1), None)
    for line in table:
        found: list[tuple[str, float, bool | None]] = []
        if line["policy"] == "hybrid" and line["ratio_to_vla"] is not None:
            never, always = line["imagine"] == "never", line["imagine"] == "always"
            most = MOST_NEVER if never else MOST_ALWAYS.get(line["coupling"]) if always else None
            if most is not None:
                found.append(("ratio_to_vla", most, line["ratio_to_vla"] <= most))
        if line["planner_k"] == PLANNED and line["coupling"] == "joint" and one is not None:
            found.append(("ratio_to_one_candidate", MOST_PLANNING, line["p50_ms"] / one <= MOST_PLANNING))
        if line["policy"] == "hybrid" and line["imagine"] == "always" and line["coupling"] in MOST_ALWAYS:
            gained, episodes = line["always_minus_never"], line["episodes"] or 0
            enough = gained is not None and episodes >= FEWEST_EPISODES
            if not enough:
                line["unjudged"] = f"success of {episodes} paired episodes, {FEWEST_EPISODES} are asked for"
            lost = gained["value"] >= -MOST_LOST if enough else None
            found.append(("success_lost_by_imagining", MOST_LOST, lost))
        if found:
            line["bars"] = {name: most for name, most, _ in found}
            met = [each for _, _, each in found]
            line["pass"] = False if False in met else None if None in met else True


def _committed(row: Row, results: Path) -> dict[str, Any]:
    """Success of the same network at the same setting, from the table of couplings if there is one, what
    imagining gained on the same scenes, and whose it is: the study's cells, which are checkpoints.

    The study's one variant with a stage 1 is left out: what stands beside one another was trained alike.
    """
    path = results / "couplings.json"
    if row.network is not None and path.is_file():
        study = json.loads(path.read_text())
        for name, measured in zip(study["cells"], study["variants"], strict=True):
            figures = measured["imagine"].get(row.facts["imagine"])
            if measured["network"] == row.network and measured.get("stage1") != "with" and figures:
                cells = [f"{name}/seed{cell['seed']}" for cell in study["cells"][name]]
                return {"results": path.name, "checkpoint": cells, "success": figures["rate"],
                        "episodes": figures["episodes"],
                        "always_minus_never": measured["always_minus_never"]}  # fmt: skip
    return dict.fromkeys(("results", "checkpoint", "success", "episodes", "always_minus_never"))
