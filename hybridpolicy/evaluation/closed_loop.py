"""Success of a policy in any LeRobot environment, batched in one process, with intervals."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridpolicy.errors import ConfigurationError, allowed
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.stats import wilson_interval

PLUGIN = "lerobot_policy_hybrid"  # importing it registers this project's environments
MOST_TABLES = 48


def environment_config(env: str, tasks: tuple[str, ...] = (), **settings: Any) -> Any:
    """LeRobot's configuration of environment type `env`, with `tasks` joined by commas.

    Raises:
        ConfigurationError: no such environment type.
    """
    importlib.import_module(PLUGIN).register(everything=True)
    from lerobot.envs.configs import EnvConfig

    known = EnvConfig.get_known_choices()
    if env not in known:
        raise ConfigurationError(f"environment type {env!r}: {allowed(env, known)}")
    if tasks:
        settings["task"] = ",".join(tasks)
    return EnvConfig.get_choice_class(env)(**settings)


def evaluate_policy(
    policy: str | Actor,
    env: str,
    *,
    tasks: tuple[str, ...] = (),
    episodes: int = 90,
    seed: int = 1_000_000,
    imagine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[list[float]], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Returns {"success": {"rate", "low", "high", "episodes", "by_task"}, "imagined_share"} over `episodes`
    resets in all; the latter of plans that were made with an imagined future.

    Named columns of the policy (`optional_context`) come from the environment's entries of those names.

    Args:
        policy: a `pretrained_model` folder, a hub id, or an actor.
        watch: told after every plan how doubtful it is, for each episode still running (`Actor.doubt`).
        env: LeRobot environment type. settings: further fields of its configuration.
        seed: of the first reset of every task; the same seeds are the same scenes for every policy.

    Raises:
        ConfigurationError: unknown environment, or it runs at another rate than the policy was trained at.
        CheckpointError: no such policy, or a camera of the policy is missing.
    """
    config = environment_config(env, tasks, **settings)
    actor = policy if isinstance(policy, Actor) else Actor.load(policy, imagine)
    actor.check_rate(float(config.fps))
    names = [(suite, index) for suite, envs in config.create_envs(1).items() for index in envs]
    each = max(episodes // len(names), 1)
    outcomes: dict[str, list[bool]] = {}
    imagined: list[bool] = []
    for played, (suite, index) in enumerate(names, start=1):
        vector = config.create_envs(min(each, MOST_TABLES))[suite][index]
        results: list[tuple[str, bool]] = []
        while len(results) < each:
            results += _run_batch(actor, vector, config, seed + len(results), imagined, watch)
        vector.close()
        for task, success in results[:each]:
            outcomes.setdefault(task, []).append(success)
        if progress is not None:
            progress(played * each, each * len(names))
    return {"success": _figures(outcomes), "imagined_share": float(np.mean(imagined))}


def _run_batch(
    actor: Actor,
    vector: Any,
    config: Any,
    seed: int,
    imagined: list[bool],
    watch: Callable[[list[float]], None] | None,
) -> list[tuple[str, bool]]:
    """(task, success) of one episode on every table, seeds counting up from `seed`; every plan of an episode
    still running adds to `imagined`.
    """
    actor.policy.eval()
    actor.reset()
    observation, info = vector.reset(seed=list(range(seed, seed + vector.num_envs)))
    tasks = _called(vector, "task", "task")
    texts = _called(vector, "task_description", "")
    texts = [text or task for text, task in zip(texts, tasks, strict=True)]
    success = np.zeros(vector.num_envs, bool)
    done = np.zeros(vector.num_envs, bool)
    for _ in range(int(vector.call("_max_episode_steps")[0])):
        pixels, state = _observed(observation, config.features_map)
        extra = _named_columns(observation, config.features_map, actor)
        if not actor.queued:
            actor.plan(pixels, state, texts, extra)
            imagined += actor.imagined(len(done))[~done].tolist()
            if watch is not None and actor.doubt is not None:
                watch(actor.doubt[~done].tolist())
        observation, _, terminated, truncated, info = vector.step(actor.next_action())
        success |= ~done & _succeeded(info, vector.num_envs)
        done |= terminated | truncated
        if done.all():
            break
    return list(zip(tasks, success.tolist(), strict=True))


def _called(vector: Any, name: str, otherwise: str) -> list[str]:
    """What each table calls its task; `otherwise` where environments of its type say nothing."""
    try:
        return [str(value) for value in vector.call(name)]
    except AttributeError:
        return [otherwise] * int(vector.num_envs)


def _observed(
    observation: dict[str, Any], features_map: dict[str, str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """LeRobot's raw observation → {camera: (N, H, W, 3)} by the policy's names, and state (N, S)."""
    pixels = observation["pixels"]
    views = pixels if isinstance(pixels, dict) else {"": pixels}
    named = {}
    for name, frames in views.items():
        key = features_map.get(f"pixels/{name}" if name else "pixels", name)
        named[key.split(".")[-1]] = frames
    return named, observation["agent_pos"]


def _named_columns(
    observation: dict[str, Any], features_map: dict[str, str], actor: Actor
) -> dict[str, np.ndarray]:
    """{key: (N, S)} what else the environment shows of what the policy may be given."""
    wanted = {vector.key for vector in actor.policy.config.vectors}
    keys = {features_map.get(name, f"observation.{name}"): name for name in observation}
    return {key: np.asarray(observation[name]) for key, name in keys.items() if key in wanted}


def _succeeded(info: dict[str, Any], count: int) -> np.ndarray:
    """(N,) by the info of a step. What is said of an ended episode counts before that of the next one, which
    an environment that begins again in the same step says beside it.
    """
    succeeded = np.zeros(count, bool)
    for said in (info, info.get("final_info")):
        if isinstance(said, dict) and "is_success" in said:
            known = np.asarray(said.get("_is_success", np.ones(count, bool)), bool)
            succeeded[known] = np.asarray(said["is_success"], bool)[known]
    return succeeded


def _figures(outcomes: dict[str, list[bool]]) -> dict[str, Any]:
    def figure(results: list[bool]) -> dict[str, Any]:
        interval = wilson_interval(sum(results), len(results))
        return {"rate": interval.value, "low": interval.low, "high": interval.high, "episodes": len(results)}

    by_task = {name: figure(results) for name, results in outcomes.items()}
    return {**figure([x for results in outcomes.values() for x in results]), "by_task": by_task}
