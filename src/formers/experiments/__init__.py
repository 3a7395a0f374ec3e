"""Drives trainings and evaluations: recipe and text in, run folder out."""
