"""What a dataset knows and no batch says: its rate, the names of its joints, the words of its tasks."""

from collections.abc import Sequence
from typing import Any

from hybridpolicy.configuration_hybrid import EMBEDDED, HybridConfig
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.goal import words_of


def joint_names(feature: dict[str, Any] | None) -> list[str] | None:
    """Names of a column's numbers in their order, or None. Older datasets group them: {"motors": [...]}."""
    names = (feature or {}).get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() if isinstance(group, (list, tuple)) for name in group]
    return [str(name) for name in names] if names else None


def task_texts(meta: Any) -> list[str]:
    """What a dataset's episodes were asked for; none where nothing was."""
    return [] if meta.tasks is None else [str(task) for task in meta.tasks.index]


def keep_facts(config: HybridConfig, saved: HybridConfig) -> None:
    """Puts into `config` what the weights of a checkpoint are of, as its own configuration `saved` has it:
    rate, joints, words. What a dataset knows is then checked against it, and never put in its place.

    Raises:
        ConfigurationError: `config` names other words.
    """
    config.fps = saved.fps or config.fps
    config.action_feature_names = saved.action_feature_names
    config.state_feature_names = saved.state_feature_names
    if config.goal_model != EMBEDDED or config.lexicon == saved.lexicon:
        return
    if config.lexicon:
        other = sorted(set(config.lexicon) ^ set(saved.lexicon))
        raise ConfigurationError(
            f"hybrid: lexicon has {len(config.lexicon)} words, the checkpoint's {len(saved.lexicon)}, "
            f"{f'not the same: {other[:5]}' if other else 'in another order'}; each of its words has weights "
            "of its own. Leave lexicon out to go on with them, or train from scratch"
        )
    config.lexicon = list(saved.lexicon)


def adopt_dataset(config: HybridConfig, meta: Any) -> None:
    """Copies the facts of a LeRobotDataset's metadata into `config`. What is set already is checked instead.

    Raises:
        ConfigurationError: another rate, or other joints or another order of them.
    """
    if config.fps is None:
        config.fps = float(meta.fps)
    elif abs(config.fps - float(meta.fps)) > 1e-6:
        raise ConfigurationError(
            f"hybrid: the policy was made for {config.fps:g} Hz and the dataset is {float(meta.fps):g} Hz; "
            "chunks and world offsets count frames. Resample the dataset, or train from scratch"
        )
    for key, field_name in (("action", "action_feature_names"), ("observation.state", "state_feature_names")):
        feature = meta.features.get(key) or {}
        names, known = joint_names(feature), getattr(config, field_name)
        if isinstance(feature.get("names"), dict) and known == list(feature["names"]):
            known = None  # LeRobot's factory has put the names of the groups here
        if known and names and known != names:
            raise ConfigurationError(
                f"hybrid: {key} is {known} in the policy and {names} in the dataset; joints are matched by "
                "name and order. Choose the dataset of this arm, or train from scratch"
            )
        if names:
            setattr(config, field_name, names)
    if config.goal_model == EMBEDDED and not config.lexicon:
        config.lexicon = words_of(task_texts(meta))


def check_source(config: Any, meta: Any, where: str, drop: Sequence[str] = ()) -> None:
    """Checks another dataset that a policy of `config` learns from, as `adopt_dataset` does its own.

    Args:
        config: of any policy; what it does not know is not checked. drop: columns that are not learned from.

    Raises:
        DatasetError: another rate, or other joints or another order of them.
    """
    fps = getattr(config, "fps", None)
    if fps is not None and abs(fps - float(meta.fps)) > 1e-6:
        raise DatasetError(
            f"{where}: recorded at {float(meta.fps):g} Hz, and the policy learns {fps:g} Hz; chunks and "
            "world offsets count frames. Resample it, or leave it out"
        )
    for key, known in (("action", "action_feature_names"), ("observation.state", "state_feature_names")):
        names, wanted = joint_names(meta.features.get(key)), getattr(config, known, None)
        if key not in drop and names and wanted and names != list(wanted):
            raise DatasetError(
                f"{where}: {key} is {names}, and the policy learns {list(wanted)}; joints are matched by "
                f"name and order. Leave it out, or drop {key!r}"
            )
