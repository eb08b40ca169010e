"""What self_reward and external_reward share: sample, judge, pair, train; only the judge differs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from self_rewarding_lm_pytorch.data.lazy import Joined
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.answers_only import answers_only
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.preferences.pairing import best_and_worst
from self_rewarding_lm_pytorch.preferences.search import PairSearch
from self_rewarding_lm_pytorch.preferences.shards import Work
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Example, Judgment, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.budgets import Budgets
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.early_stopping import AnyStopper
from self_rewarding_lm_pytorch.stages.items import EXAMPLES, ItemTokens
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.pair_items import pair_items
from self_rewarding_lm_pytorch.stages.pairing import PairingSettings
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.stages.prompts import kept_prompts, made_by, read_prompts
from self_rewarding_lm_pytorch.stages.sampling import CandidateSettings
from self_rewarding_lm_pytorch.stages.temporal import TemporalPairs, TemporalSettings
from self_rewarding_lm_pytorch.stages.training import check_stopper
from self_rewarding_lm_pytorch.text import UNFINISHED, reasoning_of


class JudgedStage(StageConfig):
    """Own samples, judged; best against worst; preference training."""

    prompts: Any
    num_prompts: Annotated[int, Field(ge=1)] | None = None  # only the first so many
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None  # longer prompts are left out
    max_seq_len: Annotated[int, Field(ge=2)] | None = None  # prompt + response
    shard_size: Annotated[int, Field(ge=1)] | None = None  # default: generation.shard_size
    candidates: CandidateSettings = Field(default_factory=CandidateSettings)
    pairing: PairingSettings = Field(default_factory=PairingSettings)
    train: PairTraining = Field(default_factory=PairTraining)
    replay: Any = None  # supervised data, train.replay_batch_size of them in each step
    max_item_tokens: ItemTokens = None  # of replay
    early_stopper: AnyStopper = None

    _read: list[Prompt] | None = PrivateAttr(default=None)

    @abstractmethod
    def budgets(self, env: Environment, prompts: list[Prompt]) -> Budgets:
        """Tokens for responses and, where there are any, judgments."""

    @abstractmethod
    def judge_for(self, run: StageRun, budgets: Budgets) -> Judge: ...

    def check(self, env: Environment) -> None:
        super().check(env)
        check_stopper(self.early_stopper, self.train, env, self.name)
        EXAMPLES.check(env, self.name, self.replay, "replay", max_tokens=self.max_item_tokens)
        if made_by(self.prompts) not in (None, *env.checkpoints):
            return  # prompts that are yet to be written are looked at when the stage begins
        self.told_budgets(env, self.read_prompts(env))

    def told_budgets(self, env: Environment, prompts: list[Prompt]) -> Budgets:
        """`budgets`; what they lower is said once."""
        budgets = self.budgets(env, prompts)
        for note in budgets.notes:
            env.reporter.say_once(note)
        return budgets

    def llm_budgets(self, judge: JudgeSettings, env: Environment, prompts: list[Prompt]) -> Budgets:
        """Where a language model judges."""
        return judge.budgets(
            env,
            self.name,
            prompts,
            response=self.candidates.max_new_tokens,
            max_seq_len=self.max_seq_len,
        )

    def llm_judge(self, judge: JudgeSettings, run: StageRun, budgets: Budgets) -> Judge:
        num, budget = self.candidates.num, budgets.judgment
        built = judge.build(run.env, self.name, budget=budget, seed=run.seed, num_candidates=num)
        return self.answers_alone(run, built)

    def answers_alone(self, run: StageRun, judge: Judge) -> Judge:
        """The judge, shown no reasoning where the plan tells it from answers."""
        return answers_only(judge, run.env.codec, reasoning_of(run.env.codec))

    def count_unfinished(self, run: StageRun, outcome: StageOutcome) -> None:
        """How many candidates have no score because their reasoning never ended, where that is told apart."""
        if reasoning_of(run.env.codec) is None:
            return
        shards = (run.store.read(Judgment, shard) for shard in range(run.store.num_shards(Judgment)))
        num = sum(judgment.reason == UNFINISHED for own in shards for judgment in own)
        outcome.metrics = {**outcome.metrics, "unfinished_reasoning": float(num)}
        if num:
            run.env.reporter.say(
                f"  {num:,} of {outcome.counts.candidates:,} responses have no score: {UNFINISHED}"
            )

    def past_models(self) -> dict[str, str]:
        maker = made_by(self.prompts)
        return {} if maker is None else {"prompts": maker}

    def read_prompts(self, env: Environment) -> list[Prompt]:
        """The prompts, read once."""
        if self._read is None:
            self._read = read_prompts(
                env, self.prompts, self.name, limit=self.num_prompts, max_tokens=self.max_prompt_tokens
            )
        return self._read

    def search(
        self,
        run: StageRun,
        prompts: list[Prompt],
        *,
        num_pairs: int | None,
        shard_size: int,
        reporter: Reporter,
    ) -> PairSearch:
        budgets = self.told_budgets(run.env, prompts)
        return PairSearch(
            prompts,
            self.sampler(run, budgets),
            self.judge_for(run, budgets),
            self.pairing.rule(),
            run.store,
            num_pairs=num_pairs,
            shard_size=self.shard_size or shard_size,
            seed=run.seed,
            reporter=reporter,
            recycle=self.pairing.recycle,
            watcher=run.watch,
        )

    def read_replay(self, run: StageRun) -> Sequence[Example]:
        if self.replay is None:
            return ()
        return EXAMPLES.of(run, self.replay, "replay", max_tokens=self.max_item_tokens)

    def sampler(self, run: StageRun, budgets: Budgets) -> CandidateSampler:
        """Of the run's policy, whose candidates carry the run's name."""
        return CandidateSampler(
            run.env.generator(),
            run.env.codec,
            num=self.candidates.num,
            sampling=self.candidates.sampling(),
            max_new_tokens=budgets.response,
            max_seq_len=self.max_seq_len,
            policy_name=run.name,
            seed=run.seed,
        )


class RewardedStage(JudgedStage):
    """All pairs are made by the policy as the stage begins, then trained on.

    start_from: a stage of this run, or initial: training begins from its weights instead of those that made
        the pairs, as ReST-EM does (2312.06585). The reference stage_start is then that model.
    temporal: rejected answers from a past model, chosen ones from a future one too (2508.06026).
    """

    num_pairs: Annotated[int, Field(ge=1)] | None = None  # None: every prompt is visited once
    start_from: str | None = None
    temporal: TemporalSettings | None = None

    def past_models(self) -> dict[str, str]:
        named = super().past_models()
        named |= {} if self.start_from is None else {"start_from": self.start_from}
        return named if self.temporal is None else {**named, "temporal.past": self.temporal.past}

    def check(self, env: Environment) -> None:
        super().check(env)
        compares = getattr(getattr(self, "judge", None), "mode", "") == "pairwise"
        if compares and (self.pairing.recycle or (self.temporal and self.temporal.future)):
            raise ConfigError(
                "a judge of mode pairwise compares all candidates of a visit at once, but pairing.recycle "
                "and temporal.future add candidates to judged ones; take a judge that scores, or leave those "
                "out"
            )
        if self.temporal is not None:
            self._check_temporal()

    def _check_temporal(self) -> None:
        pairing = self.pairing
        if pairing.pick is not best_and_worst or pairing.rho:
            without = "pairing.pick" if pairing.pick is not best_and_worst else f"pairing.rho {pairing.rho}"
            raise ConfigError(
                "temporal takes the best of the present and future answers and the worst of the past ones, "
                f"so {without} would have no effect; leave one of them out"
            )
        if pairing.recycle:
            raise ConfigError(
                f"temporal and pairing.recycle {pairing.recycle} both say which further candidates a prompt "
                "gets; leave one of them out"
            )

    def run(self, run: StageRun) -> StageOutcome:
        prompts = kept_prompts(run, self.read_prompts(run.env))
        replay = self.read_replay(run)
        pairs, work = self.find_pairs(run, prompts)
        certain = self.certainties(run, prompts, pairs)
        items = pair_items(run, "pairs", Joined(pairs, self.further_pairs(run, prompts)), certain)
        if self.start_from is not None:
            run.env.return_to(self.start_from)
        outcome = train_on_pairs(
            run,
            items,
            self.train,
            replay=replay,
            early_stopper=self.early_stopper,
        )
        outcome.add(work)
        self.count_unfinished(run, outcome)
        return outcome

    def find_pairs(self, run: StageRun, prompts: list[Prompt]) -> tuple[Sequence[PreferencePair], Work]:
        """Own samples' pairs, stored, and what the search for them came to."""
        if self.temporal is not None:
            return TemporalPairs(self, self.temporal, run, prompts).find()
        search = self.search(
            run,
            prompts,
            num_pairs=self.num_pairs,
            shard_size=run.env.generation.shard_size,
            reporter=run.env.reporter,
        )
        return search.run(), search.work

    def certainties(
        self, run: StageRun, prompts: list[Prompt], pairs: Sequence[PreferencePair]
    ) -> Sequence[float]:
        """How far each pair's label is believed; here, with none, in full."""
        return ()

    def further_pairs(self, run: StageRun, prompts: list[Prompt]) -> Sequence[PreferencePair]:
        """Pairs of another kind to train on beside those, made from what is stored; none here."""
        return ()
