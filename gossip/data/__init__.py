"""Recipes, data sets on disk, and which node trains on which part of them."""
