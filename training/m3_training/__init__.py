"""Training of M3 models: data, unified loss with self-knowledge distillation, loop, evaluation."""
