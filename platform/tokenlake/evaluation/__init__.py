"""How good it is: reports on token models, rankers and candidates, beside baselines and controls."""
