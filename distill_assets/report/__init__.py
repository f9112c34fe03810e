"""The report: what is stored, as charts, tables and one page."""
