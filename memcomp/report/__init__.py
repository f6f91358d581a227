"""Tables, figures and one page from run folders alone.

A table is a function in `tables.TABLES`, a figure one in `figures.FIGURES`; both take a
`Section`, all runs of one protocol, and give None where the runs have nothing for them.
"""
