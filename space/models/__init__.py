"""Dense models: where families keep their parts, how they are loaded, and the modelling code of what is left of them."""
