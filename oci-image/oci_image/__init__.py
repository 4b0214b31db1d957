"""OCI images: the store, transfers and the way from an image to a bundle that ocirt runs.

Nothing is built yet beyond the distribution itself.
"""

__version__ = "0.1.0"
