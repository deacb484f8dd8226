"""The permuted dense model, its refits, and the views that are its subnets."""
