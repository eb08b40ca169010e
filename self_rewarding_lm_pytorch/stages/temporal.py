"""Temporal self-rewarding (2508.06026): what is rejected comes from the past, what is chosen from the future.

As answers improve, chosen and rejected ones become equal and DPO's gradient vanishes. Anchored rejection
takes the rejected answers from a past model. Future-guided choice trains a temporary next model on those
pairs, lets it answer too, and trains the present model on the pairs that come of it. The paper's text gives
this much; that the chosen answer is the best of the present's and the future's own is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.data.files import is_there, write_folder
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.preferences.anchored import AnchoredRule, MixedSampler
from self_rewarding_lm_pytorch.preferences.candidates import Sampler
from self_rewarding_lm_pytorch.preferences.remembered import RememberedJudge, RememberedSampler, StoredVisits
from self_rewarding_lm_pytorch.preferences.search import PairSearch
from self_rewarding_lm_pytorch.preferences.shards import Work
from self_rewarding_lm_pytorch.records import Candidate, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Settings, StageRun
from self_rewarding_lm_pytorch.stages.pair_items import pair_items
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.rewarded import RewardedStage


class TemporalSettings(Settings):
    """Where answers come from besides the policy as it is."""

    past: str  # who writes what is rejected: a stage of this run, or initial
    future: bool = True  # whether a temporary next model writes candidates to choose too


class TemporalPairs:
    """Makes a stage's pairs so."""

    def __init__(
        self, stage: RewardedStage, settings: TemporalSettings, run: StageRun, prompts: list[Prompt]
    ) -> None:
        self._stage = stage
        self._settings = settings
        self._run = run
        self._prompts = prompts
        self._budgets = stage.told_budgets(run.env, prompts)
        self._names = {who: f"{run.name}, {who}" for who in ("present", "past", "future")}

    def find(self) -> tuple[Sequence[PreferencePair], Work]:
        """The pairs to train on, and what both searches came to; counts are the last one's."""
        run = self._run
        past = run.env.past_policy(self._settings.past)
        both = MixedSampler([self._sampler("present", run.env.policy), self._sampler("past", past)])
        judge = self._stage.judge_for(run, self._budgets)
        if not self._settings.future:
            return self._search(both, judge, run.store, choose=("present",))
        anchored = ShardStore(run.folder / "anchored")
        pairs, before = self._search(both, judge, anchored, choose=("present",))
        future = self._future(pairs)
        sampler = MixedSampler([RememberedSampler(both, anchored), self._sampler("future", future)])
        judge = RememberedJudge(judge, anchored)
        pairs, work = self._search(sampler, judge, run.store, choose=("present", "future"))
        work.tokens_generated += before.tokens_generated - _tokens_of_both(anchored, run.store)
        work.generate_seconds += before.generate_seconds
        work.judge_seconds += before.judge_seconds
        return pairs, work

    def _sampler(self, who: str, policy: Policy) -> Sampler:
        env = replace(self._run.env, policy=policy)
        run = replace(self._run, env=env, name=self._names[who])
        return self._stage.sampler(run, self._budgets)

    def _search(
        self, sampler: Sampler, judge: Judge, store: ShardStore, *, choose: Sequence[str]
    ) -> tuple[Sequence[PreferencePair], Work]:
        stage, run = self._stage, self._run
        chosen_by = frozenset(self._names[who] for who in choose)
        search = PairSearch(
            self._prompts,
            sampler,
            judge,
            AnchoredRule(stage.pairing.rule(), chosen_by, frozenset({self._names["past"]})),
            store,
            num_pairs=stage.num_pairs,
            shard_size=stage.shard_size or run.env.generation.shard_size,
            seed=run.seed,
            reporter=run.env.reporter,
            recycle=stage.pairing.recycle,
            watcher=run.watch,
        )
        return search.run(), search.work

    def _future(self, pairs: Sequence[PreferencePair]) -> Policy:
        """The policy as training on these pairs would leave it; the policy itself stays as it is."""
        run, policy = self._run, self._run.env.policy
        folder = run.folder / "future"
        if not is_there(folder):
            run.env.reporter.say("  the temporary next model")
            present = {name: tensor.detach().clone() for name, tensor in policy.module.state_dict().items()}
            metrics = run.metrics.aside("future")
            if self._stage.start_from is not None:
                run.env.return_to(self._stage.start_from)
            train_on_pairs(
                replace(run, metrics=metrics, name=self._names["future"]),
                pair_items(run, "future", pairs),
                self._stage.train,
                replay=self._stage.read_replay(run),
                steps_folder="future-steps",
            )
            write_folder(folder, policy.save)
            policy.module.load_state_dict(present)
        future = policy.copy()
        future.restore(folder)
        return future


def _tokens_of_both(before: ShardStore, after: ShardStore) -> int:
    """Tokens of the candidates that the second search took over from the first and counts again."""
    known = StoredVisits(before)
    return sum(
        len(candidate.ids)
        for shard in range(after.num_shards(Candidate))
        for candidate in after.read(Candidate, shard)
        if known.judgment(candidate) is not None
    )
