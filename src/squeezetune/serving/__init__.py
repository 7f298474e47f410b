"""A classifier behind HTTP: many requests at once, limits, metrics, and new models without a
pause.
"""
