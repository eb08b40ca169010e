"""A stage that makes prompts: what it leaves for later stages, how it resumes, what it refuses at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.prepare.attempts import Attempt, AttemptStore
from tests.helpers import Script, byte_codec
from tests.servers import Asked, Reply, chat, serving
from tests.stages.worlds import QUIET, weights, without_seconds, written_summary

SEEDS = [f"say {name} again" for name in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
SHOWN = "{{ shots | join(' ') }}\1"  # the model writes after its marker


SERVER = {"url": "http://localhost:1/v1", "model": "m", "api_key_env": None}


def script(text: bytes = b" tell ?????? why ??????", *, wild: bytes = b"abcdefgh") -> nn.Module:
    return Script(text, wild=wild)


def factory() -> tuple[nn.Module, Any]:
    return script(), byte_codec()


def other_writer() -> tuple[nn.Module, Any]:
    return script(b" sing ?????? for ??????"), byte_codec()


def wordless() -> tuple[nn.Module, Any]:
    return script(b"so"), byte_codec()


def plan(folder: Path, *, model: str = "factory", **stage: Any) -> dict[str, Any]:
    settings = {"seeds": SEEDS, "num": 5, "template": SHOWN, "temperature": 1.0, "top_p": None, **stage}
    return {
        "model": f"tests.stages.test_self_instruct:{model}",
        "run": folder,
        "generation": {"shard_size": 2},
        "stages": [{"name": "new", "kind": "self_instruct", **settings}],
    }


def made(folder: Path) -> list[str]:
    rows = read_rows(folder / "stages" / "01-new" / "prompts.jsonl")
    return [prompt_text(row, number) for number, row in enumerate(rows)]


def read_json(folder: Path, name: str) -> Any:
    return json.loads((folder / "stages" / "01-new" / name).read_text(encoding="utf-8"))


def test_the_stage_leaves_prompts_that_later_stages_can_read(tmp_path: Path) -> None:
    summary = run(plan(tmp_path / "run"), reporter=QUIET)
    prompts = made(tmp_path / "run")
    assert len(prompts) == len(set(prompts)) == 5
    assert all(prompt.startswith("tell ") and " why " in prompt for prompt in prompts)
    counts = read_json(tmp_path / "run", "yield.json")
    assert (counts["wanted"], counts["kept"]) == (5, 5)
    assert read_json(tmp_path / "run", "contamination.json") == []
    (stage,) = summary["stages"]
    assert stage["metrics"]["prompts_kept"] == 5
    assert stage["tokens_generated"] == counts["tokens"] >= 5 * len(prompts[0])
    after = {
        "name": "answers",
        "kind": "external_reward",
        "prompts": str(tmp_path / "run" / "stages" / "01-new" / "prompts.jsonl"),
        "candidates": {"num": 2, "temperature": 1.0, "max_new_tokens": 4},
        "reward": "tests.stages.worlds:reward",
        "train": {"batch_size": 2, "learning_rate": 1e-2},
    }
    model = "tests.stages.worlds:factory"
    later = run({"model": model, "run": tmp_path / "later", "stages": [after]}, reporter=QUIET)
    assert later["stages"][0]["yield"]["prompts"] == 5


def test_the_policy_stays_as_it_is(tmp_path: Path) -> None:
    module = script()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run({**plan(tmp_path), "model": module, "tokenizer": byte_codec()}, reporter=QUIET)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def cut_off(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the plan until its second shard is to be stored."""
    whole = AttemptStore.write

    def write(store: AttemptStore, shard: int, attempts: list[Attempt]) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        whole(store, shard, attempts)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AttemptStore, "write", write)
        run(settings, reporter=QUIET)


def test_a_run_cut_off_goes_on_to_the_same_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(plan(tmp_path / "whole"), reporter=QUIET)
    cut = tmp_path / "cut"
    cut_off(plan(cut), monkeypatch)
    assert written_summary(cut)["status"] == "interrupted"
    shards = cut / "stages" / "01-new" / "attempts"
    before = {path.name: path.read_bytes() for path in shards.glob("shard-*.jsonl")}
    assert list(before) == ["shard-00000.jsonl"]
    resumed = run(plan(cut), reporter=QUIET)
    assert made(cut) == made(tmp_path / "whole")
    assert (shards / "shard-00000.jsonl").read_bytes() == before["shard-00000.jsonl"]
    assert without_seconds(resumed) == without_seconds(whole) == without_seconds(written_summary(cut))
    assert weights(cut) == weights(tmp_path / "whole")


