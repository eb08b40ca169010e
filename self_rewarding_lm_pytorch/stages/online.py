"""Online AI feedback (2402.04792): the policy as it is answers, is judged and is trained on that at once."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.items import preference_examples
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.search import VISITS_PER_PAIR, PairSearch
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import PairExample, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.budgets import Budgets
from self_rewarding_lm_pytorch.stages.external_reward import ExternallyJudgedStage
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.pairs import check_start, pair_term, replay_terms
from self_rewarding_lm_pytorch.stages.prompts import kept_prompts
from self_rewarding_lm_pytorch.stages.references import live_reference
from self_rewarding_lm_pytorch.stages.resuming import training_states
from self_rewarding_lm_pytorch.stages.sampling import CandidateSettings
from self_rewarding_lm_pytorch.stages.training import run_training
from self_rewarding_lm_pytorch.training.batching import steps_per_epoch
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.objectives import FreshTerm
from self_rewarding_lm_pytorch.training.parts import Part, Resumable
from self_rewarding_lm_pytorch.training.reference import MovingReference
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings


class OnlineCandidates(CandidateSettings):
    """Two answers, as in the paper; how they are sampled is our choice, the paper's is not public."""

    num: Annotated[int, Field(ge=2)] = 2
    temperature: Annotated[float, Field(ge=0)] = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class OnlineStage(ExternallyJudgedStage):
    """The answers are judged by a model (`judge`: another, or the policy itself), a reward or a function.

    The reference is the policy as the stage begins, a second model in memory, unless a plan says otherwise.
    """

    kind: Literal["online"] = "online"
    sample_every: Annotated[int, Field(ge=1)] = 1  # optimizer steps on pairs of one policy
    judge: JudgeSettings | None = None
    candidates: OnlineCandidates = Field(default_factory=OnlineCandidates)

    def check(self, env: Environment) -> None:
        super().check(env)
        if env.is_sharded and self.train.reference == "adapter_off":
            raise ConfigError(
                "reference adapter_off is asked at each step of an online stage, but with sharding: full no "
                "process has all of the policy's weights then; take stage_start or initial, or leave "
                "sharding out"
            )
        if self.pairing.recycle:
            raise ConfigError(
                f"pairing.recycle is {self.pairing.recycle}, but stage {self.name!r} is online: by the time "
                "it came back to a prompt, another policy would answer; leave it out"
            )

    def check_reward(self) -> None:
        named = [name for name in ("judge", "reward", "reward_model") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"stage {self.name!r} needs one of judge (a model that reads and judges; {{}} is the policy "
                "itself), reward (a function over text) and reward_model (over ids), but has "
                f"{' and '.join(named) or 'none'}"
            )

    def budgets(self, env: Environment, prompts: list[Prompt]) -> Budgets:
        if self.judge is None:
            return super().budgets(env, prompts)
        return self.llm_budgets(self.judge, env, prompts)

    def judge_for(self, run: StageRun, budgets: Budgets) -> Judge:
        if self.judge is None:
            return super().judge_for(run, budgets)
        return self.llm_judge(self.judge, run, budgets)

    def run(self, run: StageRun) -> StageOutcome:
        prompts = kept_prompts(run, self.read_prompts(run.env))
        replay = self.read_replay(run)
        train = self.train
        num_steps = train.num_steps or train.epochs * steps_per_epoch(len(prompts), train.batch_size)
        settings = train.model_copy(update={"num_steps": num_steps})
        # No more is judged at once than a block is short of.
        block = min(self.sample_every * train.batch_size, run.env.generation.shard_size)
        search = self.search(run, prompts, num_pairs=None, shard_size=block, reporter=Reporter(quiet=True))
        fresh = _FreshPairs(run, search, settings, self.sample_every)
        terms = [fresh.term, *replay_terms(run, replay, settings)]
        parts: dict[str, Resumable] = {"fresh": fresh}
        if isinstance(fresh.reference, MovingReference):
            parts["reference"] = fresh.reference
        hooks = Hooks(before_step=fresh.before_step, after_step=fresh.reference.update, parts=parts)
        states = training_states(run, "train", len(prompts), num_steps)
        try:
            outcome = run_training(
                run, terms, settings, hooks=hooks, early_stopper=self.early_stopper, states=states
            )
        except BaseException:
            with processes.apart():  # the others may be elsewhere
                search.write_skipped()
            raise
        search.write_skipped()
        run.env.reporter.lines(search.work.counts.lines())
        outcome.add(search.work)
        outcome.num_pairs = search.work.counts.pairs
        outcome.train_seconds -= fresh.seconds
        self.count_unfinished(run, outcome)
        return outcome


class _FreshPairs:
    """The pairs of the block of steps under way."""

    def __init__(self, run: StageRun, search: PairSearch, settings: PreferenceSettings, every: int) -> None:
        self.reference = live_reference(run, settings)
        self._pairs: list[PairExample] = []
        term = pair_term(run, "pairs", self._pairs, settings, self.reference)
        self.term: FreshTerm[Any, Any] = FreshTerm(**vars(term), every=every)
        self._run = run
        self._search = search
        self._settings = settings
        self._every = every
        self._is_short = False
        self._num_blocks = 0  # begun
        self.seconds = 0.0  # spent in `before_step`

    def before_step(self, step: int) -> bool:
        """Samples and judges anew where a block begins; False where no two answers differ any more."""
        if step % self._every:
            return True
        with self._run.env.parallel.whole():
            return self._sampled(step)

    def _sampled(self, step: int) -> bool:
        started = time.monotonic()
        wanted = self._begin_block()
        self.seconds += time.monotonic() - started
        self._search.check_found()
        if not self._pairs:
            self._run.env.reporter.warn(
                f"training ends after {step} of {self._settings.num_steps} steps: none of the next "
                f"{VISITS_PER_PAIR * wanted} prompts gave answers that the judge tells apart, so nothing is "
                "left to learn from it"
            )
            return False
        if len(self._pairs) < wanted and not self._is_short:
            self._is_short = True
            self._run.env.reporter.say(
                f"  at step {step + 1} {len(self._pairs)} of {wanted} pairs could be had, as the judge tells "
                "few answers apart; steps are smaller where that happens (it is not said again)"
            )
        if step == 0:
            check_start(self._run, self.term, self._settings)
        return True

    def _begin_block(self) -> int:
        """The next block's pairs; how many were asked for."""
        step = self._num_blocks * self._every
        left = (self._settings.num_steps or step + 1) - step
        wanted = min(self._every, left) * self._settings.batch_size
        self._pairs[:] = preference_examples(self._search.more(wanted))
        self._num_blocks += 1
        return wanted

    def state(self) -> Part:
        shards = self._run.store.num_shards(PreferencePair)
        values = {"blocks": self._num_blocks, "shards": shards, "is_short": self._is_short}
        return Part(values={**values, "seconds": self.seconds})

    def resume(self, part: Part) -> None:
        """Goes through the blocks again, from their shards alone: the policy of then is gone."""
        stored, needed = self._run.store.num_shards(PreferencePair), part.values["shards"]
        if stored < needed:
            raise CheckpointError(
                f"it was trained on the pairs of {needed} shards, but only the first {stored} are in "
                f"{self._run.store.folder / 'pairs'}"
            )
        for _ in range(part.values["blocks"]):
            self._begin_block()
        self._is_short, self.seconds = part.values["is_short"], part.values["seconds"]
