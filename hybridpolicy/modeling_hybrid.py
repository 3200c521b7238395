"""`HybridPolicy`: the policy as LeRobot knows it. The thinking is in `network` and `queries`."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import Sample, check_normalised, num_given, num_taken, present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.dataset_facts import adopt_dataset, keep_facts
from hybridpolicy.doubt import disagreement, sample_spread
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.errors import ConfigurationError, NonFiniteError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.measure import measure_queries
from hybridpolicy.network import Context, HybridNetwork
from hybridpolicy.objective import Objective
from hybridpolicy.optional import Memory, absent_entries
from hybridpolicy.optional_keys import QUALITY
from hybridpolicy.queries import Queries
from hybridpolicy.rate import RateWatch
from hybridpolicy.statistics import relative_action_std
from hybridpolicy.stored import LANGUAGE_MODEL, StoredPolicy

logger = logging.getLogger(__name__)
_ACTING = 1 << 40  # noise counters of acting start here, far from any training step


class HybridPolicy(StoredPolicy):
    """Vision-language goal, world-model prior and action expert in one LeRobot policy.

    Batches are those of LeRobot after its preprocessor (shapes in `context.Sample`). Chunks leave in the
    pipeline's normalised units; LeRobot's postprocessor gives them their physical ones.
    """

    def __init__(
        self,
        config: HybridConfig,
        dataset_stats: dict[str, dict[str, Any]] | None = None,
        dataset_meta: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        if dataset_meta is not None:
            adopt_dataset(config, dataset_meta)
        self.network = HybridNetwork(config)
        self.base_embodiment = config.embodiment  # adapters add others, which live in their own folders
        self.embodiments = nn.ModuleDict({config.embodiment: Embodiment(config)})
        self.register_buffer("train_step", torch.zeros((), dtype=torch.int64))
        if dataset_stats is not None:
            self.set_statistics(dataset_stats, dataset_meta)
        self._checked = self._labels_checked = self.outcomes_elsewhere = False
        self._rate = RateWatch()
        self.reset()

    # -- statistics
    def set_statistics(self, stats: dict[str, dict[str, Any]], dataset_meta: Any = None) -> None:
        """Takes the statistics the pipeline normalises with; relative chunks also need the dataset itself."""
        relative = None
        if self.config.action_convention == "relative" and dataset_meta is not None:
            relative = relative_action_std(Path(dataset_meta.root), self.config.chunk_size)
        self.embodiment.set_statistics(stats, relative)

    @property
    def embodiment(self) -> Embodiment:
        return self.embodiments[self.config.embodiment]

    @property
    def queries(self) -> Queries:
        return Queries(self.network, self.embodiment, self.config)

    # -- training
    def needs_future(self, step: int) -> bool:
        """True if this step's micro-batch carries the world loss; else a loader may leave futures out."""
        row = COUPLINGS[self.config.coupling]
        if not row.world or row.world_shown == "blocks":  # blocks are trained only on what came true
            return row.world
        noise = CounterNoise(self.config.seed, step, torch.zeros(1, dtype=torch.int64))
        return noise.batch_uniform("future") < self.config.world_share

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Returns the loss and its parts (python floats).

        Args:
            batch: a training micro-batch; without actions it trains the world prior only.
            reduction: only `mean`: the loss is a mean over valid scalars of the whole micro-batch.
        """
        if reduction != "mean":
            raise ConfigurationError(
                f"hybrid: reduction = {reduction!r}; only 'mean' is offered, drop sample weighting"
            )
        sample = present(batch, self.config, check_range=not self._checked)
        step = int(self.train_step if self.training else sample.index[0])  # held out: always the same noise
        self._checked = True
        self.embodiment.check_statistics()
        labelled = sample.acted and sample.imitate
        if labelled and not self._labels_checked:
            self._report_missing_labels(sample)
        row = COUPLINGS[self.config.coupling]
        due = not self.training or not labelled or self.needs_future(step)  # a held-out loss is always whole
        future = row.world and sample.times > 1 and due and (labelled or row.generative)
        judged = self.config.outcome_weight > 0 and sample.outcome is not None
        if not labelled and not future and not judged:
            raise ConfigurationError(
                "hybrid: a micro-batch has neither actions nor future frames, or coupling = "
                f"{self.config.coupling} trains no world prior; give it labelled data or another coupling"
            )
        if row.world_shown == "blocks" and not future:
            raise ConfigurationError(
                f"hybrid: coupling = {self.config.coupling} learns actions between true futures, and the "
                "micro-batch holds none; use a loader that gives observation_delta_indices"
            )
        objective = Objective(self.network, self.embodiment, self.config)
        return objective(sample, step, future)

    def _report_missing_labels(self, sample: Sample) -> None:
        """Says once what this data cannot train: auxiliary losses (of a real arm: objects), named context."""
        self._labels_checked = True
        config = self.config
        outcome = self.outcomes_elsewhere or sample.outcome  # the trainer knows of sources beside this one
        wanted = (
            ("waypoint_weight", "waypoints", sample.waypoints, "`hybridpolicy train` gives them"),
            ("change_weight", "frames ahead", sample.ahead or None, "`hybridpolicy train` gives them"),
            ("outcome_weight", "outcome.labels", outcome, "set DatasetSource.outcomes"),
            ("objects_weight", "privileged.objects", sample.objects, "a simulator's recording has it"),
        )
        for entry in absent_entries(sample, config):
            logger.warning(
                "hybrid: optional_context names %s, and the batches hold nothing of it: it stays absent "
                "(docs/context.md says what brings it)", entry,
            )  # fmt: skip
        for name, key, value, where in wanted:
            if getattr(config, name) > 0 and value is None:
                logger.warning(
                    "hybrid: %s = %g; demonstrations hold no %s: that loss learns nothing from them (%s)",
                    name, getattr(config, name), key, where,
                )  # fmt: skip

    def measure(self, batch: dict[str, Any]) -> dict[str, float]:
        """What each query gets wrong on a held-out batch; keys in `measure`."""
        return measure_queries(self, batch)

    def update(self) -> None:
        """After every optimizer step: the target frame encoder follows, the noise counter advances."""
        self.network.update_target(self.config.ema_decay)
        self.train_step += 1

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Groups: language model, trunk (readouts, frames, world stream) and action expert.

        The language model learns slowly. At the rate of the rest, and before the eyes tell colours apart, it
        unlearns the difference between two colours and does not recover.
        """
        groups: dict[str, list[nn.Parameter]] = {"language": [], "trunk": [], "expert": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_expert = name.startswith("embodiments.") or ".streams.action" in name
                is_language = name.startswith(LANGUAGE_MODEL)
                groups["expert" if is_expert else "language" if is_language else "trunk"].append(parameter)
        trunk = self.config.trunk_lr_scale
        scales = {"language": trunk * self.config.goal_lr_scale, "trunk": trunk, "expert": 1.0}
        lr = self.config.optimizer_lr
        return [
            {"name": name, "params": parameters, "lr": lr * scales[name], "lr_scale": scales[name]}
            for name, parameters in groups.items()
            if parameters
        ]

    # -- acting
    def reset(self) -> None:
        """Forgets queued actions and restarts the noise counter: the same episode acts the same way."""
        self._queue: deque[Tensor] = deque()
        self._acts = 0
        self._memory = Memory(self.config.past_offsets)
        self._last_plan: Tensor | None = None
        self._last_sent: Tensor | None = None  # the same, or where it was in doubt what replaced it
        self.last_doubt: Tensor | None = None  # (B,) of the last plan, where a future is on demand
        self.last_imagined: Tensor | None = None  # (B,) bool: the last plan was made with a future
        self._rate.restart()

    def supports_rtc(self) -> bool:
        return self.config.rtc_share > 0 and self.config.rtc_max_delay > 0

    @torch.no_grad()
    def context(self, batch: dict[str, Any]) -> Context:
        """Encodes an observation once, for any number of queries."""
        sample = self._asking(present(batch, self.config, check_range=not self._checked))
        self._checked = True
        return self.network.encode_context(sample, self.embodiment, past=self._memory.recall(sample.size))

    @contextmanager
    def look(self, remember: bool = True) -> Iterator[None]:
        """Around one look and the plan made from it: what it leaves for later plans is kept if `remember`
        and it comes to its end. One that fails or is interrupted is as if it had not been.
        """
        before = copy(self._memory), self._acts, self._last_plan, self._last_sent
        kept = False
        try:
            yield
            kept = remember
        finally:
            if not kept:
                self._memory, self._acts, self._last_plan, self._last_sent = before

    @torch.no_grad()
    def observe(self, batch: dict[str, Any], elapsed: int | None = None) -> Context:
        """The context a plan starts from. It is remembered, and part of the past of later plans.

        Args:
            elapsed: control ticks since the last plan; None: `n_action_steps`.
        """
        self._memory.advance(self.config.n_action_steps if elapsed is None else elapsed)
        context = self.context(batch)
        views = context.latents.split(self.config.tokens_per_view, dim=1)
        self._memory.store(dict(zip(context.cameras, views, strict=True)), context.state)
        return context

    def _asking(self, sample: Sample) -> Sample:
        """The sample with the quality that is asked for, where the batch says none."""
        wanted = next((v.name for v in self.config.vectors if v.entry == QUALITY), None)
        if wanted is None or wanted in sample.vectors or self.config.quality is None:
            return sample
        quality = self.embodiment.normalise_quality(self.config.quality)
        check_normalised(f"quality = {self.config.quality:g}", quality)
        return replace(sample, vectors=sample.vectors | {wanted: quality.expand(sample.size, 1, 1)})

    def acting_noise(self, count: int, device: torch.device) -> CounterNoise:
        """Noise of the next query: of the seed and of how many were asked since `reset`."""
        self._acts += 1
        return CounterNoise(self.config.seed, _ACTING + self._acts, torch.arange(count, device=device))

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        elapsed: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Returns a chunk (B, T, A) in pipeline units.

        Args:
            inference_delay: actions that will be executed before this chunk arrives, in control ticks.
            prev_chunk_left_over: (n, A) or (B, n, A) pipeline units, what the previous chunk still holds;
                its first `inference_delay` actions are kept as they are (training-time real-time chunking).
            elapsed: control ticks since the last chunk was asked for; None: as what was left over tells, else
                `n_action_steps`. Tells a policy its past, and a plan what the last one promised.

        Raises:
            NonFiniteError: the chunk holds NaN or infinity. Nothing is remembered of the look.
        """
        self.embodiment.check_statistics()
        with self.look():
            if elapsed is None and prev_chunk_left_over is not None:
                elapsed = num_taken(prev_chunk_left_over, self._last_sent, self.config.chunk_size)
            context = self.observe(batch, elapsed)
            clean = None
            if prev_chunk_left_over is not None and inference_delay:
                clean = self.committed(prev_chunk_left_over, inference_delay, context)
            noise = self.acting_noise(context.size, context.latents.device)
            on_demand = self.config.imagine == "on_uncertainty"
            chunk = self._act(context, noise, clean, "never" if on_demand else self.config.imagine)
            given = 0 if clean is None else clean.shape[1]
            self.last_doubt = self._doubt(chunk, context, noise, elapsed, given) if on_demand else None
            self._last_plan = chunk  # where a future is on demand: as planned without one
            always = self.config.imagine == "always"
            self.last_imagined = torch.full((len(chunk),), always, dtype=torch.bool, device=chunk.device)
            if self.last_doubt is not None:
                self.last_imagined = self.last_doubt > self.config.imagine_threshold
                if bool(self.last_imagined.any()):
                    imagined = self._act(context, noise, clean, "always")
                    chunk = torch.where(self.last_imagined[:, None, None], imagined, chunk)
            if not bool(torch.isfinite(chunk).all()):
                raise NonFiniteError(
                    "hybrid: the chunk holds NaN or infinity; look at the cameras and the state"
                )
            self._last_sent = chunk
            return chunk

    def _act(self, context: Context, noise: CounterNoise, clean: Tensor | None, imagine: str) -> Tensor:
        chunk = self.queries.act(context, noise, imagine=imagine, clean=clean)
        return self.embodiment.to_pipeline(chunk, context.state)

    def _doubt(
        self, chunk: Tensor, context: Context, noise: CounterNoise, elapsed: int | None, given: int
    ) -> Tensor | None:
        """(B,) pipeline units, what `imagine_threshold` is of; None where there is nothing to go by yet."""
        if self.config.action_law == "flow":
            return sample_spread(self.queries, context, noise)
        ahead = self.config.n_action_steps if elapsed is None else elapsed
        return None if self._last_plan is None else disagreement(chunk, self._last_plan, ahead, given)

    def committed(self, left_over: Tensor, delay: int, context: Context) -> Tensor | None:
        """(B, d, A) in the network's convention, the first of what is left over that will be executed before
        an answer comes; None where there is nothing. Arguments as of `predict_action_chunk`.
        """
        left_over = left_over.unsqueeze(0) if left_over.ndim == 2 else left_over
        count = min(delay, self.config.rtc_max_delay, num_given(left_over))
        if count < 1:
            return None
        committed = left_over[:, :count].to(context.latents.device).expand(context.size, -1, -1)
        return self.embodiment.to_network(committed, context.state)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Returns the next action (B, A), planning a new chunk when the queue is empty."""
        self._rate.tick(self.config.fps)
        if not self._queue:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(dim=1))
        return self._queue.popleft()

    # -- loading
    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> "HybridPolicy":
        config, meta = kwargs.get("config"), kwargs.get("dataset_meta")
        if config is not None and meta is not None:
            # LeRobot has put the dataset's joint names into `config`; the check needs the checkpoint's own.
            saved = HybridConfig.from_pretrained(pretrained_name_or_path, revision=kwargs.get("revision"))
            keep_facts(config, saved)
        policy = super().from_pretrained(pretrained_name_or_path, **kwargs)
        if kwargs.get("dataset_stats") is not None:  # fine-tuning: LeRobot's pipeline now uses these too
            policy.set_statistics(kwargs["dataset_stats"])
        return policy

    # -- LeRobot's --peft.*
    def _get_default_peft_targets(self) -> dict[str, Any]:
        return {
            "target_modules": rf"network\.{self.network.streams.lora_targets}",
            "modules_to_save": [f"embodiments.{self.base_embodiment}"],  # projectors and their statistics
        }
