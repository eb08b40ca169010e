"""What a judge would answer, read and not sampled: one forward for a judge prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from self_rewarding_lm_pytorch.generation.choices import Tokens
from self_rewarding_lm_pytorch.judges.base import OnProgress, too_long
from self_rewarding_lm_pytorch.judges.slot import Slot
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.text import Codec

_TAIL = 64  # characters; what stands further before an answer changes no tokenizer's tokens of it

SlotKind = TypeVar("SlotKind", bound=Slot)


@dataclass(frozen=True, slots=True)
class Reading:
    """The distribution over a slot's choices, or why it was not read."""

    probabilities: tuple[float, ...] = ()
    reason: str = ""


class AnswerReader(Generic[SlotKind]):
    """How likely a judge finds each valid answer, at the place where its answer to a prompt begins.

    slot_of: from a function (an answer -> its tokens where it stands) to the slot of the valid answers.
    context: the judge model's, in tokens; a judge prompt that leaves no room for the slot in it is not
        cut but left unread, with its reason. None: no limit.
    batch_size: judge prompts read between two reports of progress.
    Raises what `slot_of` raises, at once: what cannot work is refused before anything is sampled.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        slot_of: Callable[[Callable[[str], Tokens]], SlotKind],
        *,
        context: int | None,
        use_cache: bool,
        batch_size: int,
    ) -> None:
        self._policy = policy
        self._codec = codec
        self._slot_of = slot_of
        self._context = context
        self._use_cache = use_cache
        self._batch_size = batch_size
        self._slots: dict[str, SlotKind] = {}
        self.slot_behind("")

    def slot_behind(self, judge_prompt: str) -> SlotKind:
        """The slot of the answers with which the judge's text behind this prompt may begin.

        Its tokens are those of an answer where it stands, as training data have them: no line break
        before it, and joined to the prompt's end or template as the tokenizer does that.
        """
        tail = judge_prompt[-_TAIL:]
        if tail not in self._slots:
            self._slots[tail] = self._slot_of(lambda answer: self._answer_ids(tail, answer))
        return self._slots[tail]

    def read(
        self, judge_prompts: Sequence[str], *, on_progress: OnProgress | None = None, votes: int = 1
    ) -> list[Reading]:
        """One reading for each prompt, in order; equal prompts are read once, so they agree exactly.

        votes: what one prompt counts for in reports of progress.
        """
        asked = Counter(judge_prompts)
        found: dict[str, Reading] = {}
        groups: dict[SlotKind, list[tuple[Tokens, str]]] = defaultdict(list)
        for text in asked:
            ids, slot = self._codec.prompt_ids(text), self.slot_behind(text)
            found[text] = Reading(reason=too_long(len(ids), self._limit(slot)))
            if not found[text].reason:
                groups[slot].append((ids, text))
        for slot, members in groups.items():
            members.sort(key=lambda member: -len(member[0]))
            for start in range(0, len(members), self._batch_size):
                batch = members[start : start + self._batch_size]
                rows = slot.probabilities(self._policy, [ids for ids, _ in batch], use_cache=self._use_cache)
                for (_, text), row in zip(batch, rows.tolist(), strict=True):
                    found[text] = Reading(tuple(row))
                if on_progress is not None:
                    on_progress(votes * sum(asked[text] for _, text in batch), 0)
        return [found[text] for text in judge_prompts]

    def _answer_ids(self, before: str, answer: str) -> Tokens:
        ids = self._codec.response_ids(before, answer)
        return ids[: len(ids) - len(self._codec.eos_ids[:1])]

    def _limit(self, slot: Slot) -> int | None:
        return None if self._context is None else self._context - slot.num_tokens
