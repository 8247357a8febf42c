"""Experiment trackers: one small interface, the names that they show, and a process for those that use the network."""
