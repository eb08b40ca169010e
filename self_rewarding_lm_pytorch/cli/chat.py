"""`chat MODEL`: talk to a model, and let it judge what it said."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import (
    Device,
    Dtype,
    Factory,
    MinP,
    Seed,
    Temperature,
    TopK,
    TopP,
    given_sampling,
)
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.progress import printable

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.parts.chat import Chat

_HELP = "/judge: the model judges its last answer   /reset: a new conversation   /quit: end"


def chat(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, hub name, module:factory, run folder or RUN:STAGE."),
    ],
    system: Annotated[str | None, typer.Option(help="What the system says first.")] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    chat_template: Annotated[
        str | None, typer.Option(help="For a model that has none: chatml, transcript, a jinja file, a text.")
    ] = None,
    template: Annotated[str, typer.Option(help="Of /judge: a built-in's name, a file, a text.")] = "auto",
    votes: Annotated[int, typer.Option(min=1, help="Of /judge.")] = 3,
    seed: Seed = 0,
    factory: Factory = None,
    dtype: Dtype = None,
    device: Device = "auto",
) -> None:
    """Talk to a model through its chat template; a run's last checkpoint, or RUN:STAGE, too.

    /judge lets the model judge its last answer, /reset begins anew, /quit or the end of input ends. Where
    standard input is no terminal, its lines are what the user says.
    """
    from self_rewarding_lm_pytorch.cli.judge import judge_settings
    from self_rewarding_lm_pytorch.cli.talk import reporter as made_reporter
    from self_rewarding_lm_pytorch.parts.chat import Chat
    from self_rewarding_lm_pytorch.parts.models import environment_of, named_model

    settings = judge_settings({"template": template, "votes": votes})
    sampling = given_sampling(temperature, top_p, top_k, min_p).sampling()
    named = named_model(model, factory=factory, dtype=dtype, chat_template=chat_template)
    env = environment_of(named, device=device, seed=seed, reporter=made_reporter(quiet=True, stderr=True))
    talk = Chat(env, sampling=sampling, max_new_tokens=max_new_tokens, system=system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        echo(f"{model}   {_HELP}")
    try:
        while (line := _next_line(is_terminal)) not in (None, "/quit", "/exit"):
            if line:
                _do(str(line), talk, settings)
    except KeyboardInterrupt:
        typer.echo()
        raise typer.Exit(130) from None


def _next_line(is_terminal: bool) -> str | None:
    """What the user says next, without blanks around it; None at the end."""
    if not is_terminal:
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input("you> ").strip()
    except EOFError:
        typer.echo()
        return None


def _do(line: str, talk: Chat, settings: Any) -> None:
    """One line; what is wrong with it is said, and the conversation goes on."""
    try:
        if line == "/reset":
            talk.reset()
            echo("(a new conversation)")
        elif line == "/judge":
            _judge(talk, settings)
        elif line.startswith("/"):
            echo(f"there is no {line.split()[0]!r}; {_HELP}")
        else:
            _answer(talk, line)
    except SelfRewardingError as error:
        hint = ". Here: --chat-template transcript, or /reset" if talk.lacks_template else ""
        typer.secho(printable(f"{error}{hint}"), err=True, fg=typer.colors.RED)


def _answer(talk: Chat, line: str) -> None:
    reply = talk.answer(line, lambda piece: typer.echo(printable(piece), nl=False))
    typer.echo()
    if reply.finish_reason == "length":
        echo(f"(cut off after {len(reply.ids)} tokens)")
    sys.stdout.flush()


def _judge(talk: Chat, settings: Any) -> None:
    judgment = talk.judged(settings)
    for vote in judgment.votes:
        score = "no score" if vote.score is None else f"{vote.score:g}"
        echo(f"vote {vote.index + 1}: {score} ({vote.reason or vote.status})\n{vote.text.strip()}")
    score = f"no score: {judgment.reason}" if judgment.score is None else f"score {judgment.score:.2f}"
    echo(f"{score}, of {len(judgment.votes)} votes")
