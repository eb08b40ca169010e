"""A run on disk: who uses it, its manifest and plan, how far each stage is, and what has changed since."""

from self_rewarding_lm_pytorch.run_folder.folder import RunFolder

__all__ = ["RunFolder"]
