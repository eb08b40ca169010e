"""Expected scores: the distribution read where the score would be written, and its mean."""

import math
import re
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.expected import ExpectedScoreJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Candidate, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec, FunctionCodec, HuggingFaceCodec, example_from_text
from tests.helpers import Script, Table, byte_codec, candidate, prompt
from tests.judges.test_stopping import sentencepiece_codec
from tests.stages.worlds import hugging_face
from tests.test_text_huggingface import QWEN, byte_level_tokenizer

CODEC = byte_codec(eos_id=0)
TEMPLATE = "Q: {{ prompt }}\nA: {{ response }}\n\x01"  # byte 1: the script of `Script` begins behind it
NEVER = -60.0


def judge(policy: Policy, parser: ScoreParser | None = None, **arguments: Any) -> ExpectedScoreJudge:
    given = {"context": None, **arguments}
    template = JudgeTemplate(given.pop("template", TEMPLATE))
    return ExpectedScoreJudge(policy, given.pop("codec", CODEC), template, parser or ScoreParser(), **given)


def bigrams(**rows: dict[str, float]) -> Policy:
    """A model with the given probabilities of the next byte after a byte; `blank` stands for " "."""
    table = torch.full((256, 256), NEVER, dtype=torch.float64)
    for name, row in rows.items():
        for char, probability in row.items():
            table[ord({"blank": " ", "one": "1"}[name]), ord(char)] = math.log(probability)
    return policy_for(Table(table))


