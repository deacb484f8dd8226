"""The live page of a run: it follows the archive and the search's course, guards who may ask, and queues jobs."""
