"""Training observer and executor jointly."""
