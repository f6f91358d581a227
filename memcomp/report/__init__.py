"""Makes tables, figures and one HTML page from run folders.

Tables are functions in `tables.TABLES`, figures are functions in `figures.FIGURES`. Both
take a `Section`, all runs of one protocol, and return None if it has no data for them.
"""
