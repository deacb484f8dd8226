"""Dense models: where families keep their parts, how they are loaded, and the modelling code of their subnets."""
