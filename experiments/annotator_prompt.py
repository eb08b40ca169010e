"""Does what the annotator is asked decide what the policy learns? On the demo's small world.

Online AI feedback (arXiv 2402.04792) steers what is learned by the annotator's prompt alone. Here one
annotator, a small Llama of its own, has learned from labels to answer two questions about two answers: which
is better (by the world's rubric), and, asked in other words, which has fewer words. From the same M1, the
`online` stage has its answers compared by this annotator, asked the one or the other: nothing but the judge's
template differs. Asked for short answers, the policy must write shorter ones, though the rubric, of which
nobody asks then, suffers. About 10 minutes on one core; 5 where `online_against_offline.py` left its M1s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from statistics import fmean
from typing import Any

import torch
from common import sampled_answers
from demo_policy import Lab, labs, mean_and_error, options, pair_stage

from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.demo.plan import OPTIMIZER, demo_codec, small_llama
from self_rewarding_lm_pytorch.demo.world import World, split_words, true_score, write_answer
from self_rewarding_lm_pytorch.judges.pairwise import PairwiseJudge
from self_rewarding_lm_pytorch.judges.template import PAIRWISE, JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.records import Candidate, Prompt

LABELS = ("1", "2")
_SHOWN = "task: {{ prompt }} answer 1: {{ first }} answer 2: {{ second }} judge:"
TEMPLATES = {"plain": f"judge {_SHOWN}", "short": f"judge short {_SHOWN}"}
ANNOTATOR_SEED = 100  # of its first weights and its labels
Pair = tuple[str, str, str]  # a prompt, the better answer to it and the worse one


@dataclass(frozen=True)
class Size:
    """How much work."""

    annotator_steps: int = 1000  # of 64 comparisons, each a new one
    held_out: int = 1000  # comparisons to try the annotator on
    rate: float = 2e-4  # not chosen here: the middle one of online_against_offline.py
    steps: int = 32  # of the online stage
    prompts: int | None = None


SMALL = Size(annotator_steps=4, held_out=8, steps=2, prompts=8)


def num_words(answer: str) -> int:
    return sum(word not in ".:" for word in split_words(answer))


WORTH: dict[str, Callable[[str, str], int]] = {
    "plain": true_score,
    "short": lambda prompt, answer: -num_words(answer),
}


def pairs(world: World, asked: str, prompts: list[str], purpose: str) -> Iterator[Pair]:
    """Answers of all qualities, by what is asked; ties are left out."""
    random = Random(f"{world.seed}/{purpose}/{asked}")
    while True:
        prompt = random.choice(prompts)
        both = [write_answer(random, prompt, random.random()) for _ in LABELS]
        worse, better = sorted(both, key=lambda answer: WORTH[asked](prompt, answer))
        if WORTH[asked](prompt, worse) < WORTH[asked](prompt, better):
            yield prompt, better, worse


def examples(world: World, count: int) -> list[dict[str, str]]:
    """What the annotator learns from: as many of each question, the better answer in either place."""
    places = Random(f"{world.seed}/places")
    rows = []
    for asked, template in TEMPLATES.items():
        shown = JudgeTemplate(template, variables=PAIRWISE)
        for prompt, better, worse in islice(pairs(world, asked, world.train_prompts, "taught"), count // 2):
            place = places.randrange(2)
            answers = (worse, better) if place else (better, worse)
            rows.append({"prompt": shown.render(prompt, *answers).text, "response": LABELS[place]})
    return rows


def trained_annotator(lab: Lab, steps: int) -> Any:
    model = small_llama(ANNOTATOR_SEED)
    stage = {
        "name": "annotator",
        "kind": "sft",
        "data": examples(lab.world, 64 * steps),
        "num_steps": steps,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup_steps": min(100, steps // 2),
        **OPTIMIZER,
    }
    lab.trained(f"annotator-{steps}", model, stage)
    return model


def accuracy(annotator: Any, world: World, asked: str, count: int) -> dict[str, float]:
    """Of comparisons that it was not taught: by both orders' mean, as in the stage, and by one order."""
    codec = demo_codec()
    judge = PairwiseJudge(
        policy_for(annotator),
        codec,
        JudgeTemplate(TEMPLATES[asked], variables=PAIRWISE),
        labels=LABELS,
        context=annotator.config.max_position_embeddings,
    )
    held_out = islice(pairs(world, asked, world.test_prompts, "held out"), count)
    shown = [
        (Prompt(number, prompt, codec.prompt_ids(prompt)), _candidate(number, index, answer))
        for number, (prompt, *answers) in enumerate(held_out)
        for index, answer in enumerate(answers)
    ]
    better = judge.judge(shown)[::2]
    votes = [vote for judgment in better for vote in judgment.votes]
    return {
        "both orders": fmean((judgment.score or 0) > 0.5 for judgment in better),
        "one order": fmean((vote.score or 0) > 0.5 for vote in votes),
    }


