"""What `optional_context` may name, and which columns that means. Import-light, as the configuration is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lerobot.configs.types import FeatureType, NormalizationMode

from hybridpolicy.errors import ConfigurationError

if TYPE_CHECKING:
    from hybridpolicy.configuration_hybrid import HybridConfig

GOAL_IMAGE, QUALITY, CAMERA_POSE, PAST = "goal_image", "quality", "camera_pose", "past"
LOW_DIM = "low_dim"  # the kind of every other name: that of a column observation.<name>
KINDS = (GOAL_IMAGE, QUALITY, CAMERA_POSE, PAST, LOW_DIM)


@dataclass(frozen=True)
class VectorKey:
    """A vector of the optional context.

    Attributes:
        name: as modules are named. entry: as declared in `optional_context`. key: of the batch.
        camera: whose pose it is, hidden with that camera; or None.
        foretold: it is part of the future too, as the state is. size: numbers in it.
    """

    name: str
    entry: str
    key: str
    camera: str | None
    foretold: bool
    size: int


def kind_of(entry: str) -> str:
    """One of `KINDS`."""
    return entry if entry in KINDS else LOW_DIM


def vectors_of(config: "HybridConfig") -> list[VectorKey]:
    """Vectors of the optional context, in the order declared; poses of the cameras that have a column."""
    features, found = config.input_features or {}, []

    def add(entry: str, name: str, camera: str | None) -> None:
        feature = features.get(f"observation.{name}")
        size = feature.shape[0] if feature and feature.shape else 0
        foretold = kind_of(entry) == LOW_DIM
        key = f"observation.{name}"
        found.append(VectorKey(key.replace(".", "_"), entry, key, camera, foretold, size))

    for entry in config.optional_context:
        if entry == CAMERA_POSE:
            for camera in config.cameras:
                if f"observation.{CAMERA_POSE}.{camera}" in features:
                    add(entry, f"{CAMERA_POSE}.{camera}", camera)
        elif entry not in (GOAL_IMAGE, PAST):
            add(entry, entry, None)
    return found


def check_declaration(config: "HybridConfig") -> None:
    """Raises `ConfigurationError` if names, offsets and normalisation do not go together."""
    names, offsets = list(config.optional_context), list(config.past_offsets)
    wrong = [n for n in names if n in ("state", LOW_DIM) or n.startswith("image") or names.count(n) > 1]
    if wrong:
        raise ConfigurationError(
            f"hybrid: optional_context = {names}; {wrong[0]!r} is part of every context, or named twice, or "
            f"a kind. Name {', '.join(KINDS[:-1])}, or the <name> of a column observation.<name>, each once"
        )
    if (PAST in names) != bool(offsets):
        raise ConfigurationError(
            f"hybrid: optional_context = {names} with past_offsets = {offsets}; the past needs both, "
            'e.g. optional_context=["past"] and past_offsets=[-8,-4]'
        )
    every = config.n_action_steps
    if offsets != sorted(set(offsets)) or any(offset >= 0 or offset % every for offset in offsets):
        raise ConfigurationError(
            f"hybrid: past_offsets = {offsets}; give strictly increasing frame counts below 0 that are "
            f"multiples of n_action_steps = {every}: the policy remembers what it saw when it planned"
        )
    mode = config.normalization_mapping.get("STATE")
    if QUALITY in names and mode != NormalizationMode.MEAN_STD:
        raise ConfigurationError(
            f"hybrid: optional_context = {names} with STATE normalised by {mode}; the quality asked for is "
            "normalised inside the policy, by MEAN_STD: set that"
        )


def check_columns(config: "HybridConfig") -> None:
    """Raises `ConfigurationError` if a named column is not among the inputs, or has an unfit shape."""
    features, vectors = config.input_features or {}, config.vectors
    inputs = sorted(features)
    if CAMERA_POSE in config.optional_context and not any(v.camera for v in vectors):
        wanted = [f"observation.{CAMERA_POSE}.{name}" for name in config.cameras]
        raise ConfigurationError(
            f"hybrid: optional_context names {CAMERA_POSE} and none of {wanted} is among the inputs "
            f"{inputs}; record the pose of a camera in such a column"
        )
    for vector in vectors:
        feature = features.get(vector.key)
        fits = feature is not None and feature.type is FeatureType.STATE and len(feature.shape) == 1
        if not fits or (vector.entry == QUALITY and vector.size != 1):
            shape = "one number" if vector.entry == QUALITY else "numbers in one dimension"
            raise ConfigurationError(
                f"hybrid: optional_context names {vector.entry!r}, which needs a column {vector.key} of "
                f"{shape} that the pipeline normalises as a state; it is {feature}, the inputs are {inputs}"
            )
    names = [vector.name for vector in vectors]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"hybrid: optional_context = {list(config.optional_context)} names columns that differ only in "
            "dots and underscores; rename one"
        )
