"""What is not a value: where things lie, the collection, which models, texts to vectors, pairs to logits.

A function takes the one that it needs.
"""
