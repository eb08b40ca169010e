"""Data in and out: readers of what people bring, collation, and the Parquet store of a run."""
