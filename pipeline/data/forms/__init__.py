"""The forms that a shard may have: tar, Parquet, a folder."""
