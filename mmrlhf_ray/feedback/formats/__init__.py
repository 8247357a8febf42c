"""Annotations in the files of other annotation tools, and back."""
