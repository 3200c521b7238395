"""What running a policy on an arm can refuse."""

from __future__ import annotations

from hybridpolicy.errors import HybridPolicyError


class ArmRunError(HybridPolicyError):
    """A run that cannot start, or had to end; the text says what was given, what is allowed, what to do."""


class CheckFailed(ArmRunError):
    """Something about policy, arm or cameras does not fit; nothing was energised."""


class PolicyGone(ArmRunError):
    """The policy's process ended or failed; the arm holds."""


class CamerasGone(ArmRunError):
    """A camera or the cameras' process failed; the arm holds."""
