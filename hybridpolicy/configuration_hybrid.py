"""`HybridConfig`: every choice a run makes about the policy, checked once when it is built.

Import-light on purpose: LeRobot imports this module whenever it loads plugins.
"""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim import AdamWConfig, CosineDecayWithWarmupSchedulerConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from hybridpolicy.couplings import COUPLINGS, IMAGINE_MODES
from hybridpolicy.errors import ConfigurationError, allowed
from hybridpolicy.optional_keys import KINDS, VectorKey, check_columns, check_declaration, kind_of, vectors_of

LAWS = ("regress", "flow")
CONVENTIONS = ("absolute", "relative")
STREAMS = ("two", "tied")
GOAL_TRAINING = ("full", "insulated")
EMBEDDED = "embedded"


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"hybrid: {name} = {value!r}; {allowed(value, choices)}")


NETWORK_FIELDS = (
    *("coupling", "streams", "plan_tokens", "action_law", "world_law", "explicit", "action_steps"),
    *("world_steps", "world_offsets", "chunk_size", "image_size", "width", "depth", "heads", "mlp_ratio"),
    *("num_keypoints", "tokens_per_view", "keypoint_features", "frame_channels", "goal_model", "goal_tokens"),
)
"""What decides how a network answers the same inputs and what an answer costs; losses and dropout do not."""


