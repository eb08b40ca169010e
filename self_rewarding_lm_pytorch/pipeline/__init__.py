"""Ordered stages over one model, continued where they were cut off. `run(plan)` is the Python way in."""

from self_rewarding_lm_pytorch.pipeline.around import AfterStage, Evaluate, Summary
from self_rewarding_lm_pytorch.pipeline.runs import run

__all__ = ["AfterStage", "Evaluate", "Summary", "run"]
