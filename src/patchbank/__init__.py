"""patchbank: PatchCore visual inspection on an ordinary CPU, without PyTorch."""

__version__ = "0.1.0"
