"""What a dataset knows and no batch says: its rate, the names of its joints, the words of its tasks."""

from typing import Any

from hybridpolicy.configuration_hybrid import EMBEDDED, HybridConfig
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.goal import words_of


def joint_names(feature: dict[str, Any] | None) -> list[str] | None:
    """Names of a column's numbers in their order, or None. Older datasets group them: {"motors": [...]}."""
    names = (feature or {}).get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() if isinstance(group, (list, tuple)) for name in group]
    return [str(name) for name in names] if names else None


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
        config.lexicon = words_of([str(task) for task in meta.tasks.index])
