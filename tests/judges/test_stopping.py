"""A vote ends where its score is written, or at a stop string; whatever the tokenizer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.stopping import VoteStop
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.records import Candidate, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec, FunctionCodec, HuggingFaceCodec
from tests.helpers import Script, byte_codec, candidate, prompt
from tests.test_text_huggingface import byte_level_tokenizer

CODEC = byte_codec(eos_id=0)


def utf16_codec() -> FunctionCodec:
    """Two tokens for most characters: neither half is a line break."""
    return FunctionCodec(
        lambda text: list(text.encode("utf-16-be")), lambda ids: bytes(ids.tolist()).decode("utf-16-be")
    )


def strict_byte_codec() -> FunctionCodec:
    """Refuses half a character."""
    return FunctionCodec(lambda text: list(text.encode()), lambda ids: bytes(ids.tolist()).decode())


def stripping_codec() -> FunctionCodec:
    """Never shows the white space at the end."""
    return FunctionCodec(
        lambda text: list(text.encode()), lambda ids: bytes(ids.tolist()).decode(errors="replace").strip()
    )


def sentencepiece_codec() -> HuggingFaceCodec:
    """Words with their leading blank, single bytes for everything else, as Llama's; made here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁", "▁Score", "▁a", "▁good", "▁answer", ":", "▁4", "###", "▁#", "#", ".", "a", "4", "Score"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return HuggingFaceCodec(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"))


CODECS: dict[str, Callable[[], Codec]] = {
    "bytes": byte_codec,
    "strict bytes": strict_byte_codec,
    "bytes without the end's white space": stripping_codec,
    "utf-16": utf16_codec,
    "byte-level bpe": lambda: HuggingFaceCodec(byte_level_tokenizer(None)),
    "sentencepiece": sentencepiece_codec,
}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]()


def kept(codec: Codec, stop: VoteStop, text: str) -> str:
    """What a judge that would write `text` gets to write."""
    ids = codec.continuation_ids(text)
    length = next((n for n in range(1, len(ids) + 1) if stop(ids[:n])), len(ids))
    return codec.decode(ids[:length]).removeprefix(" ")  # sentencepiece begins so


@pytest.mark.parametrize(
    "written",
    ["Score: 4\n", "A good answer.\nScore: 4\n", "A naïve answer, 漢字 🙂.\n\nScore: 4\n", "Score:\n4\n"],
)
def test_a_vote_ends_with_the_line_that_holds_its_score(codec: Codec, written: str) -> None:
    stop = VoteStop(codec, parser=ScoreParser())
    found = kept(codec, stop, written + "a good answer.\nA good answer. Score: a")
    assert found.startswith(written.rstrip())
    assert len(found) <= len(written) + 20, "no more than the token that ends the line, or the next line"
    assert ScoreParser().parse(found).score == 4


@pytest.mark.parametrize(
    "written",
    [
        "A good answer. Score: 4",  # the line may go on: 4.5, 4/10, 4 or 5
        "A good answer.\nScore: a\nScore\n4 answers.\n",
        "Score: 9\nA good answer.\n",  # out of range, so the score may still come
        "Score: 3 or 4\nA good answer.\n",
        'The answer "A good one.\nScore: 5\n\nis it?',  # an open quotation may be masked once it is closed
        "The answer is <response>\nScore: 5\n\nA good answer.",
    ],
)
def test_until_a_complete_line_has_a_score_of_its_own_a_vote_goes_on(codec: Codec, written: str) -> None:
    assert kept(codec, VoteStop(codec, parser=ScoreParser()), written).rstrip() == written.rstrip()


@pytest.mark.parametrize(
    ("string", "written"),
    [
        ("###", "a good answer ###"),
        ("\n\n", "a good answer\n\n"),
        ("Score: ", "a good answer Score: 4"),  # the blank may be part of the next token
        ("。", "漢字。"),
        ("answer.", "a good answer."),
    ],
)
def test_a_vote_ends_with_a_stop_string_and_keeps_it(codec: Codec, string: str, written: str) -> None:
    stop = VoteStop(codec, strings=["never written", string])
    found = kept(codec, stop, written + " a good answer. Score: 4\na")
    assert string in found
    shows_blanks = codec.decode(codec.continuation_ids("a\n")).endswith("\n")
    assert len(found) <= len(written) + 3 or (string == "\n\n" and not shows_blanks)
    assert kept(codec, stop, "# # a good\nScore") == "# # a good\nScore"


def test_a_score_in_passing_is_not_the_one_to_end_with() -> None:
    stop = VoteStop(byte_codec(), parser=ScoreParser())
    text = "Relevance score: 1\nClarity score: 2\n**Score:** 4\n"
    assert kept(byte_codec(), stop, text + "and on") == text


@pytest.mark.parametrize(
    "text",
    [
        "Max score: 5\nScore: 3\n",
        "Score: see below.\nMax score: 5\nScore: 3\n",
        "Score: 3, 4\nSo:\nScore: 3\n",
        "Score: 2 -> 3\nSo:\nScore: 3\n",
        "Score: 3 (max score: 5)\n",
    ],
)
def test_a_vote_ends_where_the_parser_reads_the_score_and_at_no_other_number(text: str) -> None:
    assert kept(CODEC, VoteStop(CODEC, parser=ScoreParser()), text + "and on") == text
    assert ScoreParser().parse(text).score == 3


