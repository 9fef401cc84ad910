"""Evaluation of models: probes, gaps, accuracies and reconstructions, beside baselines and with intervals."""
