"""OCI images: the store, transfers, and the way from an image to a bundle that ocirt runs."""

__version__ = "0.1.0"
