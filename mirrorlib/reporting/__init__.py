"""What a person reads after a run: table, pictures, videos."""
