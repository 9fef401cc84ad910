"""Recipes: short modules that chain geomae's workflows into one study under one parent MLflow run."""
