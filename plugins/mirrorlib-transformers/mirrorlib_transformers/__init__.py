"""Any video model of transformers' as an observer for mirrorlib."""
