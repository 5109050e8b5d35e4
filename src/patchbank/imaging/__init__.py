"""Images before and after the network: decoding, resizing, places, marks, overlays."""
