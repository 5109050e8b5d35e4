"""Helpers that every module may use: files, threads, progress, words."""
