"""The demo's world: its rubric by hand, its people, its splits and its codec."""

from random import Random

import jinja2
import pytest

from self_rewarding_lm_pytorch.demo.world import (
    JUDGE_TEMPLATE,
    Codec,
    World,
    checks,
    judge_prompt,
    judgment,
    named_words,
    true_score,
    write_answer,
)

PROMPT = "use red fox tree:"


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=0)


@pytest.mark.parametrize(
    ("answer", "score", "why"),
    [
        ("the red fox sees the tree.", 5, "all there"),
        ("the tree sees the red fox.", 5, "the order of the named words is free"),
        ("red fox tree.", 5, "grammar earns nothing and costs nothing"),
        ("the red fox sees the tree slowly by the", 4, "nine words are allowed, but there is no full stop"),
        ("the red fox sees the tree slowly by the.", 5, "nine words; the full stop is not one"),
        ("the red fox sees the tree slowly by the and.", 4, "ten words are too many"),
        ("the red fox sees the tree near the fox.", 4, "fox twice"),
        (
            "the red fox sees the tree near the moon and the fox.",
            4,
            "too long and fox twice costs one point, not two",
        ),
        ("the red fox sees the tree. .", 4, "two full stops"),
        ("the red fox. sees the tree.", 4, "one full stop too early is one too many"),
        ("the red fox. sees the tree", 4, "a full stop in the middle is no end"),
        ("the old fox sees the tree.", 4, "another adjective"),
        ("the old wolf sees the moon.", 2, "none of the named words"),
        ("the old wolf sees the wolf", 0, "nothing right"),
        ("fox fox fox fox.", 2, "a word counts once however often it occurs"),
        (".", 0, "a full stop alone ends nothing"),
        ("", 0, "saying nothing is not brevity"),
    ],
)
def test_the_rubric_gives_the_score_worked_out_by_hand(answer, score, why):
    assert true_score(PROMPT, answer) == score, why


def test_a_judgment_names_every_check_and_ends_in_the_score_it_adds_up_to():
    text = judgment(PROMPT, "the red wolf sees the tree.")
    assert text == "red yes fox no tree yes stop yes short yes fresh yes Score: 4"


def test_the_judge_template_renders_in_jinja_to_what_the_codec_can_read():
    answer = "the red fox. meets the tree.."
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    rendered = environment.from_string(JUDGE_TEMPLATE).render(prompt=PROMPT, response=answer)
    assert rendered == judge_prompt(PROMPT, answer)
    codec = Codec()
    assert rendered == "judge task: use red fox tree: answer: the red fox. meets the tree.. judge:"
    assert codec.decode(codec.encode(rendered)) == rendered


def test_text_in_an_answer_is_never_taken_for_the_template():
    assert judge_prompt(PROMPT, "{{ prompt }}") == "judge task: use red fox tree: answer: {{ prompt }} judge:"


def test_any_ids_of_words_survive_decoding_and_encoding():
    codec, random = Codec(), Random(0)
    for _ in range(500):
        ids = [random.randrange(2, codec.vocab_size) for _ in range(random.randrange(20))]
        assert codec.encode(codec.decode(ids)) == ids


def test_special_tokens_cannot_be_spelled_and_are_not_shown():
    codec = Codec()
    assert codec.decode([*codec.encode("the fox."), codec.eos_id, codec.pad_id]) == "the fox."
    for text in ("the fox <eos>", "eos", "<pad>"):
        with pytest.raises(ValueError, match="has no word"):
            codec.encode(text)


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(ValueError, match="'unicorn'"):
        Codec().encode("the red unicorn sees the tree.")


def test_the_codec_reads_and_writes_everything_the_world_contains(world):
    codec = Codec()
    texts = [*world.prompts, *(answer for _, answer in world.seed_answers)]
    texts += [
        text for item in world.judge_labels for text in (judge_prompt(item.prompt, item.answer), item.answer)
    ]
    texts += [judgment(item.prompt, item.answer) for item in world.judge_labels]
    assert all(codec.decode(codec.encode(text)) == text for text in texts)
    assert 60 <= codec.vocab_size <= 70


def test_the_world_has_the_promised_numbers_of_everything(world):
    assert len(world.prompts) == len(set(world.prompts)) == 20 * 19 * 10
    assert (len(world.test_prompts), len(world.train_prompts)) == (500, 3_000)
    assert (len(world.seed_answers), len(world.judge_labels), len(world.judged_set)) == (3_000, 6_000, 500)


def test_no_prompt_that_measures_is_ever_trained_on(world):
    test, train = set(world.test_prompts), set(world.train_prompts)
    judged = {item.prompt for item in world.judged_set}
    assert len(judged) == 300
    assert not test & train and not test & judged and not judged & train
    assert {prompt for prompt, _ in world.seed_answers} <= train
    assert {item.prompt for item in world.judge_labels} <= train


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = World(seed=0), World(seed=1)
    assert again.prompts == world.prompts and other.prompts != world.prompts
    assert again.seed_answers == world.seed_answers and other.seed_answers != world.seed_answers
    assert again.judge_labels == world.judge_labels and again.judged_set == world.judged_set


def test_what_is_read_first_changes_nothing():
    backwards = World(seed=3)
    judged, answers = backwards.judged_set, backwards.seed_answers
    forwards = World(seed=3)
    assert forwards.seed_answers == answers and forwards.judged_set == judged


def test_each_property_of_a_seed_answer_holds_about_half_of_the_time(world):
    rows = [checks(prompt, answer) for prompt, answer in world.seed_answers]
    for position in range(3):
        assert 0.46 < sum(list(row.values())[position] for row in rows) / len(rows) < 0.54
    assert 0.46 < sum(row["stop"] for row in rows) / len(rows) < 0.54
    assert 0.46 < sum(row["short"] and row["fresh"] for row in rows) / len(rows) < 0.54


def test_answers_written_without_or_with_all_quality_are_the_worst_and_the_best(world):
    random = Random(0)
    assert all(true_score(prompt, write_answer(random, prompt, 0.0)) == 0 for prompt in world.train_prompts)
    assert all(true_score(prompt, write_answer(random, prompt, 1.0)) == 5 for prompt in world.train_prompts)


def test_judged_answers_are_of_all_qualities_and_carry_their_true_score(world):
    for items in (world.judge_labels, world.judged_set):
        assert all(item.score == true_score(item.prompt, item.answer) for item in items)
        shares = [sum(item.score == score for item in items) / len(items) for score in range(6)]
        assert all(0.10 < share < 0.24 for share in shares)


def test_a_prompt_names_an_adjective_and_two_different_nouns(world):
    assert named_words(PROMPT) == ("red", "fox", "tree")
    assert all(len(set(named_words(prompt))) == 3 for prompt in world.prompts)
