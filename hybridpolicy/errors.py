"""Every error this package raises on purpose. Standard library only.

    Exception
    └── HybridPolicyError            catch this one to catch all of them
        ├── ConfigurationError       also ValueError: a setting that is not allowed, or two that disagree
        ├── DatasetError             a dataset that is missing, unreadable, or lacks a column or camera
        │   └── CacheError           decoded frames could not be written or read back
        ├── CheckpointError          a checkpoint that is missing, half-written, altered, or of another run
        ├── QueryError               also ValueError: a question this coupling was not trained to answer
        ├── AdapterError             an adapter of another base, embodiment or shape
        ├── CollapseError            latents that no longer tell one sample from another
        └── NonFiniteError           also ArithmeticError: NaN or infinity in a batch, a loss or a gradient

Kinds of failure are told apart by class, never by text. A message says what was given, what is allowed and
what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HybridPolicyError(Exception):
    """Base of every error of this package."""


class ConfigurationError(HybridPolicyError, ValueError):
    """A setting that is not allowed, or two that disagree."""


class DatasetError(HybridPolicyError):
    """A dataset that is missing, unreadable, or lacks a column or camera."""


class CacheError(DatasetError):
    """Decoded frames that could not be written or read back."""


class CheckpointError(HybridPolicyError):
    """A checkpoint that is missing, half-written, altered, or of another run."""


class QueryError(HybridPolicyError, ValueError):
    """A question the coupling was not trained to answer."""


class AdapterError(HybridPolicyError):
    """An adapter made for another base, embodiment or shape."""


class CollapseError(HybridPolicyError):
    """Latents that no longer tell one sample from another."""


class NonFiniteError(HybridPolicyError, ArithmeticError):
    """NaN or infinity in a batch, a loss or a gradient."""


def allowed(value: object, choices: Iterable[str]) -> str:
    """The second half of a message about an unknown name: the nearest choice first, then all of them."""
    names = sorted(str(choice) for choice in choices)
    listing = f"allowed are {', '.join(names)}" if names else "nothing is allowed here"
    nearest = get_close_matches(str(value), names, n=1)
    return f"did you mean '{nearest[0]}'? {listing}" if nearest else listing
