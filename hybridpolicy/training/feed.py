"""From a stage of a recipe to batches on the device: opened, checked, normalised, ahead of the step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hybridpolicy.dataset_facts import check_source
from hybridpolicy.errors import ConfigurationError, allowed
from hybridpolicy.optional_keys import GOAL_IMAGE
from hybridpolicy.training import nonfinite
from hybridpolicy.training.cache import Progress
from hybridpolicy.training.config import StageConfig, TrainConfig
from hybridpolicy.training.decode import DatasetFiles, resolve_root
from hybridpolicy.training.loader import Batch, BatchPlan, MixtureLoader, Prefetcher, Window, open_readers
from hybridpolicy.training.state import Position

Processor = Callable[[Batch], Batch]
Processors = Processor | Mapping[str, Processor]
_PASSED_ON_BY_LEROBOT = ("observation.", "action")


def policy_window(policy_config: Any) -> Window:
    """The offsets LeRobot's own loader would use for this policy, its waypoints, changes and goals."""
    observed = tuple(policy_config.observation_delta_indices or (0,))
    waypoints = policy_config.waypoint_offsets if getattr(policy_config, "waypoint_weight", 0) > 0 else ()
    change = policy_config.change_offsets if getattr(policy_config, "change_weight", 0) > 0 else ()
    actions = tuple(policy_config.action_delta_indices or (0,))
    goal = GOAL_IMAGE in getattr(policy_config, "optional_context", ())
    return Window(observed, actions, tuple(waypoints), tuple(change), goal)


class Feed:
    """The batches of a run, one stage at a time."""

    def __init__(
        self, config: TrainConfig, policy: Any, preprocessor: Processors, accelerator: Accelerator
    ) -> None:
        self._config = config
        self._policy = policy
        self._preprocessor = preprocessor
        self._device = accelerator.device
        self._accelerator = accelerator

    def open(self, stage: StageConfig, position: Position, progress: Progress) -> MixtureLoader:
        """Loader of `stage`, its sources decoded when they are not yet.

        Raises:
            DatasetError, CacheError: see `open_readers`; or a source is of another rate or of other joints.
            ConfigurationError: the batch does not split over the processes, or a source has no processor.
        """
        self._check_processors(stage)
        config, window = self._config.policy, policy_window(self._config.policy)
        size = getattr(config, "image_size", None)
        with self._accelerator.main_process_first():  # one process decodes, the others find it done
            self._check_sources(stage)
            readers = open_readers(
                stage.sources,
                window,
                Path(self._config.cache_dir),
                cameras=list(config.image_features),
                image_size=(size[0], size[1]) if size else None,
                progress=progress,
            )
        # The policy's own counter: that of a fine-tuned policy does not begin at 0.
        policy_step = int(getattr(self._policy, "train_step", position.step))
        plan = BatchPlan(
            window,
            stage.batch_size,
            seed=self._config.seed,
            stage=position.stage,
            first_step=policy_step - position.stage_step,
            first_sample=position.samples - position.stage_step * stage.batch_size,
            num_processes=self._accelerator.num_processes,
            rank=self._accelerator.process_index,
            augmentation=self._config.augmentation,
        )
        return MixtureLoader(readers, plan, getattr(self._policy, "needs_future", None))

    def _check_sources(self, stage: StageConfig) -> None:
        for source in stage.sources:
            files = DatasetFiles(resolve_root(source.root, source.repo_id))
            check_source(self._config.policy, files.meta, str(files.root), source.drop)

    def _check_processors(self, stage: StageConfig) -> None:
        tags = sorted({source.embodiment for source in stage.sources if "action" not in source.drop})
        if len(tags) > 1:
            raise ConfigurationError(
                f"stage {stage.name!r}: actions of {tags}, and a stage trains the projectors of one arm; "
                "give each arm a stage of its own, or drop the actions of the others"
            )
        if isinstance(self._preprocessor, Mapping):
            for source in stage.sources:
                if source.embodiment not in self._preprocessor:
                    raise ConfigurationError(
                        f"stage {stage.name!r}: no preprocessor for embodiment {source.embodiment!r}; "
                        f"{allowed(source.embodiment, self._preprocessor)}"
                    )

    @contextmanager
    def batches(self, loader: MixtureLoader, first: int, stop: int) -> Iterator[Iterator[Batch]]:
        """Batches of steps first … stop - 1, prepared in one thread."""
        with Prefetcher(lambda step: self.load(loader, step), first, stop) as prefetched:
            yield iter(prefetched)

    def load(self, loader: MixtureLoader, step: int) -> Batch:
        """One batch, normalised and on the device.

        LeRobot's pipelines pass on only the keys they know: privileged columns, `sample_index` and
        `embodiment` are put back. And they add `action: None` to action-free batches: that is taken out.

        Raises:
            NonFiniteError: the dataset holds NaN or infinity.
        """
        batch = loader.batch(step)
        names = nonfinite.nonfinite_names(batch)
        if names:
            folder, run_step = Path(self._config.output_dir), loader.plan.first_step + step
            raise nonfinite.stop(folder, run_step, loader.plan.rank, "the batch", names, batch)
        if self._device.type == "cuda":
            batch = {
                key: value.pin_memory() if isinstance(value, Tensor) else value
                for key, value in batch.items()
            }
        preprocessor = self._preprocessor
        if isinstance(preprocessor, Mapping):
            preprocessor = preprocessor[batch["embodiment"]]
        processed = {key: value for key, value in preprocessor(batch).items() if value is not None}
        for key, value in batch.items():
            if key not in processed and not key.startswith(_PASSED_ON_BY_LEROBOT):
                processed[key] = self._to_device(value)
        return processed

    def _to_device(self, value: Any) -> Any:
        return value.to(self._device, non_blocking=True) if isinstance(value, torch.Tensor) else value