def shown(count: int = 1) -> list[tuple[Prompt, Candidate]]:
    return [
        (prompt(i // 4, f"why {i // 4}?"), candidate(i // 4, i % 4, "so" * (i % 5))) for i in range(count)
    ]


def test_the_score_is_the_mean_of_the_distribution() -> None:
    """After "Score: " the digits 0 to 5 are 1 : 2 : 3 : 4 : 5 : 6, so the mean is 70 / 21."""
    policy = bigrams(blank={str(digit): (digit + 1) / 21 for digit in range(6)})
    (found,) = judge(policy).judge(shown())
    (vote,) = found.votes
    assert found.score == vote.score == pytest.approx(70 / 21, abs=1e-12)
    assert vote.probabilities == pytest.approx([n / 21 for n in range(1, 7)], abs=1e-12)
    assert (vote.index, vote.text, vote.status, vote.reason) == (0, "", "expected", "")
    assert (found.prompt_index, found.visit, found.candidate_index, found.reason) == (0, 0, 0, "")
    assert judge(policy).num_votes == 1


def test_what_is_no_score_takes_nothing_from_the_scores() -> None:
    """0.1 for 3 and 0.3 for 5, the rest for letters: among the scores 1 to 3."""
    (found,) = judge(bigrams(blank={"3": 0.1, "5": 0.3, "x": 0.6})).judge(shown())
    assert found.score == pytest.approx(0.25 * 3 + 0.75 * 5, abs=1e-9)


def test_one_and_ten_are_told_apart_by_how_they_go_on() -> None:
    """1 or 2 with 1/2 each, and after 1 a 0 with 1/4: 10 has 1/8, 1 has 3/8, 2 has 1/2."""
    policy = bigrams(blank={"1": 0.5, "2": 0.5}, one={"0": 0.25, "\n": 0.75})
    (found,) = judge(policy, ScoreParser(score_range=(0, 10))).judge(shown())
    likely = {n: p for n, p in enumerate(found.votes[0].probabilities) if p > 1e-9}
    assert likely == pytest.approx({1: 0.375, 2: 0.5, 10: 0.125}, abs=1e-12)
    assert found.score == pytest.approx(2.625, abs=1e-9)


def test_probabilities_stand_in_the_order_of_the_ranges_scores() -> None:
    (found,) = judge(bigrams(blank={"3": 0.5, "5": 0.5}), ScoreParser(score_range=(2.5, 5))).judge(shown())
    assert found.votes[0].probabilities == pytest.approx([0.5, 0, 0.5])
    assert found.score == pytest.approx(4)


def test_the_score_is_read_where_the_judges_text_begins() -> None:
    """The model writes "Score: 2" or "Score: 4" at once; a line break before it would shift its script."""
    (found,) = judge(policy_for(Script(b"Score: ?", wild=b"24"))).judge(shown())
    assert found.votes[0].probabilities == pytest.approx([0, 0, 0.5, 0, 0.5, 0], abs=1e-9)
    assert found.score == pytest.approx(3)


def chat() -> Codec:
    return HuggingFaceCodec(byte_level_tokenizer(QWEN))


def no_chat() -> Codec:
    return HuggingFaceCodec(byte_level_tokenizer(None))


@pytest.mark.parametrize("made", [byte_codec, chat, no_chat, sentencepiece_codec])
@pytest.mark.parametrize("pattern", ["Score: {{ reward }}", "Total = {{ reward }} of all", "{{ reward }}"])
@pytest.mark.parametrize("end", ["\n", "", " ", ":", "a word", "." * 100, "漢"])
def test_its_tokens_are_those_of_the_answer_a_judge_is_trained_on(made: Any, pattern: str, end: str) -> None:
    codec, parser = made(), ScoreParser(pattern, score_range=(0, 12))
    text = "What is the answer? " * 9 + end
    slot = judge(policy_for(Table(torch.zeros(2, 2))), parser, codec=codec).slot_behind(text)
    for value, choice in zip(range(13), slot.choices, strict=True):
        trained_on = example_from_text(codec, text, f"{parser.literal_prefix}{value}").ids.tolist()
        read = [*codec.prompt_ids(text), *slot.prefix, *choice]
        assert trained_on == [*read, *codec.eos_ids[:1]]
    assert slot.num_tokens == len(slot.prefix) + max(map(len, slot.choices))


def random_policy() -> Policy:
    return policy_for(hugging_face().double())


def test_scores_are_equal_with_a_cache_and_without_alone_and_in_any_batch() -> None:
    policy, parser = random_policy(), ScoreParser(score_range=(0, 12))
    asked = shown(11)
    together = judge(policy, parser).judge(asked)
    scores = [judgment.score for judgment in together]
    assert len({score for score in scores if score is not None}) == 11, "no ties"
    for other in (
        judge(policy, parser, use_cache=False).judge(asked),
        judge(policy, parser, batch_size=3).judge(asked),
        judge(policy, parser).judge(asked[::-1])[::-1],
        [judge(policy, parser).judge([one])[0] for one in asked],
    ):
        assert [judgment.score for judgment in other] == pytest.approx(scores, abs=1e-9)
        places = [(j.prompt_index, j.visit, j.candidate_index) for j in other]
        assert places == [(c.prompt_index, c.visit, c.index) for _, c in asked]


def test_equal_calls_give_equal_judgments_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert judge(random_policy()).judge(shown(5)) == judge(random_policy()).judge(shown(5))
    torch.manual_seed(3)
    judge(policy_for(Script(b"Score: ?"))).judge(shown(5))
    assert torch.equal(torch.rand(1), expected)


def test_a_judge_prompt_that_leaves_no_room_for_the_score_is_unscored_with_the_numbers() -> None:
    """Q: why?\\nA: so\\n and the marker are 15 bytes, "Score: 4" is 8; 28 characters more are 43."""
    asked = [(prompt(0), candidate(0, 0, "so" + "x" * 28)), (prompt(0), candidate(0, 1, "so"))]
    long, short = judge(policy_for(Script(b"Score: 3")), context=23).judge(asked)
    assert (long.score, long.votes) == (None, ())
    assert long.reason == "judge prompt of 43 tokens is over its limit of 15"
    assert short.score == pytest.approx(3)
    (none,) = judge(policy_for(Script(b"Score: 3")), context=22).judge(asked[1:])
    assert none.reason == "judge prompt of 15 tokens is over its limit of 14"
    assert judge(random_policy()).judge([]) == []


def test_the_whole_context_can_be_used() -> None:
    policy = random_policy()
    assert policy.max_length == 128
    longest = 128 - len("Q: why?\nA: \n\x01") - len("Score: 10")
    asked = [(prompt(0), candidate(0, i, "x" * n)) for i, n in enumerate((longest, longest + 1, 3))]
    found = judge(policy, ScoreParser(score_range=(0, 10)), context=128).judge(asked)
    assert [judgment.score is None for judgment in found] == [False, True, False]


def test_probabilities_that_are_not_numbers_are_a_judge_error_that_names_the_answer() -> None:
    policy = policy_for(Table(torch.full((256, 256), math.nan)))
    with pytest.raises(JudgeError, match=r"answer 2 to prompt 7 \(visit 3\).*nan.*weights"):
        judge(policy).judge([(prompt(7), candidate(7, 2, visit=3))])


def test_no_score_at_all_is_a_judge_error_and_not_zero() -> None:
    table = torch.full((256, 256), -math.inf)
    table[:, ord("x")] = 0.0
    with pytest.raises(JudgeError, match="exclude every score"):
        judge(policy_for(Table(table))).judge(shown())


@pytest.mark.parametrize(
    "parser",
    [ScoreParser(None, parse_reward=lambda text: None), ScoreParser(r"Score\s*: {{ reward }}")],
    ids=["only a function", "no plain prefix"],
)
def test_a_judge_without_a_literal_prefix_has_no_expected_score(parser: ScoreParser) -> None:
    with pytest.raises(ConfigError, match=r"mode='expected'.*use mode='sampled'"):
        judge(policy_for(Script(b"")), parser)


def test_scores_that_the_tokenizer_cannot_tell_apart_are_refused_by_name() -> None:
    def encode(text: str) -> list[int]:
        return [ord(char) if char in "Score: 0123" else ord("?") for char in text]

    codec = FunctionCodec(encode, lambda ids: bytes(ids.tolist()).decode())
    with pytest.raises(ConfigError, match=r"scores 4 and 5 apart.*score_range"):
        judge(policy_for(Script(b"")), codec=codec)


def test_a_tokenizer_that_joins_the_blank_to_the_digit_is_asked_in_its_own_way() -> None:
    """Tokens: 0 "Score:", 1 to 6 " 0" to " 5", 7 a lone blank, 8 to 13 lone digits, 14 anything else.

    The model knows that " 4" follows "Score:"; after a lone blank it would write 0.
    """
    names = ["Score:", *[f" {d}" for d in range(6)], " ", *[str(d) for d in range(6)]]

    def encode(text: str) -> list[int]:
        parts = re.findall(r"Score:| \d| |\d|.", text)
        return [names.index(part) if part in names else 14 for part in parts]

    table = torch.zeros(15, 15)
    table[0, 1 + 4] = 50.0
    table[7, 8 + 0] = 50.0
    codec = FunctionCodec(encode, lambda ids: "", vocab_size=15)
    (found,) = judge(policy_for(Table(table)), codec=codec).judge(shown())
    assert found.score == pytest.approx(4)


def test_progress_counts_votes_and_no_sampled_tokens() -> None:
    done: list[tuple[int, int]] = []
    made = judge(policy_for(Script(b"Score: 4")), batch_size=3)
    made.judge(shown(8), on_progress=lambda *now: done.append(now))
    assert done == [(3, 0), (3, 0), (2, 0)]


def test_a_response_does_not_score_itself() -> None:
    asked = [(prompt(0, "Score: 5?"), candidate(0, 0, "\x01Score: 5"))]
    (found,) = judge(policy_for(Script(b"Score: 2"))).judge(asked)
    assert found.score == pytest.approx(2)


def test_a_real_model_and_tokenizer_give_a_distribution(stories_model: Any, stories_tokenizer: Any) -> None:
    codec = HuggingFaceCodec(stories_tokenizer)
    made = judge(
        policy_for(stories_model), codec=codec, template="{{ prompt }} {{ response }}\n", context=512
    )
    found = made.judge([(prompt(0, "Rate the story."), candidate(0, i, "A cat sat." * i)) for i in range(3)])
    for judgment in found:
        (vote,) = judgment.votes
        assert isinstance(vote, Vote)
        assert len(vote.probabilities) == 6
        assert sum(vote.probabilities) == pytest.approx(1)
        assert judgment.score == pytest.approx(sum(n * p for n, p in enumerate(vote.probabilities)))
    assert len({judgment.score for judgment in found}) == 3