@PreTrainedConfig.register_subclass("hybrid")
@dataclass
class HybridConfig(PreTrainedConfig):
    """Configuration of the hybrid policy.

    What a user changes at run time is a top-level scalar, because LeRobot's command line cannot reach into
    dictionaries. Lengths are in frames of the dataset, sizes in pixels, shares in [0, 1].
    """

    # -- what LeRobot's commands read by name
    chunk_size: int = 8
    n_action_steps: int = 2
    push_to_hub: bool = False
    dtype: str = "float32"
    action_feature_names: list[str] | None = None
    state_feature_names: list[str] | None = None
    rtc_config: RTCConfig | None = None
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    # -- the arm and its clock
    embodiment: str = "arm"
    fps: float | None = None  # filled from the dataset; another control rate is refused
    calibration: str | None = None  # digest of the calibration of the arm that recorded the data, where known
    action_convention: str = "absolute"  # relative: chunk minus the state it was planned from

    # -- architecture of the field, as one row of `couplings.COUPLINGS`
    coupling: str = "joint"
    imagine: str | None = None  # None: the row's default, the first it offers
    imagine_threshold: float | None = None  # of on_uncertainty, set by `hybridpolicy calibrate`
    streams: str = "two"  # tied: one set of weights for world and action tokens
    plan_tokens: int = 4  # of coupling = latent_plan
    action_law: str = "regress"
    world_law: str = "regress"
    explicit: bool = False  # of coupling = cascaded: A sees the imagined future as its pictures are seen
    action_steps: int = 1
    world_steps: int = 1
    world_offsets: list[int] = field(default_factory=lambda: [4, 8])

    # -- sizes
    image_size: list[int] = field(default_factory=lambda: [96, 96])
    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp_ratio: int = 4
    num_keypoints: int = 32  # per view, of each readout
    tokens_per_view: int = 4
    keypoint_features: int = 6  # appearance numbers carried beside x and y
    frame_channels: int = 64

    # -- goal
    goal_model: str = EMBEDDED  # or a hub id, or a folder, of any AutoModelForImageTextToText
    goal_revision: str | None = None
    goal_layers: int | None = None  # keep the first n language layers; None keeps all
    goal_train: str = "full"  # insulated: no gradient enters the language model
    goal_lr_scale: float = 0.1  # of the language model, relative to the trunk
    goal_tokens: int = 2
    lexicon: list[str] = field(default_factory=list)  # words the embedded tokenizer knows

    # -- training
    action_step_decay: float = 0.85  # weight of each action in the loss, relative to the one before
    world_share: float = 0.25  # share of micro-batches that carry future frames and the world loss
    world_weight: float = 0.25
    collapse_weight: float = 0.05
    text_dropout: float = 0.05  # samples that hide the text, the state, one of several cameras
    state_dropout: float = 0.05
    camera_dropout: float = 0.05
    rtc_share: float = 0.1  # samples whose first actions are given clean (training-time RTC)
    rtc_max_delay: int = 4
    # Frames ahead at which the goal readout alone must tell where the arm will be: where it goes is what was
    # asked. The eyes are learned from this; it needs no label but the arm's own recording.
    waypoint_offsets: list[int] = field(default_factory=list)
    waypoint_weight: float = 0.0
    # Frames ahead at which the goal readout must tell, cell by cell, how the picture will have changed: where
    # the arm arrives is what was asked. It needs no label but the video.
    change_offsets: list[int] = field(default_factory=list)
    change_weight: float = 0.0
    # Two instructions may not become more alike than their words. Otherwise, before the eyes tell colours
    # apart, the goal unlearns which colour was said: nothing depends on it yet.
    goal_spread_weight: float = 1.0
    outcome_weight: float = 0.0  # loss of the heads progress, success and risk; 0: there are none
    objects_weight: float = 0.0  # loss on privileged object positions; 0 switches it off
    objects_count: int = 0
    ema_decay: float = 0.996  # of the target frame encoder
    trunk_lr_scale: float = 1.0
    seed: int = 0
    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-2
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 200

    # -- adapter (LoRA on the action stream)
    lora_rank: int = 8

    # -- optional context by name (docs/context.md): goal_image, quality, camera_pose, past, or <name> of any
    # column observation.<name>. What is named and not in a batch is absent; training hides it now and then.
    optional_context: list[str] = field(default_factory=list)
    quality: float | None = 1.0  # asked for at run time, in the units of the column; None asks for nothing
    past_offsets: list[int] = field(default_factory=list)  # e.g. [-8, -4]
    goal_image_dropout: float = 0.5
    quality_dropout: float = 0.1
    camera_pose_dropout: float = 0.1
    past_dropout: float = 0.3
    low_dim_dropout: float = 0.05  # of each named column

    @property
    def network(self) -> dict[str, Any]:
        """`NETWORK_FIELDS` and their values; equal, for the same inputs, where weights alone differ."""
        return {name: getattr(self, name) for name in NETWORK_FIELDS}

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("coupling", self.coupling, tuple(COUPLINGS))
        _one_of("action_law", self.action_law, LAWS)
        _one_of("world_law", self.world_law, LAWS)
        _one_of("action_convention", self.action_convention, CONVENTIONS)
        _one_of("goal_train", self.goal_train, GOAL_TRAINING)
        _one_of("streams", self.streams, STREAMS)
        row = COUPLINGS[self.coupling]
        self.imagine = self.imagine or row.imagine[0]
        _one_of("imagine", self.imagine, IMAGINE_MODES)
        row.check_imagine(self.imagine)
        self.check_threshold(self.imagine)
        if self.explicit and row.world_shown != "clean":
            able = ", ".join(name for name, each in COUPLINGS.items() if each.world_shown == "clean")
            raise ConfigurationError(
                f"hybrid: explicit = true with coupling = {self.coupling}, whose A is not given a future as "
                f"observed; rows where it is: {able}"
            )
        self._check_lengths()
        self._check_shares()
        self._check_normalisation()
        check_declaration(self)

    def check_threshold(self, imagine: str) -> None:
        """Raises `ConfigurationError` if `imagine` needs a threshold and there is none, or never doubts."""
        overlap = self.action_law == "flow" or self.n_action_steps < self.chunk_size
        if imagine == "on_uncertainty" and not overlap:
            raise ConfigurationError(
                f"hybrid: imagine = on_uncertainty with n_action_steps = chunk_size = {self.chunk_size}: a "
                "plan is held against what the last one promised, and nothing is left of it; lower "
                "n_action_steps"
            )
        if imagine == "on_uncertainty" and not (self.imagine_threshold or 0.0) > 0.0:
            raise ConfigurationError(
                f"hybrid: imagine = on_uncertainty with imagine_threshold = {self.imagine_threshold}; it "
                "needs a positive one, which `hybridpolicy calibrate --imagine-rate` measures and stores"
            )

    def _check_lengths(self) -> None:
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ConfigurationError(
                f"hybrid: n_action_steps = {self.n_action_steps}; allowed 1 … chunk_size = {self.chunk_size}"
            )
        offsets = list(self.world_offsets)
        if not offsets or offsets != sorted(set(offsets)) or offsets[0] < 1:
            raise ConfigurationError(
                f"hybrid: world_offsets = {offsets}; give strictly increasing frame counts from 1, "
                "e.g. [4, 8]"
            )
        if COUPLINGS[self.coupling].world_shown == "blocks" and offsets[-1] < self.chunk_size:
            raise ConfigurationError(
                f"hybrid: world_offsets = {offsets} end before chunk_size = {self.chunk_size}; with coupling "
                f"= {self.coupling} they cut the chunk into blocks, so give offsets that reach its end"
            )
        if self.rtc_max_delay >= self.chunk_size:
            raise ConfigurationError(
                f"hybrid: rtc_max_delay = {self.rtc_max_delay}; must be below chunk_size = {self.chunk_size}"
            )
        for name in (
            "action_steps",
            "world_steps",
            "width",
            "depth",
            "heads",
            "goal_tokens",
            "plan_tokens",
            "tokens_per_view",
        ):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"hybrid: {name} = {getattr(self, name)}; must be 1 or more")
        if self.width % self.heads:
            raise ConfigurationError(
                f"hybrid: width = {self.width} must be a multiple of heads = {self.heads}"
            )
        if self.num_keypoints % self.tokens_per_view:
            raise ConfigurationError(
                f"hybrid: num_keypoints = {self.num_keypoints} must be a multiple of "
                f"tokens_per_view = {self.tokens_per_view}"
            )
        if self.action_law == "regress" and self.action_steps != 1:
            raise ConfigurationError(
                f"hybrid: action_steps = {self.action_steps} with action_law = regress; regression takes one "
                "step, set action_law = flow to integrate"
            )
        if COUPLINGS[self.coupling].fixed_time and self.world_steps != 1:
            raise ConfigurationError(
                f"hybrid: world_steps = {self.world_steps} with coupling = {self.coupling}, whose future is "
                "one row and never integrated; set world_steps = 1"
            )
        if self.world_law == "regress" and self.world_steps != 1:
            raise ConfigurationError(
                f"hybrid: world_steps = {self.world_steps} with world_law = regress; set world_law = flow to "
                "integrate"
            )

    def _check_shares(self) -> None:
        self._check_ahead("waypoint", self.waypoint_offsets, self.waypoint_weight)
        self._check_ahead("change", self.change_offsets, self.change_weight)
        if self.goal_spread_weight < 0:
            raise ConfigurationError(
                f"hybrid: goal_spread_weight = {self.goal_spread_weight}; must be 0 or more"
            )
        dropouts = ("text", "state", "camera", *KINDS)
        for name in ("world_share", "rtc_share", *(f"{kind}_dropout" for kind in dropouts)):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigurationError(f"hybrid: {name} = {getattr(self, name)}; allowed 0 … 1")
        if self.outcome_weight < 0:
            raise ConfigurationError(f"hybrid: outcome_weight = {self.outcome_weight}; must be 0 or more")
        if not 0.0 < self.action_step_decay <= 1.0:
            raise ConfigurationError(
                f"hybrid: action_step_decay = {self.action_step_decay}; allowed above 0 … 1 (1 weighs all "
                "alike)"
            )
        if self.objects_weight > 0 and self.objects_count < 1:
            raise ConfigurationError(
                f"hybrid: objects_weight = {self.objects_weight} needs objects_count ≥ 1, "
                "the number of object slots in the column privileged.objects"
            )

    @staticmethod
    def _check_ahead(what: str, given: list[int], weight: float) -> None:
        offsets = list(given)
        if offsets != sorted(set(offsets)) or (offsets and offsets[0] < 1):
            raise ConfigurationError(
                f"hybrid: {what}_offsets = {offsets}; give strictly increasing frame counts from 1, "
                "e.g. [4, 8, 12, 16, 20]"
            )
        if weight < 0 or (weight > 0 and not offsets):
            raise ConfigurationError(
                f"hybrid: {what}_weight = {weight} with {what}_offsets = {offsets}; give a "
                "weight of 0 or more, and offsets with a weight above 0"
            )

    def _check_normalisation(self) -> None:
        modes = {name: self.normalization_mapping.get(name) for name in ("STATE", "ACTION")}
        if self.action_convention == "relative" and set(modes.values()) != {NormalizationMode.MEAN_STD}:
            raise ConfigurationError(
                f"hybrid: action_convention = relative with normalization_mapping {modes}; relative actions "
                "are taken between physical postures and need MEAN_STD for both"
            )

    # -- LeRobot's contract
    @property
    def observation_delta_indices(self) -> list[int]:
        """The present, the future, the past: in this order."""
        future = self.world_offsets if COUPLINGS[self.coupling].world else []
        return [0, *future, *self.past_offsets]

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        if not self.image_features:
            raise ConfigurationError(
                f"hybrid: no camera among the inputs {sorted(self.input_features or {})}; "
                "record at least one observation.images.<name>"
            )
        if len(self.cameras) < len(self.image_features):
            raise ConfigurationError(
                f"hybrid: cameras {sorted(self.image_features)} share a last name; rename them so that what "
                "follows the last dot differs"
            )
        if self.action_feature is None:
            raise ConfigurationError(
                f"hybrid: no `action` among the outputs {sorted(self.output_features or {})}"
            )
        check_columns(self)

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=self.scheduler_warmup_steps,
            num_decay_steps=30_000,
            peak_lr=self.optimizer_lr,
            decay_lr=self.optimizer_lr * 0.05,
        )

    # -- derived
    @property
    def cameras(self) -> dict[str, str]:
        """Camera short names → observation keys, in the dataset's order."""
        return {key.split(".")[-1]: key for key in self.image_features}

    @property
    def asked_size(self) -> int:
        """Numbers the goal readout finds in one observation, all views together."""
        return len(self.cameras) * self.num_keypoints * (2 + self.keypoint_features)

    @property
    def vectors(self) -> list[VectorKey]:
        """Vectors of the optional context, in the order declared."""
        return vectors_of(self)

    def optional_dropout(self, entry: str) -> float:
        """Share of samples in which training hides an entry of the optional context."""
        return getattr(self, f"{kind_of(entry)}_dropout")

    @property
    def state_size(self) -> int:
        feature = (self.input_features or {}).get("observation.state")
        return feature.shape[0] if feature else 0

    @property
    def action_size(self) -> int:
        feature = self.action_feature
        return feature.shape[0] if feature else 0
