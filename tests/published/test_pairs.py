"""How candidates are sampled, scored and paired: the arguments of the two rewarded configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import create_mock_dataset, min_p, top_k
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from tests.published.worlds import (
    external,
    mean_of_response,
    prompts,
    records,
    run,
    same_weights,
    tiny,
    trainer,
)


def mean_of(candidate: Any) -> float:
    return sum(candidate.ids) / len(candidate.ids)


def test_num_candidate_responses_is_the_number_of_records_for_each_visit(tmp_path: Path) -> None:
    found = run(tiny(), [external(num_candidate_responses=3)], tmp_path).records()
    assert {len(found.of(*visit)) for visit in found.visits()} == {3}
    assert len(found.judgments) == len(found.candidates)


def test_four_candidates_are_the_default(tmp_path: Path) -> None:
    found = run(tiny(), [external()], tmp_path).records()
    assert {len(found.of(*visit)) for visit in found.visits()} == {4}


def test_the_best_and_the_worst_candidate_become_the_pair(tmp_path: Path) -> None:
    found = run(tiny(), [external()], tmp_path).records()
    assert len(found.pairs) == 2
    for pair in found.pairs:
        own = found.of(pair.prompt_index, pair.visit)
        assert pair.chosen_ids == max(own, key=mean_of).ids
        assert pair.rejected_ids == min(own, key=mean_of).ids
        assert pair.chosen_score == pytest.approx(mean_of(max(own, key=mean_of)), rel=1e-5)


def test_training_raises_the_external_reward(tmp_path: Path) -> None:
    """The reward is the number of low bytes; after training the model writes more of them."""

    def low(ids: Tensor) -> Tensor:
        return (ids[:, 2:] < 64).float().sum(dim=1)

    def share(model: nn.Module) -> float:
        return model(torch.tensor([[97, 98]])).softmax(dim=-1)[0, -1, :64].sum().item()

    start = share(tiny())
    trained = run(
        tiny(),
        [external(low, num_generated_preference_pairs=12, num_train_steps=20, dropout=0.0,
                  reward_generator_kwargs={"batch_size": 12},
                  trainer_kwargs={"batch_size": 12, "grad_accum_steps": 1, "start_learning_rate": 0.01})],
        tmp_path,
    )  # fmt: skip
    assert share(trained.model) > start + 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"gen_temperature": 0.0},
        {"gen_filter_fn": top_k, "gen_filter_kwargs": {"k": 1}},
        {"gen_filter_kwargs": {"thres": 1e-9}},
        {"gen_filter_fn": min_p, "gen_filter_kwargs": {"p": 1.0}},
    ],
    ids=["temperature 0", "top-k 1", "top-p 0", "min-p 1"],
)
def test_greedy_sampling_gives_equal_candidates_and_so_no_pair(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"no preference pair(?s:.*)visits +8(?s:.*)no pair: tie +8"):
        run(tiny(), [external(**arguments)], tmp_path)
    found = records(tmp_path, "01-external_reward")
    assert len({candidate.ids for candidate in found.candidates}) == 1
    greedy = torch.tensor([97, 98])
    for _ in range(4):
        greedy = torch.cat((greedy, tiny()(greedy[None])[0, -1].argmax(keepdim=True)))
    assert found.candidates[0].ids == tuple(greedy[2:].tolist())


def test_any_callable_filters_the_logits_after_the_temperature(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def only(logits: Tensor, allowed: tuple[int, int] = (0, 1)) -> Tensor:
        seen.append(logits.clone())
        return torch.full_like(logits, -torch.inf).index_copy(
            1, torch.tensor(allowed), logits[:, list(allowed)]
        )

    config = external(gen_filter_fn=only, gen_filter_kwargs={"allowed": (65, 66)}, gen_temperature=0.25)
    found = run(tiny(), [config], tmp_path).records()
    assert {token for candidate in found.candidates for token in candidate.ids} == {65, 66}
    assert seen[0].shape[1] == 256
    expected = tiny()(torch.tensor([[97, 98]]))[0, -1] / 0.25
    assert torch.allclose(seen[0][0], expected, atol=1e-4)


def test_the_default_filter_is_top_p_at_nine_tenths(tmp_path: Path) -> None:
    def candidates(name: str, **arguments: Any) -> list[tuple[int, ...]]:
        found = run(tiny(), [external(**arguments)], tmp_path / name).records()
        return [candidate.ids for candidate in found.candidates]

    default = candidates("default")
    assert default == candidates("same", gen_filter_kwargs={"thres": 0.9}, gen_temperature=0.7)
    assert default != candidates("narrow", gen_filter_kwargs={"thres": 0.1})
    assert default != candidates("hot", gen_temperature=3.0)


def test_a_filter_argument_the_filter_does_not_take_lists_those_it_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gen_filter_kwargs 'tres'; known: thres"):
        trainer(tiny(), [external(gen_filter_kwargs={"tres": 0.5})], tmp_path)


def test_is_valid_reward_keeps_candidates_out_of_pairs(tmp_path: Path) -> None:
    config = external(is_valid_reward=lambda reward: reward < 130, num_candidate_responses=6)
    found = run(tiny(), [config], tmp_path).records()
    for pair in found.pairs:
        valid = [c for c in found.of(pair.prompt_index, pair.visit) if mean_of(c) < 130]
        assert pair.chosen_ids == max(valid, key=mean_of).ids


def test_by_default_negative_rewards_are_not_valid(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than two usable candidates"):
        run(tiny(), [external(lambda ids: -1 - mean_of_response(ids))], tmp_path / "default")
    config = external(lambda ids: -1 - mean_of_response(ids), is_valid_reward=lambda reward: True)
    assert len(run(tiny(), [config], tmp_path / "all").records().pairs) == 2


@pytest.mark.parametrize(
    "is_valid",
    [
        lambda preferred, unpreferred: preferred - unpreferred > 90,
        lambda preferred, unpreferred: torch.as_tensor(preferred - unpreferred) > 90,
        lambda preferred, unpreferred: ((preferred - unpreferred) > 90).all(),
    ],
    ids=["bool", "0-d tensor", "as published"],
)
def test_is_valid_reward_pair_decides_about_a_pair(tmp_path: Path, is_valid: Any) -> None:
    config = external(is_valid_reward_pair=is_valid, num_generated_preference_pairs=4)
    done = run(tiny(), [config], tmp_path)
    found = done.records()
    margins = {}
    for visit in found.visits():
        means = [mean_of(c) for c in found.of(*visit)]
        margins[visit] = max(means) - min(means)
    kept = {(pair.prompt_index, pair.visit) for pair in found.pairs}
    assert 0 < len(kept) < len(margins)
    assert all(margins[visit] > 90 for visit in kept)
    assert done.stage["yield"]["skipped"]["pair not valid"] == sum(m <= 90 for m in margins.values())


def test_pick_paired_rewards_fn_chooses_the_two(tmp_path: Path) -> None:
    shapes = []

    def second_and_last(rewards: Tensor) -> Tensor:
        shapes.append(tuple(rewards.shape))
        order = rewards.argsort(descending=True)
        return torch.stack((order[1], order[-1]))

    found = run(tiny(), [external(pick_paired_rewards_fn=second_and_last)], tmp_path).records()
    assert set(shapes) == {(4,)}
    for pair in found.pairs:
        ordered = sorted(found.of(pair.prompt_index, pair.visit), key=mean_of, reverse=True)
        assert (pair.chosen_ids, pair.rejected_ids) == (ordered[1].ids, ordered[3].ids)


def test_a_candidate_without_a_valid_reward_is_nan_to_the_picking_function(tmp_path: Path) -> None:
    seen = []

    def look(rewards: Tensor) -> tuple[int, int]:
        seen.append(rewards.clone())
        known = (~rewards.isnan()).nonzero()[:, 0]
        ordered = known[rewards[known].argsort()]
        return int(ordered[-1]), int(ordered[0])

    config = external(pick_paired_rewards_fn=look, is_valid_reward=lambda reward: reward < 130)
    run(tiny(), [config], tmp_path)
    assert any(bool(rewards.isnan().any()) for rewards in seen)


def test_a_picking_function_that_gives_no_two_indices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected two indices"):
        run(tiny(), [external(pick_paired_rewards_fn=lambda rewards: rewards.max())], tmp_path)


def test_max_seq_len_bounds_prompt_and_response(tmp_path: Path) -> None:
    config = external(prompt_dataset=["ab", "abcde"], max_seq_len=9)
    found = run(tiny(), [config], tmp_path).records()
    lengths = {c.prompt_index: len(c.ids) for c in found.candidates}
    assert all(length <= 9 - (2, 5)[index] for index, length in lengths.items())
    assert max(lengths.values()) >= 4


def test_preference_max_seq_len_of_the_generator_bounds_it_too(tmp_path: Path) -> None:
    kwargs = {"batch_size": 2, "preference_max_seq_len": 5}
    found = run(tiny(), [external(max_seq_len=9, reward_generator_kwargs=kwargs)], tmp_path).records()
    assert {len(candidate.ids) for candidate in found.candidates} == {3}


def test_the_generators_batch_size_is_how_many_prompts_are_visited_at_once(tmp_path: Path) -> None:
    run(tiny(), [external(num_generated_preference_pairs=3)], tmp_path)
    shards = sorted((tmp_path / "stages" / "01-external_reward" / "candidates").iterdir())
    assert len(shards) == 2  # 2 visits, then 1 more


def test_unknown_keys_of_the_generator_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'batchsize'; known: batch_size"):
        trainer(tiny(), [external(reward_generator_kwargs={"batchsize": 2})], tmp_path)


def test_responses_have_at_most_256_tokens_by_default(tmp_path: Path) -> None:
    config = external(max_seq_len=1024, prompt_dataset=prompts(1), num_generated_preference_pairs=1)
    found = run(tiny(320), [config], tmp_path).records()
    assert {len(candidate.ids) for candidate in found.candidates} == {256}


def test_an_eos_id_ends_responses(tmp_path: Path) -> None:
    def often(logits: Tensor) -> Tensor:
        """Tokens 7 and 65, as likely as each other."""
        refused = torch.full_like(logits, -torch.inf)
        refused[:, [7, 65]] = 0.0
        return refused

    config = external(gen_filter_fn=often, max_seq_len=4)
    found = run(tiny(), [config], tmp_path, eos_id=7).records()
    assert {c.finish_reason for c in found.candidates} == {"eos", "length"}
    for candidate in found.candidates:
        assert (candidate.finish_reason == "eos") == (candidate.ids[-1] == 7)
        assert 7 not in candidate.ids[:-1]
        assert chr(7) not in candidate.text


def test_without_an_eos_id_every_response_ends_by_length(tmp_path: Path) -> None:
    found = run(tiny(), [external()], tmp_path).records()
    assert {(c.finish_reason, len(c.ids)) for c in found.candidates} == {("length", 4)}


def test_equal_prompts_are_not_merged(tmp_path: Path) -> None:
    found = run(tiny(), [external(num_generated_preference_pairs=4)], tmp_path).records()
    assert {pair.prompt_index for pair in found.pairs} == {0, 1, 2, 3}
    assert len({candidate.ids for candidate in found.candidates}) > 4


def test_prompts_are_read_once_even_from_a_data_set_that_makes_new_ones(tmp_path: Path) -> None:
    made: list[str] = []

    def new_prompt() -> str:
        made.append(f"p{len(made)}")
        return made[-1]

    config = external(prompt_dataset=create_mock_dataset(4, new_prompt))
    found = run(tiny(), [config], tmp_path).records()
    assert made == ["p0", "p1", "p2", "p3"]
    assert all(pair.prompt == f"p{pair.prompt_index}" for pair in found.pairs)


def test_the_search_visits_at_most_four_prompts_for_each_pair(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"8 visits(?s:.*)candidates +32(?s:.*)no pair: tie +8"):
        run(tiny(), [external(lambda ids: torch.ones(len(ids)))], tmp_path)
    assert not (tmp_path / "stages" / "01-external_reward" / "checkpoint").exists()


def test_fewer_pairs_than_asked_for_is_a_warning_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = external(is_valid_reward_pair=lambda high, low: high > 205, num_generated_preference_pairs=6)
    done = run(tiny(), [rare], tmp_path)
    pairs = done.stage["num_pairs"]
    said = capsys.readouterr().out
    assert 0 < pairs < 6
    assert f"{pairs} pairs were found of the 6 asked for, after 24 visits" in said
    assert "no pair: pair not valid" in said


def test_as_many_pairs_as_asked_for_are_trained_on_and_no_more(tmp_path: Path) -> None:
    done = run(tiny(), [external(num_generated_preference_pairs=3)], tmp_path)
    assert done.stage["num_pairs"] == 3 == len(done.records().pairs)


class Scorer(nn.Module):
    """A reward model with a head of `columns`."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(256, 8)
        self.head = nn.Linear(8, columns)

    def forward(self, ids: Tensor) -> Tensor:
        return 10 + self.head(self.embed(ids).mean(dim=1))


