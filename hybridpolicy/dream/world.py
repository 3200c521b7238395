"""Imagined time: N episodes at once, one action a tick, each moment as the world stream foretells it.

From an anchor, a moment whose context is known, the world stream is asked what follows under the actions
taken since, at the next of its offsets; actions not yet taken are the last one held, which an arm that is
told positions understands as standing still. After as many ticks as its last offset reaches, the imagined
moment becomes the anchor: its latents and state, with decoded pictures for the goal readout to look at.

Legend as in `network`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hybridpolicy.context import present
from hybridpolicy.decoder import of_view
from hybridpolicy.dream.checks import check_world
from hybridpolicy.dream.kit import DreamKit
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.flow import CounterNoise
from hybridpolicy.network import Context

_DREAMING = 1 << 41  # noise counters of dreams start here, far from training and acting


class DreamWorld:
    """Episodes inside one world policy."""

    def __init__(self, folder: Path) -> None:
        """Raises `QueryError` for a coupling that cannot imagine under actions, naming those that can."""
        self.folder = folder
        self.actor = Actor.load(folder)
        policy = self.actor.policy.eval()
        check_world(policy.config)
        self._policy, self._config = policy, policy.config
        latent_shape = (policy.config.tokens_per_view, policy.network.frames.size)
        self.kit = DreamKit.load(folder, list(policy.config.cameras), latent_shape)
        for decoder in self.kit.decoders.values():
            decoder.to(policy.config.device)
        self._offsets = [k for k in policy.config.world_offsets if k <= policy.config.chunk_size]

    @torch.no_grad()
    def start(
        self, pixels: dict[str, np.ndarray], state: np.ndarray, texts: list[str], seeds: Sequence[int]
    ) -> None:
        """Begins N episodes at real observations: {camera: (N, H, W, 3)} uint8, (N, S), N instructions.

        seeds: of each episode's noise; with the same seed, start and actions it is the same dream.
        """
        self._texts, self._anchors = texts, 0
        self._seeds = torch.as_tensor(list(seeds), device=self._config.device)
        self._anchor = self._encode(pixels, state, None)
        self._taken: list[np.ndarray] = []
        self.latents, self.state = self._anchor.latents, np.asarray(state, np.float32)

    @torch.no_grad()
    def advance(self, actions: np.ndarray) -> None:
        """One tick under actions (N, A) in physical units: `latents` and `state` become the next moment's."""
        self._taken.append(np.asarray(actions, np.float32))
        held = [self._taken[-1]] * (self._config.chunk_size - len(self._taken))
        chunk = torch.from_numpy(np.stack([*self._taken, *held], axis=1)).to(self.latents.device)
        policy, anchor = self._policy, self._anchor
        noise = CounterNoise(self._config.seed, _DREAMING + self._anchors, self._seeds)  # one dream an anchor
        given = policy.embodiment.from_physical(chunk, anchor.state)
        future = policy.queries.imagine(anchor, noise, actions=given)
        reached = next(i for i, offset in enumerate(self._offsets) if offset >= len(self._taken))
        self.latents = future.latents[:, reached]
        self.state = policy.embodiment.denormalise_state(future.state[:, reached]).float().cpu().numpy()
        if len(self._taken) == self._offsets[-1]:
            self._anchor, self._taken = self._encode(self.pictures(), self.state, self.latents), []
            self._anchors += 1

    @torch.no_grad()
    def pictures(self) -> dict[str, np.ndarray]:
        """{camera: (N, H, W, 3)} uint8 of the moment, decoded."""
        shown = {}
        for camera, decoder in self.kit.decoders.items():
            view = of_view(self.latents, self._anchor.cameras, camera, self._config.tokens_per_view)
            frames = (decoder(view) * 255.0).round().byte()
            shown[camera] = frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return shown

    @torch.no_grad()
    def success_chance(self) -> np.ndarray:
        """(N,) by the outcome head, of the moment. Raises `QueryError` without outcome heads."""
        now = self._encode(self.pictures(), self.state, self.latents)
        return self._policy.queries.evaluate(now).success.float().cpu().numpy()

    def _encode(self, pixels: dict[str, np.ndarray], state: np.ndarray, moment: Tensor | None) -> Context:
        sample = present(self.actor.batch(pixels, state, self._texts), self._config)
        return self._policy.network.encode_context(sample, self._policy.embodiment, moment=moment)
