"""Prediction: apply a fine-tuned model or a saved probe to tiles and whole scenes; maps, their accuracy and areas."""
