"""Video-text observers for mirrorlib: a small R3D for CPU, and torchvision's video models."""
