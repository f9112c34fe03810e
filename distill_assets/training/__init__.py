"""Recipes, losses, training lists, and the trainer that saves and resumes."""
