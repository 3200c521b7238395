"""Does success in the dream tell success on the table? Many policies of different quality, both ways."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.constants import TWIN_RATE_HZ
from embodiments.so101.twin.scenario import MAX_STEPS, Scenario
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.dream.vector_env import PRESENT, DreamVectorEnv
from hybridpolicy.dream.world import DreamWorld
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.files import write_json
from hybridpolicy.fingerprint import fingerprint
from hybridpolicy.stats import spearman
from hybridpolicy.training.cache import FrameCache
from recipes.job import git_revision, machine, require_same
from recipes.twin import suites

# Chosen so that success on the twin goes all the way from that of a trained policy to none: whoever tells
# broken policies from whole ones alone has a high rank correlation where most are one or the other.
NOISES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 8.0)
SCALES = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75)
SHIFTS = (1.0, 2.0, 3.0, 4.0, 6.0)
FEWEST_POLICIES = 16
MIDDLE = (0.1, 0.9)  # success of policies that are neither broken nor whole
FEWEST_MIDDLE = 6
BATCH = 48


@dataclass
class Weakened(Actor):
    """A policy made worse on purpose.

    Attributes:
        noise: standard deviation added to every action, degrees and percent; drawn anew for each chunk.
        scale: of the way from where the arm is to where the chunk would have it.
        shift: degrees added to the pan joint, a miscalibrated zero.
    """

    name: str = "as trained"
    noise: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def chunk(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(N, T, A) actions in physical units, spoilt."""
        chunk, now = super().chunk(pixels, state, texts, extra), state[:, None]
        chunk = now + self.scale * (chunk - now) + self._rng.normal(0.0, self.noise, chunk.shape)
        chunk[..., 0] += self.shift
        return chunk.astype(np.float32)


def weakened(folders: Sequence[Path]) -> list[Weakened]:
    """Every policy as trained, and the last one with noise, shortened motion and a shifted pan joint."""
    loaded = [Actor.load(folder) for folder in folders]

    def made(actor: Actor, **settings: Any) -> Weakened:
        return Weakened(actor.policy, actor.preprocessor, actor.postprocessor, **settings)

    last = loaded[-1]
    return [
        *(made(actor, name=f"as trained, {folder}") for actor, folder in zip(loaded, folders, strict=True)),
        *(made(last, name=f"noise {x:g}", noise=x) for x in NOISES),
        *(made(last, name=f"scale {x:g}", scale=x) for x in SCALES),
        *(made(last, name=f"pan shifted {x:g}", shift=x) for x in SHIFTS),
    ]


def imagined_success(actor: Actor, env: DreamVectorEnv, episodes: int) -> list[bool]:
    """Success of the first `episodes` start frames, as `env` imagines and judges it."""
    actor.policy.eval()
    outcomes: list[bool] = []
    for seed in range(0, episodes, env.num_envs):
        actor.reset()
        observation, info = env.reset(seed=seed)
        texts, done = list(env.call("task_description")), np.zeros(env.num_envs, bool)
        horizon = actor.policy.config.n_action_steps
        while not done.all():
            chunk = actor.chunk(observation["pixels"], observation["agent_pos"], texts)
            for ahead in range(horizon):
                observation, _, terminated, truncated, info = env.step(
                    chunk[:, ahead], render=ahead == horizon - 1
                )
                done = terminated | truncated
        outcomes += info["is_success"].tolist()
    return outcomes[:episodes]


def first_frames(scenarios: Sequence[Scenario], config: HybridConfig) -> FrameCache:
    """What the twin shows at the start of every scenario, as one recorded frame each."""
    env = SO101TwinVectorEnv(len(scenarios), image_size=config.image_size[0], workers=0)
    try:
        observation, info = env.reset(options={"scenarios": list(scenarios)})
    finally:
        env.close()
    rows, texts = np.arange(len(scenarios)), [scenario.instruction for scenario in scenarios]
    return FrameCache(
        path=Path(), source=Path("the twin's scenes"), fps=TWIN_RATE_HZ, tasks=texts,
        frames={key: observation["pixels"][name].transpose(0, 3, 1, 2)
                for name, key in config.cameras.items()},
        columns={"index": rows, "task_index": rows, "observation.state": observation["agent_pos"],
                 PRESENT: info["present"].astype(np.float32)},
        episode_from=rows, episode_to=rows + 1,
    )  # fmt: skip


