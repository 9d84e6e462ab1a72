"""A row's residual → a few bytes in RAM → an estimate of its distance, with an error scale."""