def test_a_reward_model_may_give_batch_or_batch_by_1(tmp_path: Path) -> None:
    model = Scorer(1)
    flat = run(tiny(), [external(lambda ids: model(ids)[:, 0])], tmp_path / "flat")
    column = run(tiny(), [external(model)], tmp_path / "column")
    assert same_weights(flat.model, column.model)
    for candidate, judgment in zip(column.records().candidates, column.records().judgments, strict=True):
        ids = torch.tensor([[97, 98, *candidate.ids]])
        assert judgment.score == pytest.approx(model(ids).item(), rel=1e-5)


def test_a_reward_model_with_two_columns_must_say_how_they_become_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 numbers for each response; wrap it"):
        run(tiny(), [external(Scorer(2))], tmp_path / "two")
    model = Scorer(2)
    done = run(tiny(), [external(lambda ids: model(ids)[:, 1])], tmp_path / "one")
    assert done.stage["num_pairs"] == 2


def test_a_reward_model_never_sees_padding(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def look(ids: Tensor) -> Tensor:
        seen.extend(tuple(row) for row in ids.tolist())
        return ids.float().mean(dim=1)

    config = external(look, prompt_dataset=["ab", "abcd"], max_seq_len=20)

    def ends_early(logits: Tensor) -> Tensor:
        return logits.index_fill(1, torch.tensor([7]), 6.0)

    config.gen_filter_fn = ends_early
    found = run(tiny(), [config], tmp_path, eos_id=7).records()
    texts = ["ab", "abcd"]
    expected = {tuple(map(ord, texts[c.prompt_index])) + c.ids for c in found.candidates}
    assert len({len(row) for row in expected}) > 2
    assert set(seen) == expected


def test_a_reward_function_that_takes_a_mask_is_given_it(tmp_path: Path) -> None:
    widths = []

    def masked(ids: Tensor, mask: Tensor) -> Tensor:
        widths.append((mask.dtype, mask.sum(dim=1).tolist(), ids.shape[1]))
        return (ids * mask).sum(dim=1).float()

    config = external(masked, prompt_dataset=["ab", "abcd"], max_seq_len=8)
    run(tiny(), [config], tmp_path)
    assert widths[0][0] == torch.bool
    assert set(widths[0][1]) == {6, 8}
    assert widths[0][2] == 8


def test_the_reward_model_is_not_trained(tmp_path: Path) -> None:
    model = Scorer(1)
    run(tiny(), [external(model, trainer_kwargs={"start_learning_rate": 0.1})], tmp_path)
    assert same_weights(model, Scorer(1))