def run_study(
    world: Path,
    policies: Sequence[Path],
    output: Path,
    *,
    episodes: int,
    judge: str,
    progress: Any,
    workers: int = 2,
) -> Path:
    """Measures every policy that is not there yet, on the twin and in the dream of `world`; returns the path
    of dream_study.json.

    `workers`: processes that simulate; 0 for none but this one.

    Raises:
        ConfigurationError, QueryError, CheckpointError: what cannot be dreamt in; see `DreamVectorEnv`.
    """
    actors = weakened(policies)
    if len(actors) < FEWEST_POLICIES:
        raise ConfigurationError(f"dream study: {len(actors)} policies; needs {FEWEST_POLICIES} or more")
    scenarios = suites.draw_suites(episodes, 0, 0, 0, 0, Variation()).success
    dreamt = DreamWorld(world)
    starts = first_frames(scenarios, dreamt.actor.policy.config)
    env = DreamVectorEnv(min(BATCH, episodes), dreamt, starts, range(episodes), MAX_STEPS, judge)
    made = {
        "world": fingerprint(dreamt.actor.policy.state_dict()),
        "kit": fingerprint(dreamt.kit.tensors),  # `dream fit` may be run again
        "judge": env.judged_by,
        "episodes": episodes,
    }
    path = output / "dream_study.json"
    known, rows = _measured(path, made), []
    with progress("policies, on the twin and in the dream", len(actors), "policies") as bar:
        for actor in actors:
            config = actor.policy.config
            asked = {"policy": actor.name, "weights": fingerprint(actor.policy.state_dict()),
                     "imagine": config.imagine, "imagine_threshold": config.imagine_threshold}  # fmt: skip
            row = next((row for row in known if asked.items() <= row.items()), None)
            if row is None:
                true = [bool(p.success[0]) for p in suites.play(actor, scenarios, workers=workers)]
                actor.reset()
                imagined = imagined_success(actor, env, episodes)
                row = asked | {"true": _side(true), "imagined": _side(imagined)}
                known.append(row)
                _write(path, [*rows, row], known, world, made)
            rows.append(row)
            bar.advance()
    _write(path, rows, known, world, made)
    return path


def _side(won: list[bool]) -> dict[str, Any]:
    return {**suites.rate(won), "outcomes": [int(x) for x in won]}


def _measured(path: Path, made: dict[str, Any]) -> list[dict[str, Any]]:
    """The policies of a study that is there already."""
    if not path.is_file():
        return []
    study = json.loads(path.read_text(encoding="utf-8"))
    require_same(path, study.get("made"), made)
    rows: list[dict[str, Any]] = study["policies"] + study.get("others", [])
    return rows


def _write(
    path: Path, rows: list[dict[str, Any]], known: list[dict[str, Any]], world: Path, made: dict[str, Any]
) -> None:
    """`rows`: of the policies that were asked for, and judged. `known`: also of others, kept for later."""
    study = {
        "title": "Does success in the dream tell success on the table?",
        "machine": machine(), "git": git_revision(), "world": str(world), "made": made, "policies": rows,
        "others": [row for row in known if row not in rows], **agreement(rows),
    }  # fmt: skip
    write_json(path, study)


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rho over all policies and over those that are neither broken nor whole, the mean error, how
    often dream and twin agree on a scene and how often they would by chance, and the same in a sentence.
    """
    true, imagined = (np.array([row[side]["rate"] for row in rows]) for side in ("true", "imagined"))
    off, bias = float(np.abs(imagined - true).mean()), float((imagined - true).mean())
    inside = (true > MIDDLE[0]) & (true < MIDDLE[1])
    whole, middle = _rho(true, imagined), _rho(true[inside], imagined[inside])
    same = [np.equal(row["true"]["outcomes"], row["imagined"]["outcomes"]).mean() for row in rows]
    found = {
        "spearman": whole, "middle": {"policies": int(inside.sum()), "spearman": middle},
        "mean_error": off, "bias": bias, "same_outcome": float(np.mean(same)),
        "same_by_chance": float(np.mean(true * imagined + (1.0 - true) * (1.0 - imagined))),
    }  # fmt: skip
    if whole is None:
        plain = f"{len(rows)} policies leave no order to compare."
        return found | {"plainly": plain}
    ranks = "ranks policies" if whole["low"] > 0 else "cannot be said to rank policies"
    among = f"those {int(inside.sum())} between {100 * MIDDLE[0]:.0f} and {100 * MIDDLE[1]:.0f} %"
    inner = f"{_said(middle)} over {among}" if middle else f"too few to say over {among}"
    alike, chance = (100 * found[name] for name in ("same_outcome", "same_by_chance"))
    plain = (
        f"The dream {ranks}: rho {_said(whole)} over {len(rows)} policies, {inner}; a success rate in it is "
        f"off by {100 * off:.0f} points on average ({100 * bias:+.0f} of them bias), and a scene ends as it "
        f"does on the twin in {alike:.0f} % (by chance {chance:.0f})."
    )
    return found | {"plainly": plain}


def _rho(true: np.ndarray, imagined: np.ndarray) -> dict[str, float] | None:
    """Spearman's rho with its interval; None for fewer than `FEWEST_MIDDLE` policies, or no order."""
    if len(true) < FEWEST_MIDDLE or np.ptp(true) == 0 or np.ptp(imagined) == 0:
        return None
    rho = spearman(true, imagined)
    return {"value": rho.value, "low": rho.low, "high": rho.high}


def _said(rho: dict[str, float]) -> str:
    return f"{rho['value']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]"
