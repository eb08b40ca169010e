"""How prompts are put into chat: the system's text, the template and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from self_rewarding_lm_pytorch.records import Conversation, Message
from self_rewarding_lm_pytorch.text.reasoning import Reasoning

BETWEEN = "\n\n"
"""Between what the system says and the user's first message, where both become one."""

Render = Callable[[Conversation, bool], str]
"""A conversation, and whether an answer's beginning is written behind it, to the template's text."""


@dataclass(frozen=True)
class Chat:
    """How a codec uses its chat template.

    system: put first where a conversation has no system's message; None: nothing is.
    template: a jinja template's text, or the name of one of ours; None: the tokenizer's own, if it has one.
    arguments: given to the template, such as {"enable_thinking": False}.
    judge_system, judge_arguments: the same of judge prompts; the arguments None: as for the policy.
    """

    system: str | None = None
    template: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reasoning: Reasoning | None = None
    judge_system: str | None = None
    judge_arguments: Mapping[str, Any] | None = None

    def for_judge(self) -> Chat:
        """How judge prompts are rendered."""
        own = self.arguments if self.judge_arguments is None else self.judge_arguments
        return replace(self, system=self.judge_system, arguments=own)

    def turns(self, prompt: str | Conversation) -> Conversation:
        """The prompt as a conversation, the system's text first."""
        found = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        if self.system is None or (found and found[0].role == "system"):
            return found
        return (Message("system", self.system), *found)


def merged(conversation: Conversation) -> Conversation:
    """What the system says before the first user's message, in that message."""
    if not conversation or conversation[0].role != "system":
        return conversation
    system, first, *rest = conversation
    return (Message("user", joined((system, first))), *rest)


def joined(turns: Conversation) -> str:
    """What the system says, if anything, before what the user says."""
    *system, last = turns
    return BETWEEN.join([*(turn.content for turn in system if turn.content), last.content])


def takes_system(render: Render) -> bool:
    """Whether the template has a place for a system's message: some raise, some leave it out."""
    try:
        return MARK in render((Message("system", MARK), Message("user", "x")), True)
    except Exception:  # whatever a template raises
        return False


def lead_of(render: Render) -> str:
    """Blanks that the template writes between where an answer begins and the answer's own text."""
    asked = (Message("user", "x"),)
    try:
        before = render(asked, True)
        whole = render((*asked, Message("assistant", MARK)), False)
    except Exception:  # a template that only knows other conversations
        return ""
    lead = whole[len(before) :].partition(MARK)[0] if whole.startswith(before) else ""
    return lead if lead.isspace() else ""


MARK = "contentmark"  # stands for a message's content when a template is looked at
