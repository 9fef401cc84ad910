"""Scores of predictions and reconstructions on arrays: what training, evaluation and prediction share."""
