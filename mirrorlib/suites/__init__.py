"""Running the runs of a suite."""
