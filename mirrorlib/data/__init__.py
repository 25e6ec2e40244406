"""From a source's episodes to batches: cache, pairing, batches."""
