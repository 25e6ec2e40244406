"""Text towers for mirrorlib: observers and executors read instructions through them."""
