"""How many tokens responses and judgments may take, settled before anything is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.text import shortened

DEFAULT_RESPONSE = 256
DEFAULT_JUDGMENT = 256
SMALL_JUDGMENT = 64  # a judgment's budget falls to this before the response's is touched
SMALLEST_RESPONSE = 4


@dataclass(frozen=True)
class Budgets:
    """Tokens; `notes` says in words what was lowered, and why."""

    response: int
    judgment: int
    notes: tuple[str, ...] = ()


def response_budget(
    *, stage: str, wanted: int, prompt: int, context: int | None, max_seq_len: int | None, text: str = ""
) -> Budgets:
    """The response's budget after the longest prompt (`prompt` tokens, `text`) in the model's context."""
    limits = [limit for limit in (context, max_seq_len) if limit is not None]
    if not limits or prompt + wanted <= min(limits):
        return Budgets(wanted, 0)
    room = min(limits) - prompt
    if room < 1:
        raise ConfigError(
            f"stage {stage!r}: the longest prompt{_begins(text)} has {prompt} tokens, which leaves no room "
            f"for a response in {_limits(context, max_seq_len)}; shorten the prompts, leave out long ones (a "
            "stage's max_prompt_tokens), or raise the limit"
        )
    note = (
        f"stage {stage!r}: responses are limited to {room} tokens instead of {wanted}: "
        f"{_limits(context, max_seq_len)}, the longest prompt{_begins(text)} has {prompt} (a stage's "
        "max_prompt_tokens leaves out longer ones)"
    )
    return Budgets(room, 0, (note,))


def own_budget(
    stage: str, prompts: Sequence[Prompt], *, wanted: int | None, context: int | None, max_seq_len: int | None
) -> Budgets:
    """`response_budget` for these prompts. wanted: None is DEFAULT_RESPONSE."""
    longest = longest_of(prompts)
    return response_budget(
        stage=stage,
        wanted=wanted or DEFAULT_RESPONSE,
        prompt=len(longest.ids),
        context=context,
        max_seq_len=max_seq_len,
        text=longest.text,
    )


def longest_of(prompts: Sequence[Prompt]) -> Prompt:
    """By tokens; the first of several."""
    return max(prompts, key=lambda prompt: len(prompt.ids))


def judged_budgets(
    *,
    stage: str,
    response: Budgets,
    judgment: int,
    judge_prompt: int,
    forced: int,
    context: int | None,
    num_responses: int = 1,
) -> Budgets:
    """Both budgets so that rubric, prompt, response, judgment and forced score fit the judge's context.

    judgment: tokens a judge may write; 0 where it writes nothing and its score alone is read.
    judge_prompt: tokens of the rendered judge prompt for the longest prompt and no response.
    forced: tokens of a score, or a label, that is appended and not sampled.
    num_responses: as many as a judge prompt shows; each has the response's budget.
    """
    if context is None:
        return Budgets(response.response, judgment, response.notes)
    room = context - judge_prompt - forced
    responses = num_responses * response.response
    if responses + judgment <= room:
        return Budgets(response.response, judgment, response.notes)
    lowered_judgment = max(min(judgment, SMALL_JUDGMENT), room - responses)
    lowered_response = min(response.response, (room - lowered_judgment) // num_responses)
    if lowered_response < min(SMALLEST_RESPONSE, response.response):
        raise ConfigError(
            f"stage {stage!r}: the judge's context is {context} tokens, but its rubric and the longest "
            f"prompt take {judge_prompt}, a judgment {lowered_judgment} and the forced score {forced}, which "
            f"leaves {lowered_response} for {_responses(num_responses)}; use a shorter judge template or a "
            "smaller judgment budget"
        )
    shown = f", {num_responses} responses at once" if num_responses > 1 else ""
    note = (
        f"stage {stage!r}: in the judge's context of {context} tokens (rubric and longest prompt "
        f"{judge_prompt}{shown}) responses get {lowered_response} tokens instead of {response.response}"
    )
    note += f" and judgments {lowered_judgment} instead of {judgment}" if judgment else ""
    return Budgets(lowered_response, lowered_judgment, (*response.notes, note))


def _begins(text: str) -> str:
    return f" ({shortened(text, 48)!r})" if text else ""


def _responses(number: int) -> str:
    return "the response" if number == 1 else f"each of {number} responses"


def _limits(context: int | None, max_seq_len: int | None) -> str:
    parts = [] if context is None else [f"the model's context of {context}"]
    parts += [] if max_seq_len is None else [f"max_seq_len {max_seq_len}"]
    return " and ".join(parts)
