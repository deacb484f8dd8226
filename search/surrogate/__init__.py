"""The default search: a sweep, knapsacks, and NSGA-II on a surrogate that answers correct."""