def _candidate(number: int, index: int, answer: str) -> Candidate:
    ids = demo_codec().continuation_ids(answer)
    return Candidate(number, 0, index, ids, answer, "eos", key=0, policy="held out")


def measured(model: Any, world: World, prompts: int | None) -> dict[str, float]:
    answers = sampled_answers(policy_for(model), demo_codec(), world, prompts=prompts)
    return {
        "words": fmean(num_words(answer) for _, answer in answers),
        "score": fmean(true_score(*both) for both in answers),
    }


def one_run(lab: Lab, annotator: Any, asked: str, size: Size) -> dict[str, float]:
    """What M1 has become."""
    judge = {"mode": "pairwise", "template": TEMPLATES[asked], "labels": LABELS, "model": annotator}
    stage = {**pair_stage(lab.world, "online", size.rate, size.steps), "judge": judge}
    model = lab.m1()
    name = f"asked-{asked}-{size.rate:g}-{size.steps}-{size.annotator_steps}"
    figures = lab.trained(name, model, stage)
    row = measured(model, lab.world, size.prompts) | {"pairs": figures["num_pairs"]}
    print(f"seed {lab.world.seed}, asked {asked}: {row}", flush=True)
    return row


def experiment(places: list[Lab], teacher: Lab, size: Size) -> dict[str, Any]:
    """All numbers: how right the annotator is, M1 of each seed, and what became of it."""
    annotator = trained_annotator(teacher, size.annotator_steps)
    right = {asked: accuracy(annotator, teacher.world, asked, size.held_out) for asked in TEMPLATES}
    print(f"the annotator's accuracy: {right}", flush=True)
    rows = {"M1": [measured(lab.m1(), lab.world, size.prompts) for lab in places]}
    rows |= {asked: [one_run(lab, annotator, asked, size) for lab in places] for asked in TEMPLATES}
    return {"accuracy": right, "rate": size.rate, "updates": size.steps, "policies": rows}


def table(found: dict[str, Any]) -> str:
    """In Markdown: means over the seeds and their standard errors."""
    lines = ["| annotator asked | accuracy, both orders | one order | words per answer | true score |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for asked, rows in found["policies"].items():
        own = found["accuracy"].get(asked)
        cells = ["", ""] if own is None else [f"{own[orders]:.1%}" for orders in ("both orders", "one order")]
        for figure in ("words", "score"):
            mean, error = mean_and_error([row[figure] for row in rows])
            cells.append(f"{mean:.2f} ± {error:.2f}")
        lines.append(f"| {'M1, before' if own is None else asked} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    chosen = options("One annotator, asked for good or for short answers").parse_args()
    torch.set_num_threads(chosen.threads)
    size = SMALL if chosen.small else Size()
    if chosen.rate:
        size = replace(size, rate=chosen.rate[0])
    teacher = Lab(World(ANNOTATOR_SEED), chosen.folder / "annotator", m1_steps=0)
    found = experiment(labs(chosen), teacher, size)
    print(table(found))
    if chosen.json is not None:
        write_json(chosen.json, found)


if __name__ == "__main__":
    main()
