"""The pages: HTML for people, made on the server, that work without JavaScript too.

How to add a page `drift`:

1. `pages/drift.py`: `routes = pages()`, and endpoints that return `await page(request, "drift.html", ...)`. What an
   endpoint needs is what the API's needs: `@like(api.drift.listed)`. Call the API's function, or the store's: the rules
   are there, and not here. A form is a POST; it ends in `back(...)` (303), or shows its page again with `problem=`.
2. `templates/drift.html`: `{% extends "base.html" %}`. `macros.html` has verdicts, icons, fields, buttons, messages.
   Every text is in `{% trans %}` or `_("...")`; texts in Python are marked by `N_("...")`.
3. `site.py`: the router in ROUTES, the entry in MENU.
4. `locale/de.po`: the German texts. tests/screens/test_language.py names those that are missing.
5. `static/`: scripts are plain ES modules, found by `data-module="name"` in the HTML. No markup may hold a script or a
   style: the policy of `edge.py` forbids it. Scripts add comfort; the page works without.
6. tests/server/test_access.py: who may, once more. tests/screens: the page used for its purpose.
"""
