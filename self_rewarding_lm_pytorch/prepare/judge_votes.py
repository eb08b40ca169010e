"""A judge's votes on people's responses, stored shard by shard, so that making judge data can be cut off
anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, JudgedPrompt, Judgment, Prompt
from self_rewarding_lm_pytorch.text import Codec


class VotesInShards:
    """Judges prompts, `size` of them in a shard. Shards that are stored are read and not judged again.

    codec: of the policy; it gives prompts and responses the ids that a candidate has.
    """

    def __init__(
        self, judge: Judge, codec: Codec, store: ShardStore, *, size: int, reporter: Reporter
    ) -> None:
        self._judge = judge
        self._codec = codec
        self._store = store
        self._size = size
        self._reporter = reporter
        self.tokens = 0  # sampled, over all shards read so far
        self.seconds = 0.0

    def on(self, entries: Sequence[JudgedPrompt]) -> Iterator[tuple[JudgedPrompt, list[Judgment]]]:
        """Every prompt with the judgments of its responses, in order."""
        first = 0
        for shard in count():
            if first >= len(entries):
                return
            own = entries[first : first + self._size]
            if not self._store.has(Judgment, shard):
                self._judge_shard(shard, own)
            notes = self._store.notes(Judgment, shard)
            self.tokens += notes["tokens"]
            self.seconds += notes["seconds"]
            stored = self._store.read(Judgment, shard)
            own = entries[first : first + len({judgment.prompt_index for judgment in stored})]
            if [entry.index for entry in own for _ in entry.responses] != [j.prompt_index for j in stored]:
                raise CheckpointError(
                    f"{self._store.path(Judgment, shard)} holds the judgments of other responses than the "
                    f"data have, so nothing can be made from them; remove {self._store.folder} to judge all "
                    "of it again"
                )
            first, judgments = first + len(own), iter(stored)
            for entry in own:
                yield entry, [next(judgments) for _ in entry.responses]

    def _judge_shard(self, shard: int, entries: Sequence[JudgedPrompt]) -> None:
        shown = [pair for entry in entries for pair in self._shown(entry)]
        tokens, started = 0, time.monotonic()
        total, unit = len(shown) * max(1, self._judge.num_votes), "votes"
        with self._reporter.phase(f"judge data, shard {shard + 1}: {unit}", total, unit) as phase:

            def progress(done: int, sampled: int) -> None:
                nonlocal tokens
                tokens += sampled
                phase.advance(done)

            judgments = self._judge.judge(shown, on_progress=progress)
        notes = {"seconds": time.monotonic() - started, "tokens": tokens}
        self._store.write(Judgment, shard, judgments, notes)

    def _shown(self, entry: JudgedPrompt) -> list[tuple[Prompt, Candidate]]:
        prompt = Prompt(entry.index, entry.prompt, self._codec.prompt_ids(entry.prompt))
        candidates = [
            Candidate(entry.index, 0, place, self._ids(entry, text), text, "eos", 0, "people")
            for place, text in enumerate(entry.responses)
        ]
        return [(prompt, candidate) for candidate in candidates]

    def _ids(self, entry: JudgedPrompt, response: str) -> tuple[int, ...]:
        return self._codec.response_ids(entry.prompt, response)
