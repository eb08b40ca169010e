"""The one training loop and what it needs. Knows no judge and no generator."""