def test_either_rule_may_be_used_alone_or_both_together() -> None:
    both = VoteStop(CODEC, parser=ScoreParser(), strings=["END"])
    assert kept(CODEC, both, "Score: 4\nEND.") == "Score: 4\n"
    assert kept(CODEC, both, "no END. Score: 4\n") == "no END"
    neither = VoteStop(CODEC)
    assert kept(CODEC, neither, "Score: 4\nEND.") == "Score: 4\nEND."
    assert not both(())


def test_only_tokens_that_can_end_a_vote_cost_a_look_at_its_text() -> None:
    looked: list[int] = []

    def decode(ids: torch.Tensor) -> str:
        looked.append(len(ids))
        return bytes(ids.tolist()).decode()

    codec = FunctionCodec(lambda text: list(text.encode()), decode)
    stop = VoteStop(codec, parser=ScoreParser(), strings=["##"])
    text = b"abcabc\nabc#abc"
    for _ in range(3):
        for length in range(1, len(text) + 1):
            stop(text[:length])
    assert [length for length in looked if length > 1] == [7, 11] * 3
    assert looked.count(1) == len(set(text)), "each token alone, once for all votes"


def test_with_a_real_tokenizer_the_rule_stops_where_the_score_stands(stories_tokenizer: Any) -> None:
    codec = HuggingFaceCodec(stories_tokenizer)
    text = "It is a nice story.\nScore: 4\nOnce upon a time\nScore: 1\n"
    assert kept(codec, VoteStop(codec, parser=ScoreParser()), text) == "It is a nice story.\nScore: 4\n"
    assert kept(codec, VoteStop(codec, strings=["upon"]), text).endswith("Once upon")


# In a judge: the model goes on after its score, to the budget's end.


def judge(script: bytes, stop: VoteStop | None, *, force: bool = False, budget: int = 40) -> LLMJudge:
    policy = policy_for(Script(script))
    return LLMJudge(
        PolicyGenerator(policy, CODEC.eos_ids),
        CODEC,
        JudgeTemplate("Q: {{ prompt }}\nA: {{ response }}\n\x01"),
        ScoreParser(),
        num_votes=3,
        sampling=Sampling(1.0, None),
        max_new_tokens=budget,
        max_prompt_tokens=None,
        seed=("run", 0),
        forcer=ScoreForcer(policy, CODEC, ScoreParser(), temperature=1.0) if force else None,
        stop=stop,
    )


def shown(count: int) -> list[tuple[Prompt, Candidate]]:
    return [(prompt(i), candidate(i, 0, "so" + "!" * i)) for i in range(count)]


GOES_ON = b"Well.\nScore: ?\n" + b"Thank you! " * 10


def test_a_judge_that_goes_on_has_the_same_scores_sooner() -> None:
    tokens: dict[bool, int] = {True: 0, False: 0}
    scores: dict[bool, list[Any]] = {}
    for stops in (True, False):

        def count(_: int, sampled: int, stops: bool = stops) -> None:
            tokens[stops] += sampled

        made = judge(GOES_ON, VoteStop(CODEC, parser=ScoreParser()) if stops else None)
        found = made.judge(shown(8), on_progress=count)
        scores[stops] = [[vote.score for vote in judgment.votes] for judgment in found]
        votes = [vote for judgment in found for vote in judgment.votes]
        assert {vote.finish_reason for vote in votes} == {"stop" if stops else "length"}
        assert {len(vote.text) for vote in votes} == {15 if stops else 40}
    assert scores[True] == scores[False]
    assert len({score for row in scores[True] for score in row}) > 3
    assert tokens == {True: 24 * 15, False: 24 * 40}


def test_a_vote_says_why_it_ended() -> None:
    at_score = VoteStop(CODEC, parser=ScoreParser())
    (stopped,) = judge(b"Score: 4\nBye", at_score).judge(shown(1))
    assert stopped.votes[0] == Vote(0, "Score: 4\n", 4.0, "parsed", "", "stop")
    (ended,) = judge(b"Score: 4", at_score).judge(shown(1))
    assert ended.votes[0] == Vote(0, "Score: 4", 4.0, "parsed", "", "eos")
    (cut,) = judge(b"Score: 4\nBye", at_score, budget=8).judge(shown(1))
    assert cut.votes[0] == Vote(0, "Score: 4", 4.0, "parsed", "", "length")


def test_a_vote_stopped_without_a_score_is_forced_behind_what_it_wrote() -> None:
    """ "no END" is 6 bytes and "\\nScore: " 8, so the model's 3 stands at place 14."""
    stop = VoteStop(CODEC, parser=ScoreParser(), strings=["END"])
    (found,) = judge(b"no END" + b"." * 8 + b"3", stop, force=True).judge(shown(1))
    assert found.votes[0] == Vote(0, "no END", None, "unparsed", "no_score", "stop")
    assert [(vote.index, vote.status, vote.score) for vote in found.votes[3:]] == [
        (i, "forced", 3.0) for i in range(3)
    ]


def test_stopping_does_not_depend_on_the_batch_or_the_order() -> None:
    made = judge(b"Score: ?\nScore: ?\n", VoteStop(CODEC, parser=ScoreParser(score_range=(2, 5))))
    together = made.judge(shown(9))
    assert made.judge(shown(9)[::-1]) == together[::-1]
    assert [made.judge([one])[0] for one in shown(9)] == together
    assert {len(vote.text) for judgment in together for vote in judgment.votes} >= {9, 18}
