"""A stage's card, made from what its run folder holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.data.sources import HUB
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.model_card.markdown import code, plain, public, table
from self_rewarding_lm_pytorch.model_card.papers import papers_of
from self_rewarding_lm_pytorch.models.checkpoint_files import is_model_folder
from self_rewarding_lm_pytorch.stages.report_cards import stored_cards, summary_rows

FILE = "README.md"
_LIBRARY = "https://github.com/lucidrains/self-rewarding-lm-pytorch"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MADE_BY = {
    "sft": "supervised fine-tuning on given responses",
    "dpo": "preference optimization on given pairs",
    "spin": "self-play: given responses are preferred to the model's own",
    "self_reward": "preference optimization on its own samples, which a language model judged",
    "meta_reward": "preference optimization on its own answers and on its own judgments of them",
    "external_reward": "preference optimization on its own samples, which a reward model or function scored",
    "online": "preference optimization on pairs that are sampled and judged while it trains",
    "self_instruct": "nothing: this stage writes prompts, and the weights are those before it",
}


def write_card(run: Path, manifest: Mapping[str, Any], number: int, row: Mapping[str, Any] | None) -> None:
    """README.md of a stage's checkpoint, if that is a folder in Hugging Face's form; whole or not at all.

    manifest: the run's, with the stage's outcome. number: the stage's, from 1. row: of its evaluation.
    """
    stage = manifest["stages"][number - 1]
    checkpoint = run / "stages" / f"{number:02d}-{stage['name']}" / "checkpoint"
    if is_model_folder(checkpoint):
        write_text(checkpoint / FILE, card_text(run, manifest, number, row))


def card_text(run: Path, manifest: Mapping[str, Any], number: int, row: Mapping[str, Any] | None) -> str:
    """The card of stage `number`. What the run folder does not tell is left out."""
    plan, stage = public(_plan(run)), manifest["stages"][number - 1]
    before = manifest["stages"][:number]
    kind, name = stage["kind"], stage["name"]
    head = yaml.safe_dump(_front_matter(plan, manifest, before), sort_keys=False, allow_unicode=True)
    has_adapter = bool(plan.get("adapter"))
    kinds = [each["kind"] for each in before]
    parts = [
        f"---\n{head}---",
        f"# {plain(run.name)}: {plain(name)}",
        f"Made by stage {number} of {len(manifest['stages'])}, {plain(name)} ({plain(kind)}), of a run of "
        f"[self-rewarding-lm-pytorch]({_LIBRARY}): {_MADE_BY.get(kind, 'a stage of its own kind')}.",
        table(
            ["stage", "name", "kind"], [(n, each["name"], each["kind"]) for n, each in enumerate(before, 1)]
        ),
        *_figures(stage.get("outcome", {})),
        *_worth(run, number, row if row is not None else stage.get("evaluation")),
        *_settings(plan, manifest, number),
        *_provenance(manifest),
    ]
    if papers := papers_of(kinds, has_adapter=has_adapter):
        parts += ["## Papers", "\n".join(f"- {paper}" for paper in papers)]
    return "\n\n".join(parts) + "\n"


def _plan(run: Path) -> dict[str, Any]:
    try:
        plan = yaml.safe_load((run / "plan.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _front_matter(
    plan: Mapping[str, Any], manifest: Mapping[str, Any], stages: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the hub reads. A license is for the model's owner to say."""
    model = str(plan.get("model", ""))
    has_files = "files" in manifest.get("models", {}).get(model, {})
    is_hub = _HUB_NAME.fullmatch(model) is not None and not has_files
    named = [
        name.removeprefix(HUB).partition("#")[0] for name in manifest.get("data", {}) if name.startswith(HUB)
    ]
    kinds = dict.fromkeys(stage["kind"].replace("_", "-") for stage in stages)
    found: dict[str, Any] = {"library_name": "peft" if plan.get("adapter") else "transformers"}
    found |= {"base_model": model} if is_hub else {}
    found |= {"datasets": sorted(set(named))} if named else {}
    tags = [kind for kind in kinds if re.fullmatch(r"[\w-]+", kind)]
    return {**found, "pipeline_tag": "text-generation", "tags": ["self-rewarding-lm", *tags]}


def _figures(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Yield and last metrics; seconds are not part of what a model is."""
    rows = [("pairs", outcome["num_pairs"])] if outcome.get("num_pairs") else []
    yields = dict(outcome.get("yield", {}))
    skipped = yields.pop("skipped", {})
    rows += [(f"yield: {name}", count) for name, count in yields.items() if count]
    rows += [(f"skipped: {reason}", count) for reason, count in skipped.items()]
    rows += [(f"last {name}", value) for name, value in outcome.get("metrics", {}).items()]
    if rows:
        yield "## The stage in figures"
        yield table(["figure", "value"], rows)


def _worth(run: Path, number: int, row: Mapping[str, Any] | None) -> Iterator[str]:
    """Report cards up to this stage, and its evaluation."""
    try:
        cards = summary_rows([card for card in stored_cards(run) if card["number"] <= number])
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        cards = []
    if cards:
        columns = list(dict.fromkeys(key for card in cards for key in card if key != "intervals"))
        yield "## How well it judges"
        yield table(list(map(plain, columns)), [[card.get(key) for key in columns] for card in cards])
    if row:
        yield "## Evaluation"
        yield table(["measure", "value"], row.items())


def _settings(plan: Mapping[str, Any], manifest: Mapping[str, Any], number: int) -> Iterator[str]:
    stages = plan.get("stages")
    own = stages[number - 1] if isinstance(stages, list) and number <= len(stages) else None
    if not isinstance(own, dict):
        return
    yield "## How it was trained"
    train = own.get("train")
    if isinstance(train, dict) and "batch_size" in train:
        processes = manifest.get("processes", 1)
        yield (
            f"Effective batch: {plain(train['batch_size'])} items in each optimizer step, over "
            f"{plain(processes)} process{'es' * (processes != 1)}."
        )
    shared = {
        key: plan[key] for key in ("model", "seed", "dtype", "adapter", "chat") if plan.get(key) is not None
    }
    yield code({**shared, "stages": [own]})


def _provenance(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows = [("seed", manifest.get("seed")), ("device", manifest.get("device"))]
    rows += [(name, version) for name, version in manifest.get("versions", {}).items()]
    rows += [(f"data {public(name)}", f"sha256 {value}") for name, value in manifest.get("data", {}).items()]
    for model, known in manifest.get("models", {}).items():
        facts = {key: value for key, value in known.items() if key not in ("files", "checkpoint")}
        files = known.get("files", {})
        facts |= {name: note["sha256"] for name, note in files.items() if name.endswith(".safetensors")}
        rows += [(f"model {public(model)}: {name}", value) for name, value in facts.items()]
    rows += [
        ("changed while it ran", json.dumps(change["changed"])) for change in manifest.get("changes", [])
    ]
    yield "## Where it comes from"
    yield table(["what", "value"], rows)
