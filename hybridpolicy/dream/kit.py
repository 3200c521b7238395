"""What a world policy needs beside itself to be dreamt in: pictures from latents, and someone who judges.

Kept in the folder `dream` of its checkpoint. Legend as in `network`; K object slots.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridpolicy.decoder import PixelDecoder
from hybridpolicy.errors import CheckpointError, ConfigurationError

FOLDER, FACTS, WEIGHTS = "dream", "dream.json", "dream.safetensors"
FIT = "hybridpolicy dream fit --policy {policy} --dataset DATASET"


class Judge(Protocol):
    """Watches N episodes by what can be read off their latents."""

    def update(self, objects: np.ndarray, state: np.ndarray) -> np.ndarray:
        """(N,) bool which episodes have succeeded by now.

        Args:
            objects: (N, K, 2) m by the probe. state: (N, S) physical units.
        """
        ...


JudgeFactory = Callable[[Sequence[str], np.ndarray, np.ndarray, np.ndarray], Judge]
"""(N texts, objects (N, K, 2), present (N, K) bool, state (N, S)) at the start → their judge."""


@dataclass(frozen=True)
class Probe:
    """Reads object positions off latents by linear regression.

    Attributes:
        weights: (V·P·F + 1, K, 2) metres. judge: `module:factory` that knows what they mean.
        r2: held-out, on real latents. judged: {"hits", "false_alarms"} of the judge on held-out recordings,
            as shares, and how many "episodes".
    """

    weights: np.ndarray
    judge: str
    r2: float
    judged: dict[str, float]

    def read(self, latents: Tensor) -> np.ndarray:
        """(N, V·P, F) → (N, K, 2)."""
        flat = latents.flatten(1).double().cpu().numpy()
        objects: np.ndarray = np.einsum("nd,dkc->nkc", flat, self.weights[:-1]) + self.weights[-1]
        return objects

    @property
    def factory(self) -> JudgeFactory:
        module, _, name = self.judge.partition(":")
        factory: JudgeFactory = getattr(importlib.import_module(module), name)
        return factory


@dataclass(frozen=True)
class DreamKit:
    """decoders: {camera: PixelDecoder}. probe: None where the data has no object positions."""

    decoders: dict[str, PixelDecoder]
    probe: Probe | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that was fitted, by name."""
        fitted = {
            f"{camera}.{name}": tensor.contiguous()
            for camera, decoder in self.decoders.items()
            for name, tensor in decoder.state_dict().items()
        }
        return fitted if self.probe is None else fitted | {"probe": torch.from_numpy(self.probe.weights)}

    def save(self, policy: Path) -> Path:
        """Writes the kit into the policy's folder; returns its own."""
        folder, tensors = policy / FOLDER, self.tensors
        folder.mkdir(exist_ok=True)
        facts: dict[str, Any] = {
            "cameras": {camera: list(decoder.image_size) for camera, decoder in self.decoders.items()}
        }
        if self.probe is not None:
            facts |= {"judge": self.probe.judge, "r2": self.probe.r2, "judged": self.probe.judged}
        save_file(tensors, str(folder / WEIGHTS))
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, policy: Path, cameras: Sequence[str], latent_shape: tuple[int, int]) -> "DreamKit":
        """The kit of a policy with these cameras and (P, F) latents a view.

        Raises:
            CheckpointError: there is none, or it was fitted to another policy.
        """
        folder = policy / FOLDER
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            tensors = load_file(str(folder / WEIGHTS))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"dream: {folder} holds no decoders; fit them once: {FIT.format(policy=policy)}"
            ) from error
        if sorted(facts["cameras"]) != sorted(cameras):
            raise CheckpointError(
                f"dream: {folder} is for cameras {sorted(facts['cameras'])}, the policy has "
                f"{sorted(cameras)}; fit it again: {FIT.format(policy=policy)}"
            )
        decoders = {}
        for camera, size in facts["cameras"].items():
            decoder = PixelDecoder(*latent_shape, (size[0], size[1]))
            own = {n.removeprefix(f"{camera}."): t for n, t in tensors.items() if n.startswith(f"{camera}.")}
            decoder.load_state_dict(own)
            decoders[camera] = decoder.eval()
        probe = None
        if "probe" in tensors:
            probe = Probe(tensors["probe"].numpy(), facts["judge"], facts["r2"], facts["judged"])
        return cls(decoders, probe)

    def require_probe(self, policy: Path) -> Probe:
        """Raises `ConfigurationError` if nothing can be read off this policy's latents."""
        if self.probe is None:
            raise ConfigurationError(
                f"dream: {policy} has no outcome heads that were shown successes and failures, its kit no "
                "probe, and so nobody can say what succeeds; fit the kit on data with privileged.objects, or "
                "train with policy.outcome_weight above 0 on rollouts"
            )
        return self.probe
