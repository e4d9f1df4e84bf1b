"""Recipes that come with the package, by file name."""
