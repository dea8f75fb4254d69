"""The studio: one user's list, taken apart and changed, in a browser"""
