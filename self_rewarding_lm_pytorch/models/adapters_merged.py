"""An adapter's folder as a whole model."""

from __future__ import annotations

from pathlib import Path

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.adapters import CONFIG_FILE, is_adapter_folder
from self_rewarding_lm_pytorch.models.checkpoint_files import check_in_its_run
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.models.policy import Policy


def merged_policy(folder: Path, *, dtype: str = "auto", trust_remote_code: bool = False) -> Policy:
    """The adapter's base model with the adapter in its weights, and its tokenizer.

    folder: as peft writes it, or a stage's folder of a run. dtype: of the weights; auto is the base's, to
    which the sums are rounded. Raises ConfigError where `folder` is no adapter, or its base is not found;
    CheckpointError where a run's checkpoint is not what the run wrote.
    """
    place = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    if not is_adapter_folder(place):
        is_whole = (place / "config.json").is_file()
        why = "it is a whole model already" if is_whole else f"there is no {CONFIG_FILE} in it"
        raise ConfigError(
            f"{place} is not an adapter's folder: {why}. Name a checkpoint of a run whose adapter is "
            "carried, or what peft's save_pretrained wrote"
        )
    check_in_its_run(place)
    policy, _ = load_policy(str(place), dtype=dtype, trust_remote_code=trust_remote_code)
    from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy
    from self_rewarding_lm_pytorch.models.huggingface_planned_adapter import merged_model

    return HuggingFacePolicy(merged_model(policy.module), getattr(policy, "tokenizer", None))
