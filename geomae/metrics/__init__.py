"""Scores of predictions and reconstructions, computed on arrays; used by training, evaluation and prediction."""
