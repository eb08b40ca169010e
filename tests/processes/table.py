"""`python -m tests.processes.table`: each stage's last loss on one process, on two, and sharded on two."""

from __future__ import annotations

import tempfile
from pathlib import Path

from self_rewarding_lm_pytorch.pipeline import run
from tests.processes.launch import LAUNCHERS, final_weights, losses, plan_file, train, without_dropout
from tests.stages.worlds import QUIET

NAMES = ("seed", "given", "play", "own", "live")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stages = without_dropout(*NAMES)
        runs = {"one process": Path(folder) / "one"}
        run(plan_file(runs["one process"], *stages), reporter=QUIET)
        for name, launcher in LAUNCHERS.items():
            runs[name] = Path(folder) / name
            assert train(plan_file(runs[name], *stages), launcher=launcher)[0] == 0
        runs["sharded"] = Path(folder) / "sharded"
        assert train(plan_file(runs["sharded"], *stages, sharding="full"))[0] == 0
        found = {
            name: dict((line[0], line[2]) for line in losses(path / "run")) for name, path in runs.items()
        }
        print("stage     " + "".join(f"{name:>20}" for name in found))
        for stage in found["one process"]:
            print(f"{stage:<10}" + "".join(f"{by_stage[stage]:>20.9f}" for by_stage in found.values()))
        weights = {name: final_weights(path / "run") for name, path in runs.items()}
        alone = weights["one process"]
        apart = (
            max(float((tensor - alone[key]).abs().max()) for key, tensor in own.items())
            for own in weights.values()
        )
        print("weights   " + "".join(f"{distance:>20.1e}" for distance in apart))


if __name__ == "__main__":
    main()
