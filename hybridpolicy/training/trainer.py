"""The training loop: stages in order, checkpoints that survive a kill, the same curve after a resume.

On the CPU a resumed run repeats an uninterrupted one bit for bit, given the same number of threads and no
`max_minutes`. `accelerate launch` and a plain run are the same code; `batch_size` counts all processes.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast, set_seed

from hybridpolicy.errors import ConfigurationError
from hybridpolicy.training import nonfinite
from hybridpolicy.training.allocator import keep_freed_memory
from hybridpolicy.training.average import WeightAverage
from hybridpolicy.training.checkpoint import PRETRAINED_DIR, CheckpointStore
from hybridpolicy.training.collapse import require_rank
from hybridpolicy.training.config import StageConfig, TrainConfig
from hybridpolicy.training.feed import Feed, Processors
from hybridpolicy.training.loader import Batch, MixtureLoader
from hybridpolicy.training.metrics import METRICS_FILE, MetricsFile
from hybridpolicy.training.resume import (
    capture,
    check_same_run,
    check_same_statistics,
    fill_checkpoint,
    restore,
)
from hybridpolicy.training.schedule import parameter_groups, schedule
from hybridpolicy.training.state import Position, StageResult

CHECKPOINTS_DIR = "checkpoints"
VALIDATION_BATCHES = 8


@dataclass(frozen=True)
class TrainProgress:
    """What a progress callback receives: at every log line, and while frames are decoded (loss is then NaN).

    done, total: samples of the run, or frames while decoding.
    """

    activity: str
    done: int
    total: int
    loss: float = math.nan
    samples_per_s: float = math.nan


@dataclass(frozen=True)
class TrainSummary:
    """How a run went. seconds: of training over all resumes, without decoding; cpu_seconds: what the first
    process computed in them, all threads together, which other work on the machine does not stretch.
    """

    name: str
    checkpoint: Path
    metrics: Path
    samples: int
    steps: int
    seconds: float
    cpu_seconds: float
    stages: list[StageResult]
    num_parameters: int
    resumed_from: Path | None

    @property
    def policy_path(self) -> Path:
        """Folder that other commands load the trained policy from."""
        return self.checkpoint / PRETRAINED_DIR


class Trainer:
    """Trains one policy by one recipe into `config.output_dir`, going on from what is there."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Any,
        preprocessor: Processors,
        postprocessor: Any,
        progress: Callable[[TrainProgress], None] | None = None,
    ) -> None:
        """`preprocessor`: one for all sources, or one per embodiment tag.

        Raises:
            CheckpointError: the output folder holds another run, or one of other data, or only damaged
                checkpoints.
        """
        self.config = replace(config, policy=policy.config)
        self.output_dir = Path(config.output_dir)
        self.store = CheckpointStore(self.output_dir / CHECKPOINTS_DIR, config.keep_last)
        self.checkpoint = self.resumed_from = self.store.newest()
        if self.resumed_from is not None:
            check_same_run(self.resumed_from, self.config)
            check_same_statistics(self.resumed_from, (preprocessor, postprocessor))
        keep_freed_memory()
        self.accelerator = _make_accelerator(policy.config.device)
        self.policy = policy.train()
        groups = parameter_groups(policy.get_optim_params())
        optimizer = torch.optim.AdamW(groups, betas=config.adam_betas, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.average = WeightAverage(policy, config.ema_decay)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.processors = (preprocessor, postprocessor)
        self.feed = Feed(self.config, policy, preprocessor, self.accelerator)
        self.position = Position()
        self._progress = progress or (lambda event: None)
        self._metrics: MetricsFile | None = None
        self._held_out: MixtureLoader | None = None
        self._clock = 0.0

    # -- the run
    def run(self) -> TrainSummary:
        """Trains to the end of the last stage.

        Raises:
            NonFiniteError: NaN or infinity in a batch, a loss or a gradient.
            CollapseError: the latents of all samples have become alike.
            ConfigurationError: a stage teaches nothing to what is trained.
            CheckpointError: a checkpoint could not be written; earlier ones are intact.
            DatasetError, CacheError: a source could not be read.
        """
        set_seed(self.config.seed + self.accelerator.process_index)
        if self.resumed_from is not None:
            state = self.policy, self.average, self.optimizer, self.accelerator
            self.position = restore(self.resumed_from, *state)
        if self.accelerator.is_main_process:
            self._metrics = MetricsFile(self.output_dir / METRICS_FILE, self.position.step)
        try:
            for stage in self.config.stages[self.position.stage :]:
                self._run_stage(stage)
        finally:
            if self._metrics is not None:
                self._metrics.close()
        return self._summary()

    def _run_stage(self, stage: StageConfig) -> None:
        loader = self.feed.open(stage, self.position, self._report_decoding)
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()
        self._held_out = loader.held_out() if self.config.validate_every_samples else None
        with self.feed.batches(loader, self.position.stage_step, stage.num_steps) as batches:
            for batch in batches:
                self._train_step(stage, batch)
                ended = self._count(stage)
                if ended or self.position.step % self.config.log_every == 0:
                    self._log(stage)
                if ended:
                    self._finish(stage)
                if ended or self._save_is_due(stage):
                    self._save()
                if ended:
                    break

    def _train_step(self, stage: StageConfig, batch: Batch) -> None:
        lr = schedule(self.optimizer.param_groups, stage, self._stage_progress(stage))
        with torch.autocast(
            self.accelerator.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            loss, parts = self.model(batch)
        value = loss.item()
        self._require_finite(value, "the loss", batch)
        if not loss.requires_grad:
            raise ConfigurationError(
                f"train: nothing that is trained ({len(self.parameters)} tensors) has a part in what stage "
                f"{stage.name!r} teaches ({', '.join(parts or {})}): an adapter learns from actions; leave "
                "the stage out, or train the base in it"
            )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.parameters, stage.grad_clip).item()
        self._require_finite(norm, "the gradient", batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.update()
        self.average.update()
        self._note({**(parts or {}), "loss": value, "grad_norm": norm, "lr": lr})

    def _require_finite(self, value: float, what: str, batch: Batch) -> None:
        if not math.isfinite(value):
            names = nonfinite.nonfinite_names(batch) or nonfinite.nonfinite_gradients(self.policy)
            rank = self.accelerator.process_index
            raise nonfinite.stop(self.output_dir, self.position.step, rank, what, names, batch)

    # -- counting
    def _stage_progress(self, stage: StageConfig) -> float:
        """Share of the stage done in the middle of this step, by samples or by time, whichever is further."""
        by_samples = (self.position.stage_step + 0.5) / stage.num_steps
        by_time = self.position.stage_seconds / (60 * stage.max_minutes) if stage.max_minutes else 0.0
        return max(by_samples, by_time)

    def _count(self, stage: StageConfig) -> bool:
        """Counts one step; True when it was the last of the stage."""
        now = time.perf_counter()
        passed_s, self._clock = self._agree(now - self._clock, stage), now
        cpu = time.process_time()
        position = self.position
        position.cpu_seconds += cpu - self._cpu_clock
        self._cpu_clock = cpu
        position.step += 1
        position.stage_step += 1
        position.samples += stage.batch_size
        position.seconds += passed_s
        position.stage_seconds += passed_s
        position.log_seconds += passed_s
        return position.stage_step == stage.num_steps or self._is_late(stage)

    def _is_late(self, stage: StageConfig) -> bool:
        return stage.max_minutes is not None and self.position.stage_seconds >= 60 * stage.max_minutes

    def _agree(self, seconds: float, stage: StageConfig) -> float:
        """With a time limit all processes go by the clock of the first: ending apart, they would hang."""
        if stage.max_minutes is None or self.accelerator.num_processes == 1:
            return seconds
        return float(broadcast(torch.tensor(seconds, device=self.accelerator.device)))

    def _finish(self, stage: StageConfig) -> None:
        position = self.position
        early = position.stage_step < stage.num_steps
        samples = position.stage_step * stage.batch_size
        result = StageResult(stage.name, samples, position.stage_step, position.stage_seconds, early)
        position.finished.append(result)
        position.stage, position.stage_step, position.stage_seconds = position.stage + 1, 0, 0.0

    # -- telling
    def _note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            entry = self.position.log_window.setdefault(name, [0.0, 0])
            entry[0] += value
            entry[1] += 1

    def _log(self, stage: StageConfig) -> None:
        """One line of means since the last one. With many processes they are the first one's."""
        position = self.position
        means = {name: total / count for name, (total, count) in position.log_window.items()}
        rate = position.log_window["loss"][1] * stage.batch_size / max(position.log_seconds, 1e-9)
        position.log_window, position.log_seconds = {}, 0.0
        if self._metrics is not None:
            counts = {"stage": stage.name, "step": position.step, "samples": position.samples}
            held_out = {}
            if self._validation_is_due(stage):
                with self.average.applied():
                    held_out = self._validate()
            clocks = {"samples_per_s": rate, "seconds": position.seconds}
            self._metrics.append({**counts, **means, **held_out, **clocks})
        require_rank(means, position.step)
        total = self.config.total_samples
        self._report(TrainProgress(stage.name, position.samples, total, means["loss"], rate))

    def _validation_is_due(self, stage: StageConfig) -> bool:
        """At the log lines that follow a multiple: a resumed run validates at the same ones."""
        if self._held_out is None:
            return False
        every, samples = self.config.validate_every_samples, self.position.samples
        return samples // every > (samples - self.config.log_every * stage.batch_size) // every

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Means over `VALIDATION_BATCHES` held-out batches, always the same ones, by the run-time weights."""
        assert self._held_out is not None
        found: dict[str, list[float]] = {}
        measure = getattr(self.policy, "measure", None)  # of each query it answers
        self.policy.eval()
        for step in range(VALIDATION_BATCHES):
            batch = self.feed.load(self._held_out, step)
            with torch.autocast(
                self.accelerator.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
            ):
                loss, parts = self.policy(batch)
                queried = measure(batch) if measure is not None else {}
            for name, value in {**(parts or {}), "loss": loss.item(), **queried}.items():
                found.setdefault(name, []).append(value)  # a batch says only what its sources can
        self.policy.train()
        return {f"held_out_{name}": sum(values) / len(values) for name, values in found.items()}

    def _report(self, event: TrainProgress) -> None:
        if self.accelerator.is_main_process:
            self._progress(event)

    def _report_decoding(self, done: int, total: int) -> None:
        self._report(TrainProgress("decoding frames", done, total))

    # -- keeping
    def _save_is_due(self, stage: StageConfig) -> bool:
        every, samples = self.config.save_every_samples, self.position.samples
        return samples // every > (samples - stage.batch_size) // every

    def _save(self) -> None:
        state = capture(self.position, self.policy, self.average, self.optimizer, self.accelerator)
        if self._metrics is not None:
            self._metrics.sync()

            def fill(folder: Path) -> None:
                fill_checkpoint(folder, self.config, state, self.policy, self.average, self.processors)

            self.checkpoint = self.store.write(self.position.samples, fill, 2 * state.num_bytes)
        self.accelerator.wait_for_everyone()

    def _summary(self) -> TrainSummary:
        return TrainSummary(
            name=self.config.name,
            checkpoint=self.checkpoint or self.store.root / f"{self.position.samples:09d}",
            metrics=self.output_dir / METRICS_FILE,
            samples=self.position.samples,
            steps=self.position.step,
            seconds=self.position.seconds,
            cpu_seconds=self.position.cpu_seconds,
            stages=self.position.finished,
            num_parameters=sum(parameter.numel() for parameter in self.policy.parameters()),
            resumed_from=self.resumed_from,
        )


def _make_accelerator(device: str | None) -> Accelerator:
    """Processes and device of this run. Precision is set by the recipe alone, not by the launcher."""
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA; the CPU ignores it
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a stage may train parts only
    return Accelerator(mixed_precision="no", cpu=device == "cpu", kwargs_handlers=[unused])
