"""What is looked at before a run begins: all that can be known of its stages, and the data they name."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from self_rewarding_lm_pytorch.data.readers import file_hashes
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.stages.prompts import MAKERS
from self_rewarding_lm_pytorch.stages.report_cards import ReportCards


def check_plan(stages: list[StageConfig], env: Environment, folder: RunFolder, cards: ReportCards) -> None:
    """Everything that can be known before any training; all problems together. Finished stages need none."""
    problems = []
    for number, stage in enumerate(stages, 1):
        if folder.is_trained(number):
            continue
        try:
            check_past_models(stage, stages[: number - 1])
            stage.check(env)
            is_off = getattr(getattr(stage, "train", None), "reference", "") == "adapter_off"
            if number > 1 and is_off and not getattr(env.policy, "begins_anew", False):
                raise ConfigError(
                    "reference adapter_off is the model without its adapter, but the stages before this one "
                    "train that, so the two would differ from the start; take reference: stage_start"
                )
        except (SelfRewardingError, ValueError) as error:
            says_which = str(error).startswith(f"stage {stage.name!r}")
            problems.append(str(error) if says_which else f"stage {number} ({stage.name}): {error}")
    try:
        cards.check()
    except (SelfRewardingError, ValueError) as error:
        problems.append(f"report_card: {error}")
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))


def check_past_models(stage: StageConfig, before: Sequence[StageConfig]) -> None:
    """Raises ConfigError where a stage names a model or prompts that no stage before it makes."""
    for setting, name in stage.past_models().items():
        known = ["initial", *(each.name for each in before)]
        what = "no stage before this one"
        if setting == "prompts":
            known, what = [each.name for each in before if each.kind in MAKERS], f"{what} that writes prompts"
        if name not in known:
            raise ConfigError(
                f"{setting} names {name!r}, which is {what}; known here: {', '.join(known) or 'none'}"
            )


def data_hashes(stages: Sequence[StageConfig], base: Path | None) -> dict[str, str]:
    """File -> SHA-256, for the data of these stages. What cannot be read is left to `check_plan` to say."""
    found: dict[str, str] = {}
    for source in (source for stage in stages for source in stage.data_sources()):
        with contextlib.suppress(SelfRewardingError, OSError, ValueError):
            found.update(file_hashes(source, base=base))
    return found


def named_models(stages: Sequence[StageConfig], folder: RunFolder) -> list[str]:
    """The stages whose models stages to come start from or ask, by name."""
    ahead = [stage for number, stage in enumerate(stages, 1) if not folder.is_trained(number)]
    named = (item for stage in ahead for item in stage.past_models().items())
    return [name for setting, name in named if setting != "prompts"]  # what it wrote is no model
