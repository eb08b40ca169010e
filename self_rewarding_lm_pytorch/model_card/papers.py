"""What a checkpoint's methods are from."""

from __future__ import annotations

from collections.abc import Iterable

_SELF = "Self-Rewarding Language Models, Yuan et al., 2024, https://arxiv.org/abs/2401.10020"
_DPO = (
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model, Rafailov et al., 2023, "
    "https://arxiv.org/abs/2305.18290"
)
_SPIN = (
    "Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models, Chen et al., 2024, "
    "https://arxiv.org/abs/2401.01335"
)
_META = (
    "Meta-Rewarding Language Models: Self-Improving Alignment with LLM-as-a-Meta-Judge, Wu et al., 2024, "
    "https://arxiv.org/abs/2407.19594"
)
_OAIF = (
    "Direct Language Model Alignment from Online AI Feedback, Guo et al., 2024, "
    "https://arxiv.org/abs/2402.04792"
)
LORA = "LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2021, https://arxiv.org/abs/2106.09685"

_OF_KIND = {
    "self_reward": (_SELF, _DPO),
    "dpo": (_DPO,),
    "external_reward": (_DPO,),
    "spin": (_SPIN,),
    "meta_reward": (_META, _DPO),
    "online": (_OAIF, _DPO),
}


def papers_of(kinds: Iterable[str], *, has_adapter: bool) -> list[str]:
    """Each once, in the order of the stages."""
    found = [paper for kind in kinds for paper in _OF_KIND.get(kind, ())]
    return list(dict.fromkeys([*found, *([LORA] if has_adapter else [])]))
