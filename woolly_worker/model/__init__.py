"""What the numbers mean: configuration, weights, tokens, chat templates, the forward pass."""
