"""A run as one page: `build_report(run_folder)` writes `report.html`, which opens offline."""

from self_rewarding_lm_pytorch.report.build import build_report

__all__ = ["build_report"]
