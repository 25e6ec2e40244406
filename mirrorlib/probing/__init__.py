"""Whether two frozen models align: linear maps, read on held-out scenes, beside their controls."""
