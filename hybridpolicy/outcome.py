"""How an episode will go: progress, success and risk, read by one token that sees what is there.

E sees the context and whatever of future and chunk is present; nobody sees E. So it judges a real moment, a
true future and chunk in training, and, when a plan is scored, an imagined future with the chunk of it.

Legend as in `network`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridpolicy.streams import Prefix, TwoStreams

HEADS = ("progress", "success", "risk")


@dataclass(frozen=True)
class Outcome:
    """Each (B,) in [0, 1].

    Attributes:
        progress: 1 − remaining time over the median length of a success.
        success: chance that the episode ends in success.
        risk: chance of a limit rejection, unexpected contact, drop, stall, alarm or intervention within the
            next chunk; not 1 − success.
    """

    progress: Tensor
    success: Tensor
    risk: Tensor


class OutcomeHeads(nn.Module):
    """One learned token of the world stream and a linear map from what it found to three logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, width) * 0.5)
        self.out = nn.Linear(width, len(HEADS))
        # Trained on: without and with the chunk shown; answers no and yes.
        self.register_buffer("labels", torch.zeros(2, len(HEADS), 2, dtype=torch.int64))
        self.labels: Tensor

    def count(self, labels: Tensor, known: Tensor, chunk: bool) -> None:
        """Notes what is trained on: labels (B, 3) in [0, 1], known (B, 3) bool, `chunk` shown or not."""
        yes = labels > 0.5
        self.labels[int(chunk)] += torch.stack(((known & ~yes).sum(dim=0), (known & yes).sum(dim=0)), dim=1)

    @property
    def trained(self) -> bool:
        """Whether any label was ever seen: before, what the heads say is drawn by lot."""
        return bool(self.labels.any())

    def knows(self, head: str, chunk: bool = False) -> bool:
        """Whether a head has seen both answers: one that has seen one of them says nothing else.

        chunk: with the chunk shown; else in any way.
        """
        shown = self.labels[1] if chunk else self.labels.sum(dim=0)
        return bool((shown[HEADS.index(head)] > 0).all())

    def logits(self, streams: TwoStreams, prefix: Prefix) -> Tensor:
        """(B, 3) from what `prefix` holds."""
        count = len(prefix.visible)
        seen = torch.cat((prefix.visible, prefix.visible.new_ones(count, 1)), dim=1)
        mask = None if bool(seen.all()) else seen.unsqueeze(1)
        output, _, _ = streams(self.query.expand(count, -1, -1), None, prefix, mask)
        return self.out(output[:, 0]).float()

    def forward(self, streams: TwoStreams, prefix: Prefix) -> Outcome:
        return Outcome(*self.logits(streams, prefix).sigmoid().unbind(dim=1))
