"""Measuring models and judges; nothing here trains."""
