"""How judge settings with a server become a judge: no model is held, and the server knows its own context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.server import ServerSettings
from self_rewarding_lm_pytorch.generation.server_client import ServerClient
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.served import ServedExpectedJudge, ServedJudge
from self_rewarding_lm_pytorch.judges.served_pairwise import ServedPairwiseJudge
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_JUDGMENT, Budgets
from self_rewarding_lm_pytorch.text import Reasoning

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

_DEFAULT_LABEL = 16  # tokens for a label and the marks around it


def not_here(server: ServerSettings, stage: str) -> ConfigError:
    """Where a stage asks for the weights of a judge that is served."""
    return ConfigError(
        f"stage {stage!r} needs its judge model in this process, but {server.model!r} is served at "
        f"{server.url}; give judge.model here instead of judge.server"
    )


def served_budgets(judge: JudgeSettings, server: ServerSettings, response: Budgets) -> Budgets:
    """The response's budget as it is, and the judgment's: a server says itself what does not fit its context.

    Raises ConfigError for what cannot work, before anything is sampled; the server is not asked.
    """
    server.check()
    default = _DEFAULT_LABEL if judge.mode == "pairwise" else DEFAULT_JUDGMENT
    budgets = Budgets(response.response, judge.max_new_tokens or default, response.notes)
    served_judge(judge, server, budget=budgets.judgment, seed=(), num_candidates=2)
    return budgets


def served_judge(
    judge: JudgeSettings,
    server: ServerSettings,
    *,
    budget: int,
    seed: tuple[int | str, ...],
    num_candidates: int,
    reasoning: Reasoning | None = None,
) -> Judge:
    """The judge of one stage; `budget`: tokens of what it writes. `reasoning`: before a sampled vote."""
    client, template = ServerClient(server), judge.judge_template(None)
    if judge.mode == "expected":
        parser = judge.parser()
        return ServedExpectedJudge(client, template, parser, max_new_tokens=budget, seed=seed)
    if judge.mode == "pairwise":
        return ServedPairwiseJudge(
            client,
            template,
            labels=judge.labels,
            num_candidates=num_candidates,
            max_new_tokens=budget,
            seed=seed,
        )
    return ServedJudge(
        client,
        template,
        judge.parser(),
        num_votes=judge.votes,
        temperature=judge.temperature,
        top_p=judge.top_p,
        max_new_tokens=budget,
        seed=seed,
        stop=judge.stop,
        reasoning=reasoning,
    )
