"""What the model saw, as far as it has to be asked for."""
