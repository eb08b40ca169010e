"""What of a plan beside its stages can be told to be wrong, or is not here, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.data.judged import judged_prompts
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.overview.model import KnownModel
from self_rewarding_lm_pytorch.overview.sources import far_source
from self_rewarding_lm_pytorch.stages.report_cards import check_held_out
from self_rewarding_lm_pytorch.stages.tracker_settings import check_trackers
from self_rewarding_lm_pytorch.training.device import device_arguments

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview


def check_whole(plan: Plan, model: KnownModel, found: Overview) -> None:
    """Chat, trackers, report card: problems. A device may be another machine's: a warning."""
    checks: list[tuple[str, Callable[[], object]]] = [
        ("", partial(check_trackers, plan.trackers)),
        ("report_card", partial(_check_card, plan, found)),
    ]
    if plan.chat is not None and model.codec is None:  # else it is applied, which says the same
        checks.append(("", partial(plan.chat.chat, plan.base)))
    for where, check in checks:
        try:
            check()
        except (SelfRewardingError, ValueError) as error:
            said = str(error)
            line = f"{where}: {said}" if where and not said.startswith(where) else said
            if line not in found.problems:
                found.problems.append(line)
    try:
        device_arguments(plan.device, dict(plan.accelerate))
    except ConfigError as error:
        found.warnings.append(f"on this machine the plan cannot be run: {error}")


def _check_card(plan: Plan, found: Overview) -> None:
    settings = plan.report_card
    if settings is None:
        return
    check_held_out(settings, plan.stages)
    if settings.judge is not None:
        settings.judge.check_custom()
        settings.judge.judge_template(None)
    if settings.stage:
        return
    if far := far_source(settings.data, plan.base):
        found.unseen.append(f"report_card: data: {far} is on the hub and was not fetched")
        return
    if not judged_prompts(settings.data, base=plan.base, lang=settings.lang):
        raise ConfigError("report_card: its data hold no prompts, so there is nothing to judge")
