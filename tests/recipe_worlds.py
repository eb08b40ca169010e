"""Recipes put into the demo's small world: its words and files, a model too small to learn, all stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.demo.plan import demo_codec
from self_rewarding_lm_pytorch.demo.world import Codec, World, true_score, write_answer
from self_rewarding_lm_pytorch.models.load import new_llama
from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_text
from self_rewarding_lm_pytorch.plans.yaml import parsed_yaml

SCALES = {"spin-paper": 0.0004, "spin-repo": 0.0004, "meta-rewarding-paper": 0.001}  # others: 0.002
ANSWER = {"max_new_tokens": 10}
POINTWISE = "judge task : {{ prompt }} answer : {{ response }} judge :"
PAIRWISE = "judge task : {{ prompt }} answer 1 : {{ first }} answer 2 : {{ second }} judge :"
META = "judge judge : {{ judge_prompt }} judge 1 : {{ first }} judge 2 : {{ second }} judge :"
SHOTS = "{% for shot in shots %}task {{ shot }} {% endfor %}task"
PLACES = ("hub", "split", "messages", "turns", "open_assistant", "lang", "file")


def untrained(seed: int = 0) -> Any:
    """A Llama over the world's words; it writes any of them, so one word in eleven is a score."""
    words = Codec()
    return new_llama(
        seed,
        vocab_size=words.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=words.eos_id,
        pad_token_id=words.pad_id,
    )


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def files(folder: Path) -> dict[str, str]:
    """Answers to imitate, judged answers, and prompts to compare answers on."""
    from random import Random

    world, random = World(0), Random(0)
    judged = []
    for prompt in world.prompts[:3000]:
        answers = [write_answer(random, prompt, quality) for quality in (0.1, 0.5, 0.9)]
        judged.append(
            {"prompt": prompt, "responses": answers, "scores": [true_score(prompt, a) for a in answers]}
        )
    return {
        "answers": written(
            folder / "answers.jsonl", [{"prompt": p, "response": a} for p, a in world.seed_answers]
        ),
        "judged": written(folder / "judged.jsonl", judged),
        "prompts": written(folder / "prompts.jsonl", [{"prompt": p} for p in world.test_prompts]),
    }


def small_recipe(name: str, folder: Path) -> dict[str, Any]:
    """The recipe with every model, text and file exchanged and every number kept, to be scaled."""
    raw: dict[str, Any] = parsed_yaml(recipe_text(name))
    data = files(folder / "data")
    raw |= {
        "model": untrained(),
        "tokenizer": demo_codec(),
        "run": folder / "run",
        "scale": SCALES.get(name, 0.002),
    }
    raw["accelerate"] = {}
    for stage in raw["stages"]:
        _exchange(stage, data)
    return raw


def _exchange_judged(judged: dict[str, Any], data: dict[str, str]) -> None:
    judged["data"] = placed(judged["data"], data["judged"])
    if "without" in judged:
        judged["without"] = placed(judged["without"], data["answers"])
    judged["judge"] = judge(judged.get("judge", {}))


def _exchange(stage: dict[str, Any], data: dict[str, str]) -> None:
    kind = stage.get("kind", "self_reward")
    if "data" in stage:
        stage["data"] = placed(stage["data"], data["answers"])
    if "judge_data" in stage:
        _exchange_judged(stage["judge_data"], data)
    if "prompts" in stage and "made_by" not in stage["prompts"]:
        stage["prompts"] = placed(stage["prompts"], data["prompts"])
    if kind == "self_instruct":
        stops = [
            ".",
            *(f" {word}" for word in ("the", "and", "nice", "thing", "use", "yes", "no", "fresh", "short")),
        ]
        stage |= {"seeds": data["prompts"], "writer": None, "template": SHOTS, "stop": stops, "min_words": 1}
        stage["max_new_tokens"] = 16
    if "candidates" in stage:
        stage["candidates"] |= ANSWER
    if "opponent" in stage:
        stage["opponent"] |= ANSWER
    if "judge" in stage:
        stage["judge"] = judge(stage["judge"])
    if kind == "meta_reward":
        stage["meta"] |= {"template": META, "labels": ["1", "2"]}
    if "early_stopper" in stage:
        stopper = stage["early_stopper"]
        stopper |= {"prompts": data["prompts"], "judge": judge(stopper["judge"]), **ANSWER}


def placed(source: Any, file: str) -> dict[str, Any]:
    """A source of the recipe, read from the file; which rows it takes is kept."""
    kept = (
        {key: value for key, value in source.items() if key not in PLACES} if isinstance(source, dict) else {}
    )
    return {**kept, "file": file}


def judge(settings: dict[str, Any]) -> dict[str, Any]:
    """The same judge in the world's words."""
    kept = {key: value for key, value in settings.items() if key not in ("template", "model")}
    if settings.get("model"):
        kept["model"] = untrained(1)
    if settings.get("mode") == "pairwise":
        return {**kept, "template": PAIRWISE, "labels": ["1", "2"]}
    if settings.get("mode") == "expected":
        return {**kept, "template": POINTWISE}
    ends = [f" {score}" for score in range(6)]  # a judgment ends with its score
    return {
        **kept,
        "template": POINTWISE,
        "score_pattern": "{{ reward }}",
        "max_new_tokens": 18,
        "stop": ends,
    }
