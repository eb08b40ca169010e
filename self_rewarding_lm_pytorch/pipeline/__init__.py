"""Ordered stages over one model, continued where they were cut off. `run(plan)` is the Python way in."""

from self_rewarding_lm_pytorch.pipeline.runs import run
from self_rewarding_lm_pytorch.pipeline.stages import AfterStage, Evaluate, Summary

__all__ = ["AfterStage", "Evaluate", "Summary", "run"]
