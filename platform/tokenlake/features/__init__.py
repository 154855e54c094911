"""What a model reads: day features, counts, label maturity, histories, vocabularies, negatives, and its checkpoints."""
