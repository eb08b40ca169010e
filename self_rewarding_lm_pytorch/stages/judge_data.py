"""Judge training data as a plan describes them, and how they are made: read, set aside, judged in shards,
kept.

judge-data/judged.json            what is judged, as it was read when this began
judge-data/judgments/*.parquet    every vote, stored shard by shard
judge-data.jsonl                  the examples: prompt, response (and vote_score, and where they came from)
held-out.jsonl                    prompts set aside, as `data/judged.py` reads them; none where none are
judge-data.json                   the counts, written last
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.files import is_there, write_json, write_text
from self_rewarding_lm_pytorch.data.judged import judged_row, read_judged
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import is_in_files
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.prepare.judge_agreement import Agreement
from self_rewarding_lm_pytorch.prepare.judge_counts import JudgeDataCounts
from self_rewarding_lm_pytorch.prepare.judge_data import (
    JudgeData,
    JudgeDataMaker,
    JudgeExample,
    set_aside,
    thinned,
    usable_prompts,
    without_prompts,
)
from self_rewarding_lm_pytorch.prepare.judge_votes import VotesInShards
from self_rewarding_lm_pytorch.records import JudgedPrompt
from self_rewarding_lm_pytorch.stages.base import Environment, Settings
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_JUDGMENT, SMALL_JUDGMENT
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.text import judging_codec

EXAMPLES, HELD_OUT, COUNTS, WORK = "judge-data.jsonl", "held-out.jsonl", "judge-data.json", "judge-data"

_FORCED_ROOM = 16  # tokens left for a forced score; it takes fewer
_TYPICAL = 0.9  # so many of the judge prompts have room for a whole judgment


class JudgeDataSettings(Settings):
    """EFT of Self-Rewarding LMs, sections 2.2 and 3.1.1: see `prepare/judge_data.py`.

    Defaults of the paper: agreement in order, English, about a quarter held out (541 of 2,171 prompts). Ours:
    max_share, one vote kept for each response.
    """

    data: Any  # files or rows of judged responses, as data/judged.py reads them
    judge: JudgeSettings = Field(default_factory=JudgeSettings)  # mode sampled: judgments have to be written
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.25  # of the prompts, about, to measure the judge on
    agree: Agreement = "order"  # exact: with the ratings, where people gave points on the judge's scale
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.35  # of the examples, that one score may be; 1: all
    votes_per_response: Annotated[int, Field(ge=1)] = 1
    lang: str | None = "en"  # of Open Assistant's messages; null: all
    without: Any = None  # files or rows of prompts not to judge; the paper's judged prompts are none of IFT's
    num_prompts: Annotated[int, Field(ge=2)] | None = None  # only the first so many are read

    def check(self, env: Environment, stage: str) -> None:
        """Raises ConfigError or DataError for whatever can be known before anything is judged."""
        if self.judge.mode != "sampled":
            raise ConfigError(
                f"judge_data needs judgments that are written, but judge mode {self.judge.mode!r} writes "
                "none; take mode 'sampled'"
            )
        if self.judge.custom is not None:
            raise ConfigError(
                "judge_data needs judgments that the policy writes, but judge.custom is a judge of your own; "
                "leave it out here"
            )
        env.needed_codec(stage)
        self.judge.parser()
        self.judge.judge_template(self._context(env, stage))
        if is_in_files(self.data) and (self.without is None or is_in_files(self.without)):
            self._read(env, JudgeDataCounts())

    def make(
        self,
        env: Environment,
        stage: str,
        folder: Path,
        seed: tuple[int | str, ...],
        *,
        counts_file: str = COUNTS,
    ) -> JudgeData:
        """The data, made by the environment's policy as it is now; what an earlier call stored is reused.

        Raises DataError with the table of counts where no example is left.
        """
        if is_there(folder / counts_file):
            return _stored(folder, counts_file)
        counts = JudgeDataCounts()
        entries = self._kept(env, folder, counts)
        codec = env.needed_codec(stage)
        template = self.judge.judge_template(self._context(env, stage))
        budget = self._budget(env, stage, entries)
        judge = self.judge.build(env, stage, budget=budget, seed=(*seed, "judge data"))
        maker = JudgeDataMaker(
            template,
            judging_codec(codec),
            agree=self.agree,
            votes_per_response=self.votes_per_response,
            max_tokens=env.policy.max_length,
            counts=counts,
        )
        found: list[JudgeExample] = []
        votes = VotesInShards(
            judge,
            codec,
            ShardStore(folder / WORK),
            size=env.generation.shard_size,
            reporter=env.reporter,
        )
        for entry, judgments in votes.on(entries):
            found += maker.examples(entry, judgments)
        counts.tokens, counts.seconds = votes.tokens, votes.seconds
        examples = thinned(found, self.max_share, seed=seed, counts=counts)
        if not examples:
            raise DataError(
                f"stage {stage!r}: no judgment that the model wrote agrees with people's, so there is no "
                "judge data to train on. Where they were lost:\n    " + "\n    ".join(counts.lines())
            )
        _write_rows(folder / EXAMPLES, (example.row() for example in examples))
        write_json(folder / counts_file, counts.as_dict())
        self._warn_of_skew(env, counts)
        return JudgeData(examples, _read_held_out(folder), counts)

    def _kept(self, env: Environment, folder: Path, counts: JudgeDataCounts) -> list[JudgedPrompt]:
        """What to judge: read once, so that a resumed run goes on with it even if the source changed."""
        path = folder / WORK / "judged.json"
        if not is_there(path):
            entries, held_out = self._read(env, counts)
            if held_out:
                _write_rows(folder / HELD_OUT, map(judged_row, held_out))
            write_json(path, {"counts": counts.as_dict(), "prompts": [asdict(entry) for entry in entries]})
        kept = json.loads(path.read_text(encoding="utf-8"))
        vars(counts).update(vars(JudgeDataCounts.from_dict(kept["counts"])))
        lists = ("responses", "worths")
        return [
            JudgedPrompt(**{**entry, **{name: tuple(entry[name]) for name in lists}})
            for entry in kept["prompts"]
        ]

    def _read(
        self, env: Environment, counts: JudgeDataCounts
    ) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
        """(to judge, held out), with what was left out of each counted."""
        data = read_judged(self.data, base=env.base, lang=self.lang)
        env.reporter.say_once(f"  judge data: {data.described()}")
        judged = data.prompts[: self.num_prompts]
        counts.prompts, counts.left_out = len(judged), data.left_out
        self._check_ratings(judged)
        if self.without is not None:
            judged = without_prompts(judged, each_made(self.without, prompt_text, base=env.base), counts)
        rest, held_out = set_aside(judged, self.held_out)
        counts.held_out = len(held_out)
        usable = usable_prompts(rest, self.agree, counts)
        if not usable:
            needs = "no two responses of different worth" if self.agree == "order" else "no ratings"
            raise DataError(
                f"judge_data: {data.described()} {len(held_out):,} of the prompts are held out, and the "
                f"other {len(rest):,} have {needs}, so no judgment could be compared with people's (agree: "
                f"{self.agree})"
            )
        return usable, held_out

    def _check_ratings(self, judged: Sequence[JudgedPrompt]) -> None:
        if self.agree != "exact" or self.judge.score_range is None:
            return
        low, high = self.judge.score_range
        for entry in judged:
            outside = [worth for worth in entry.worths if not low <= worth <= high]
            if entry.is_rated and outside:
                raise DataError(
                    f"judge_data: the rating {outside[0]:g} of a response to {entry.prompt!r:.60} is outside "
                    f"the judge's scale from {low:g} to {high:g}, so no score could equal it; rescale the "
                    "ratings, change judge.score_range, or take agree: order"
                )

    def _context(self, env: Environment, stage: str) -> int | None:
        """The judge's, in tokens; a served one's is not known."""
        return None if self.judge.server is not None else self.judge.judge_model(env, stage)[0].max_length

    def _budget(self, env: Environment, stage: str, entries: Sequence[JudgedPrompt]) -> int:
        """Tokens of a judgment: lowered, to 64 at first, until nine in ten judge prompts fit before it."""
        wanted, context = self.judge.max_new_tokens or DEFAULT_JUDGMENT, self._context(env, stage)
        if context is None:
            return wanted
        codec = self.judge.judge_model(env, stage)[1]
        template = self.judge.judge_template(context)
        lengths = sorted(
            len(codec.prompt_ids(template.render(entry.prompt, response).text))
            for entry in entries
            for response in entry.responses
        )
        typical = lengths[math.ceil(_TYPICAL * len(lengths)) - 1]
        room = context - typical - (_FORCED_ROOM if self.judge.unparsed == "force" else 0)
        budget = min(wanted, max(room, min(wanted, SMALL_JUDGMENT)))
        if budget < wanted:
            env.reporter.say_once(
                f"stage {stage!r}: judgments get {budget} tokens instead of {wanted}: the judge's context is "
                f"{context}, and nine in ten judge prompts have up to {typical}; what does not fit is counted"
            )
        return budget

    def _warn_of_skew(self, env: Environment, counts: JudgeDataCounts) -> None:
        score, most = counts.scores.most_common(1)[0]
        if most > self.max_share * counts.examples + 1e-9:
            env.reporter.warn(
                f"score {score} is {most / counts.examples:.0%} of the judge examples, over max_share "
                f"{self.max_share:g}: so few examples have other scores that thinning it further would cost "
                "more than half of all"
            )


def _stored(folder: Path, counts_file: str) -> JudgeData:
    """What an earlier `make` wrote."""
    lines = (folder / EXAMPLES).read_text(encoding="utf-8").split("\n")
    examples = [JudgeExample.from_row(json.loads(line)) for line in lines if line]
    counts = JudgeDataCounts.from_dict(json.loads((folder / counts_file).read_text(encoding="utf-8")))
    return JudgeData(examples, _read_held_out(folder), counts)


def _read_held_out(folder: Path) -> list[JudgedPrompt]:
    path = folder / HELD_OUT
    return read_judged(path).prompts if is_there(path) else []


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
