"""Prediction: a fine-tuned model or a saved probe over tiles and whole scenes, maps and what they are worth."""
