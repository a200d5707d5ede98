"""Training: simulated bars, pretraining, fine-tuning."""
