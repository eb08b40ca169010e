"""`python -m tests.reliability.kills`: real kills at random instants of every kind of work, and a table.

Each is a SIGKILL from another process, at an instant drawn within a unit of work of the uninterrupted run.
Then the same run is started again, and all it comes to is compared by hash. The last line counts the kills.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.reliability.killing import Case, Kill, Killer, last_line
from tests.reliability.moments import COMMAND

SEED = 6
PER_KIND = 3  # at the least
CASES = (
    Case("generation", "judged", "shard 1"),
    Case("generation", "judged", "shard 2"),
    Case("generation", "judged"),
    Case("judging", "judged", "votes"),
    Case("judging", "judged", "writing"),
    Case("judging", "judged", again=2),
    Case("pairing", "judged", "writing stages/02-own/pairs"),
    Case("pairing", "judged", "after writing"),
    Case("pairing", "judged"),
    Case("reference", "judged"),
    Case("reference", "checked", "scored"),
    Case("reference", "judged", again=1),
    Case("training", "judged", "seed"),  # warm-up
    Case("training", "judged", "own"),  # dropout, and replayed examples
    Case("training", "judged", "own", again=2),
    Case("training", "checked", "against"),  # a moving reference
    Case("training", "big"),
    Case("early stopping", "checked", "scored"),
    Case("early stopping", "checked", "scored"),
    Case("early stopping", "checked", "against"),
    Case("early stopping", "checked", "against", again=1),
    Case("spin", "play", "iteration 1: opponent"),
    Case("spin", "play", "iteration 1: training"),
    Case("spin", "play", "iteration 2: opponent"),
    Case("spin", "play", "iteration 2: training"),
    Case("spin", "play", "iteration 2: training", again=1),
    Case("online", "live", "training"),
    Case("online", "live", "writing"),
    Case("online", "live", again=1),
    Case("checkpoint", "big", "one"),
    Case("checkpoint", "big", "two"),
    Case("checkpoint", "play"),
    Case("training state", "big", "one"),
    Case("training state", "big", "two"),
    Case("training state", "judged", "own"),
    Case("training state", "play", "iteration 2"),
    Case("training state", "checked", "against"),
    Case("report card", "judged", "card of start"),
    Case("report card", "judged", "card of own"),
    Case("report card", "judged", "writing"),
    Case("bookkeeping", "judged", "manifest"),
    Case("bookkeeping", "judged", "items"),
    Case("bookkeeping", "checked", again=1),
    Case(COMMAND, "judged", "own: begun"),
    Case(COMMAND, "judged", "own: after shard 1: votes"),
    Case(COMMAND, "judged", "own: after reference log-probs"),
)
QUICK = (
    Case("generation", "judged"),
    Case("judging", "judged", again=1),
    Case("pairing", "judged"),
    Case("training", "judged", "own"),
    Case("spin", "play", "iteration 2: training"),
    Case("online", "live"),
)
"""For every test run; `test_kills.py` has them."""
HEAD = f"{'no':>3}  {'kind':<15} {'ms':>7} {'resumed s':>9}  {'identical':<9}  what was running"


def table_row(number: int, kill: Kill) -> str:
    identical = "yes" if kill.is_identical else "NO: " + ", ".join(kill.differs_in)
    again = "+" if kill.was_killed_again else " "
    return (
        f"{number:>3}  {kill.kind:<15} {kill.milliseconds:>7.1f} {kill.resumed_seconds:>8.1f}{again}  "
        f"{identical:<9}  {kill.world}/{kill.what}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="draws other instants")
    parser.add_argument("--kind", help="only kills of this kind")
    options = parser.parse_args()
    cases = [(i, case) for i, case in enumerate(CASES, 1) if options.kind in (None, case.kind)]
    started, all_of_them, missed = time.monotonic(), [], []
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), options.seed)
        for number, case in cases:
            kills, is_there = killer.kills(number, case)
            for kill in kills:
                all_of_them.append(kill)
                print(table_row(len(all_of_them), kill), flush=True)
            missed += [] if is_there else [case]
    counts = Counter(kill.kind for kill in all_of_them)
    print(f"+: the process that went on was killed, too. Kills by kind: {dict(counts.most_common())}")
    few = [kind for kind in {case.kind for _, case in cases} if counts[kind] < PER_KIND]
    if few or missed:
        print(f"too few kills of {few}; instants that were never met: {missed}")
    print(f"{time.monotonic() - started:.0f} s")
    print(last_line(all_of_them))
    return int(bool(few) or bool(missed) or not all(kill.is_identical for kill in all_of_them))


if __name__ == "__main__":
    sys.exit(main())
