"""Pages and pictures for people, made of results."""
