"""Video-text observers for mirrorlib: a small R3D for CPU, and torchvision's r3d_18."""
