"""Recipes: short modules that chain geomae's commands into one study under one parent MLflow run."""
