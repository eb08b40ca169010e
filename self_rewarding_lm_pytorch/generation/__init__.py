"""Sampling: requests in, completions out. Knows token ids and policies; no text, no judges."""