def test_the_seed_alone_decides_what_is_written(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        run({**plan(tmp_path / name), "seed": seed}, reporter=QUIET)
    assert made(tmp_path / "one") == made(tmp_path / "same")
    assert not set(made(tmp_path / "one")) & set(made(tmp_path / "other"))


def test_another_model_can_write(tmp_path: Path) -> None:
    run(plan(tmp_path, writer="tests.stages.test_self_instruct:other_writer"), reporter=QUIET)
    assert all(prompt.startswith("sing ") for prompt in made(tmp_path))


def test_a_served_model_can_write(tmp_path: Path) -> None:
    pytest.importorskip("openai")

    def answer(asked: Asked, before: int) -> Reply:
        number = asked.body["seed"] % 1000
        return chat(f" sing{number} of{number} bees{number}\n10. and more")

    with serving(answer) as server:
        writer = {"server": {**SERVER, "url": server.url}}
        run(plan(tmp_path, writer=writer, template=None), reporter=QUIET)
    assert all(re.fullmatch(r"sing(\d+) of\1 bees\1", prompt) for prompt in made(tmp_path))
    assert all(asked.text.endswith("\n9.") and "\n8. " in asked.text for asked in server.asked)
    assert {asked.body["temperature"] for asked in server.asked} == {1.0}
    assert read_json(tmp_path, "yield.json")["tokens"] is None


def test_seeds_and_evaluation_sets_come_from_files_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("\n".join([*SEEDS, "open the exam now"]))
    (tmp_path / "exam.jsonl").write_text('{"instruction": "open the exam now"}\n')
    (tmp_path / "shown.jinja").write_text(SHOWN)
    stage = {"seeds": "seeds.txt", "evaluation_sets": ["exam.jsonl"], "template": "shown.jinja"}
    settings = {**plan(tmp_path, **stage), "run": str(tmp_path / "run")}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(settings))
    run(tmp_path / "plan.yaml", reporter=QUIET)
    (report,) = read_json(tmp_path / "run", "contamination.json")
    assert (report["set"], report["size"], report["seeds_too_near"]) == ("exam.jsonl", 1, 1)


def test_a_run_goes_on_with_the_seeds_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "seeds.txt"
    file.write_text("\n".join(SEEDS))
    run(plan(tmp_path / "whole", seeds=str(file)), reporter=QUIET)
    cut_off(plan(tmp_path / "cut", seeds=str(file)), monkeypatch)
    file.write_text("\n".join(f"sing {seed}" for seed in SEEDS))
    run(plan(tmp_path / "cut", seeds=str(file)), reporter=QUIET, allow_changed=True)
    assert made(tmp_path / "cut") == made(tmp_path / "whole")
    assert (
        "sing" not in (tmp_path / "cut" / "stages" / "01-new" / "attempts" / "shard-00001.jsonl").read_text()
    )


def test_too_much_contamination_ends_the_run(tmp_path: Path) -> None:
    run(plan(tmp_path / "first"), reporter=QUIET)
    sets = {"exam": made(tmp_path / "first")[1:2]}
    with pytest.raises(DataError, match=r"1 new prompts are too near.*max_contaminated=0\. exam: 'tell"):
        run(plan(tmp_path / "strict", evaluation_sets=sets, max_contaminated=0), reporter=QUIET)
    run(plan(tmp_path / "lenient", evaluation_sets=sets), reporter=QUIET)
    (report,) = read_json(tmp_path / "lenient", "contamination.json")
    assert (report["set"], report["new_too_near"]) == ("exam", 1)
    assert not set(made(tmp_path / "lenient")) & set(sets["exam"])


def test_nothing_new_ends_the_run_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not one new prompt is left of 40 written(.|\n)*too few words"):
        run(plan(tmp_path, model="wordless"), reporter=QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": SEEDS[:3]}, "3 different seed prompts, fewer than the 8"),
        ({"seeds": "gone.jsonl"}, "seeds: there is no data file 'gone.jsonl'"),
        ({"evaluation_sets": ["gone.jsonl"]}, "gone.jsonl: there is no data file"),
        ({"template": "gone.jinja"}, "neither a jinja2 text that shows {{ shots }} nor a file"),
        ({"template": "{{ prompt }}"}, r"variables \['prompt'\]"),
        ({"shots": 1, "generated_shots": 2}, "generated_shots=2 are more than shots=1"),
        ({"min_words": 9, "max_words": 3}, "min_words=9 is over max_words=3"),
        ({"top_k": 3, "top_p": 0.5}, "top_p and top_k are both given"),
        ({"threshold": 0}, "greater than 0"),
        ({"similarity": "cosine"}, "'rouge_l' or 'minhash'"),
        ({"num_prompts": 3}, "unknown key 'num_prompts'"),
        ({"writer": {"server": {"url": "localhost", "model": "m"}}}, "must be an address"),
        ({"writer": {"server": SERVER}, "top_k": 3}, "top_k cannot be asked of the server"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run(plan(tmp_path / "run", **settings), reporter=QUIET)
    assert not list(tmp_path.rglob("shard-*.jsonl"))


def test_the_papers_settings_are_the_defaults(tmp_path: Path) -> None:
    from self_rewarding_lm_pytorch.stages.self_instruct import SelfInstructStage

    stage = SelfInstructStage(seeds=SEEDS, num=5)
    assert (stage.temperature, stage.top_p) == (0.6, 0.9)
    assert (stage.shots, stage.generated_shots) == (8, 2)
    assert (stage.similarity, stage.threshold) == ("rouge_l", 0.7)
    assert SelfInstructStage(seeds=SEEDS, num=5, top_k=3).top_p is None
    recipe = stage.recipe(512, 64)
    assert (recipe.most_attempts, recipe.max_new_tokens, recipe.attempts_at_once) == (40, 128, 16)
    assert stage.recipe(None, 64).max_new_tokens == 256
