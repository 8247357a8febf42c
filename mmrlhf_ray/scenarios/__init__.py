"""Recipes for the fields that people use such a system in: docs/scenarios/."""
