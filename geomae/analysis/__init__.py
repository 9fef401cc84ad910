"""Figures on models: what they are worth, beside baselines and with their uncertainty."""
