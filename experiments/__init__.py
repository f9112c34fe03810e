"""Studies, and the growing of the bundled teacher, on the assets' own functions. Not in the wheel: run from a checkout.

A study compares recipes over seeds, teachers, or shares of the labels. It makes the assets of the line for each variant and reads
their tables, so what it measures is what ships.
"""
