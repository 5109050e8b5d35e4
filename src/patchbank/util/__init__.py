"""What everything may use: files, threads, progress, words."""
