"""The records that pass between the rooms. All are frozen: whoever wants another makes another.

Shapes: B rows, T positions. Padding is known by `lengths` alone, never by comparing ids.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

FinishReason = Literal["eos", "stop", "length"]
"""Why a sample ended: an end-of-sequence token, its stop rule, or its token budget ran out."""

VoteStatus = Literal["parsed", "forced", "expected", "unparsed"]
"""How a vote came to its score; an unparsed vote has none."""


Role = Literal["system", "user", "assistant"]
Weight = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Two that say the same are equal, whatever they weigh."""

    role: Role
    content: str
    weight: Weight = field(default=1, compare=False)  # 0: context alone, where its conversation is trained on

    @property
    def is_trained_on(self) -> bool:
        """Whether it is a target, where its conversation is trained on."""
        return self.role == "assistant" and self.weight == 1


Conversation = tuple[Message, ...]
"""A system's message at most, first; then a user's and an assistant's in turn."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a stage."""

    index: int  # position in the stage's prompt list
    text: str  # as the user wrote it, before any chat template; a conversation as judges are shown it
    ids: tuple[int, ...]  # as the policy reads it: template and special tokens included
    turns: Conversation = ()  # where it is more than one user's message: these, up to that which is answered


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled response."""

    prompt_index: int
    visit: int  # how often the prompt had been visited before
    index: int  # 0 .. num_candidates - 1
    ids: tuple[int, ...]  # response tokens, the end-of-sequence token included where it was sampled
    text: str  # what the ids say, without special tokens
    finish_reason: FinishReason
    key: int  # the address its random numbers came from
    policy: str  # the stage whose starting weights wrote it


@dataclass(frozen=True, slots=True)
class Vote:
    """One reading of a candidate by a judge."""

    index: int  # 0 .. num_votes - 1; a forced vote keeps the index of the unparsed vote it follows
    text: str  # what the judge itself wrote; in a comparison: this response's place, and the other response
    score: float | None  # None: no score; absent is not zero
    status: VoteStatus
    reason: str = ""  # why an unparsed vote has no score
    finish_reason: FinishReason = "eos"
    # Of each valid score, lowest first, where they were read instead of sampled; whole numbers in a row.
    # In a comparison: that the response shown first is preferred, and the second.
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgment:
    """All that is known of a candidate's worth."""

    prompt_index: int
    visit: int
    candidate_index: int
    score: float | None  # the mean of the votes that have one
    votes: tuple[Vote, ...] = ()  # none where a reward model or function scored
    reason: str = ""  # why there is no score


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """A prompt and responses whose worth people have told: what judges learn from and are measured on."""

    index: int  # position in its set
    prompt: str
    responses: tuple[str, ...]  # at least one
    worths: tuple[float, ...]  # of each response; higher is better, equal ones tie
    is_rated: bool  # worths are points on the judge's own scale; otherwise they only order these responses


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A chosen and a rejected response to one prompt."""

    prompt_index: int
    visit: int
    prompt: str
    chosen: str
    rejected: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen_index: int = -1  # the candidate's index; -1 where the pair was given, not sampled
    rejected_index: int = -1
    chosen_score: float | None = None
    rejected_score: float | None = None

    @property
    def margin(self) -> float | None:
        """How far the judge sets the two apart, in the judge's points."""
        if self.chosen_score is None or self.rejected_score is None:
            return None
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class Skipped:
    """A visit to a prompt that gave no pair."""

    prompt_index: int
    visit: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence and which of its tokens are trained on. Born together, never taken apart."""

    ids: Tensor  # int64 (T,)
    is_target: Tensor  # bool (T,); position 0 is never a target

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())


@dataclass(frozen=True, slots=True, eq=False)
class PairExample:
    """Two sequences with the same prompt; `index` addresses the stored reference log-probs."""

    index: int
    chosen: Example
    rejected: Example
    margin: float | None = None
    certainty: float = 1.0  # how far the label is believed: 0 that the sides are swapped, 1 that they are not

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceBatch:
    """Right-padded sequences."""

    ids: Tensor  # int64 (B, T)
    is_target: Tensor  # bool (B, T), False on padding
    lengths: Tensor  # int64 (B,)
    weights: Tensor | None = None  # float (B, T), of each target's log-prob in its sequence's; None: 1
    rows: Tensor | None = None  # int64 (M,), of the targets; None: found where they are needed
    columns: Tensor | None = None  # a device that has to find them makes the step wait for it

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    def to(self, device: torch.device) -> "SequenceBatch":
        return SequenceBatch(
            self.ids.to(device),
            self.is_target.to(device),
            self.lengths.to(device),
            *(None if x is None else x.to(device) for x in (self.weights, self.rows, self.columns)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ForkedBatch:
    """Pairs with what both sides begin with once: a row is trunk, rest of chosen, rest of rejected.

    The M targets of all B pairs are listed flat; sequence i is the chosen side of pair i, B + i the rejected.
    """

    ids: Tensor  # int64 (B, T), zeros behind the shorter rows
    positions: Tensor  # int64 (B, T), of each token in its own sequence; 0 on padding
    branches: Tensor  # int64 (B, T): 0 trunk, 1 chosen, 2 rejected, 3 padding
    rows: Tensor  # int64 (M,)
    sources: Tensor  # int64 (M,), column of the token before the target in its sequence
    targets: Tensor  # int64 (M,), token ids
    sequences: Tensor  # int64 (M,)
    weights: Tensor | None = None  # float (M,), of each target's log-prob in its sequence's; None: 1

    def to(self, device: torch.device) -> "ForkedBatch":
        return ForkedBatch(
            self.ids.to(device),
            self.positions.to(device),
            self.branches.to(device),
            self.rows.to(device),
            self.sources.to(device),
            self.targets.to(device),
            self.sequences.to(device),
            None if self.weights is None else self.weights.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PairBatch:
    """Chosen and rejected rows in the same order."""

    index: Tensor  # int64 (B,)
    chosen: SequenceBatch
    rejected: SequenceBatch
    forked: ForkedBatch | None = None  # the same pairs, for models that can read them so
    margin: Tensor | None = None  # float (B,), points by which the judge prefers chosen, where all are known
    certainty: Tensor | None = None  # float (B,), of the labels; None: all are believed in full

    def to(self, device: torch.device) -> "PairBatch":
        forked = None if self.forked is None else self.forked.to(device)
        chosen, rejected = self.chosen.to(device), self.rejected.to(device)
        return PairBatch(self.index, chosen, rejected, forked, self.margin, self.certainty)


@dataclass(frozen=True, slots=True, eq=False)
class PairLogProbs:
    """What a preference loss sees of a batch: float (B,) each, summed over the response's tokens."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor  # number of target tokens
    rejected_lengths: Tensor
    margin: Tensor | None = None  # the judge's score gap of each pair; None: not known for all of them
    certainty: Tensor | None = None  # of each pair's label, 0 to 1; None: all are believed in full
