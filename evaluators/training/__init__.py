"""What follows the cached refit: corrective refit, distillation, recovery."""
