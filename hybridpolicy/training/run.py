"""A recipe, run: the policy and its pipeline built from the data, then trained."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from accelerate.utils import set_seed
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy, make_pre_post_processors

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.training.config import DatasetSource, TrainConfig
from hybridpolicy.training.decode import resolve_root
from hybridpolicy.training.trainer import Trainer, TrainProgress, TrainSummary


def labelled_source(config: TrainConfig) -> DatasetSource:
    """The dataset whose features, rate and statistics the policy takes: the last stage's first to imitate.

    Raises:
        ConfigurationError: no stage has actions to learn from.
    """
    for stage in reversed(config.stages):
        for source in stage.sources:
            if "action" not in source.drop and source.imitate:
                return source
    raise ConfigurationError(
        f"recipe {config.name!r}: every source drops its actions, so nothing says what the policy outputs; "
        "add a stage on demonstrations"
    )


def read_metadata(source: DatasetSource) -> LeRobotDatasetMetadata:
    """LeRobot's metadata of a source, from its folder or the hub."""
    root = resolve_root(source.root, source.repo_id)
    return LeRobotDatasetMetadata(source.repo_id or f"local/{root.name}", root=root)


def build_policy(config: TrainConfig) -> tuple[HybridPolicy, object, object]:
    """The policy of a recipe, untrained or from `policy.pretrained_path`, with its pre- and postprocessor."""
    meta = read_metadata(labelled_source(config))
    policy_config = replace(
        config.policy
    )  # the factory fills in features and names; the recipe stays as it was
    assert isinstance(policy_config, HybridConfig)
    _keep_chosen_cameras(policy_config, meta, labelled_source(config).cameras)
    set_seed(config.seed)  # the first weights, too, are a function of the seed
    policy = make_policy(policy_config, ds_meta=meta)
    assert isinstance(policy, HybridPolicy)
    pre, post = make_pre_post_processors(policy_config, dataset_stats=meta.stats)
    return policy, pre, post


def _keep_chosen_cameras(config: HybridConfig, meta: LeRobotDatasetMetadata, cameras: Sequence[str]) -> None:
    """The policy looks through the cameras named by the source and no others, else through all but depth."""
    if config.input_features or not (cameras or meta.depth_keys):
        return
    from lerobot.utils.feature_utils import dataset_to_policy_features

    features = dataset_to_policy_features(meta.features)
    seen = set(cameras) or set(meta.camera_keys) - set(meta.depth_keys)
    config.input_features = {
        key: feature
        for key, feature in features.items()
        if not key.startswith("action") and (key not in meta.camera_keys or key in seen)
    }


def train_recipe(
    config: TrainConfig, progress: Callable[[TrainProgress], None] | None = None
) -> TrainSummary:
    """Trains `config` to the end, going on from what its output folder holds.

    Raises:
        HybridPolicyError: see `Trainer.run`; the message says what to do.
    """
    policy, pre, post = build_policy(config)
    if getattr(config.policy, "outcome_weight", 0.0) > 0:
        told = any(source.outcomes for stage in config.stages for source in stage.sources)
        policy.outcomes_elsewhere = told  # demonstrations beside rollouts need not say how they ended
    return Trainer(config, policy, pre, post, progress).run()
