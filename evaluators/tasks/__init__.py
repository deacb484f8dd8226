"""Task scores by lm-eval."""
