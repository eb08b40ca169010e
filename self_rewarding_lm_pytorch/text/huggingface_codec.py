"""A codec from a Hugging Face tokenizer, with its chat template where it has one.

The tokenizer is used as an object; this module does not import transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from self_rewarding_lm_pytorch.records import Conversation, Message
from self_rewarding_lm_pytorch.text.chat import MARK, Chat
from self_rewarding_lm_pytorch.text.conversations import plain_text
from self_rewarding_lm_pytorch.text.ids import known_ids
from self_rewarding_lm_pytorch.text.rendering import Rendering, rendering_fault
from self_rewarding_lm_pytorch.text.special_tokens import SpecialTokens, spelled_as_one
from self_rewarding_lm_pytorch.text.templates import CHATML_MARKS, TEMPLATES, marks_are_missing

_PROBE = "x"


class HuggingFaceCodec(Rendering):
    """A tokenizer, and how its chat template is used.

    extra_eos_ids: further ending tokens, for example from the model's generation config.
    vocab_size: the model's; ids at or over it are a DataError.
    chat: the template's use; a template of its own comes in through `with_chat`.
    Raises ConfigError for a template that cannot render a question and its answer.
    What people or models wrote never becomes a special token, even if it spells one.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        extra_eos_ids: Sequence[int] = (),
        vocab_size: int | None = None,
        chat: Chat | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = chat or Chat()
        self._extra_eos_ids = tuple(extra_eos_ids)
        self._vocab_size = vocab_size
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        own = [self._turn_end_id if self.has_chat_template else None, tokenizer.eos_token_id]
        ends = [token for token in (*own, *extra_eos_ids) if token is not None]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))

    @property
    def tells_time(self) -> bool:
        """Whether the template asks for the time, and is not given a date in its place."""
        template = str(getattr(self.tokenizer, "chat_template", None) or "")
        return "strftime_now" in template and "date_string" not in self.chat.arguments

    def with_chat(self, chat: Chat) -> HuggingFaceCodec:
        """The same tokenizer, used so. It is given the template, so that checkpoints bring it along.

        Raises ConfigError for a template or arguments with which no question and answer can be rendered.
        """
        if chat.template is not None:
            self.tokenizer.chat_template = self._source(chat.template)
        return self._same(chat)

    def as_judge(self) -> HuggingFaceCodec:
        """As judge prompts are rendered."""
        judge = self.chat.for_judge()
        return self if judge == self.chat else self._same(judge)

    def _same(self, chat: Chat) -> HuggingFaceCodec:
        return HuggingFaceCodec(
            self.tokenizer, extra_eos_ids=self._extra_eos_ids, vocab_size=self._vocab_size, chat=chat
        )

    def _source(self, template: str) -> str:
        """The template's text; ours get the beginning that this tokenizer gives every text."""
        if template not in TEMPLATES:
            return template
        if template == "chatml" and not set(CHATML_MARKS) <= set(self._specials):
            raise marks_are_missing("this tokenizer has no such tokens")
        begin = self.tokenizer.bos_token_id
        begins = begin is not None and self._ids("a")[:1] == (begin,)
        return ("{{ bos_token }}" if begins else "") + TEMPLATES[template]

    def prompt_ids(self, prompt: str | Conversation) -> tuple[int, ...]:
        turns = self._turns(prompt)
        if self.has_chat_template:
            return self._chat_ids(turns)
        text = plain_text(turns)
        ids = self._ids(text, split_special_tokens=True)
        while ids and ids[-1] in self.eos_ids and ids[-1] != self.tokenizer.bos_token_id:
            ids = ids[:-1]  # some tokenizers end every text; a prompt is not at its end
        return known_ids(ids, text, self._vocab_size)

    def response_ids(self, prompt: str | Conversation, response: str) -> tuple[int, ...]:
        # A response is tokenized where it stands, because a word's tokens depend on what precedes it.
        if self.has_chat_template:
            ids = self._in_chat(self._lead + self._told(response))
        else:
            ids = self._behind(plain_text(self._turns(prompt)), response)
        return ids + known_ids(self.eos_ids[:1], "", self._vocab_size)

    def _in_chat(self, response: str) -> tuple[int, ...]:
        """Behind the last special token before it, which may take blanks, or begin a word, as a text does."""
        head, whole = self._opened, self._template_ids(self._last_mark + self._template_tail + response)
        own = whole[len(head) :]
        is_text = whole[: len(head)] == head and not self._special.among(own)
        return own if is_text else self._spelling(response)

    def _spelling(self, response: str) -> tuple[int, ...]:
        """One that spells a special token, or is joined to what precedes it: all of it is text."""
        if self._last_mark:
            plain = self._template_ids(self._last_mark + self._template_tail + _PROBE)[len(self._opened) :]
            ways = (partial(self._behind, self._template_tail), self.continuation_ids, self._amid)
            return next((way for way in ways if way(_PROBE) == plain), ways[0])(response)
        return self._behind(self._template_tail, response)

    def _behind(self, before: str, response: str) -> tuple[int, ...]:
        head, whole = self.continuation_ids(before), self.continuation_ids(before + response)
        return whole[len(head) :] if whole[: len(head)] == head else self._alone(response)

    def _told(self, response: str) -> str:
        """As the template shows it: without blanks that it trims, or a mark that it has written already."""
        begin = "<think>" if self.chat.reasoning is None else self.chat.reasoning.begin
        if self._opening.rstrip().endswith(begin) and response.lstrip().startswith(begin):
            response = response.lstrip().removeprefix(begin)
            response = response.removeprefix("\n") if self._opening.endswith("\n") else response
        return self._trimmed(response) or response

    @cached_property
    def _opening(self) -> str:
        """What the template writes between a question and its answer."""
        return self._render((Message("user", MARK),), True).rpartition(MARK)[2]

    @cached_property
    def _trimmed(self) -> Callable[[str], str]:
        """What the template does to the blanks around an answer."""

        def shown(answer: str) -> str:
            return self._render((Message("user", "x"), Message("assistant", answer)), False)

        plain = shown(MARK)
        ways = ((str.strip, f" {MARK}\n"), (str.rstrip, f"{MARK}\n"), (str.lstrip, f" {MARK}"))
        return next((trimmed for trimmed, answer in ways if shown(answer) == plain), str)

    def _alone(self, response: str) -> tuple[int, ...]:
        """Where a tokenizer joins the response to what precedes it: the first way that reads as it does.

        Some tokenizers begin every text with a blank, which may be the response's own, or must not be there.
        """
        own = self.continuation_ids(response.removeprefix(self._lead))
        ways = (
            self.continuation_ids(response),
            own,
            self.continuation_ids(response[1:]),
            self._amid(response),
        )
        return next((ids for ids in ways if self._decoded(ids) == response), own)

    def _amid(self, text: str) -> tuple[int, ...]:
        """As a text is tokenized behind a line's end."""
        head, whole = self.continuation_ids("\n"), self.continuation_ids("\n" + text)
        return whole[len(head) :] if whole[: len(head)] == head else self.continuation_ids(text)

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        ids = self._ids(text, add_special_tokens=False, split_special_tokens=True)
        return known_ids(ids, text, self._vocab_size)

    def mark_ids(self, text: str) -> tuple[int, ...]:
        """A mark that the library itself writes: its special token, where it has one."""
        return (self._specials[text],) if text in self._specials else self.continuation_ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        pieces, start = [], 0
        for place, token in enumerate(ids if self._marks else ()):
            if token in self._marks:
                pieces += [self._decoded(ids[start:place]), self._marks[token]]
                start = place + 1
        return "".join([*pieces, self._decoded(ids[start:])]).removeprefix(self._begun)

    @cached_property
    def _begun(self) -> str:
        """What decoding shows before a response and is not its own: a blank of the template or tokenizer."""
        shown = self._decoded(self._in_chat(self._lead + _PROBE)) if self.has_chat_template else ""
        return shown.removesuffix(_PROBE) if shown.endswith(_PROBE) else self._lead

    def _decoded(self, ids: Sequence[int]) -> str:
        # Behind an anchor, because tokenizers drop the blank that begins a text.
        anchored = self.tokenizer.decode([*self._anchor, *ids], skip_special_tokens=True)
        before = self.tokenizer.decode(list(self._anchor), skip_special_tokens=True)
        return str(anchored[len(before) :])

    @cached_property
    def _anchor(self) -> tuple[int, ...]:
        return self.continuation_ids("a")

    @cached_property
    def _marks(self) -> dict[int, str]:
        """Marks of reasoning that are special tokens: they are kept in texts."""
        found = self.chat.reasoning
        texts = () if found is None else (found.begin, found.end)
        return {self._specials[text]: text for text in texts if text in self._specials}

    def _chat_ids(self, turns: Conversation) -> tuple[int, ...]:
        try:
            text = self._render(turns, True)
        except Exception as error:  # whatever a template raises
            raise rendering_fault(self._render, turns, error) from error
        ids = self._template_ids(text)
        wanted = self._expected(turns)
        if self._special.among(ids) == wanted:
            return ids
        # A turn spells a special token, as it is or once the tokenizer has normalized it: template and turns
        # are tokenized apart; those that spell none stay where they are if that is enough.
        spelled = [bool(self._special.among(self._template_ids(turn.content))) for turn in turns]
        if any(spelled) and self._special.among(ids := self._apart(turns, spelled)) == wanted:
            return ids
        return self._apart(turns, [True] * len(turns))

    def _apart(self, turns: Conversation, is_marked: Sequence[bool]) -> tuple[int, ...]:
        """The template's text as it is, and between it the marked turns, none of which is a special token."""
        name = MARK
        while any(name in turn.content for turn in turns):
            name += "k"
        marked = tuple(
            Message(turn.role, f"{name}{place}e") if marked else turn
            for place, (turn, marked) in enumerate(zip(turns, is_marked, strict=True))
        )
        pieces = re.split(rf"{name}(\d+)e", self._render(marked, True))
        ids: tuple[int, ...] = ()
        for number, piece in enumerate(pieces):  # the template's, a turn's number, the template's, ...
            own = (
                self.continuation_ids(turns[int(piece)].content) if number % 2 else self._template_ids(piece)
            )
            ids += own
        return ids

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return known_ids(self._ids(text, add_special_tokens=False), text, self._vocab_size)

    def _ids(self, text: str, **how: bool) -> tuple[int, ...]:
        # Not verbose: whoever knows what becomes of a text that is too long says so.
        return tuple(self.tokenizer(text, verbose=False, **how)["input_ids"])

    def _render(self, conversation: Conversation, generate: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation]
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **self.chat.arguments
            )
        )

    @cached_property
    def _template_tail(self) -> str:
        """What the template writes last before a response, special tokens left out."""
        tail = self._opening
        for special in self._specials:
            tail = tail.rpartition(special)[2]
        return tail

    @cached_property
    def _last_mark(self) -> str:
        """The special token before that, if the template writes one."""
        before = self._opening.removesuffix(self._template_tail)
        return max((special for special in self._specials if before.endswith(special)), key=len, default="")

    @cached_property
    def _opened(self) -> tuple[int, ...]:
        return self._template_ids(self._last_mark + self._template_tail)

    def _expected(self, turns: Conversation) -> tuple[int, ...]:
        """The special tokens of the template around turns that spell none."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self._known:
            marked = self._render(tuple(Message(role, MARK) for role in roles), True)
            self._known[roles] = self._special.among(self._template_ids(marked))
        return self._known[roles]

    @cached_property
    def _known(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        return {}

    @cached_property
    def _special(self) -> SpecialTokens:
        turns = (Message("user", MARK), Message("assistant", MARK))
        if not self.has_chat_template:
            return SpecialTokens(self.tokenizer)
        asked, answered = self._render(turns[:1], True), self._render(turns, False)
        return SpecialTokens(self.tokenizer, self._template_ids(asked) + self._template_ids(answered))

    @cached_property
    def _specials(self) -> dict[str, int]:
        return spelled_as_one(self.tokenizer)

    @cached_property
    def _turn_end_id(self) -> int | None:
        """The special token that the template writes after an assistant's turn, if any."""
        turns = (Message("user", "x"), Message("assistant", MARK))
        self.check_template()
        tail = self._template_ids(self._render(turns, False).rpartition(MARK)[2])
        return next((token for token in tail if token in self._special.ids), None)
