"""The SFT loss against a float64 reference that loops over positions: a mean over target tokens."""

from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.collate import collate
from self_rewarding_lm_pytorch.models.load import codec_for, policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.text import example_from_item, example_from_text
from self_rewarding_lm_pytorch.training.loop import validation_metrics
from self_rewarding_lm_pytorch.training.objectives import SupervisedObjective
from tests.models.test_logprobs import POLICIES, TOLERANCE, reference
from tests.training.worlds import supervised

ROWS = [[3, 7, 1, 4, 4, 2], [5, 2], [9, 9, 8, 2, 2, 6, 1, 2], [11, 2, 2]]
PROMPTS = [1, 0, 6, 0]


@pytest.mark.parametrize("micro", [1, 3, 4])
@pytest.mark.parametrize("name", POLICIES)
def test_the_loss_is_the_mean_over_target_tokens(name: str, micro: int) -> None:
    """Unequal lengths, prompts of length 0 and 1, the end (2) also within responses; given padded."""
    policy = POLICIES[name]()
    padded = [torch.tensor(row + [-1] * i) for i, row in enumerate(ROWS)]
    items = [example_from_item(ids, n) for ids, n in zip(padded, PROMPTS, strict=True)]
    each = [lp for row, n in zip(ROWS, PROMPTS, strict=True) for lp in reference(policy, row, n)]
    expected = -sum(each) / len(each)
    found = validation_metrics(policy, supervised(items, micro=micro))["valid_loss"]
    assert len(each) == 5 + 1 + 2 + 2
    assert found == pytest.approx(expected, abs=TOLERANCE.get(name, 1e-9))


def test_the_loss_of_a_real_model_on_text_is_that_of_its_response_and_end(
    stories_model: Any, stories_tokenizer: Any
) -> None:
    policy = policy_for(stories_model, tokenizer=stories_tokenizer)
    codec = codec_for(stories_tokenizer, stories_model)
    texts = [("Once upon a time", ", there was a little girl."), ("One day", ", a cat sat.")]
    each: list[float] = []
    for prompt, response in texts:
        row = [*stories_tokenizer(prompt + response)["input_ids"], 2]
        each += reference(policy, row, len(stories_tokenizer(prompt)["input_ids"]))
    items = [example_from_text(codec, prompt, response) for prompt, response in texts]
    found = validation_metrics(policy, supervised(items))["valid_loss"]
    assert found == pytest.approx(-sum(each) / len(each), abs=1e-3)  # float32 model


def test_the_objective_sums_and_its_count_is_known_before_the_model_runs() -> None:
    policy = POLICIES["plain module"]()
    items = [example_from_item(torch.tensor(row), n) for row, n in zip(ROWS, PROMPTS, strict=True)]
    objective = SupervisedObjective()
    loss, sums = objective.loss(lambda batch: sequence_logprobs(policy, batch), objective.collate(items))
    assert [objective.count(item) for item in items] == [5, 1, 2, 2]
    assert loss.item() == pytest.approx(-sequence_logprobs(policy, collate(items)).sum().item(), abs=1e-9)
    assert loss.requires_grad
    assert not sums["nll"].requires_grad
