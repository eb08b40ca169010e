"""A conversation with a model, and its judgment of its own last answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.generation.requests import Request
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.answers_only import answers_only
from self_rewarding_lm_pytorch.parts.rows import plain, prompt_record
from self_rewarding_lm_pytorch.records import Candidate, Conversation, FinishReason, Judgment, Message
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.text import reasoning_of

_STAGE = "chat"
Write = Callable[[str], None]


@dataclass(frozen=True)
class Reply:
    """An answer, and why it ended."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason


class Chat:
    """A conversation so far; answers are written a piece at a time, as their tokens are drawn.

    What is drawn depends on the seed, how many answers came before, and the conversation alone.
    """

    def __init__(
        self, env: Environment, *, sampling: Sampling, max_new_tokens: int, system: str | None = None
    ) -> None:
        self._env = env
        self._codec = env.needed_codec(_STAGE)
        self._generator = env.own_generator()
        self._sampling = sampling
        self._max_new_tokens = max_new_tokens
        self._system: Conversation = () if system is None else (Message("system", system),)
        self._turns: Conversation = self._system
        self._last: Reply | None = None
        self._num_answers = 0

    @property
    def lacks_template(self) -> bool:
        """Whether a further question cannot be put, as the tokenizer has no chat template."""
        return self._last is not None and not getattr(self._codec, "has_chat_template", False)

    def reset(self) -> None:
        """Begins a new conversation; the random numbers go on."""
        self._turns, self._last = self._system, None

    def turns_with(self, text: str) -> Conversation:
        """The conversation with the user's next message."""
        return (*self._turns, Message("user", text))

    def answer(self, text: str, write: Write) -> Reply:
        """The model's answer to the user's next message; `write` gets its text in pieces.

        Raises DataError where the conversation cannot be rendered or leaves no room for an answer; it is then
        as it was before.
        """
        turns = self.turns_with(text)
        ids = self._codec.prompt_ids(plain(turns))
        stream = _Stream(self._codec.decode, write)
        request = Request(ids, (self._key("answer"),), self._room(len(ids)), stream.token)
        ((completion,),) = self._generator.generate([request], self._sampling)
        reply = Reply(self._codec.decode(completion.ids), completion.ids, completion.finish_reason)
        stream.end(reply.text)
        self._turns, self._last = (*turns, Message("assistant", reply.text)), reply
        self._num_answers += 1
        return reply

    def judged(self, settings: JudgeSettings) -> Judgment:
        """The model's own judgment of its last answer. Raises DataError where there is none yet.

        Raises ConfigError where the rubric does not fit the model's context.
        """
        if self._last is None:
            raise DataError("there is no answer to judge yet; ask something first")
        prompt = prompt_record(self._num_answers, plain(self._turns[:-1]), self._codec)
        length = len(self._last.ids)
        budgets = settings.budgets(self._env, _STAGE, [prompt], response=max(1, length), max_seq_len=None)
        seed = (self._env.seed, _STAGE, "judge")
        judge = settings.build(self._env, _STAGE, budget=budgets.judgment, seed=seed)
        judge = answers_only(judge, self._codec, reasoning_of(self._codec))
        candidate = Candidate(
            prompt.index, 0, 0, self._last.ids, self._last.text, self._last.finish_reason, 0, _STAGE
        )
        return judge.judge([(prompt, candidate)])[0]

    def _key(self, purpose: str) -> int:
        return address(self._env.seed, _STAGE, purpose, self._num_answers)

    def _room(self, length: int) -> int:
        context = self._env.policy.max_length
        if context is None or length + self._max_new_tokens <= context:
            return self._max_new_tokens
        if length >= context:
            raise DataError(
                f"the conversation has {length} tokens, which leaves no room for an answer in the model's "
                f"context of {context}; /reset begins a new one"
            )
        return context - length


class _Stream:
    """Turns a sample's tokens so far into what its text has become longer by."""

    def __init__(self, decode: Callable[[Sequence[int]], str], write: Write) -> None:
        self._decode = decode
        self._write = write
        self._written = ""

    def token(self, ids: Sequence[int]) -> bool:
        """A stop rule that never stops: it is asked after each token."""
        self._go_on(self._decode(ids).rstrip("\ufffd"))  # a letter whose bytes are not all there yet
        return False

    def end(self, text: str) -> None:
        self._go_on(text)

    def _go_on(self, text: str) -> None:
        if text.startswith(self._written) and len(text) > len(self._written):
            self._write(text[len(self._written) :])
            self._written = text
