"""Makes sft.jsonl: short continuations sampled from the original model, cut to whole sentences.

The model knows only whole stories of some 300 tokens. Trained on these it learns to write a few
sentences and stop. They are sampled at temperature 1, where samples are the model's own distribution:
what its sentences say does not become narrower by training on them (at 0.7 it does: of the different
word pairs in its stories a third was lost). Run from the repository:

    python examples/stories/sample_sft.py MODEL
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Prompt

HERE = Path(__file__).parent
NUM_PROMPTS = 600
MAX_NEW_TOKENS = 80

_SENTENCE_END = re.compile(r'[.!?]"?(?=\s|$)')


def whole_sentences(text: str) -> str:
    """The text up to the end of its last finished sentence, outside quotation marks; may be empty."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    closed = [end for end in ends if text[:end].count('"') % 2 == 0]
    return text[: closed[-1]] if closed else ""


def sampled_examples(model: str, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows of prompt and response; openings whose sample holds no whole sentence are left out."""
    policy, codec = load_policy(model)
    assert codec is not None, f"{model} has no tokenizer"
    texts = [prompt_text(row, i) for i, row in enumerate(read_rows(HERE / "prompts.jsonl"))][:NUM_PROMPTS]
    prompts = [Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(texts)]
    sampler = CandidateSampler(
        PolicyGenerator(policy, codec.eos_ids),
        codec,
        num=1,
        sampling=Sampling(temperature=1.0, filter_fn=None),
        max_new_tokens=MAX_NEW_TOKENS,
        max_seq_len=None,
        policy_name=model,
        seed=(seed, "stories sft"),
    )
    sampled = sampler.sample([(prompt, 0) for prompt in prompts])
    rows = [
        {"prompt": prompt.text, "response": whole_sentences(candidate.text)}
        for prompt, (candidate,) in zip(prompts, sampled, strict=True)
    ]
    return [row for row in rows if row["response"]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the original model: a folder or a hub name")
    rows = sampled_examples(parser.parse_args().model)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (HERE / "sft.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(rows)} examples in {HERE / 'sft.jsonl'}")
