"""Looking at streams of results and at training images."""
