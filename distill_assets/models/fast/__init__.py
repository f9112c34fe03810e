"""A cross-encoder's forward passes without padding, exact to the rounding of the model's own."""
