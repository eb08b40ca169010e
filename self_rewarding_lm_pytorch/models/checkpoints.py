"""`load_checkpoint`: the weights of a run, into a model that is already built."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.checkpoint_files import check_in_its_run
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.weights import load_weights, refuse_pickles


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Copies saved weights into `model`.

    path: a .safetensors file, a checkpoint or stage folder of a run, or a .pt file of the published
    library (read without unpickling code). Raises CheckpointError unless every weight fits, and where a
    run's checkpoint is not what the run wrote; ConfigError for a folder of pickles.
    """
    path = Path(path)
    if path.is_dir():
        place = path / "checkpoint" if (path / "checkpoint").is_dir() else path
        check_in_its_run(place)
        refuse_pickles(place)
        policy_for(model).restore(place)
    elif path.exists():
        load_weights(model, path)
    else:
        raise CheckpointError(f"there is no checkpoint at {path}")
