"""Record, look at and prepare datasets."""
