"""How new prompts are made from seeds: what a plan's stage and the command have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.files import write_json, write_text
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import is_in_files
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.prepare.attempts import AttemptStore
from self_rewarding_lm_pytorch.prepare.few_shot import FewShotTemplate
from self_rewarding_lm_pytorch.prepare.prompt_filters import KEYWORDS, FilterRules, PromptFilter
from self_rewarding_lm_pytorch.prepare.prompt_yield import PromptYield
from self_rewarding_lm_pytorch.prepare.self_instruct import (
    Fits,
    Recipe,
    SelfInstruct,
    anything_fits,
    check_shots,
)
from self_rewarding_lm_pytorch.prepare.similarity import SimilarityName
from self_rewarding_lm_pytorch.prepare.writers import PolicyWriter, Writer
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.text import Codec

_DEFAULT_NEW_TOKENS = 256
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class PromptSource:
    """What new prompts are made from: people's prompts, and the sets that none may leak from, by name."""

    seeds: list[str]
    evaluation: dict[str, list[str]]


@dataclass(frozen=True)
class MadePrompts:
    """prompts: in the order they were kept. contamination: a row for each evaluation set."""

    prompts: list[str]
    counts: PromptYield
    contamination: list[dict[str, Any]]


class PromptSettings(SamplingSettings):
    """New prompts as in Self-Instruct (arXiv 2212.10560), sampled as in Self-Rewarding LMs (2401.10020).

    num: new prompts wanted. max_attempts: few-shot prompts tried at most; default 8 × num.
    shots: prompts shown in each, `generated_shots` of them new ones once there are as many.
    prompts_per_attempt: taken at most from what is written after one few-shot prompt.
    max_new_tokens: for each attempt; default 256, or a quarter of the writer's context where that is less.
    similarity, threshold: a new prompt is dropped from this similarity on: ROUGE-L (0.7 in Self-Instruct), or
        the Jaccard similarity of word 3-shingles, for pools of very many prompts; it calls far fewer alike.
    evaluation_sets: files of prompts, or a mapping of names to them; what comes too near one is dropped.
    max_contaminated: stop with an error when more new prompts than this do; default: never.
    keywords: whole words or phrases whose prompts are dropped. min_words, max_words: inclusive.
    template: a jinja2 file or text with the variable `shots`. stop: strings that also end what is written.
    """

    seeds: Any  # file or files of prompts, or a sequence of them
    num: Count
    shots: Count = 8
    generated_shots: Annotated[int, Field(ge=0)] = 2
    prompts_per_attempt: Count = 1
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Count | None = None
    max_attempts: Count | None = None
    similarity: SimilarityName = "rouge_l"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    evaluation_sets: list[Any] | dict[str, Any] = Field(default_factory=list)
    max_contaminated: Annotated[int, Field(ge=0)] | None = None
    keywords: list[str] = Field(default_factory=lambda: list(KEYWORDS))
    min_words: Annotated[int, Field(ge=0)] = 3
    max_words: Count = 150
    punctuation_start: bool = False  # True: prompts may begin with punctuation
    ascii_start: bool = False  # True: prompts must begin with an ASCII character
    template: str | None = None
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _in_order(self) -> PromptSettings:
        if self.generated_shots > self.shots:
            raise ValueError(f"generated_shots={self.generated_shots} are more than shots={self.shots}")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words={self.min_words} is over max_words={self.max_words}")
        return self

    def source(self, base: Path | None = None) -> PromptSource:
        """Seeds, each once, and evaluation sets, read. Raises DataError for rows that hold no prompt."""
        sets = self.evaluation_sets
        named = sets if isinstance(sets, Mapping) else _named(sets)
        seeds = dict.fromkeys(text.strip() for text in _texts(self.seeds, base, "seeds"))
        return PromptSource([*seeds], {name: _texts(rows, base, name) for name, rows in named.items()})

    def few_shot(self, base: Path | None = None) -> FewShotTemplate:
        """The template; a file is read. Raises ConfigError for one that is not valid."""
        text = self.template
        if text is None or "{{" in text or "{%" in text:
            return FewShotTemplate(text)
        beside = base / text if base is not None else Path(text)
        found = beside if beside.exists() else Path(text)
        if not found.is_file():
            raise ConfigError(
                f"template {text!r} is neither a jinja2 text that shows {{{{ shots }}}} nor a file"
            )
        return FewShotTemplate(found.read_text(encoding="utf-8"))

    def recipe(self, context: int | None, shard_size: int) -> Recipe:
        """context: the writer's positions, None where they are not known."""
        room = _DEFAULT_NEW_TOKENS if context is None else min(_DEFAULT_NEW_TOKENS, max(1, context // 4))
        return Recipe(
            num=self.num,
            shots=self.shots,
            generated_shots=self.generated_shots,
            per_attempt=self.prompts_per_attempt,
            max_attempts=self.max_attempts or 0,
            max_new_tokens=self.max_new_tokens or room,
            shard_size=shard_size,
            stop=tuple(self.stop),
            max_contaminated=self.max_contaminated,
        )

    def rules(self) -> FilterRules:
        return FilterRules(
            min_words=self.min_words,
            max_words=self.max_words,
            keywords=tuple(self.keywords),
            punctuation_start=self.punctuation_start,
            ascii_start=self.ascii_start,
            similarity=self.similarity,
            threshold=self.threshold,
        )

    def check_shots(self, source: PromptSource, recipe: Recipe, writer: Writer, base: Path | None) -> None:
        """Raises DataError or ConfigError where no attempt could be made."""
        check_shots(recipe, source.seeds, self.few_shot(base), _fits(writer, recipe))

    def make(
        self,
        writer: Writer,
        recipe: Recipe,
        source: PromptSource,
        folder: Path,
        *,
        seed: tuple[int | str, ...],
        made_by: str,
        base: Path | None,
        reporter: Reporter,
    ) -> MadePrompts:
        """The prompts, with what was written kept in `folder` shard after shard, and gone on with from there.

        made_by: the writer's name, so that another's attempts are not taken for this one's.
        """
        template = self.few_shot(base)
        filters = PromptFilter(
            self.rules(), source.seeds, source.evaluation, frame=template.frame(recipe.shots)
        )
        for report in filters.contamination:
            if report.num_seeds:
                reporter.warn(
                    f"{report.num_seeds:,} seed prompts are too near the evaluation set {report.name}"
                )
        settings = self.model_dump(exclude={"seeds", "evaluation_sets", "filter_fn", "filter_kwargs"})
        made_of = [settings, vars(source), vars(recipe), template.render(["a"] * recipe.shots), seed, made_by]
        search = SelfInstruct(
            recipe,
            source.seeds,
            template,
            filters,
            seed=seed,
            store=AttemptStore(folder, made_of),
            fits=_fits(writer, recipe),
        )
        with reporter.phase("writing prompts", recipe.num, "prompts") as phase:
            prompts = search.run(
                writer,
                on_progress=lambda kept, _: phase.advance(kept, f"{search.counts.attempts:,} attempts"),
            )
        _say(search.counts, reporter)
        return MadePrompts(prompts, search.counts, [report.as_dict() for report in filters.contamination])


def policy_writer(
    env: Environment, policy: Policy, codec: Codec, sampling: Sampling
) -> tuple[PolicyWriter, int]:
    """A model in this process as a writer, and the positions that a prompt and its text may take."""
    limits = [env.generation.token_budget, *([policy.max_length] if policy.max_length else [])]
    return PolicyWriter(env.generator(policy, codec), codec, sampling, context=min(limits)), min(limits)


def write_made(made: MadePrompts, prompts: Path, counts: Path, contamination: Path) -> None:
    """prompts: JSON Lines of {"prompt"}, written last: where it is, the others are too."""
    write_json(counts, made.counts.as_dict())
    write_json(contamination, made.contamination)
    lines = (json.dumps({"prompt": text}, ensure_ascii=False) for text in made.prompts)
    write_text(prompts, "".join(f"{line}\n" for line in lines))


def _say(counts: PromptYield, reporter: Reporter) -> None:
    reporter.lines(counts.lines())
    if counts.kept < counts.wanted:
        reporter.warn(
            f"{counts.kept:,} new prompts instead of {counts.wanted:,}: {counts.attempts:,} attempts gave no "
            "more; raise max_attempts, or see above what was dropped"
        )


def _fits(writer: Writer, recipe: Recipe) -> Fits:
    if not isinstance(writer, PolicyWriter):
        return anything_fits
    return lambda prompt: writer.fits(prompt, recipe.max_new_tokens)


def _named(sets: list[Any]) -> dict[str, Any]:
    return {str(rows) if is_in_files(rows) else f"set {n}": rows for n, rows in enumerate(sets, 1)}


def _texts(rows: Any, base: Path | None, what: str) -> list[str]:
    try:
        return list(each_made(rows, prompt_text, base=base))
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
