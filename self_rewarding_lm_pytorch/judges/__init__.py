"""Judges: prompts and candidates in, judgments out. They train nothing and pick no pairs."""
