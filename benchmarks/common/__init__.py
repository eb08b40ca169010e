"""What the benchmarks share: work, models, sides, child processes, reports."""
