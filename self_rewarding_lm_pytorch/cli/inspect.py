"""`inspect MODEL DATA`: one example as the model reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import Factory, Json
from self_rewarding_lm_pytorch.progress import printable

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.parts.inspect import Inspected, JudgeView, View
    from self_rewarding_lm_pytorch.parts.tokens import Token

_COLOURS = {"bos": typer.colors.CYAN, "eos": typer.colors.MAGENTA, "special": typer.colors.BLUE}


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Whose tokenizer: a folder, hub name, run folder, RUN:STAGE, module:factory.",
        ),
    ],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file or hub:NAME#split=..., as in plans.")],
    row: Annotated[int, typer.Option(min=0, help="Which row, from 0.")] = 0,
    kind: Annotated[
        Literal["auto", "sft", "prompt", "pair", "judge"],
        typer.Option(help="What to read it as; auto: what its columns say, and the judge's prompt for it."),
    ] = "auto",
    template: Annotated[
        str, typer.Option(help="Judge template: a built-in's name, a file, a text.")
    ] = "auto",
    factory: Factory = None,
    colour: Annotated[
        bool | None,
        typer.Option("--colour/--no-colour", "--color/--no-color", help="Default: on a terminal."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one example as tokens with ids, what carries loss, and the judge's prompt for it.

    Only the tokenizer is loaded. Without colours, what carries loss stands in square brackets. Blanks, tabs
    and line ends in tokens are shown as · → ⏎, a letter's first bytes as ….
    """
    from self_rewarding_lm_pytorch.cli.judge import judge_settings
    from self_rewarding_lm_pytorch.parts.inspect import inspected
    from self_rewarding_lm_pytorch.parts.models import named_model

    codec, context = named_model(model, factory=factory).load_codec()
    found = inspected(codec, data, row, kind, judge=judge_settings({"template": template}), context=context)
    if as_json:
        echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    is_coloured = _is_terminal() if colour is None else colour
    for line in _lines(found, data, is_coloured):
        typer.echo(line, color=is_coloured)


def _is_terminal() -> bool:
    import os
    import sys

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _lines(found: Inspected, data: str, is_coloured: bool) -> Iterator[str]:
    yield printable(f"{data}, row {found.row}, as {found.kind}")
    for view in found.views:
        yield ""
        yield from _view_lines(view, is_coloured)
    if found.judge is not None:
        yield ""
        yield from _judge_lines(found.judge, is_coloured, with_tokens=found.kind == "judge")


def _view_lines(view: View, is_coloured: bool) -> Iterator[str]:
    targets = "1 carries" if view.num_targets == 1 else f"{view.num_targets:,} carry"
    counts = f"{len(view.tokens):,} tokens, of which {targets} loss"
    ends = f"beginnings of sequence: {view.num_bos}, ends of sequence: {view.num_eos}"
    yield f"{view.title}: {counts}; {ends}"
    yield from (f"warning: {printable(warning)}" for warning in view.warnings)
    yield from _token_lines(view.tokens, is_coloured)
    yield "as text:"
    yield from (f"  | {printable(line)}" for line in view.text.split("\n"))


def _judge_lines(judge: JudgeView, is_coloured: bool, *, with_tokens: bool) -> Iterator[str]:
    tokens = len(judge.view.tokens)
    yield printable(f"judge prompt, template {judge.template}: {tokens:,} tokens")
    if judge.room is not None:
        verdict = "fits" if judge.fits else "does not fit: it is lowered, or the response gets no score"
        yield (
            f"  the context of {judge.context:,} leaves {judge.room:,}; a judgment of {judge.judgment:,} "
            f"{verdict}"
        )
    if judge.num_escaped:
        yield f"  {judge.num_escaped} delimiters of the template were spelled in the data, and are escaped"
    yield from (f"warning: {printable(warning)}" for warning in judge.view.warnings)
    if with_tokens:
        yield from _token_lines(judge.view.tokens, is_coloured)
    yield "as text:"
    yield from (f"  | {printable(line)}" for line in judge.view.text.split("\n"))


def _token_lines(tokens: tuple[Token, ...], is_coloured: bool) -> Iterator[str]:
    """Tokens as text:id, a line of text in each line, and not too many."""
    line: list[str] = []
    width = 0
    for token in tokens:
        shown = _shown(token.text)
        line.append(_styled(token, shown) if is_coloured else _plain(token, shown))
        width += len(shown) + len(str(token.id)) + 4
        if token.text.endswith("\n") or width > 100:
            yield "  " + " ".join(line)
            line, width = [], 0
    if line:
        yield "  " + " ".join(line)


def _shown(text: str) -> str:
    """Blanks in sight, and nothing that a terminal would act on."""
    if not text:
        return "…"  # of a letter that the next token ends
    return printable(text.replace(" ", "·").replace("\t", "→").replace("\n", "⏎"))


def _plain(token: Token, shown: str) -> str:
    return f"[{shown}:{token.id}]" if token.is_target else f"{shown}:{token.id}"


def _styled(token: Token, shown: str) -> str:
    colour = _COLOURS.get(token.kind)
    text = typer.style(
        shown, fg=typer.colors.GREEN if token.is_target and colour is None else colour, bold=token.is_target
    )
    return text + typer.style(f":{token.id}", dim=True, underline=token.is_target)
