"""A user's own generator, and checks of what it gives, so that no sample is lost in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, get_args

from self_rewarding_lm_pytorch.errors import ConfigError, GenerationError
from self_rewarding_lm_pytorch.generation.requests import Completion, Generator, OnProgress, Request
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.objects import accepts, load_object
from self_rewarding_lm_pytorch.records import FinishReason

WANTED = "a function or class that takes (policy, codec, settings) and gives an object with generate"


def generator_factory(named: Any) -> Callable[..., Any]:
    """What `file.py:name` or `package.module:name` names, or the function itself. Raises ConfigError."""
    found = load_object(named, what="generator", wanted=WANTED) if isinstance(named, str) else named
    if not callable(found):
        raise ConfigError(f"generator {named!r} is {found!r:.80}, which cannot be called; give {WANTED}")
    factory: Callable[..., Any] = found
    return factory


class OwnGenerator:
    """What a factory made, behind checks. vocab_size: ids must be below it; None: any may be."""

    def __init__(self, generator: Any, name: str, vocab_size: int | None) -> None:
        if isinstance(generator, type) or not callable(getattr(generator, "generate", None)):
            raise ConfigError(
                f"generator {name}: its factory gave {generator!r:.80}, which has no method "
                "generate(requests, sampling, *, on_progress=None); give an object that has it"
            )
        self._generator: Generator = generator
        self._name = name
        self._vocab_size = vocab_size
        self._reports = accepts(generator.generate, "on_progress")

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        reports = {"on_progress": on_progress} if self._reports else {}
        try:
            given = list(self._generator.generate(requests, sampling, **reports))
        except GenerationError:
            raise
        except Exception as error:  # anybody's code
            raise GenerationError(
                f"generator {self._name} failed on {len(requests)} requests: {error!r:.300}. Mend it; what "
                "is stored is kept, and the same command goes on from there"
            ) from error
        if len(given) != len(requests):
            raise GenerationError(
                f"generator {self._name} gave {len(given)} lists for {len(requests)} requests; it must give "
                "one for each, in order"
            )
        asked = enumerate(zip(requests, given, strict=True))
        found = [self._checked(number, request, many) for number, (request, many) in asked]
        if on_progress is not None and not self._reports:
            on_progress(sum(map(len, found)), sum(len(one.ids) for many in found for one in many))
        return found

    def _checked(self, number: int, request: Request, given: Any) -> list[Completion]:
        completions = list(given)
        if len(completions) != len(request.keys):
            raise self._fault(number, f"{len(completions)} completions for {len(request.keys)} keys")
        return [self._completion(number, request, one) for one in completions]

    def _completion(self, number: int, request: Request, one: Any) -> Completion:
        if not isinstance(one, Completion):
            raise self._fault(number, f"{one!r:.80}, which is no Completion")
        try:
            ids = tuple(map(index, one.ids))
        except TypeError:
            raise self._fault(number, f"token ids {one.ids!r:.80}, which are no whole numbers") from None
        if not 1 <= len(ids) <= request.max_new_tokens:
            raise self._fault(number, f"{len(ids)} tokens, where 1 to {request.max_new_tokens} are asked for")
        wrong = [i for i in ids if i < 0 or (self._vocab_size is not None and i >= self._vocab_size)]
        if wrong:
            raise self._fault(number, f"token {wrong[0]}, but the model's vocabulary has {self._vocab_size}")
        if one.finish_reason not in get_args(FinishReason):
            known = ", ".join(get_args(FinishReason))
            raise self._fault(number, f"the finish reason {one.finish_reason!r}; known: {known}")
        return Completion(ids, one.finish_reason)

    def _fault(self, number: int, what: str) -> GenerationError:
        return GenerationError(f"generator {self._name} gave, for request {number}, {what}")
