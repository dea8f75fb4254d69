"""corral: two-stage recommenders whose stages teach each other."""

__version__ = "0.1.0"
