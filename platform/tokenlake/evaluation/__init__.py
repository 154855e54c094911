"""Evaluation: reports on token models, rankers and candidates, with baselines and controls."""
