"""How a plan says how much is sampled at once, and by what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.generator import DEFAULT_TOKEN_BUDGET
from self_rewarding_lm_pytorch.generation.own import OwnGenerator, generator_factory
from self_rewarding_lm_pytorch.generation.requests import Generator
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.objects import made_by, object_name
from self_rewarding_lm_pytorch.stages.settings import Settings
from self_rewarding_lm_pytorch.text import Codec


class GenerationSettings(Settings):
    """How much is sampled at once, and by what.

    generator: one's own for candidates, `file.py:name` or `package.module:name` of a function that takes
        (policy, codec, settings) and gives a Generator; votes and new prompts are sampled by ours. It may be
        made more than once, and the policy's weights change under it.
    """

    token_budget: Annotated[int, Field(ge=1)] = DEFAULT_TOKEN_BUDGET  # cached positions in one batch
    shard_size: Annotated[int, Field(ge=1)] = 64  # visits to prompts between two saves
    use_cache: bool = True  # False: read everything again for each token (slow; for comparison)
    generator: Any = None

    _factory: Callable[..., Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _generator_is_there(self) -> GenerationSettings:
        if self.generator is None:
            return self
        try:
            self._factory = generator_factory(self.generator)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def own_generator(self, policy: Policy, codec: Codec | None) -> Generator | None:
        """What the plan's own generator makes for a policy; None where ours samples. Raises ConfigError."""
        if self._factory is None:
            return None
        name = self.generator if isinstance(self.generator, str) else object_name(self.generator)
        made = made_by(partial(self._factory, policy, codec, self), {}, what=f"generator {name}")
        return OwnGenerator(made, name, policy.vocab_size)
