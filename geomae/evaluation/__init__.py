"""What models are worth, beside baselines and with their uncertainty."""
