"""From prompts to stored preference pairs: sampling, judging, pairing, all bounded and counted."""
