"""What a trained pair of encoders can do on scenes it never saw."""
