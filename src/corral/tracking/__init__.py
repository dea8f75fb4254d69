"""Runs in the experiment trackers that a team has already."""
