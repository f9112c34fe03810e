"""The ten assets, thin: read, call core, write, report. One module per group of the graph, checks beside their asset.

`inputs` says for each slice what it is made from; `reporting` turns rows into metadata. No asset picks "the newest file",
none swallows an error, none imports torch before it runs.
"""
