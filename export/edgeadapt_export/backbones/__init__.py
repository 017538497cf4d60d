"""Where backbone graphs come from: one module per kind of model."""
