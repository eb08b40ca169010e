"""README.md of a Hugging Face checkpoint: what made it, with which settings, and what it is worth."""

from self_rewarding_lm_pytorch.model_card.card import card_text, write_card

__all__ = ["card_text", "write_card"]
