"""Reward models over ids: what they may return, and that padding cannot change a score."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.reward_model import RewardModelJudge
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from tests.helpers import candidate, prompt

ROWS = [((5, 6), (7,)), ((5,), (8, 9, 0, 0)), ((1, 2, 3), (4,)), ((1,), (0, 0, 0))]


def shown(rows: Any = ROWS) -> list[tuple[Prompt, Candidate]]:
    return [(prompt(i, ids=p), candidate(i, 0, ids=c, visit=1)) for i, (p, c) in enumerate(rows)]


def scores(reward: Any, **arguments: Any) -> list[float | None]:
    return [judgment.score for judgment in RewardModelJudge(reward, **arguments).judge(shown())]


def mean_id(ids: Tensor) -> Tensor:
    """Notices padding: zeros behind a row would lower it."""
    return ids.double().mean(dim=1)


EXPECTED = [sum(p + c) / len(p + c) for p, c in ROWS]  # 6, 4.4, 2.5, 0.25


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize(
    "reward",
    [mean_id, lambda ids: mean_id(ids)[:, None], lambda ids: mean_id(ids).requires_grad_()],
    ids=["(batch,)", "(batch, 1)", "with gradient"],
)
def test_a_score_is_that_of_the_row_alone(reward: Any, batch_size: int) -> None:
    assert scores(reward, batch_size=batch_size) == pytest.approx(EXPECTED)


def test_rows_of_equal_length_go_together_unpadded() -> None:
    """Lengths 3, 5, 4, 4: three groups, no row longer than it is."""
    shapes = []
    scores(lambda ids: (shapes.append(tuple(ids.shape)), mean_id(ids))[1])
    assert sorted(shapes) == [(1, 3), (1, 5), (2, 4)]


def test_a_mask_keyword_gets_padded_rows_with_their_mask() -> None:
    shapes = []

    def masked(ids: Tensor, mask: Tensor) -> Tensor:
        assert mask.dtype == torch.bool
        shapes.append(tuple(ids.shape))
        return (ids * mask).sum(dim=1) / mask.sum(dim=1)

    assert scores(masked) == pytest.approx(EXPECTED)
    assert shapes == [(4, 5)]


def test_real_tokens_with_id_0_are_not_padding_in_the_mask() -> None:
    assert scores(lambda ids, *, mask: mask.sum(dim=1)) == [3, 5, 4, 4]


def test_a_modules_mask_keyword_is_found_in_its_forward() -> None:
    class Masked(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is not None
            return mask.sum(dim=1).float()

    assert scores(Masked()) == [3, 5, 4, 4]


def test_a_judgment_says_whose_it_is_and_has_no_votes() -> None:
    judgments = RewardModelJudge(mean_id).judge(shown())
    assert [(j.prompt_index, j.visit, j.candidate_index) for j in judgments] == [
        (i, 1, 0) for i in range(len(ROWS))
    ]
    assert all(judgment.votes == () for judgment in judgments)
    assert RewardModelJudge(mean_id).num_votes == 0


def test_two_columns_are_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"gives 2 numbers.*lambda ids"):
        scores(lambda ids: torch.zeros(len(ids), 2))


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda ids: torch.zeros(len(ids) + 1), r"shape \(2,\)"),
        (lambda ids: torch.zeros(len(ids), 1, 1), r"\(1, 1, 1\)"),
        (lambda ids: [0.0] * len(ids), "list"),
        (lambda ids: None, "NoneType"),
    ],
    ids=["one too many", "three dimensions", "a list", "nothing"],
)
def test_other_outputs_are_refused_with_their_shape(reward: Any, said: str) -> None:
    with pytest.raises(JudgeError, match=said):
        scores(reward, batch_size=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_score_and_says_so(value: float) -> None:
    def reward(ids: Tensor) -> Tensor:
        return torch.where(ids[:, 0] == 5, value, 2.0)

    judgments = RewardModelJudge(reward).judge(shown())
    assert [judgment.score for judgment in judgments] == [None, None, 2.0, 2.0]
    assert str(value) in judgments[0].reason
    assert judgments[2].reason == ""


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    seen = []
    scores(lambda ids: (seen.append(torch.is_grad_enabled()), mean_id(ids) * weight)[1])
    assert not any(seen)


def test_a_modules_dropout_is_off_while_it_scores_and_its_mode_comes_back() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, ids: Tensor) -> Tensor:
            return self.drop(ids.float()).sum(dim=1)

    module = Noisy().train()
    found = scores(module)
    assert found == [sum(p + c) for p, c in ROWS]
    assert module.training


def test_a_hugging_face_classifier_with_one_label_scores_in_batches() -> None:
    """Reward models on the hub often have no padding token; rows of equal length need none."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
    )
    module = LlamaForSequenceClassification(config).eval()
    single = []
    for p, c in ROWS:
        with torch.no_grad():
            hidden = module.model(torch.tensor([p + c])).last_hidden_state[0, -1]
            single.append(module.score(hidden).item())
    assert scores(module) == pytest.approx(single, abs=1e-5)


def test_a_classifier_with_two_labels_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=32, num_labels=2, pad_token_id=31, **sizes)
    with pytest.raises(ConfigError, match="2 numbers"):
        scores(LlamaForSequenceClassification(config).eval())


def test_progress_counts_responses() -> None:
    done = []
    RewardModelJudge(mean_id).judge(shown(), on_progress=lambda units, tokens: done.append((units, tokens)))
    assert sum(units for units, _ in done) == len(ROWS)
    assert sum(tokens for _, tokens in done) == 0


def test_nothing_shown_is_nothing_judged() -> None:
    assert RewardModelJudge(mean_id).judge([]) == []
