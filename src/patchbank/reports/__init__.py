"""Pages and pictures for people, made of results. The pages' templates are in `templates/`."""
