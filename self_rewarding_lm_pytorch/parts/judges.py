"""Who judges a file of responses: a language model, here or served, a reward function, a reward model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.function import (
    DEFAULT_TIMEOUT_SECONDS,
    FunctionJudge,
    load_reward_function,
)
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.judges.text_reward import TextRewardJudge
from self_rewarding_lm_pytorch.models.checkpoint_files import is_model_folder, without_times
from self_rewarding_lm_pytorch.parts.models import NamedModel, accelerator_on
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.run_folder.model_files import model_notes
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import SMALL_JUDGMENT, SMALLEST_RESPONSE, Budgets
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.served_judging import served_budgets, served_judge
from self_rewarding_lm_pytorch.text import Codec, Reasoning

Shown = Sequence[tuple[Prompt, Candidate]]
_STAGE = "judge"  # how errors name what judges here


class Seat(Protocol):
    """A judge before it is known what will be judged."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON that differs where the judgments may."""
        ...

    @property
    def codec(self) -> Codec | None:
        """What prompts are read with; None where they are read as text."""
        ...

    def judge(self, shown: Shown, *, num_candidates: int) -> tuple[Judge, Sequence[str]]:
        """The judge of all this, and what is to be said first. num_candidates: of a prompt, at the most."""
        ...


@dataclass(frozen=True)
class ModelSeat:
    """A language model in this process. seed: how its votes' addresses begin; a stage's, to be as there."""

    env: Environment
    settings: JudgeSettings
    seed: tuple[int | str, ...]
    identity: Mapping[str, Any]

    @classmethod
    def of(
        cls, env: Environment, named: NamedModel, settings: JudgeSettings, seed: tuple[int | str, ...]
    ) -> ModelSeat:
        identity = {
            **named.identity(env.policy),
            "judge": settings.model_dump(mode="json"),
            "seed": list(seed),
        }
        return cls(env, settings, seed, identity)

    @property
    def codec(self) -> Codec | None:
        return self.env.codec

    def judge(self, shown: Shown, *, num_candidates: int) -> tuple[Judge, Sequence[str]]:
        """Raises ConfigError where the rubric leaves no room in the model's context."""
        codec = self.env.needed_codec(_STAGE)
        lengths = [len(codec.continuation_ids(candidate.text)) for _, candidate in shown]
        prompts = self._fitting(list({prompt.index: prompt for prompt, _ in shown}.values()))
        longest = max(1, *lengths)
        budgets = self.settings.budgets(self.env, _STAGE, prompts, response=longest, max_seq_len=None)
        notes = []
        if budgets.response < longest:
            notes.append(
                f"the judge's context of {self.env.policy.max_length} tokens has room for "
                f"{budgets.response} tokens of a response behind the longest prompt, and for a judgment of "
                f"{budgets.judgment}; the longest response has {longest}. What does not fit gets no score"
            )
        judge = self.settings.build(
            self.env, _STAGE, budget=budgets.judgment, seed=self.seed, num_candidates=num_candidates
        )
        return judge, notes

    def _fitting(self, prompts: list[Prompt]) -> list[Prompt]:
        """Those that leave room for something; the others' responses get no score, and cost nobody else's."""
        policy, codec = self.settings.judge_model(self.env, _STAGE)
        if policy.max_length is None:
            return prompts
        template = self.settings.judge_template(policy.max_length)
        nothing = [""] * (len(template.variables) - 1)
        room = policy.max_length - SMALL_JUDGMENT - len(nothing) * SMALLEST_RESPONSE
        rendered = ((prompt, template.render(prompt.text, *nothing).text) for prompt in prompts)
        return [prompt for prompt, text in rendered if len(codec.prompt_ids(text)) <= room] or prompts


@dataclass(frozen=True)
class ServedSeat:
    """A language model behind an OpenAI-compatible interface. reasoning: the marks of its own, if any."""

    settings: JudgeSettings
    seed: tuple[int | str, ...]
    reasoning: Reasoning | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"judge": self.settings.model_dump(mode="json"), "seed": list(self.seed)}

    @property
    def codec(self) -> Codec | None:
        return None

    def judge(self, shown: Shown, *, num_candidates: int) -> tuple[Judge, Sequence[str]]:
        """Raises ConfigError where the server cannot be asked from here; it is not asked yet."""
        server = self.settings.server
        assert server is not None
        budget = served_budgets(self.settings, server, Budgets(0, 0)).judgment
        judge = served_judge(
            self.settings,
            server,
            budget=budget,
            seed=self.seed,
            num_candidates=num_candidates,
            reasoning=self.reasoning,
        )
        return split(judge), ()


@dataclass(frozen=True)
class RewardSeat:
    """A reward function over text, `file.py:name`, or a reward model, a folder or hub name."""

    name: str
    is_model: bool
    timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS
    device: str = "auto"

    @property
    def identity(self) -> Mapping[str, Any]:
        place = Path(self.name)
        if self.is_model:
            is_folder = place.is_dir() and is_model_folder(place)
            files = without_times(model_notes(place, None)) if is_folder else None
            return {"reward_model": self.name if files is None else files}
        file = Path(self.name.rpartition(":")[0])
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
        return {"reward": self.name, "reward_file": content}

    @property
    def codec(self) -> Codec | None:
        return None

    def judge(self, shown: Shown, *, num_candidates: int) -> tuple[Judge, Sequence[str]]:
        """Raises ConfigError where it cannot be loaded."""
        if self.is_model:
            return split(TextRewardJudge.load(self.name, device=accelerator_on(self.device).device)), ()
        function = load_reward_function(self.name)
        return split(FunctionJudge(function, timeout_seconds=self.timeout_seconds)), ()


def only_one(**given: object) -> None:
    """Raises ConfigError unless exactly one of these ways to judge is given."""
    named = [name.replace("_", " ") for name, value in given.items() if value is not None]
    if len(named) != 1:
        found = " and ".join(named) if named else "nobody"
        raise ConfigError(
            f"who judges must be said once, but {found} is named: MODEL, --reward file.py:function, "
            "--reward-model MODEL, or --server URL with --server-model"
        )
