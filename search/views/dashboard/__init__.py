"""The live page of a run: it follows the archive, draws points and curves, guards who may ask, and queues jobs."""
