"""The software's version, once: packages, model files, pages and results name it."""

__version__ = "0.1.0"
