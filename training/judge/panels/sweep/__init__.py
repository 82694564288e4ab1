"""See `figures.py`; shown by `panel.html.j2` and the scripts beside it."""
