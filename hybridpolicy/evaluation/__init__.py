"""Measuring a trained policy: closed-loop episodes, world skill, latency."""

from hybridpolicy.evaluation.closed_loop import evaluate_policy

__all__ = ["evaluate_policy"]
