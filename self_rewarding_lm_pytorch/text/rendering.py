"""Prompts as a codec renders them: who says what, in the chat template where there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property

from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.records import Conversation, Message
from self_rewarding_lm_pytorch.text.chat import MARK, Chat, Render, lead_of, merged, takes_system
from self_rewarding_lm_pytorch.text.conversations import checked
from self_rewarding_lm_pytorch.text.ids import shortened
from self_rewarding_lm_pytorch.text.reasoning import Reasoning


class Rendering(ABC):
    """What codecs with and without a template share."""

    chat: Chat
    has_chat_template: bool
    _has_merged = False

    @abstractmethod
    def _render(self, conversation: Conversation, generate: bool) -> str:
        """The template's text; generate: up to where an answer begins. Raises what a template raises."""

    def check_template(self) -> None:
        """Raises ConfigError for a template that cannot render a question and its answer."""
        asked = (Message("user", "x"),)
        try:
            self._render(asked, True)
            self._render((*asked, Message("assistant", "x")), False)
        except Exception as error:  # whatever a template raises
            raise ConfigError(
                "the chat template cannot render a question and its answer, with the arguments "
                f"{dict(self.chat.arguments)}: {error!r:.200}; look at chat: {{template, "
                "template_arguments} in the plan"
            ) from error

    @cached_property
    def takes_system(self) -> bool:
        """Whether what the system says has a place of its own; otherwise the user's message holds it."""
        return not self.has_chat_template or takes_system(self._render)

    @property
    def has_merged_system(self) -> bool:
        """Whether a system's text was, or always will be, put into a user's message for want of a place."""
        return self._has_merged or (self.chat.system is not None and not self.takes_system)

    @cached_property
    def reasoning(self) -> Reasoning | None:
        """How responses reason, where that is to be told."""
        found = self.chat.reasoning
        if found is None or not self.has_chat_template:
            return found
        return replace(found, is_open=opened(self._render, found))

    @cached_property
    def _lead(self) -> str:
        return lead_of(self._render) if self.has_chat_template else ""

    def _turns(self, prompt: str | Conversation) -> Conversation:
        """All that is rendered. Raises DataError for roles out of order."""
        if not isinstance(prompt, str):
            checked(prompt, ends_with="user")
        turns = self.chat.turns(prompt)
        if turns[0].role != "system" or self.takes_system:
            return turns
        self._has_merged = True
        return merged(turns)


def rendering_fault(render: Render, turns: Conversation, error: Exception) -> DataError:
    """Which turn a template cannot render, told by the first that fails."""
    number = next((n for n in range(1, len(turns)) if not _renders(render, turns[:n])), len(turns))
    turn = turns[number - 1]
    return DataError(
        f"the chat template cannot render turn {number} of {len(turns)}, the {turn.role}'s "
        f"({shortened(turn.content)!r}): {error!s:.200}; change the conversation, or give a template that "
        "knows it (chat: {template: ...} in the plan)"
    )


def opened(render: Render, reasoning: Reasoning) -> bool:
    """Whether the template begins an answer inside its reasoning."""
    tail = render((Message("user", MARK),), True).rpartition(MARK)[2]
    return tail.rfind(reasoning.begin) > tail.rfind(reasoning.end)


def _renders(render: Render, turns: Conversation) -> bool:
    try:
        render(turns, turns[-1].role == "user")
    except Exception:  # whatever a template raises
        return False
    return True
