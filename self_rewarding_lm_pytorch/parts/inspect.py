"""One row of a data set as the model reads it: tokens, what carries loss, the judge's prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from self_rewarding_lm_pytorch.data.columns import answered_of, pair_of, prompt_of, supervised_of
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.parts.rows import Asked, plain, prompt_record
from self_rewarding_lm_pytorch.parts.tokens import Token, rendered, tokens_of, warnings_of
from self_rewarding_lm_pytorch.records import Conversation, Message
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_JUDGMENT
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.text import Codec, examples_from_conversation, judging_codec

Kind = Literal["auto", "sft", "prompt", "pair", "judge"]


@dataclass(frozen=True)
class View:
    """One sequence of tokens, and what may be wrong with it."""

    title: str
    tokens: tuple[Token, ...]
    text: str  # what the tokens say, special ones written out
    num_targets: int
    num_bos: int
    num_eos: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgeView:
    """What a judge is shown of a response, and what is left for its judgment."""

    view: View
    template: str
    num_escaped: int  # delimiters of the template that the data spelled
    context: int | None
    room: int | None  # tokens of the context behind the judge prompt; None: no limit is known
    judgment: int  # tokens that a judgment may take

    @property
    def fits(self) -> bool:
        return self.room is None or self.room >= self.judgment


@dataclass(frozen=True)
class Inspected:
    """A row, looked at."""

    kind: str
    row: int
    views: tuple[View, ...] = ()
    judge: JudgeView | None = None
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        if self.judge is not None:
            found["judge"]["fits"] = self.judge.fits
        return found


def inspected(
    codec: Codec, data: str, row: int, kind: Kind, *, judge: JudgeSettings, context: int | None
) -> Inspected:
    """The row (from 0) of a file, as the kind's stages read it; auto: by its columns, and the judge's prompt.

    context: the model's, in tokens, where it is known. Raises DataError for a row that is not there, or not
    of the kind.
    """
    values = _row(data, row)
    found = _kind_of(values, row) if kind == "auto" else kind
    if found == "judge":
        return Inspected("judge", row, judge=_judge_view(codec, *_answered(values, row), judge, context))
    views = tuple(_views(codec, found, values, row))
    if kind != "auto" or found == "prompt":
        return Inspected(found, row, views)
    return Inspected(found, row, views, _judge_view(codec, *_answered(values, row), judge, context))


def _row(data: str, row: int) -> Any:
    for values in islice(each_made(data, lambda values, _: values), row, row + 1):
        return values
    total = sum(1 for _ in each_made(data, lambda values, _: values))
    raise DataError(f"{data} has {total:,} rows, so there is no row {row}; they are numbered from 0")


def _kind_of(values: Any, row: int) -> Kind:
    if isinstance(values, Mapping) and {"chosen", "rejected"} <= set(values):
        return "pair"
    try:
        answered_of(values, row)
    except DataError as error:
        try:
            prompt_of(values, row)
        except DataError:
            raise error from None
        return "prompt"
    return "sft"


def _answered(values: Any, row: int) -> tuple[Asked, str]:
    """What is asked and answered, as a judge would be shown it: of a pair, the chosen answer."""
    if _kind_of(values, row) == "pair":
        asked, chosen, _ = pair_of(values, row)
        return plain(asked), chosen
    conversation = answered_of(values, row)
    return plain(conversation[:-1]), conversation[-1].content


def _views(codec: Codec, kind: Kind, values: Any, row: int) -> Iterator[View]:
    if kind == "prompt":
        ids = codec.prompt_ids(prompt_of(values, row))
        yield _view(codec, "prompt", ids, [False] * len(ids))
    elif kind == "sft":
        yield from _trained(codec, "example", supervised_of(values, row), last_only=False)
    else:
        asked, chosen, rejected = pair_of(values, row)
        for title, answer in (("chosen", chosen), ("rejected", rejected)):
            yield from _trained(codec, title, (*asked, Message("assistant", answer)), last_only=True)


def _trained(codec: Codec, title: str, conversation: Conversation, *, last_only: bool) -> Iterator[View]:
    examples = examples_from_conversation(codec, conversation, last_only=last_only)
    for number, example in enumerate(examples, 1):
        place = f" {number} of {len(examples)}" if len(examples) > 1 else ""
        yield _view(codec, f"{title}{place}", example.ids.tolist(), example.is_target.tolist())


def _view(codec: Codec, title: str, ids: Sequence[int], is_target: Sequence[bool]) -> View:
    tokens = tokens_of(codec, ids, is_target)
    return View(
        title,
        tokens,
        rendered(codec, ids),
        sum(is_target),
        sum(token.kind == "bos" for token in tokens),
        sum(token.kind == "eos" for token in tokens),
        tuple(warnings_of(codec, tokens, is_trained=title != "prompt" and title != "judge prompt")),
    )


def _judge_view(
    codec: Codec, asked: Asked, response: str, settings: JudgeSettings, context: int | None
) -> JudgeView:
    template = settings.judge_template(context)
    shown = template.render(prompt_record(0, asked, codec).text, response)
    codec = judging_codec(codec)
    ids = codec.prompt_ids(shown.text)
    view = _view(codec, "judge prompt", ids, [False] * len(ids))
    judgment = settings.max_new_tokens or (DEFAULT_JUDGMENT if settings.mode == "sampled" else 0)
    room = None if context is None else context - len(ids)
    return JudgeView(view, template.name, shown.num_escaped, context, room, judgment)
